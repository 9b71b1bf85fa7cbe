//! A tree of files as a tar: what `docker cp` reads and `docker export`. Names are never followed as links, so nothing that the
//! tree's owner does meanwhile leads elsewhere. Sockets are left out, as Docker does.

use crate::error::{describe, Error, Result};
use crate::files::naming;
use crate::files::tar_out::{Header, TarWriter};
use crate::sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::OwnedFd;

/// Folders in folders; each keeps a descriptor open.
pub const MAX_DEPTH: usize = 1_000;
/// Files with several names that are remembered; beyond, one is written again.
const MAX_LINKED: usize = 200_000;
const CHUNK_BYTES: usize = 128 * 1024;

/// Writes files as members, each content once.
pub struct Packer<W: Write> {
    tar: TarWriter<BufWriter<W>>,
    /// Files with several names, by device and inode: the name they have in the archive.
    linked: HashMap<(u64, u64), Vec<u8>>,
    chunk: Vec<u8>,
}

impl<W: Write> Packer<W> {
    pub fn new(out: W) -> Self {
        let tar = TarWriter::new(BufWriter::with_capacity(CHUNK_BYTES, out));
        Packer { tar, linked: HashMap::new(), chunk: vec![0; CHUNK_BYTES] }
    }

    pub fn finish(self) -> Result<()> {
        self.tar.finish().map_err(gone)
    }

    /// What stands in a folder under `entry`, as a member called `name`. A folder's content is not part of it.
    pub fn member(&mut self, folder: &OwnedFd, entry: &CStr, name: &[u8]) -> Result<()> {
        let stat = sys::stat_at(folder, entry).map_err(|e| at(name, &e))?;
        self.described(folder, entry, name, &stat)
    }

    /// As `member`, whose `stat` is known.
    pub fn described(&mut self, folder: &OwnedFd, entry: &CStr, name: &[u8], stat: &libc::stat) -> Result<()> {
        let mut header = Header {
            name: name.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid.into(),
            gid: stat.st_gid.into(),
            mtime_s: stat.st_mtime,
            ..Default::default()
        };
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => return self.file(folder, entry, header, stat),
            libc::S_IFDIR => {
                header.kind = b'5';
                if !header.name.ends_with(b"/") {
                    header.name.push(b'/');
                }
                if let Ok(opened) = sys::open_at(folder, entry, libc::O_RDONLY | libc::O_DIRECTORY) {
                    header.xattrs = attributes(&opened)?;
                }
            }
            libc::S_IFLNK => {
                header.kind = b'2';
                header.link = sys::read_link_at(folder, entry).map_err(|e| at(name, &e))?;
            }
            libc::S_IFIFO => header.kind = b'6',
            kind @ (libc::S_IFCHR | libc::S_IFBLK) => {
                header.kind = if kind == libc::S_IFCHR { b'3' } else { b'4' };
                (header.major, header.minor) = (libc::major(stat.st_rdev), libc::minor(stat.st_rdev));
            }
            _ => return Ok(()),
        }
        self.tar.header(&header).map_err(gone)
    }

    fn file(&mut self, folder: &OwnedFd, entry: &CStr, mut header: Header, stat: &libc::stat) -> Result<()> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                header.kind = b'1';
                header.link = first.clone();
                return self.tar.header(&header).map_err(gone);
            }
            if self.linked.len() < MAX_LINKED {
                self.linked.insert((stat.st_dev, stat.st_ino), header.name.clone());
            }
        }
        header.kind = b'0';
        let opened = sys::open_at(folder, entry, libc::O_RDONLY | libc::O_NONBLOCK);
        let mut opened = File::from(opened.map_err(|e| at(&header.name, &e))?);
        let now = opened.metadata().map_err(|e| at(&header.name, &e))?;
        if !now.is_file() {
            return Err(Error::Conflict(format!("{}: changed while it was read", shown(&header.name))));
        }
        header.xattrs = attributes(&opened)?;
        header.size = now.len();
        self.tar.header(&header).map_err(gone)?;
        let mut left = header.size;
        // A file that grows is cut, one that shrinks is filled with zeros: its size has been told.
        while left > 0 {
            let most = left.min(self.chunk.len() as u64) as usize;
            let n = match opened.read(&mut self.chunk[..most]) {
                Ok(0) => {
                    self.chunk[..most].fill(0);
                    most
                }
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(at(&header.name, &e)),
            };
            self.tar.body(&self.chunk[..n]).map_err(gone)?;
            left -= n as u64;
        }
        self.tar.pad(header.size).map_err(gone)
    }

    /// An empty file: how a layer says that something is gone.
    pub fn mark(&mut self, name: &[u8]) -> Result<()> {
        let header = Header { name: name.to_vec(), kind: b'0', ..Default::default() };
        self.tar.header(&header).map_err(gone)
    }

    /// All that is in a folder, each name behind `prefix`.
    fn tree(&mut self, folder: &OwnedFd, prefix: &[u8], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::InvalidArgument(format!("there are folders nested more than {MAX_DEPTH} deep")));
        }
        for entry in sys::list(folder).map_err(|e| at(prefix, &e))? {
            let name = [prefix, entry.to_bytes()].concat();
            let stat = match sys::stat_at(folder, &entry) {
                // It went away meanwhile.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                result => result.map_err(|e| at(&name, &e))?,
            };
            match self.described(folder, &entry, &name, &stat) {
                Err(Error::NotFound(_)) => continue,
                result => result?,
            }
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
                match sys::open_at(folder, &entry, libc::O_RDONLY | libc::O_DIRECTORY) {
                    Ok(inner) => self.tree(&inner, &[&name, b"/".as_slice()].concat(), depth + 1)?,
                    Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                    Err(e) => return Err(at(&name, &e)),
                }
            }
        }
        Ok(())
    }
}

