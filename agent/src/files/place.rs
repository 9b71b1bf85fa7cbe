//! How a worker comes to the files of a container, and to nothing else. A worker is a forked child with a mount namespace of its
//! own. For a container that runs it is a copy of the container's without the kernel's file systems in it; for one that does
//! not run, its disks are mounted there. Either way the container's root is the worker's root then, no device can be opened,
//! and no link leads out; what was mounted goes with the worker. `delta` wants the writable layer by itself instead.

use crate::error::{Context, Error, Result};
use crate::messages::Rootfs;
use crate::rootfs::{self, Held};
use crate::sys;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What of the mounts in a container is to be seen as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// Volumes, and the files that were put in place of the image's.
    Files,
    /// None: the root file system alone.
    None,
}

/// Where the files are.
pub enum Place {
    /// A container's mount namespace.
    Live { namespace: OwnedFd },
    /// The disks of a container that does not run.
    Disks(Rootfs),
}

impl Place {
    pub fn live(held: &Held) -> Result<Self> {
        let ended = || Error::Conflict("the container has ended".into());
        let namespace =
            sys::dup(held.namespace.as_ref().ok_or_else(ended)?).context(|| "cannot keep the mounts".into())?;
        Ok(Place::Live { namespace })
    }

    pub fn numbers(&self) -> Vec<RawFd> {
        match self {
            Place::Live { namespace } => vec![namespace.as_raw_fd()],
            Place::Disks(_) => Vec::new(),
        }
    }

    /// Makes the container's root this process's.
    pub fn enter(&self, mounts: Mounts) -> Result<()> {
        match self {
            Place::Live { namespace } => {
                // The agent's own, because a container can mount anything at its /proc.
                let proc = File::open("/proc").context(|| "cannot open /proc".into())?;
                sys::setns(namespace, libc::CLONE_NEWNS).context(|| "cannot enter the container's mounts".into())?;
                own_namespace()?;
                for mount in shown_by(&proc)?.iter().rev().filter(|mount| !mount.is_kept(mounts)) {
                    // One that lay below another is gone with it; the container may move its folders at any time.
                    let _ = sys::detach(&mount.at);
                }
            }
            Place::Disks(rootfs) => {
                own_namespace()?;
                rootfs::assemble(rootfs, &[], &[], false)?;
                std::os::unix::fs::chroot(rootfs::ROOT).context(|| "cannot enter the root file system".into())?;
            }
        }
        std::env::set_current_dir("/").context(|| "cannot enter the root file system".into())?;
        sys::forbid_devices("/").context(|| "cannot forbid devices".into())
    }
}

fn own_namespace() -> Result<()> {
    sys::unshare(libc::CLONE_NEWNS).context(|| "cannot make a mount namespace".into())?;
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "").context(|| "cannot make mounts private".into())
}

/// Mounts the writable layer by itself, and what lies below it as one folder. Their folders, of which the lower may be missing.
pub fn layers(rootfs: &Rootfs) -> Result<(OwnedFd, OwnedFd)> {
    own_namespace()?;
    let (upper, lower) = rootfs::apart(rootfs)?;
    let open = |path: &str| {
        let folder = fs::OpenOptions::new().read(true).open(path);
        folder.map(OwnedFd::from).context(|| format!("cannot open {path}"))
    };
    Ok((open(&upper)?, open(&lower)?))
}

/// A line of mountinfo.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// The part of the file system that is mounted.
    part: Vec<u8>,
    at: Vec<u8>,
    kind: String,
    is_folder: bool,
}

/// File systems that hold somebody's files, and not the kernel's.
const STORING: [&str; 8] = ["ext4", "erofs", "xfs", "btrfs", "overlay", "virtiofs", "9p", "fuse"];

impl Mount {
    fn is_kept(&self, mounts: Mounts) -> bool {
        let injected = self.kind == "tmpfs" && self.part != b"/" && !self.is_folder;
        self.at == b"/" || (mounts == Mounts::Files && (injected || STORING.contains(&self.kind.as_str())))
    }
}

fn shown_by(proc: &File) -> Result<Vec<Mount>> {
    let file = sys::open_in_root(proc, "self/mountinfo", libc::O_RDONLY).context(|| "cannot list mounts".into())?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut File::from(file), &mut text).context(|| "cannot list mounts".into())?;
    let mut mounts: Vec<Mount> = text.split(|b| *b == b'\n').filter_map(parse).collect();
    for mount in &mut mounts {
        mount.is_folder = Path::new(std::ffi::OsStr::from_bytes(&mount.at)).is_dir();
    }
    Ok(mounts)
}

/// "36 35 98:0 /part /at rw,noatime … - ext3 /dev/root rw"
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let (part, at) = (fields.nth(3)?, fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let kind = String::from_utf8_lossy(kind).into_owned();
    Some(Mount { part: unescaped(part), at: unescaped(at), kind, is_folder: false })
}

/// Blanks and backslashes are written as three octal digits.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                out.push(d.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
                rest = &more[3..];
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(line: &str, is_folder: bool) -> Mount {
        Mount { is_folder, ..parse(line.as_bytes()).unwrap() }
    }

    #[test]
    fn the_kernels_file_systems_and_memory_are_not_a_containers_files() {
        for (line, is_folder, kept) in [
            ("1 0 0:1 / / rw - overlay overlay rw", true, true),
            ("2 1 0:2 / /proc rw,nosuid shared:1 - proc proc rw", true, false),
            ("3 1 0:3 / /dev rw - tmpfs tmpfs rw", true, false),
            ("4 1 0:4 /0 /etc/hosts rw - tmpfs tmpfs rw", false, true),
            ("5 1 0:4 /sub /scratch rw - tmpfs tmpfs rw", true, false),
            ("6 1 8:1 / /var/lib/data rw - ext4 /dev/sdc rw", true, true),
            ("7 2 0:6 /null /proc/kcore rw - devtmpfs devtmpfs rw", false, false),
        ] {
            assert_eq!(mount(line, is_folder).is_kept(Mounts::Files), kept, "{line}");
        }
        assert!(!mount("4 1 0:4 /0 /etc/hosts rw - tmpfs tmpfs rw", false).is_kept(Mounts::None));
    }

    #[test]
    fn places_are_read_as_the_kernel_writes_them() {
        let at = |line: &str| parse(line.as_bytes()).map(|mount| mount.at);
        assert_eq!(at("6 1 8:1 / /a\\040b\\134c rw master:2 - ext4 /dev/sdc rw"), Some(b"/a b\\c".to_vec()));
        assert_eq!(at("6 1 8:1 /"), None);
        assert_eq!(at(""), None);
        assert_eq!(unescaped(b"\\9\\77"), b"\\9\\77");
    }
}
