//! Tests of `unpack`, each in a forked child whose root is a folder of its own: the working folder is the process's.

use super::*;
use crate::files::tar_out::{Header, TarWriter};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let root = Root(std::env::temp_dir().join(format!("hyper-unpack-{}-{name}", std::process::id())));
        fs::create_dir_all(root.0.join("into")).unwrap();
        fs::create_dir_all(root.0.join("etc")).unwrap();
        fs::write(root.0.join("etc/passwd"), "me:x:55:66::/:/bin/sh\n").unwrap();
        root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    /// The error's text, empty when there is none.
    fn write_with(&self, options: Options, tar: &[u8]) -> String {
        let (read, end) = sys::pipe().unwrap();
        let pid = sys::fork(&[std::os::fd::AsRawFd::as_raw_fd(&end)], || {
            std::os::unix::fs::chroot(&self.0).unwrap();
            let said = write("/into", &options, tar).map_err(|e| e.message().to_string());
            let _ = sys::write(&end, said.err().unwrap_or_default().as_bytes());
            0
        })
        .unwrap();
        drop(end);
        let mut text = String::new();
        fs::File::from(read).read_to_string(&mut text).unwrap();
        // SAFETY: waits for the child that was forked above.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
        text
    }

    fn write(&self, tar: &[u8]) -> String {
        self.write_with(Options { keep_kinds: false, owner: None }, tar)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn member(name: &str, kind: u8, link: &str) -> Header {
    Header { name: name.into(), kind, mode: 0o755, link: link.into(), ..Default::default() }
}

fn tar(entries: &[(Header, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut tar = TarWriter::new(&mut out);
    for (header, body) in entries {
        tar.header(&Header { size: body.len() as u64, ..header.clone() }).unwrap();
        tar.body(body.as_bytes()).unwrap();
        tar.pad(body.len() as u64).unwrap();
    }
    tar.finish().unwrap();
    out
}

#[test]
fn files_come_with_owner_mode_and_time_and_missing_folders_are_made() {
    let root = Root::new("plain");
    let file = Header { mode: 0o4750, uid: 7, gid: 8, mtime_s: 1_234, ..member("a/b/file", b'0', "") };
    let folder = Header { mode: 0o700, mtime_s: 99, ..member("a", b'5', "") };
    assert_eq!(root.write(&tar(&[(folder, ""), (file, "hello")])), "");
    let stat = fs::metadata(root.at("into/a/b/file")).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime()), (0o4750, 7, 8, 1_234));
    assert_eq!(root.read("into/a/b/file"), "hello");
    // Its time is that of the archive although files were made in it later.
    assert_eq!(fs::metadata(root.at("into/a")).unwrap().mtime(), 99);
}

#[test]
fn everything_can_be_given_to_one_user_of_the_image() {
    let root = Root::new("owner");
    let file = Header { uid: 7, ..member("file", b'0', "") };
    assert_eq!(root.write_with(Options { keep_kinds: false, owner: Some("me".into()) }, &tar(&[(file, "x")])), "");
    let stat = fs::metadata(root.at("into/file")).unwrap();
    assert_eq!((stat.uid(), stat.gid()), (55, 66));
    let refused = root.write_with(Options { keep_kinds: false, owner: Some("nobody".into()) }, &tar(&[]));
    assert!(refused.contains("unable to find user nobody"), "{refused}");
}

#[test]
fn folders_are_merged_and_the_rest_is_replaced() {
    let root = Root::new("merge");
    fs::create_dir_all(root.at("into/both/kept")).unwrap();
    fs::create_dir_all(root.at("into/folder/x")).unwrap();
    fs::write(root.at("into/file"), "old").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.at("into/link")).unwrap();
    let entries = [
        (member("both", b'5', ""), ""),
        (member("folder", b'0', ""), "1"),
        (member("file", b'5', ""), ""),
        (member("link", b'0', ""), "2"),
    ];
    let clash = |keep_kinds| root.write_with(Options { keep_kinds, owner: None }, &tar(&entries));
    assert_eq!(clash(true), "cannot overwrite directory \"/into/folder\" with non-directory \"/into\"");
    assert_eq!(clash(false), "");
    assert!(root.at("into/both/kept").is_dir() && root.at("into/file").is_dir());
    assert_eq!((root.read("into/folder"), root.read("into/link")), ("1".into(), "2".into()));
    // What the link pointed at is as it was.
    assert!(root.read("etc/passwd").starts_with("me:"));
}

#[test]
fn nothing_climbs_out_of_the_folder() {
    let root = Root::new("climb");
    for (entry, wanted) in [
        (member("../evil", b'0', ""), "is outside of"),
        (member("a/../../evil", b'0', ""), "is outside of"),
        (member("hard", b'1', "../etc/passwd"), "invalid hardlink"),
        (member("soft", b'2', "../etc/passwd"), "invalid symlink"),
        (member("a/b/soft", b'2', "../../../etc"), "invalid symlink"),
    ] {
        let said = root.write(&tar(&[(entry, "")]));
        assert!(said.contains(wanted), "{said}");
    }
    assert!(!root.at("evil").exists());
    // An absolute name is one in the folder, and an absolute link leads to a place in the container.
    assert_eq!(root.write(&tar(&[(member("/etc/new", b'0', ""), "x"), (member("abs", b'2', "/etc"), "")])), "");
    assert_eq!(root.read("into/etc/new"), "x");
    assert_eq!(root.write(&tar(&[(member("abs/through", b'0', ""), "x")])), "");
    assert_eq!(root.read("etc/through"), "x");
}

#[test]
fn links_devices_and_fifos_are_made_and_what_is_unknown_is_refused() {
    let root = Root::new("kinds");
    let null = Header { major: 1, minor: 3, ..member("null", b'3', "") };
    let entries = [
        (member("file", b'0', ""), "x"),
        (member("hard", b'1', "file"), ""),
        (member("soft", b'2', "file"), ""),
        (null, ""),
        (member("fifo", b'6', ""), ""),
    ];
    assert_eq!(root.write(&tar(&entries)), "");
    assert_eq!(fs::metadata(root.at("into/hard")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(root.at("into/soft")).unwrap(), Path::new("file"));
    assert_eq!(fs::metadata(root.at("into/null")).unwrap().rdev(), libc::makedev(1, 3));
    assert!(root.write(&tar(&[(member("x", b'?', ""), "")])).contains("unhandled tar header type"));
}

#[test]
fn where_there_is_no_folder_nothing_is_written() {
    let root = Root::new("nowhere");
    fs::remove_dir(root.at("into")).unwrap();
    assert!(root.write(&tar(&[])).contains("no such file or directory"));
    fs::write(root.at("into"), "x").unwrap();
    assert_eq!(root.write(&tar(&[])), "extraction point is not a directory");
}

#[test]
fn the_folder_itself_keeps_its_owner_when_it_is_called_dot() {
    let root = Root::new("dot");
    let dot = Header { uid: 9, mode: 0o700, ..member("./", b'5', "") };
    assert_eq!(root.write(&tar(&[(dot, ""), (member("./file", b'0', ""), "x")])), "");
    assert_eq!(fs::metadata(root.at("into")).unwrap().uid(), 0);
    assert_eq!(root.read("into/file"), "x");
}
