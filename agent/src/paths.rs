//! Paths of an image, which may hold any links: read as text from the container's root, missing parts and all, so that a
//! link of /proc that is more than its text (/proc/self/fd/7, /proc/1/root) leads nowhere but into the container.
//! What is made on the way belongs to root and is writable by nobody else.

use crate::error::{Error, Result};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAX_LINKS: usize = 255;

/// Where `path` leads when `root` is `/`: free of links as far as it exists, `.` and `..` resolved.
pub fn resolve(root: &Path, path: &str) -> Result<PathBuf> {
    let split = |text: &str| text.split('/').filter(|p| !p.is_empty() && *p != ".").map(String::from).collect();
    let mut rest: VecDeque<String> = split(path);
    let (mut here, mut links) = (root.to_path_buf(), 0);
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            if here != root {
                here.pop();
            }
            continue;
        }
        let next = here.join(&part);
        let Ok(target) = fs::read_link(&next) else {
            here = next;
            continue;
        };
        links += 1;
        let target = target.to_string_lossy().into_owned();
        if links > MAX_LINKS || target.len() + rest.len() > 64 * 1024 {
            return Err(Error::InvalidArgument(format!("{path}: too many levels of symbolic links")));
        }
        if target.starts_with('/') {
            here = root.to_path_buf();
        }
        let mut parts: VecDeque<String> = split(&target);
        parts.append(&mut rest);
        rest = parts;
    }
    Ok(here)
}

/// Makes the folder `path` (resolved before) and those above it that are missing.
pub fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// Makes an empty file at `path` (resolved before) to mount over, if nothing is there.
pub fn make_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_folder(parent)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{symlink, PermissionsExt};

    /// A root with links in it, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("hyper-paths-{}-{name}", std::process::id()));
            fs::create_dir_all(root.join("etc")).unwrap();
            Root(root)
        }

        fn resolved(&self, path: &str) -> String {
            let found = resolve(&self.0, path).unwrap();
            format!("/{}", found.strip_prefix(&self.0).unwrap().display())
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn links_stay_inside_and_need_not_lead_to_anything() {
        let root = Root::new("links");
        symlink("../run/none/resolv.conf", root.0.join("etc/resolv.conf")).unwrap();
        symlink("/etc", root.0.join("absolute")).unwrap();
        symlink("../../../..", root.0.join("etc/up")).unwrap();
        assert_eq!(root.resolved("/etc/resolv.conf"), "/run/none/resolv.conf");
        assert_eq!(root.resolved("/absolute/hosts"), "/etc/hosts");
        assert_eq!(root.resolved("/etc/up/etc/./hosts"), "/etc/hosts");
        assert_eq!(root.resolved("/../../x//y/../z"), "/x/z");
    }

    #[test]
    fn a_link_to_an_open_descriptor_is_only_its_text() {
        let root = Root::new("magic");
        let outside = fs::File::open("/").unwrap();
        symlink(format!("/proc/self/fd/{}", outside.as_raw_fd()), root.0.join("fd")).unwrap();
        assert_eq!(root.resolved("/fd/etc"), format!("/proc/self/fd/{}/etc", outside.as_raw_fd()));
    }

    #[test]
    fn a_ring_of_links_is_refused() {
        let root = Root::new("ring");
        symlink("b", root.0.join("a")).unwrap();
        symlink("a", root.0.join("b")).unwrap();
        symlink("big/big", root.0.join("big")).unwrap();
        assert!(resolve(&root.0, "/a").is_err());
        assert!(resolve(&root.0, "/big").is_err());
    }

    #[test]
    fn what_is_made_is_not_for_everybody_to_write_even_without_a_umask() {
        let root = Root::new("modes");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o022;
        make_file(&root.0.join("a/b/file")).unwrap();
        make_file(&root.0.join("a/b/file")).unwrap();
        assert_eq!([root.0.join("a"), root.0.join("a/b/file")].map(|p| mode(&p)), [0, 0]);
        assert!(make_folder(&root.0.join("a/b/file")).is_err());
    }
}
