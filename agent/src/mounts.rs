//! The mounts of a container's spec, made while the process already stands in the container's root: paths of the image
//! cannot lead out of it. Sources from the sandbox are cloned as detached trees before that (`open_sources`).
//! Source: the runtime spec's config.md "Mounts", mount(2), and the kernel's Documentation/filesystems.

use crate::copy_up;
use crate::error::{describe, Context, Error, Result};
use crate::paths;
use crate::spec::Mount;
use crate::sys;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Ours: no runtime spec has it (docs/agent-protocol.md section 5.2).
const COPY_UP: &str = "hyper.copy-up";

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub flags: u64,
    pub propagation: Vec<u64>,
    pub bind: bool,
    pub recursive: bool,
    /// An empty folder gets what the container has at its place.
    pub copy_up: bool,
    pub data: String,
}

/// Mount options in fstab's words; what is no flag goes to the file system as it is.
pub fn parse_options(options: &[String]) -> Result<Options> {
    let mut out = Options::default();
    let mut data: Vec<&str> = Vec::new();
    for option in options {
        let (set, clear) = match option.as_str() {
            "defaults" | "async" | "suid" | "dev" | "exec" | "rw" | "atime" | "diratime" | "norelatime"
            | "nostrictatime" | "nomand" | "" => match option.as_str() {
                "async" => (0, libc::MS_SYNCHRONOUS),
                "suid" => (0, libc::MS_NOSUID),
                "dev" => (0, libc::MS_NODEV),
                "exec" => (0, libc::MS_NOEXEC),
                "rw" => (0, libc::MS_RDONLY),
                "atime" => (0, libc::MS_NOATIME),
                "diratime" => (0, libc::MS_NODIRATIME),
                "norelatime" => (0, libc::MS_RELATIME),
                "nostrictatime" => (0, libc::MS_STRICTATIME),
                _ => (0, 0),
            },
            "ro" => (libc::MS_RDONLY, 0),
            "sync" => (libc::MS_SYNCHRONOUS, 0),
            "dirsync" => (libc::MS_DIRSYNC, 0),
            "nosuid" => (libc::MS_NOSUID, 0),
            "nodev" => (libc::MS_NODEV, 0),
            "noexec" => (libc::MS_NOEXEC, 0),
            "noatime" => (libc::MS_NOATIME, 0),
            "nodiratime" => (libc::MS_NODIRATIME, 0),
            "relatime" => (libc::MS_RELATIME, 0),
            "strictatime" => (libc::MS_STRICTATIME, 0),
            "bind" => {
                out.bind = true;
                (0, 0)
            }
            "rbind" => {
                out.bind = true;
                out.recursive = true;
                (0, 0)
            }
            COPY_UP => {
                out.copy_up = true;
                (0, 0)
            }
            "tmpcopyup" | "idmap" | "ridmap" => {
                return Err(Error::Unsupported(format!("the mount option {option} is not supported")))
            }
            other => match propagation(other) {
                Some(flags) => {
                    out.propagation.push(flags);
                    (0, 0)
                }
                None => {
                    data.push(other);
                    (0, 0)
                }
            },
        };
        out.flags = (out.flags | set) & !clear;
    }
    out.data = data.join(",");
    if out.data.len() > 4_000 {
        return Err(Error::InvalidArgument("mount options are longer than the kernel's page".into()));
    }
    Ok(out)
}

/// `private`, `rshared` and so on as mount flags.
pub fn propagation(word: &str) -> Option<u64> {
    let (word, recursive) = match word.strip_prefix('r') {
        Some(rest) if !rest.starts_with('r') && propagation(rest).is_some() => (rest, libc::MS_REC),
        _ => (word, 0),
    };
    let flag = match word {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some(flag | recursive)
}

/// A mount ready to be made: its options read, its source taken along.
pub struct Prepared {
    destination: String,
    kind: String,
    source: String,
    options: Options,
    tree: Option<OwnedFd>,
}

/// Only names and options, before anything is made: a malformed list fails the request at once.
pub fn check(mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        if !mount.destination.starts_with('/') || mount.destination.len() > 4_000 {
            return Err(Error::InvalidArgument(format!("mount destination {:?} must be absolute", mount.destination)));
        }
        let options = parse_options(&mount.options)?;
        if mount.kind.is_empty() && !options.bind {
            return Err(Error::InvalidArgument(format!("mount {} has no type", mount.destination)));
        }
        if options.copy_up && !options.bind {
            let text = format!("mount {}: {COPY_UP} is for binds", mount.destination);
            return Err(Error::InvalidArgument(text));
        }
    }
    Ok(())
}

