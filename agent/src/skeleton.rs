//! The file systems of a container that are the kernel's own (/proc, /dev, /sys, tmpfs...), made before there is a root to
//! mount them in: each is mounted in a folder of the sandbox, with those that belong below it, filled and masked, and moved
//! into the root later with all that is in it. What a spec lists behind the first mount of another sort is not made here.

use crate::devices;
use crate::error::{Context, Result};
use crate::mounts::{self, Null, Prepared};
use crate::paths;
use crate::shape::Shape;
use crate::spec::Mount;
use crate::sys;
use std::path::{Path, PathBuf};

/// Every cell mounts in the same folders: each has a mount namespace of its own.
const FOLDER: &str = "/run/hyper/skeleton";
const KERNELS_OWN: [&str; 7] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"];

struct Tree {
    destination: String,
    kind: String,
    folder: String,
}

pub struct Skeleton {
    trees: Vec<Tree>,
    /// So many of the shape's mounts are in it, from the first on.
    pub mounts: usize,
}

fn is_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

fn is_plain(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

impl Skeleton {
    pub fn build(shape: &Shape) -> Result<Self> {
        mounts::check(&shape.mounts)?;
        let mut skeleton = Skeleton { trees: Vec::new(), mounts: 0 };
        for mount in shape.mounts.iter().take_while(|mount| is_plain(&mount.destination)) {
            if !skeleton.takes(mount) {
                break;
            }
            let prepared = Prepared::new(mount)?;
            match skeleton.place(&mount.destination)? {
                Some(place) => prepared.make_at(&place)?,
                None => {
                    let folder = format!("{FOLDER}/{}", skeleton.trees.len());
                    prepared.make_at(Path::new(&folder))?;
                    let (destination, kind) = (mount.destination.clone(), mount.kind.clone());
                    skeleton.trees.push(Tree { destination, kind, folder });
                }
            }
            skeleton.mounts += 1;
        }
        if let Some(dev) = skeleton.trees.iter().find(|tree| tree.destination == "/dev") {
            devices::populate(&dev.folder)?;
        }
        for path in &shape.readonly_paths {
            if let Some(place) = skeleton.place(path)? {
                mounts::make_readonly(&place.to_string_lossy())?;
            }
        }
        for path in &shape.masked_paths {
            if let Some(place) = skeleton.place(path)? {
                mounts::mask(&place.to_string_lossy(), &Null::Here)?;
            }
        }
        Ok(skeleton)
    }

    fn takes(&self, mount: &Mount) -> bool {
        let binds = mount.options.iter().any(|option| option == "bind" || option == "rbind");
        // What is mounted over an earlier mount hides it.
        let covers =
            |tree: &Tree| tree.destination == mount.destination || is_below(&tree.destination, &mount.destination);
        KERNELS_OWN.contains(&mount.kind.as_str()) && !binds && !self.trees.iter().any(covers)
    }

    fn tree_above(&self, path: &str) -> Option<&Tree> {
        self.trees.iter().find(|tree| is_below(path, &tree.destination))
    }

    /// Where a path of the container is now, if it is below one of the trees.
    fn place(&self, path: &str) -> Result<Option<PathBuf>> {
        let Some(tree) = self.tree_above(path).filter(|_| is_plain(path)) else { return Ok(None) };
        paths::resolve(Path::new(&tree.folder), &path[tree.destination.len()..]).map(Some)
    }

    /// Moves the trees to their places in `root`, where no process of a container is yet.
    pub fn move_into(&self, root: &str) -> Result<()> {
        for Tree { destination, kind, folder } in &self.trees {
            let place = mounts::find_place(Path::new(root), destination, kind)?;
            let what = || format!("cannot mount {kind} at {destination}");
            paths::make_folder(&place).context(what)?;
            sys::mount(folder, &place.to_string_lossy(), "", libc::MS_MOVE, "").context(what)?;
        }
        Ok(())
    }

    pub fn has(&self, destination: &str) -> bool {
        self.trees.iter().any(|tree| tree.destination == destination)
    }

    /// Whether `path` was hidden or protected here, and nothing in `later` (paths of the container) has come on top.
    pub fn has_covered(&self, path: &str, later: &[&str]) -> bool {
        let tree = self.tree_above(path).filter(|_| is_plain(path));
        tree.is_some_and(|tree| !later.iter().any(|at| is_below(at, &tree.destination) || *at == tree.destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skeleton(destinations: &[&str]) -> Skeleton {
        let tree = |at: &&str| Tree { destination: at.to_string(), kind: "tmpfs".into(), folder: "/nowhere".into() };
        Skeleton { trees: destinations.iter().map(tree).collect(), mounts: destinations.len() }
    }

    fn mount(destination: &str, kind: &str, option: &str) -> Mount {
        Mount {
            destination: destination.into(),
            kind: kind.into(),
            source: String::new(),
            options: vec![option.to_string()],
        }
    }

    #[test]
    fn only_the_kernels_own_file_systems_are_made_ahead_and_none_over_another() {
        let skeleton = skeleton(&["/proc", "/dev", "/a/b"]);
        for (at, kind, option) in [("/dev/pts", "devpts", "ro"), ("/sys", "sysfs", "ro"), ("/a/bc", "tmpfs", "ro")] {
            assert!(skeleton.takes(&mount(at, kind, option)), "{at}");
        }
        for (at, kind, option) in [
            ("/dev", "tmpfs", "ro"),
            ("/a", "tmpfs", "ro"),
            ("/x", "tmpfs", "bind"),
            ("/x", "bind", "ro"),
            ("/x", "", ""),
        ] {
            assert!(!skeleton.takes(&mount(at, kind, option)), "{at} {kind} {option}");
        }
    }

    #[test]
    fn paths_that_are_not_plain_are_left_for_later() {
        for path in ["/", "", "relative", "/a/../b", "/a//b", "/a/", "/./a"] {
            assert!(!is_plain(path), "{path}");
        }
        assert!(is_plain("/a") && is_plain("/proc/sys"));
        assert_eq!(skeleton(&["/proc"]).place("/proc/../etc"), Ok(None));
        assert_eq!(skeleton(&["/proc"]).place("/process/x"), Ok(None));
        assert_eq!(skeleton(&["/proc"]).place("/proc/sys"), Ok(Some("/nowhere/sys".into())));
    }

    #[test]
    fn what_comes_on_top_is_covered_again() {
        let skeleton = skeleton(&["/proc", "/sys"]);
        assert!(skeleton.has_covered("/proc/kcore", &["/etc/hosts", "/sys/x"]));
        assert!(!skeleton.has_covered("/proc/kcore", &["/proc/x"]));
        assert!(!skeleton.has_covered("/proc/kcore", &["/proc"]));
        assert!(!skeleton.has_covered("/etc/shadow", &[]));
    }
}
