//! A tar into a container's folder, as `docker cp` does it: what is there is replaced, folders are merged, owners and times are
//! the archive's. It runs with the container's root as its own, so a link leads at most to another place of the container;
//! a name, hard link or symbolic link that climbs out of the folder itself is refused all the same, as by Docker.

use crate::error::{describe, Error, Result};
use crate::files::naming;
use crate::files::tar_in::{Entry, TarReader};
use crate::spec::User;
use crate::{sys, users};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const CHUNK_BYTES: usize = 128 * 1024;
/// For the times of folders, which are set at the end; folders beyond get theirs at once.
const TIMES_BYTES: usize = 32 * 1024 * 1024;

pub struct Options {
    /// Neither a folder in a file's place nor the other way round.
    pub keep_kinds: bool,
    /// Docker's `-u` text: everything is this user's.
    pub owner: Option<String>,
}

struct Unpacker {
    /// As the user wrote it, for messages.
    folder: String,
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
    times: Vec<(Vec<u8>, i64, u32)>,
    times_bytes: usize,
}

/// Into the folder `path` of the container's root, which is this process's.
pub fn write(path: &str, options: &Options, from: impl Read) -> Result<()> {
    let absolute = naming::absolute(path);
    let refused = |e: io::Error| naming::refusal("stat", &absolute, &e);
    if !fs::metadata(&absolute).map_err(refused)?.is_dir() {
        return Err(Error::InvalidArgument("extraction point is not a directory".into()));
    }
    let owner = match &options.owner {
        None => None,
        Some(text) => {
            let found = users::resolve_here(&User { username: Some(text.clone()), ..Default::default() })?;
            Some((found.uid, found.gid))
        }
    };
    // From here on names are relative, so that a link in the path is followed once.
    std::env::set_current_dir(&absolute).map_err(refused)?;
    let (keep_kinds, times) = (options.keep_kinds, Vec::new());
    Unpacker { folder: absolute, keep_kinds, owner, times, times_bytes: 0 }.all(from)
}