/// Takes the sources along; the process still stands in the sandbox's root.
pub fn open_sources(mounts: &[Mount]) -> Result<Vec<Prepared>> {
    mounts.iter().map(Prepared::new).collect()
}

/// Attaches a detached tree over `path`, a file's or a folder's as the tree is.
/// Gives the place that the path led to.
pub fn attach(tree: &OwnedFd, path: &str) -> Result<PathBuf> {
    let stat = sys::file_kind(tree.as_raw_fd()).context(|| format!("cannot look at the source of {path}"))?;
    let at = paths::resolve(Path::new("/"), path)?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR { paths::make_folder(&at) } else { paths::make_file(&at) }
        .context(|| format!("cannot make the mount point {path}"))?;
    sys::move_mount(tree, &at).context(|| format!("cannot mount over {path}"))?;
    Ok(at)
}

impl Prepared {
    pub fn new(mount: &Mount) -> Result<Self> {
        let options = parse_options(&mount.options)?;
        let tree = if options.bind || mount.kind == "bind" {
            let tree = sys::open_tree(&mount.source, options.recursive);
            Some(tree.map_err(|e| {
                Error::NotFound(format!("bind source path {} in the sandbox: {}", mount.source, describe(&e)))
            })?)
        } else {
            None
        };
        let kind = if mount.kind == "cgroup" { "cgroup2" } else { &mount.kind };
        let (destination, source) = (mount.destination.clone(), mount.source.clone());
        Ok(Prepared { destination, kind: kind.into(), source, options, tree })
    }

    /// Makes the mount; the process stands in the container's root.
    pub fn make(&self) -> Result<()> {
        match &self.tree {
            Some(tree) => {
                let covered = if self.options.copy_up { copy_up::open_covered(&self.destination)? } else { None };
                let place = attach(tree, &self.destination)?;
                if let Some(covered) = covered {
                    copy_up::fill(&covered, &place)?;
                }
                let shown = place.to_string_lossy();
                if !self.options.data.is_empty() {
                    // Of the file system itself, wherever else it is mounted.
                    let flags = self.options.flags | libc::MS_REMOUNT;
                    sys::mount("", &shown, "", flags, &self.options.data)
                        .context(|| format!("cannot set the options of the file system at {}", self.destination))?;
                } else if self.options.flags != 0 {
                    let flags = self.options.flags | libc::MS_BIND | libc::MS_REMOUNT;
                    sys::mount("", &shown, "", flags, "")
                        .context(|| format!("cannot set the options of the mount {}", self.destination))?;
                }
                self.propagate(&shown)
            }
            None => self.make_at(&find_place(Path::new("/"), &self.destination, &self.kind)?),
        }
    }

    /// Mounts a file system of its own at `place`, which is free of links.
    pub fn make_at(&self, place: &Path) -> Result<()> {
        let (at, kind) = (self.destination.as_str(), self.kind.as_str());
        paths::make_folder(place).context(|| format!("cannot make the mount point {at}"))?;
        // /dev is filled after it is mounted, and made read-only when that is done.
        let flags = if at == "/dev" { self.options.flags & !libc::MS_RDONLY } else { self.options.flags };
        let source = if self.source.is_empty() { kind } else { &self.source };
        // Version 1's mount options say nothing to version 2.
        let data = if kind == "cgroup2" { "" } else { &self.options.data };
        let place = place.to_string_lossy();
        sys::mount(source, &place, kind, flags, data).map_err(|e| match e.raw_os_error() {
            Some(libc::ENODEV) => {
                Error::Unsupported(format!("the guest kernel has no file system {kind}, wanted at {at}"))
            }
            Some(libc::EINVAL) => {
                Error::InvalidArgument(format!("cannot mount {kind} at {at} with options {data:?}: invalid argument"))
            }
            _ => Error::Internal(format!("cannot mount {kind} at {at}: {}", describe(&e))),
        })?;
        self.propagate(&place)
    }

