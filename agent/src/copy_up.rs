//! What an image has at the place of a volume goes into the volume, once, when that is empty: with owners, modes, times,
//! extended attributes and hard links, as Docker does it. Links are copied, never followed. Device nodes are left out: no
//! shared directory can hold them.

use crate::error::{Context, Result};
use crate::paths;
use crate::sys;
use std::collections::HashMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{lchown, symlink, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const DEEPEST: usize = 256;

/// The folder that a mount at `destination` will cover, if there is one.
pub fn open_covered(destination: &str) -> Result<Option<File>> {
    let place = paths::resolve(Path::new("/"), destination)?;
    if !fs::symlink_metadata(&place).is_ok_and(|m| m.is_dir()) {
        return Ok(None);
    }
    File::open(&place).map(Some).context(|| format!("cannot look at what the image has at {destination}"))
}

/// Copies what is in `covered` into the folder `into`, if that is one and empty.
pub fn fill(covered: &File, into: &Path) -> Result<()> {
    let what = || format!("cannot copy what the image has to {}", into.display());
    let folder = fs::symlink_metadata(into).is_ok_and(|m| m.is_dir());
    if !folder || fs::read_dir(into).context(what)?.next().is_some() {
        return Ok(());
    }
    // The descriptor leads below the mount that covers the path.
    let from = PathBuf::from(format!("/proc/self/fd/{}", covered.as_raw_fd()));
    let status = covered.metadata().context(what)?;
    let mut linked = HashMap::new();
    copy_folder(&from, into, &mut linked, 0).context(what)?;
    take_over(&from, into, &status).context(what)
}

fn copy_folder(from: &Path, into: &Path, linked: &mut HashMap<(u64, u64), PathBuf>, depth: usize) -> io::Result<()> {
    if depth > DEEPEST {
        return Err(io::Error::other(format!("{} is nested too deep", from.display())));
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), into.join(entry.file_name()));
        let status = fs::symlink_metadata(&source)?;
        let kind = status.file_type();
        if kind.is_block_device() || kind.is_char_device() {
            continue;
        }
        let key = (status.dev(), status.ino());
        if let Some(first) = linked.get(&key) {
            fs::hard_link(first, &target)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_folder(&source, &target, linked, depth + 1)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target)?;
        } else {
            sys::make_special(&target, status.mode())?;
        }
        take_over(&source, &target, &status)?;
        if !kind.is_dir() && status.nlink() > 1 {
            linked.insert(key, target);
        }
    }
    Ok(())
}

/// Owner first: changing it takes set-user-ID bits and capabilities away.
fn take_over(source: &Path, target: &Path, status: &Metadata) -> io::Result<()> {
    lchown(target, Some(status.uid()), Some(status.gid()))?;
    if !status.file_type().is_symlink() {
        fs::set_permissions(target, Permissions::from_mode(status.mode() & 0o7777))?;
        sys::copy_attributes(source, target)?;
    }
    sys::set_times(target, (status.atime(), status.atime_nsec()), (status.mtime(), status.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let at = std::env::temp_dir().join(format!("hyper-copy-{}-{name}", std::process::id()));
            fs::create_dir_all(at.join("from")).unwrap();
            fs::create_dir_all(at.join("into")).unwrap();
            Place(at)
        }

        fn filled(&self) -> PathBuf {
            fill(&File::open(self.0.join("from")).unwrap(), &self.0.join("into")).unwrap();
            self.0.join("into")
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn all_of_a_folder_is_taken_over() {
        let place = Place::new("all");
        let from = place.0.join("from");
        fs::create_dir(from.join("sub")).unwrap();
        fs::write(from.join("sub/file"), "text").unwrap();
        fs::set_permissions(from.join("sub/file"), Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(&from, Permissions::from_mode(0o750)).unwrap();
        fs::hard_link(from.join("sub/file"), from.join("twin")).unwrap();
        symlink("/nowhere", from.join("link")).unwrap();
        sys::set_times(&from.join("sub/file"), (1, 0), (1_000_000_000, 7)).unwrap();
        let into = place.filled();
        let file = fs::metadata(into.join("sub/file")).unwrap();
        assert_eq!(fs::read_to_string(into.join("sub/file")).unwrap(), "text");
        assert_eq!((file.mode() & 0o7777, file.mtime(), file.mtime_nsec()), (0o4751, 1_000_000_000, 7));
        assert_eq!(file.ino(), fs::metadata(into.join("twin")).unwrap().ino());
        assert_eq!(fs::read_link(into.join("link")).unwrap(), Path::new("/nowhere"));
        assert_eq!(fs::metadata(&into).unwrap().mode() & 0o777, 0o750);
    }

    #[test]
    fn what_is_not_empty_stays_as_it_is() {
        let place = Place::new("full");
        fs::write(place.0.join("from/new"), "").unwrap();
        fs::write(place.0.join("into/old"), "").unwrap();
        assert!(!place.filled().join("new").exists());
    }
}