impl Unpacker {
    fn all(mut self, from: impl Read) -> Result<()> {
        let mut tar = TarReader::new(from);
        while let Some(entry) = tar.next_entry()? {
            self.entry(&entry, &mut tar)?;
        }
        for (path, seconds, nanoseconds) in self.times.iter().rev() {
            sys::set_time(OsStr::from_bytes(path), *seconds, *nanoseconds).map_err(|e| self.refusal(path, &e))?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, tar: &mut TarReader<impl Read>) -> Result<()> {
        let header = &entry.header;
        let Some(name) = inside(&header.name) else {
            let text = format!("{:?} is outside of {:?}", shown(&header.name), self.folder);
            return Err(Error::InvalidArgument(text));
        };
        let name = if name.is_empty() { b".".to_vec() } else { name };
        let path = Path::new(OsStr::from_bytes(&name));
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            if fs::symlink_metadata(parent).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
                made.map_err(|e| self.refusal(&name, &e))?;
            }
        }
        if !self.make_room(entry, &name, path)? {
            return Ok(());
        }
        self.make(entry, &name, path, tar)?;
        self.describe(entry, &name, path)
    }

    /// Takes away what stands in the way. False when there is nothing to do.
    fn make_room(&self, entry: &Entry, name: &[u8], path: &Path) -> Result<bool> {
        let Ok(there) = fs::symlink_metadata(path) else { return Ok(true) };
        let folder = entry.header.kind == b'5';
        let clash = match (there.is_dir(), folder) {
            (true, false) => Some(("directory", "non-directory")),
            (false, true) => Some(("non-directory", "directory")),
            _ => None,
        };
        if let Some((old, new)) = clash.filter(|_| self.keep_kinds) {
            let place = format!("{}/{}", self.folder.trim_end_matches('/'), shown(name));
            let text = format!("cannot overwrite {old} {place:?} with {new} {:?}", self.folder);
            return Err(Error::InvalidArgument(text));
        }
        if there.is_dir() && folder {
            // "." is the folder itself, which keeps what it has.
            return Ok(name != b".");
        }
        let removed = if there.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(|e| self.refusal(name, &e))?;
        Ok(true)
    }

    fn make(&self, entry: &Entry, name: &[u8], path: &Path, tar: &mut TarReader<impl Read>) -> Result<()> {
        let header = &entry.header;
        let refused = |e: io::Error| self.refusal(name, &e);
        match header.kind {
            b'0' => self.file(name, path, tar),
            b'1' => {
                let climbs = || self.climbs("hardlink", name, &header.link);
                let target = inside(&header.link).filter(|target| !target.is_empty()).ok_or_else(climbs)?;
                fs::hard_link(OsStr::from_bytes(&target), path).map_err(refused)
            }
            b'2' => {
                // An absolute one starts at the container's root. A relative one is read from where it lies.
                let parent = name.iter().rposition(|b| *b == b'/').map_or(b"".as_slice(), |at| &name[..at]);
                if inside(&[parent, header.link.as_slice()].join(&b'/')).is_none() {
                    return Err(self.climbs("symlink", name, &header.link));
                }
                std::os::unix::fs::symlink(OsStr::from_bytes(&header.link), path).map_err(refused)
            }
            b'5' => match fs::DirBuilder::new().mode(0o755).create(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                result => result.map_err(refused),
            },
            kind => {
                let kind = match kind {
                    b'3' => libc::S_IFCHR,
                    b'4' => libc::S_IFBLK,
                    _ => libc::S_IFIFO,
                };
                sys::make_node(path.as_os_str(), kind | 0o600, header.major, header.minor).map_err(refused)
            }
        }
    }

    fn file(&self, name: &[u8], path: &Path, tar: &mut TarReader<impl Read>) -> Result<()> {
        let refused = |e: io::Error| self.refusal(name, &e);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(refused)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match tar.read(&mut chunk)? {
                0 => return Ok(()),
                n => file.write_all(&chunk[..n]).map_err(refused)?,
            }
        }
    }

    /// Owner, attributes, mode and times, in the order in which none undoes another.
    fn describe(&mut self, entry: &Entry, name: &[u8], path: &Path) -> Result<()> {
        let header = &entry.header;
        if header.kind == b'1' {
            return Ok(());
        }
        let id = |id: u64| u32::try_from(id).map_err(|_| Error::InvalidArgument(format!("{id} is no user or group")));
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None => (id(header.uid)?, id(header.gid)?),
        };
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).map_err(|e| self.refusal(name, &e))?;
        for (attribute, value) in &header.xattrs {
            // overlayfs' own would change what the container sees of other files.
            if attribute.starts_with(b"trusted.") {
                continue;
            }
            match sys::set_xattr(path.as_os_str(), attribute, value) {
                Err(e) if !matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EPERM | libc::EINVAL)) => {
                    return Err(self.refusal(name, &e))
                }
                _ => {}
            }
        }
        if header.kind != b'2' {
            let mode = fs::Permissions::from_mode(header.mode);
            fs::set_permissions(path, mode).map_err(|e| self.refusal(name, &e))?;
        }
        if header.kind == b'5' && self.times_bytes < TIMES_BYTES {
            self.times_bytes += name.len() + 64;
            self.times.push((name.to_vec(), header.mtime_s, entry.mtime_ns));
            return Ok(());
        }
        sys::set_time(path.as_os_str(), header.mtime_s, entry.mtime_ns).map_err(|e| self.refusal(name, &e))
    }

    fn climbs(&self, what: &str, name: &[u8], target: &[u8]) -> Error {
        let place = format!("{}/{}", self.folder.trim_end_matches('/'), shown(name));
        Error::InvalidArgument(format!("invalid {what} {place:?} -> {:?}", shown(target)))
    }

    fn refusal(&self, name: &[u8], e: &io::Error) -> Error {
        let place = format!("{}/{}", self.folder.trim_end_matches('/'), shown(name));
        match naming::refusal("write", &place, e) {
            // The folder itself is there.
            Error::NotFound(text) => Error::Conflict(text),
            error => error,
        }
    }
}

/// The name without empty parts, "." and "..", below the folder; `None` when it leads out of it.
fn inside(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// What the host still sends belongs to nothing.
pub fn drain(mut from: impl Read) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while matches!(from.read(&mut chunk), Ok(n) if n > 0) {}
}

/// Everything written is on the disk.
pub fn settle() -> Result<()> {
    let root = fs::File::open("/").map_err(|e| Error::Internal(format!("cannot open the root: {}", describe(&e))))?;
    sys::syncfs(&root).map_err(|e| naming::refusal("sync", "/", &e))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
