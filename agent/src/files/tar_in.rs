//! Reading a tar that nobody vouches for, forward only: V7, ustar, GNU (long names, base-256 numbers) and PAX. Every number is
//! checked before it is used and every text of a header is bounded, so that memory does not depend on what it claims.
//! `tar_out` writes; `unpack` makes files of what comes out here.

use crate::error::{describe, Error, Result};
use crate::files::tar_out::{Header, RECORD_BYTES};
use std::io::{ErrorKind, Read};

/// Go's archive/tar, and with it Docker, has the same bound.
const EXTENSION_BYTES: u64 = 1024 * 1024;
const ZEROS: [u8; RECORD_BYTES] = [0; RECORD_BYTES];

pub struct Entry {
    pub header: Header,
    pub mtime_ns: u32,
}

/// What PAX records and GNU's long names say of the member behind them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub struct TarReader<R: Read> {
    from: R,
    body: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    pub fn new(from: R) -> Self {
        TarReader { from, body: 0, padding: 0 }
    }

    /// The next member; `None` at the end, when all of the input has been read.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extension = Extension::default();
        let mut extended = 0;
        loop {
            self.skip()?;
            let Some(record) = self.record()? else { return Ok(None) };
            if record == ZEROS {
                // Whatever follows is no part of the archive.
                while self.fill(&mut [0; 16 * 1024])? > 0 {}
                return Ok(None);
            }
            let mut entry = parse(&record)?;
            let kind = entry.header.kind;
            if !matches!(kind, b'x' | b'X' | b'g' | b'L' | b'K') {
                apply(extension, &mut entry);
                return self.begin(entry).map(Some);
            }
            extended += entry.header.size;
            if extended > EXTENSION_BYTES {
                return Err(bad("an extension header has more than 1 MiB"));
            }
            self.set_body(entry.header.size);
            let mut content = vec![0; entry.header.size as usize];
            self.read_exact(&mut content)?;
            match kind {
                // Global records are ignored, as by Docker.
                b'g' => {}
                b'L' => extension.path = Some(until_zero(&content)),
                b'K' => extension.link = Some(until_zero(&content)),
                _ => read_pax(&content, &mut extension)?,
            }
        }
    }

    /// The next part of the member's content; 0 at its end.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let most = (into.len() as u64).min(self.body) as usize;
        if most == 0 {
            return Ok(0);
        }
        let n = self.some(&mut into[..most])?;
        if n == 0 {
            return Err(bad("it ends in the middle of a file"));
        }
        self.body -= n as u64;
        Ok(n)
    }

    fn begin(&mut self, mut entry: Entry) -> Result<Entry> {
        match entry.header.kind {
            b'0' | 0 | b'7' => {
                // V7 archives mark a folder by the slash at the end of its name.
                let folder = entry.header.kind == 0 && entry.header.name.ends_with(b"/");
                entry.header.kind = if folder { b'5' } else { b'0' };
                self.set_body(entry.header.size);
            }
            b'1'..=b'6' => entry.header.size = 0,
            b'S' => return Err(bad("sparse files cannot be taken; make the archive without --sparse")),
            other => return Err(bad(&format!("unhandled tar header type {other}"))),
        }
        Ok(entry)
    }

    fn set_body(&mut self, size: u64) {
        self.body = size;
        self.padding = size.next_multiple_of(RECORD_BYTES as u64) - size;
    }

    fn skip(&mut self) -> Result<()> {
        let mut left = self.body + std::mem::take(&mut self.padding);
        self.body = 0;
        let mut chunk = [0; 16 * 1024];
        while left > 0 {
            let most = left.min(chunk.len() as u64) as usize;
            match self.some(&mut chunk[..most])? {
                0 => return Err(bad("it ends in the middle of a file")),
                n => left -= n as u64,
            }
        }
        Ok(())
    }

    fn record(&mut self) -> Result<Option<[u8; RECORD_BYTES]>> {
        let mut record = [0; RECORD_BYTES];
        match self.fill(&mut record)? {
            0 => Ok(None),
            RECORD_BYTES => Ok(Some(record)),
            _ => Err(bad("it ends in the middle of a header")),
        }
    }

    fn read_exact(&mut self, into: &mut [u8]) -> Result<()> {
        self.body = 0;
        if self.fill(into)? < into.len() {
            return Err(bad("it ends in the middle of an extension header"));
        }
        Ok(())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<usize> {
        let mut have = 0;
        while have < into.len() {
            match self.some(&mut into[have..])? {
                0 => break,
                n => have += n,
            }
        }
        Ok(have)
    }

    fn some(&mut self, into: &mut [u8]) -> Result<usize> {
        loop {
            match self.from.read(into) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => {
                    return result.map_err(|e| Error::Unavailable(format!("cannot read the archive: {}", describe(&e))))
                }
            }
        }
    }
}

