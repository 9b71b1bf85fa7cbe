//! Writing tar: ustar headers, with PAX records in front of what these cannot hold (long names, big numbers, attributes).
//! Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header". `tar_in` reads.

use std::io::{self, Write};

pub const RECORD_BYTES: usize = 512;

/// One member's header. `name` and `link` are bytes as the file system has them.
#[derive(Debug, Default, Clone)]
pub struct Header {
    pub name: Vec<u8>,
    /// The type byte: `b'0'` file, `b'1'` hard link, `b'2'` symbolic link, `b'3'` and `b'4'` devices, `b'5'` folder, `b'6'` FIFO.
    pub kind: u8,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub size: u64,
    pub mtime_s: i64,
    pub link: Vec<u8>,
    pub major: u32,
    pub minor: u32,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Members one after the other into `out`.
pub struct TarWriter<W: Write> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub fn new(out: W) -> Self {
        TarWriter { out }
    }

    /// A member's header; what `size` says follows by `body`, then `pad`.
    pub fn header(&mut self, header: &Header) -> io::Result<()> {
        let records = extended(header);
        if !records.is_empty() {
            let first = Header { name: b"PaxHeaders/x".to_vec(), kind: b'x', mode: 0o644, ..Default::default() };
            let first = Header { size: records.len() as u64, ..first };
            self.out.write_all(&plain(&first))?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.out.write_all(&plain(header))
    }

    pub fn body(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    /// Fills up to a whole record behind a body of `size` bytes.
    pub fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % RECORD_BYTES as u64) as usize;
        if over == 0 {
            return Ok(());
        }
        self.out.write_all(&[0; RECORD_BYTES][over..])
    }

    /// The archive's end.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&[0; 2 * RECORD_BYTES])?;
        self.out.flush()
    }
}

const OCTAL_8: u64 = 0o7_777_777;
const OCTAL_12: u64 = 0o77_777_777_777;

/// The PAX records that this member needs.
fn extended(header: &Header) -> Vec<u8> {
    let mut records = Vec::new();
    if header.name.len() > 100 || !header.name.is_ascii() {
        record(&mut records, b"path", &header.name);
    }
    if header.link.len() > 100 || !header.link.is_ascii() {
        record(&mut records, b"linkpath", &header.link);
    }
    for (name, value, most) in
        [("size", header.size, OCTAL_12), ("uid", header.uid, OCTAL_8), ("gid", header.gid, OCTAL_8)]
    {
        if value > most {
            record(&mut records, name.as_bytes(), value.to_string().as_bytes());
        }
    }
    if header.mtime_s < 0 || header.mtime_s as u64 > OCTAL_12 {
        record(&mut records, b"mtime", header.mtime_s.to_string().as_bytes());
    }
    for (name, value) in &header.xattrs {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// "<length> <name>=<value>\n", whose length counts itself.
fn record(into: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let rest = name.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if rest + length.to_string().len() > length {
        length = rest + length.to_string().len();
    }
    into.extend_from_slice(length.to_string().as_bytes());
    into.push(b' ');
    into.extend_from_slice(name);
    into.push(b'=');
    into.extend_from_slice(value);
    into.push(b'\n');
}

fn plain(header: &Header) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    let mut text = |at: usize, most: usize, bytes: &[u8]| {
        let n = bytes.len().min(most);
        out[at..at + n].copy_from_slice(&bytes[..n]);
    };
    // What does not fit is in the PAX records.
    let octal = |digits: usize, value: u64, most: u64| format!("{:0digits$o}\0", if value > most { 0 } else { value });
    text(0, 100, &header.name);
    text(100, 8, octal(7, u64::from(header.mode & 0o7777), OCTAL_8).as_bytes());
    text(108, 8, octal(7, header.uid, OCTAL_8).as_bytes());
    text(116, 8, octal(7, header.gid, OCTAL_8).as_bytes());
    text(124, 12, octal(11, header.size, OCTAL_12).as_bytes());
    text(136, 12, octal(11, header.mtime_s.max(0) as u64, OCTAL_12).as_bytes());
    text(148, 8, b"        ");
    text(156, 1, &[header.kind]);
    text(157, 100, &header.link);
    text(257, 8, b"ustar\x0000");
    if matches!(header.kind, b'3' | b'4') {
        text(329, 8, octal(7, u64::from(header.major), OCTAL_8).as_bytes());
        text(337, 8, octal(7, u64::from(header.minor), OCTAL_8).as_bytes());
    }
    let sum: u32 = out.iter().map(|b| u32::from(*b)).sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_length_counts_its_own_digits() {
        for length in [1, 5, 85, 86, 87, 88, 89, 90, 980, 985, 990, 9_980] {
            let mut out = Vec::new();
            record(&mut out, b"name", &vec![b'x'; length]);
            let said: usize = String::from_utf8_lossy(&out).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, out.len(), "{length}");
        }
    }

    #[test]
    fn only_what_does_not_fit_goes_into_pax_records() {
        let small = Header { name: b"a/b".to_vec(), kind: b'0', size: 7, ..Default::default() };
        assert!(extended(&small).is_empty());
        let big = Header { name: vec![b'n'; 101], uid: 1 << 24, size: 1 << 40, mtime_s: -5, ..small };
        let text = String::from_utf8(extended(&big)).unwrap();
        for part in [" path=nnn", " uid=16777216\n", " size=1099511627776\n", " mtime=-5\n"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("gid"));
    }
}
