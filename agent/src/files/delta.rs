//! What a container has changed: its writable layer compared with what lies below, name by name. `docker diff` gets it as a
//! list, `docker commit` as the tar of an image's layer. Whiteouts and opaque folders are overlayfs' own (the kernel's
//! Documentation/filesystems/overlayfs.rst); in a layer they are marked as the OCI image specification says (layer.md).
//!
//! The files and folders that the agent itself makes to mount over are no changes, as they are none for Docker. No name is
//! followed as a link.

use crate::error::{describe, Error, Result};
use crate::files::pack::{at, Packer, MAX_DEPTH};
use crate::sys;
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;

const OPAQUE: &CStr = c"trusted.overlay.opaque";
const REDIRECT: &CStr = c"trusted.overlay.redirect";
/// Files that are mounted over, and so are empty below.
const MOUNT_FILES: [&[u8]; 4] = [b"/.dockerenv", b"/etc/hostname", b"/etc/hosts", b"/etc/resolv.conf"];
const MOUNT_FOLDERS: [&[u8]; 3] = [b"/dev", b"/proc", b"/sys"];

/// Of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Changed,
    Added,
}

/// An entry of the writable layer.
#[derive(Clone)]
struct Entry {
    path: Vec<u8>,
    folder: Rc<OwnedFd>,
    name: CString,
    stat: libc::stat,
}

impl Entry {
    fn is(&self, kind: libc::mode_t) -> bool {
        self.stat.st_mode & libc::S_IFMT == kind
    }

    fn is_whiteout(&self) -> bool {
        self.is(libc::S_IFCHR) && self.stat.st_rdev == 0
    }

    fn open(&self) -> Result<OwnedFd> {
        let opened = sys::open_at(&*self.folder, &self.name, libc::O_RDONLY | libc::O_DIRECTORY);
        opened.map_err(|e| at(&self.path, &e))
    }
}

/// Who is told.
trait Sink {
    fn present(&mut self, kind: Kind, entry: &Entry) -> Result<()>;
    fn deleted(&mut self, path: &[u8]) -> Result<()>;
    /// Nothing of the folder below is to be seen. True when that is all that has to be said about it.
    fn opaque(&mut self, path: &[u8]) -> Result<bool>;
}

struct Walk<'a, S: Sink> {
    sink: &'a mut S,
    /// Folders on the way that are no changes unless something in them is.
    pending: Vec<Entry>,
}

impl<S: Sink> Walk<'_, S> {
    /// `replaced`: what lies below is hidden, so each name in both is another thing.
    fn folder(
        &mut self,
        upper: OwnedFd,
        lower: Option<&OwnedFd>,
        prefix: &[u8],
        depth: usize,
        replaced: bool,
    ) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(Error::InvalidArgument(format!("there are folders nested more than {MAX_DEPTH} deep")));
        }
        let upper = Rc::new(upper);
        let names = sys::list(&upper).map_err(|e| at(prefix, &e))?;
        if let Some(lower) = lower.filter(|_| replaced) {
            let there: HashSet<&CString> = names.iter().collect();
            for name in sys::list(lower).map_err(|e| at(prefix, &e))?.iter().filter(|name| !there.contains(name)) {
                self.tell_pending()?;
                self.sink.deleted(&[prefix, name.to_bytes()].concat())?;
            }
        }
        for name in names {
            let path = [prefix, name.to_bytes()].concat();
            let stat = match sys::stat_at(&*upper, &name) {
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
                result => result.map_err(|e| at(&path, &e))?,
            };
            let below = lower.and_then(|lower| sys::stat_at(lower, &name).ok());
            self.entry(Entry { path, folder: upper.clone(), name, stat }, lower, below, depth, replaced)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: Entry,
        lower: Option<&OwnedFd>,
        below: Option<libc::stat>,
        depth: usize,
        replaced: bool,
    ) -> Result<()> {
        if entry.is_whiteout() {
            if below.is_some() {
                self.tell_pending()?;
                self.sink.deleted(&entry.path)?;
            }
            return Ok(());
        }
        if !entry.is(libc::S_IFDIR) {
            if MOUNT_FILES.contains(&entry.path.as_slice()) && entry.is(libc::S_IFREG) && entry.stat.st_size == 0 {
                return Ok(());
            }
            self.tell_pending()?;
            return self.sink.present(if below.is_some() { Kind::Changed } else { Kind::Added }, &entry);
        }
        let opened = entry.open()?;
        let inner_prefix = [&entry.path, b"/".as_slice()].concat();
        let both = below.filter(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
        let Some(both) = both else {
            if below.is_none() && MOUNT_FOLDERS.contains(&entry.path.as_slice()) && is_empty(&opened, &entry.path)? {
                return Ok(());
            }
            self.tell_pending()?;
            self.sink.present(if below.is_some() { Kind::Changed } else { Kind::Added }, &entry)?;
            return self.folder(opened, None, &inner_prefix, depth + 1, false);
        };
        let inner = lower.and_then(|lower| sys::open_at(lower, &entry.name, libc::O_RDONLY | libc::O_DIRECTORY).ok());
        if sys::xattr(&opened, REDIRECT).map_err(|e| at(&entry.path, &e))?.is_some() {
            return Err(Error::Unsupported(format!(
                "{}: a folder that was moved",
                String::from_utf8_lossy(&entry.path)
            )));
        }
        let opaque = sys::xattr(&opened, OPAQUE).map_err(|e| at(&entry.path, &e))?.is_some_and(|value| value == b"y");
        if opaque || replaced {
            self.tell_pending()?;
            self.sink.present(Kind::Changed, &entry)?;
            let said = self.sink.opaque(&entry.path)?;
            let inner = inner.as_ref().filter(|_| !said);
            return self.folder(opened, inner, &inner_prefix, depth + 1, true);
        }
        if is_changed(&entry, &both) {
            self.tell_pending()?;
            self.sink.present(Kind::Changed, &entry)?;
            return self.folder(opened, inner.as_ref(), &inner_prefix, depth + 1, false);
        }
        self.pending.push(entry);
        let before = self.pending.len();
        self.folder(opened, inner.as_ref(), &inner_prefix, depth + 1, false)?;
        if self.pending.len() == before {
            self.pending.pop();
        }
        Ok(())
    }

    fn tell_pending(&mut self) -> Result<()> {
        for entry in std::mem::take(&mut self.pending) {
            self.sink.present(Kind::Changed, &entry)?;
        }
        Ok(())
    }
}