/// What `docker cp` gets of `path`: itself under its own name, and a folder with all that is in it. In the container's root.
pub fn read(path: &str, out: impl Write) -> Result<()> {
    let absolute = naming::absolute(path);
    let stat = naming::look(&absolute)?;
    let name = naming::base(&absolute);
    let mut packer = Packer::new(out);
    if stat.st_mode & libc::S_IFMT != libc::S_IFDIR {
        let folder = open_folder(naming::folder(&absolute))?;
        packer.member(&folder, &c(name)?, name.as_bytes())?;
    } else {
        let folder = open_folder(&absolute)?;
        let prefix = if name == "/" { "/".to_string() } else { format!("{name}/") };
        packer.member(&folder, c".", prefix.as_bytes())?;
        packer.tree(&folder, prefix.as_bytes(), 0)?;
    }
    packer.finish()
}

/// The whole root, as `docker export` gives it: without a member for the root itself.
pub fn export(out: impl Write) -> Result<()> {
    let mut packer = Packer::new(out);
    packer.tree(&open_folder("/")?, b"", 0)?;
    packer.finish()
}

fn open_folder(path: &str) -> Result<OwnedFd> {
    File::open(path).map(OwnedFd::from).map_err(|e| naming::refusal("open", path, &e))
}

fn c(name: &str) -> Result<CString> {
    CString::new(name).map_err(|_| Error::InvalidArgument("a path cannot contain a zero byte".into()))
}

