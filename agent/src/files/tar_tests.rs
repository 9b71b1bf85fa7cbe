//! Tests of both ends: what `tar_out` writes comes back, and what is damaged or claims too much is refused.

use super::*;
use crate::files::tar_out::TarWriter;

fn written(entries: &[(Header, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut tar = TarWriter::new(&mut out);
    for (header, body) in entries {
        tar.header(header).unwrap();
        tar.body(body).unwrap();
        tar.pad(body.len() as u64).unwrap();
    }
    tar.finish().unwrap();
    out
}

fn file(name: &[u8], body: &[u8]) -> Header {
    Header { name: name.to_vec(), kind: b'0', mode: 0o640, size: body.len() as u64, ..Default::default() }
}

/// Names, and the first problem.
fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Error>) {
    let (mut tar, mut names) = (TarReader::new(bytes), Vec::new());
    loop {
        match tar.next_entry() {
            Ok(Some(entry)) => names.push(entry.header.name),
            Ok(None) => return (names, None),
            Err(error) => return (names, Some(error)),
        }
    }
}

#[test]
fn everything_written_is_read_again() {
    let long = [b"folder/".repeat(40).as_slice(), "n\u{e4}me".as_bytes()].concat();
    let header = Header {
        uid: 3_000_000,
        gid: 1 << 31,
        mtime_s: -77,
        xattrs: vec![(b"user.a".to_vec(), b"x\ny=\0".to_vec())],
        ..file(&long, b"hello")
    };
    let link = Header { kind: b'2', link: vec![b'l'; 300], ..file(b"link", b"") };
    let device = Header { kind: b'3', major: 4, minor: 70_000, ..file(b"device", b"") };
    let bytes = written(&[(header.clone(), b"hello"), (link.clone(), b""), (device.clone(), b"")]);
    let mut tar = TarReader::new(bytes.as_slice());
    let first = tar.next_entry().unwrap().unwrap();
    let mut body = [0; 10];
    assert_eq!(tar.read(&mut body).unwrap(), 5);
    assert_eq!(&body[..5], b"hello");
    let kept = |h: &Header| (h.name.clone(), h.kind, h.mode, h.uid, h.gid, h.size, h.mtime_s, h.xattrs.clone());
    assert_eq!(kept(&first.header), kept(&header));
    assert_eq!(tar.next_entry().unwrap().unwrap().header.link, link.link);
    let third = tar.next_entry().unwrap().unwrap().header;
    assert_eq!((third.major, third.minor), (4, 70_000));
    assert!(tar.next_entry().unwrap().is_none());
}

#[test]
fn a_body_that_nobody_reads_is_passed_over() {
    let body = vec![7; 100_000];
    let (names, error) = read(&written(&[(file(b"a", &body), &body), (file(b"b", b""), b"")]));
    assert_eq!((names, error), (vec![b"a".to_vec(), b"b".to_vec()], None));
}

#[test]
fn an_empty_input_and_an_archive_without_an_end_are_archives() {
    assert_eq!(read(b""), (vec![], None));
    let whole = written(&[(file(b"a", b"x"), b"x")]);
    assert_eq!(read(&whole[..1024]), (vec![b"a".to_vec()], None));
}

#[test]
fn what_is_cut_or_changed_is_refused() {
    let whole = written(&[(file(b"a", &[1; 600]), &[1; 600])]);
    for length in [100, 511, 513, 1_100, 1_500] {
        assert!(matches!(read(&whole[..length]).1, Some(Error::InvalidArgument(_))), "{length}");
    }
    let mut changed = whole.clone();
    changed[3] ^= 1;
    assert!(matches!(read(&changed).1, Some(Error::InvalidArgument(_))));
    assert!(matches!(read(&[b'x'; 2048]).1, Some(Error::InvalidArgument(_))));
}

#[test]
fn a_header_that_claims_too_much_costs_nothing() {
    for kind in [b'x', b'L', b'K', b'g'] {
        let huge = Header { kind, size: 1 << 32, ..file(b"h", b"") };
        assert!(matches!(read(&written(&[(huge, b"")])).1, Some(Error::InvalidArgument(_))));
    }
    let many: Vec<(Header, &[u8])> =
        (0..9).map(|_| (Header { kind: b'L', size: 200_000, ..file(b"h", b"") }, &[b'a'; 200_000][..])).collect();
    assert!(matches!(read(&written(&many)).1, Some(Error::InvalidArgument(_))));
}

#[test]
fn malformed_pax_records_and_sparse_files_are_refused() {
    for content in
        [&b"5 a=b"[..], b"99 path=x\n", b"x path=y\n", b"7 path\n", b"12 size=-5\xff\n", b"22 GNU.sparse.major=1\n"]
    {
        let header = Header { kind: b'x', ..file(b"h", content) };
        let (_, error) = read(&written(&[(header, content), (file(b"a", b""), b"")]));
        assert!(matches!(error, Some(Error::InvalidArgument(_))), "{content:?}");
    }
    let sparse = Header { kind: b'S', ..file(b"s", b"") };
    assert!(read(&written(&[(sparse, b"")])).1.is_some());
}

#[test]
fn numbers_may_be_base_256_and_times_before_1970() {
    assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]).unwrap(), 256);
    assert_eq!(number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]).unwrap(), -2);
    assert!(number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    assert_eq!(number(b"  12 \0\0\0").unwrap(), 10);
    assert_eq!(time(b"-1.5"), Some((-2, 500_000_000)));
    assert_eq!(time(b"12.000000001"), Some((12, 1)));
    assert_eq!(time(b"1.x"), None);
}