/// A folder is in the writable layer as soon as something in it is: that alone is no change.
fn is_changed(entry: &Entry, below: &libc::stat) -> bool {
    let stat = &entry.stat;
    let same_owner = (stat.st_mode, stat.st_uid, stat.st_gid) == (below.st_mode, below.st_uid, below.st_gid);
    let same_time = (stat.st_mtime, stat.st_mtime_nsec) == (below.st_mtime, below.st_mtime_nsec);
    // The agent has made files in this one.
    !same_owner || (!same_time && entry.path != b"/etc")
}

fn is_empty(folder: &OwnedFd, path: &[u8]) -> Result<bool> {
    sys::list(folder).map(|names| names.is_empty()).map_err(|e| at(path, &e))
}

// -- docker diff --------------------------------------------------------------------------------------------------

struct List<W: Write>(W);

impl<W: Write> List<W> {
    fn line(&mut self, kind: u8, path: &[u8]) -> Result<()> {
        let line = [&[kind], path, b"\0".as_slice()].concat();
        self.0.write_all(&line).map_err(gone)
    }
}

impl<W: Write> Sink for List<W> {
    fn present(&mut self, kind: Kind, entry: &Entry) -> Result<()> {
        self.line(if kind == Kind::Added { b'A' } else { b'C' }, &entry.path)
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.line(b'D', path)
    }

    fn opaque(&mut self, _path: &[u8]) -> Result<bool> {
        Ok(false)
    }
}

/// Each change as its kind (`C`, `A`, `D`), its path and a zero byte, sorted.
pub fn changes(upper: OwnedFd, lower: &OwnedFd, out: impl Write) -> Result<()> {
    let mut list = List(BufWriter::new(out));
    Walk { sink: &mut list, pending: Vec::new() }.folder(upper, Some(lower), b"/", 0, false)?;
    list.0.flush().map_err(gone)
}

// -- docker commit ------------------------------------------------------------------------------------------------

struct Layer<W: Write>(Packer<W>);

impl<W: Write> Sink for Layer<W> {
    fn present(&mut self, _kind: Kind, entry: &Entry) -> Result<()> {
        self.0.described(&entry.folder, &entry.name, &entry.path[1..], &entry.stat)
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        let slash = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        self.0.mark(&[&path[1..slash + 1], b".wh.", &path[slash + 1..]].concat())
    }

    fn opaque(&mut self, path: &[u8]) -> Result<bool> {
        self.0.mark(&[&path[1..], b"/.wh..wh..opq"].concat())?;
        Ok(true)
    }
}

/// The changes as an image's layer, uncompressed.
pub fn layer(upper: OwnedFd, lower: &OwnedFd, out: impl Write) -> Result<()> {
    let mut layer = Layer(Packer::new(out));
    Walk { sink: &mut layer, pending: Vec::new() }.folder(upper, Some(lower), b"/", 0, false)?;
    layer.0.finish()
}