/// What an image keeps of a file's attributes: the kernel's and overlayfs' own are of this machine only.
fn attributes(file: &impl std::os::fd::AsRawFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    for name in sys::list_xattrs(file).unwrap_or_default() {
        let bytes = name.to_bytes();
        if bytes == b"security.capability" || bytes.starts_with(b"user.") {
            if let Ok(Some(value)) = sys::xattr(file, &name) {
                found.push((bytes.to_vec(), value));
            }
        }
    }
    Ok(found)
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

pub fn at(name: &[u8], e: &std::io::Error) -> Error {
    naming::refusal("read", &shown(name), e)
}

/// Nobody takes the archive any more.
fn gone(e: std::io::Error) -> Error {
    Error::Unavailable(format!("the archive cannot be written: {}", describe(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tar_in::TarReader;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("hyper-pack-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn path(&self, rest: &str) -> String {
            format!("{}{rest}", self.0.display())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Name, kind, link and content of each member.
    fn members(bytes: &[u8]) -> Vec<(String, char, String, Vec<u8>)> {
        let (mut tar, mut out) = (TarReader::new(bytes), Vec::new());
        while let Some(entry) = tar.next_entry().unwrap() {
            let mut body = vec![0; entry.header.size as usize];
            let mut have = 0;
            while have < body.len() {
                have += tar.read(&mut body[have..]).unwrap();
            }
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            out.push((text(&entry.header.name), entry.header.kind as char, text(&entry.header.link), body));
        }
        out
    }

    fn names(path: &str) -> Vec<String> {
        let mut out = Vec::new();
        read(path, &mut out).unwrap();
        members(&out).into_iter().map(|member| member.0).collect()
    }

    #[test]
    fn a_folder_a_file_and_a_link_are_called_as_they_were_asked_for() {
        let root = Folder::new("names");
        fs::create_dir_all(root.0.join("quux/deep")).unwrap();
        fs::write(root.0.join("quux/baz"), "x").unwrap();
        symlink("quux", root.0.join("link")).unwrap();
        assert_eq!(names(&root.path("/quux")), ["quux/", "quux/baz", "quux/deep/"]);
        assert_eq!(names(&root.path("/quux/.")), ["./", "./baz", "./deep/"]);
        assert_eq!(names(&root.path("/quux/baz")), ["baz"]);
        assert_eq!(names(&root.path("/link")), ["link"]);
        assert_eq!(names(&root.path("/link/")), ["link/", "link/baz", "link/deep/"]);
    }

    #[test]
    fn second_names_are_links_and_special_files_are_never_opened() {
        let root = Folder::new("kinds");
        fs::write(root.0.join("a"), "content").unwrap();
        fs::hard_link(root.0.join("a"), root.0.join("b")).unwrap();
        symlink("/etc/shadow", root.0.join("c")).unwrap();
        sys::make_node(root.0.join("d").as_os_str(), libc::S_IFIFO | 0o600, 0, 0).unwrap();
        sys::make_node(root.0.join("e").as_os_str(), libc::S_IFSOCK | 0o600, 0, 0).unwrap();
        let mut out = Vec::new();
        read(&root.path("/."), &mut out).unwrap();
        let found = members(&out);
        let kinds: Vec<(&str, char)> = found.iter().map(|m| (m.0.as_str(), m.1)).collect();
        assert_eq!(kinds, [("./", '5'), ("./a", '0'), ("./b", '1'), ("./c", '2'), ("./d", '6')]);
        assert_eq!((found[1].3.as_slice(), found[2].2.as_str()), (&b"content"[..], "./a"));
    }

    #[test]
    fn what_is_not_there_and_what_is_no_folder_are_told_apart() {
        let root = Folder::new("errors");
        fs::write(root.0.join("file"), "x").unwrap();
        assert!(matches!(read(&root.path("/none"), Vec::new()), Err(Error::NotFound(_))));
        let text = |e: Error| e.message().to_string();
        let refused = read(&root.path("/file/"), Vec::new()).map_err(text);
        assert!(refused.clone().is_err_and(|t| t.ends_with("not a directory")), "{refused:?}");
    }

    #[test]
    fn folders_nested_without_end_are_refused() {
        let root = Folder::new("deep");
        sys::raise_open_files();
        let mut here: OwnedFd = File::open(&root.0).unwrap().into();
        for _ in 0..MAX_DEPTH + 2 {
            // SAFETY: a C string and numbers.
            unsafe { libc::mkdirat(std::os::fd::AsRawFd::as_raw_fd(&here), c"d".as_ptr(), 0o700) };
            here = sys::open_at(&here, c"d", libc::O_RDONLY | libc::O_DIRECTORY).unwrap();
        }
        let result = read(&root.path("/."), std::io::sink());
        assert!(matches!(result, Err(Error::InvalidArgument(_) | Error::Internal(_))), "{result:?}");
    }
}