fn bad(problem: &str) -> Error {
    Error::InvalidArgument(format!("the archive is not a sound tar: {problem}"))
}

fn until_zero(bytes: &[u8]) -> Vec<u8> {
    bytes.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

fn parse(record: &[u8; RECORD_BYTES]) -> Result<Entry> {
    let claimed = number(&record[148..156])?;
    let sum: u64 = record[..148].iter().chain(&[b' '; 8]).chain(&record[156..]).map(|b| u64::from(*b)).sum();
    let signed: i64 = record[..148].iter().chain(&[b' '; 8]).chain(&record[156..]).map(|b| i64::from(*b as i8)).sum();
    if claimed != sum as i64 && claimed != signed {
        return Err(bad("invalid tar header"));
    }
    let positive = |field: &[u8]| number(field).and_then(|n| u64::try_from(n).map_err(|_| bad("a number is negative")));
    let mut name = until_zero(&record[..100]);
    if &record[257..263] == b"ustar\0" && record[345] != 0 {
        name = [until_zero(&record[345..500]), name].join(&b'/');
    }
    let kind = record[156];
    let device = |field: &[u8]| -> Result<u32> {
        if !matches!(kind, b'3' | b'4') {
            return Ok(0);
        }
        u32::try_from(positive(field)?).map_err(|_| bad("a device number is too big"))
    };
    let header = Header {
        name,
        kind,
        mode: (positive(&record[100..108])? & 0o7777) as u32,
        uid: positive(&record[108..116])?,
        gid: positive(&record[116..124])?,
        size: positive(&record[124..136])?,
        mtime_s: number(&record[136..148])?,
        link: until_zero(&record[157..257]),
        major: device(&record[329..337])?,
        minor: device(&record[337..345])?,
        xattrs: Vec::new(),
    };
    if header.size > i64::MAX as u64 {
        return Err(bad("a size is too big"));
    }
    Ok(Entry { header, mtime_ns: 0 })
}

/// Octal digits between blanks and zeros, or GNU's base 256.
fn number(field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            // The topmost bit says that it is base 256; the next one is the sign.
            let byte = if at == 0 && !negative { byte & 0x7f } else { *byte };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad("a number is too big"));
    }
    let text: Vec<u8> =
        field.iter().copied().skip_while(|b| *b == b' ').take_while(|b| !matches!(b, 0 | b' ')).collect();
    text.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value * 8 + i64::from(digit - b'0')),
        _ => Err(bad("invalid tar header")),
    })
}

/// "<length> <name>=<value>\n" again and again.
fn read_pax(mut content: &[u8], into: &mut Extension) -> Result<()> {
    let broken = || bad("an extension header is malformed");
    while !content.is_empty() {
        let blank = content.iter().take(20).position(|b| *b == b' ').ok_or_else(broken)?;
        let length = decimal(&content[..blank]).ok_or_else(broken)? as usize;
        if length <= blank + 1 || length > content.len() || content[length - 1] != b'\n' {
            return Err(broken());
        }
        let record = &content[blank + 1..length - 1];
        content = &content[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let (name, value) = (&record[..equals], &record[equals + 1..]);
        match name {
            b"path" => into.path = Some(until_zero(value)),
            b"linkpath" => into.link = Some(until_zero(value)),
            b"size" => into.size = Some(decimal(value).ok_or_else(broken)?),
            b"uid" => into.uid = Some(decimal(value).ok_or_else(broken)?),
            b"gid" => into.gid = Some(decimal(value).ok_or_else(broken)?),
            b"mtime" => into.mtime = Some(time(value).ok_or_else(broken)?),
            _ if name.starts_with(b"GNU.sparse.") => {
                return Err(bad("sparse files cannot be taken; make the archive without --sparse"))
            }
            _ => {
                if let Some(name) = name.strip_prefix(b"SCHILY.xattr.") {
                    into.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())?
        .filter(|n| *n <= i64::MAX as u64)
}

/// Seconds with a fraction, which may lie before 1970.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds = decimal(whole.as_bytes())? as i64;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds: u32 = format!("{fraction:0<9}")[..9].parse().ok()?;
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

fn apply(extension: Extension, entry: &mut Entry) {
    let header = &mut entry.header;
    if let Some(path) = extension.path {
        header.name = path;
    }
    if let Some(link) = extension.link {
        header.link = link;
    }
    header.size = extension.size.unwrap_or(header.size);
    header.uid = extension.uid.unwrap_or(header.uid);
    header.gid = extension.gid.unwrap_or(header.gid);
    if let Some((seconds, nanoseconds)) = extension.mtime {
        (header.mtime_s, entry.mtime_ns) = (seconds, nanoseconds);
    }
    header.xattrs = extension.xattrs;
}

#[cfg(test)]
#[path = "tar_tests.rs"]
mod tests;