    fn propagate(&self, place: &str) -> Result<()> {
        self.options.propagation.iter().try_for_each(|&flags| {
            sys::mount("", place, "", flags, "")
                .context(|| format!("cannot set the propagation of the mount {}", self.destination))
        })
    }
}

/// A /dev that is to be read-only is so when it is filled.
pub fn makes_dev_readonly(mount: &Mount) -> bool {
    mount.destination == "/dev" && parse_options(&mount.options).is_ok_and(|o| o.flags & libc::MS_RDONLY != 0)
}

/// Where `destination` leads in `root`. The kernel's own file systems are not mounted where a link of the image leads.
pub fn find_place(root: &Path, destination: &str, kind: &str) -> Result<PathBuf> {
    let place = paths::resolve(root, destination)?;
    if matches!(kind, "proc" | "sysfs") && place != root.join(destination.trim_start_matches('/')) {
        return Err(Error::InvalidArgument(format!(
            "{destination} is a symbolic link in the image: {kind} cannot be mounted there"
        )));
    }
    Ok(place)
}

/// What a file is hidden behind.
pub enum Null<'a> {
    /// The sandbox's, as long as the process stands in its root.
    Here,
    /// A clone of it that was taken along.
    Taken(&'a OwnedFd),
}

/// Hides `path`: a folder behind an empty read-only one, a file behind /dev/null.
pub fn mask(path: &str, null: &Null) -> Result<()> {
    let masked = match (fs::metadata(path), null) {
        (Err(_), _) => return Ok(()),
        (Ok(metadata), _) if metadata.is_dir() => sys::mount("tmpfs", path, "tmpfs", libc::MS_RDONLY, ""),
        (Ok(_), Null::Here) => sys::mount("/dev/null", path, "", libc::MS_BIND, ""),
        (Ok(_), Null::Taken(tree)) => sys::move_mount(*tree, Path::new(path)),
    };
    masked.context(|| format!("cannot mask {path}"))
}

pub fn make_readonly(path: &str) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let what = || format!("cannot make {path} read-only");
    sys::mount(path, path, "", libc::MS_BIND | libc::MS_REC, "").context(what)?;
    sys::set_readonly(path).context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        parse_options(&text.split(',').map(String::from).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn flags_are_told_from_data() {
        let got = options("nosuid,strictatime,mode=755,size=65536k");
        assert_eq!(got.flags, libc::MS_NOSUID | libc::MS_STRICTATIME);
        assert_eq!(got.data, "mode=755,size=65536k");
        assert_eq!(options("ro,rw").flags, 0);
        assert_eq!(options("rw,ro").flags, libc::MS_RDONLY);
    }

    #[test]
    fn bind_and_propagation_words() {
        let got = options("rbind,rprivate,ro");
        assert!(got.bind && got.recursive);
        assert_eq!(got.propagation, [libc::MS_PRIVATE | libc::MS_REC]);
        assert_eq!(propagation("shared"), Some(libc::MS_SHARED));
        assert_eq!(propagation("rrshared"), None);
        assert_eq!(propagation("ro"), None);
    }

    #[test]
    fn a_malformed_list_fails_early() {
        let mount = |destination: &str, kind: &str| Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: String::new(),
            options: vec![],
        };
        assert!(check(&[mount("proc", "proc")]).is_err());
        assert!(check(&[mount("/x", "")]).is_err());
        assert!(check(&[mount("/proc", "proc")]).is_ok());
    }
}