fn gone(e: std::io::Error) -> Error {
    Error::Unavailable(format!("the list cannot be written: {}", describe(&e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tar_in::TarReader;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    /// An upper and a lower folder with the same folders in them.
    struct Two(PathBuf);

    impl Two {
        fn new(name: &str, shared: &[&str]) -> Self {
            let two = Two(std::env::temp_dir().join(format!("hyper-delta-{}-{name}", std::process::id())));
            for side in ["upper", "lower"] {
                fs::create_dir_all(two.0.join(side)).unwrap();
                for folder in shared {
                    fs::create_dir_all(two.0.join(side).join(folder)).unwrap();
                }
            }
            two
        }

        fn upper(&self, path: &str) -> PathBuf {
            self.0.join("upper").join(path)
        }

        fn lower(&self, path: &str) -> PathBuf {
            self.0.join("lower").join(path)
        }

        fn whiteout(&self, path: &str) {
            sys::make_node(self.upper(path).as_os_str(), libc::S_IFCHR, 0, 0).unwrap();
        }

        /// As overlayfs leaves a folder that it has made because of what is in it.
        fn settle(&self, folder: &str) {
            for side in [self.upper(folder), self.lower(folder)] {
                sys::set_time(side.as_os_str(), 1_000, 0).unwrap();
            }
        }

        fn open(&self) -> (OwnedFd, OwnedFd) {
            let open = |path: &Path| OwnedFd::from(File::open(path).unwrap());
            (open(&self.0.join("upper")), open(&self.0.join("lower")))
        }

        fn changes(&self) -> Vec<String> {
            let ((upper, lower), mut out) = (self.open(), Vec::new());
            changes(upper, &lower, &mut out).unwrap();
            let text = String::from_utf8(out).unwrap();
            text.split('\0').filter(|line| !line.is_empty()).map(String::from).collect()
        }

        fn layer(&self) -> Vec<String> {
            let ((upper, lower), mut out) = (self.open(), Vec::new());
            layer(upper, &lower, &mut out).unwrap();
            let (mut tar, mut names) = (TarReader::new(out.as_slice()), Vec::new());
            while let Some(entry) = tar.next_entry().unwrap() {
                names.push(String::from_utf8(entry.header.name).unwrap());
            }
            names
        }
    }

    impl Drop for Two {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn added_changed_and_deleted_are_told_with_the_folders_they_are_in() {
        let two = Two::new("kinds", &["var/lib", "same"]);
        fs::write(two.lower("var/lib/old"), "1").unwrap();
        fs::write(two.lower("var/lib/gone"), "1").unwrap();
        fs::write(two.upper("var/lib/old"), "2").unwrap();
        two.whiteout("var/lib/gone");
        fs::create_dir(two.upper("new")).unwrap();
        fs::write(two.upper("new/file"), "3").unwrap();
        for folder in ["var/lib", "var", "same"] {
            two.settle(folder);
        }
        let all = ["A/new", "A/new/file", "C/var", "C/var/lib", "D/var/lib/gone", "C/var/lib/old"];
        assert_eq!(two.changes(), all);
        assert_eq!(two.layer(), ["new/", "new/file", "var/", "var/lib/", "var/lib/.wh.gone", "var/lib/old"]);
    }

    #[test]
    fn a_folder_that_was_replaced_hides_what_was_in_it() {
        let two = Two::new("opaque", &["d/sub"]);
        fs::write(two.lower("d/old"), "1").unwrap();
        fs::write(two.lower("d/sub/deep"), "1").unwrap();
        fs::write(two.upper("d/sub/new"), "1").unwrap();
        sys::set_xattr(two.upper("d").as_os_str(), b"trusted.overlay.opaque", b"y").unwrap();
        for folder in ["d/sub", "d"] {
            two.settle(folder);
        }
        assert_eq!(two.changes(), ["C/d", "D/d/old", "C/d/sub", "D/d/sub/deep", "A/d/sub/new"]);
        assert_eq!(two.layer(), ["d/", "d/.wh..wh..opq", "d/sub/", "d/sub/new"]);
    }

    #[test]
    fn a_file_in_a_folders_place_and_a_folder_in_a_files_place_are_changes() {
        let two = Two::new("swapped", &[]);
        fs::create_dir_all(two.lower("was-folder/x")).unwrap();
        fs::write(two.upper("was-folder"), "1").unwrap();
        fs::write(two.lower("was-file"), "1").unwrap();
        fs::create_dir(two.upper("was-file")).unwrap();
        fs::write(two.upper("was-file/y"), "1").unwrap();
        assert_eq!(two.changes(), ["C/was-file", "A/was-file/y", "C/was-folder"]);
    }

    #[test]
    fn what_the_agent_made_to_mount_over_is_no_change() {
        let two = Two::new("mounts", &["etc", "quiet"]);
        for file in [".dockerenv", "etc/hosts", "etc/hostname"] {
            fs::write(two.upper(file), "").unwrap();
        }
        for folder in ["dev", "proc", "sys"] {
            fs::create_dir(two.upper(folder)).unwrap();
        }
        two.settle("quiet");
        assert!(two.changes().is_empty(), "{:?}", two.changes());
        assert!(two.layer().is_empty());
        fs::write(two.upper("etc/motd"), "").unwrap();
        assert_eq!(two.changes(), ["C/etc", "A/etc/motd"]);
    }

    #[test]
    fn a_folders_own_mode_or_time_is_a_change() {
        let two = Two::new("attributes", &["mode", "time", "neither"]);
        for folder in ["mode", "time", "neither"] {
            two.settle(folder);
        }
        fs::set_permissions(two.upper("mode"), fs::Permissions::from_mode(0o700)).unwrap();
        sys::set_time(two.upper("time").as_os_str(), 2_000, 0).unwrap();
        assert_eq!(two.changes(), ["C/mode", "C/time"]);
    }
}
