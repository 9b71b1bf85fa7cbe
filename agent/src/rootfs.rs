//! A container's root file system: finding its disks, mounting layers once per sandbox, stacking them with overlayfs.
//! Everything here may wait for a device, so it runs in a forked child (`jobs`), never in the agent's loop.
//! Paths: /run/hyper/layers/<disk> (shared), /run/hyper/containers/<id>/{writable,root,files}.

use crate::error::{describe, Context, Error, Result};
use crate::messages::{base64, Disk, DiskFs, InjectedFile, Rootfs};
use crate::sys;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

pub const LAYERS: &str = "/run/hyper/layers";
const NODES: &str = "/run/hyper/disks";
const CONTAINERS: &str = "/run/hyper/containers";
const DISK_DEADLINE: Duration = Duration::from_secs(5);
const RESCAN_AFTER: Duration = Duration::from_millis(300);
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);
/// Room for what a message can bring, and for what the container makes of it.
const FILES_BYTES: u64 = 8 * 1024 * 1024;
const MAX_LAYERS: usize = 127;

pub fn folder(id: &str) -> String {
    format!("{CONTAINERS}/{id}")
}

pub fn root(id: &str) -> String {
    format!("{CONTAINERS}/{id}/root")
}

pub fn writable(id: &str) -> String {
    format!("{CONTAINERS}/{id}/writable")
}

/// The file that stands for `files[index]` of the request.
pub fn injected(id: &str, index: usize) -> String {
    format!("{CONTAINERS}/{id}/files/{index}")
}

/// A name without slashes or colons, short because overlayfs' options must fit one page.
fn key(disk: &Disk) -> String {
    format!("{}.{}.{}", disk.scsi.channel, disk.scsi.target, disk.scsi.lun)
}

pub fn check(rootfs: &Rootfs, files: &[InjectedFile]) -> Result<()> {
    if rootfs.layers.is_empty() || rootfs.layers.len() > MAX_LAYERS {
        return Err(Error::InvalidArgument(format!("rootfs: there must be 1 to {MAX_LAYERS} layers")));
    }
    if rootfs.writable.is_some_and(|w| w.fs != DiskFs::Ext4 || rootfs.layers.iter().any(|l| l.scsi == w.scsi)) {
        return Err(Error::InvalidArgument("rootfs: the writable disk must be an ext4 disk of its own".into()));
    }
    for file in files {
        if !file.path.starts_with('/') || file.path.contains('\0') {
            return Err(Error::InvalidArgument(format!("files: {:?} must be an absolute path", file.path)));
        }
        base64(&file.content)?;
    }
    Ok(())
}

/// Device number of the disk at this address, once the kernel has found it.
fn find(disk: &Disk) -> Option<(u32, u32)> {
    let suffix = format!(":{}:{}:{}", disk.scsi.channel, disk.scsi.target, disk.scsi.lun);
    let entries = fs::read_dir("/sys/class/scsi_device").ok()?;
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().ends_with(&suffix) {
            continue;
        }
        let block = fs::read_dir(entry.path().join("device/block")).ok()?.flatten().next()?;
        let text = fs::read_to_string(block.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        return Some((major.parse().ok()?, minor.parse().ok()?));
    }
    None
}

/// Asks the host adapters to look again, in case the hot-plug event was lost.
fn rescan(disk: &Disk) {
    let Ok(hosts) = fs::read_dir("/sys/class/scsi_host") else { return };
    for host in hosts.flatten() {
        let what = format!("{} {} {}", disk.scsi.channel, disk.scsi.target, disk.scsi.lun);
        let _ = fs::write(host.path().join("scan"), what);
    }
}

/// Waits for the disk and mounts it.
fn mount_disk(disk: &Disk, at: &str, flags: u64, data: &str) -> Result<()> {
    let (kind, began) = (
        match disk.fs {
            DiskFs::Erofs => "erofs",
            DiskFs::Ext4 => "ext4",
        },
        Instant::now(),
    );
    fs::create_dir_all(at).context(|| format!("cannot make {at}"))?;
    let mut scanned = false;
    let mut last = "it has not appeared".to_string();
    while began.elapsed() < DISK_DEADLINE {
        if let Some((major, minor)) = find(disk) {
            let node = format!("{NODES}/{major}.{minor}");
            match sys::mknod(&node, libc::S_IFBLK | 0o600, major, minor) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::Internal(format!("cannot make {node}: {}", describe(&e))))
                }
                _ => {}
            }
            match sys::mount(&node, at, kind, flags, data) {
                Ok(()) => return Ok(()),
                // The node can be there before the device answers.
                Err(e)
                    if matches!(e.raw_os_error(), Some(libc::ENXIO | libc::ENOMEDIUM | libc::EIO | libc::ENOENT)) =>
                {
                    last = describe(&e);
                }
                Err(e) => {
                    let text = format!("cannot mount the {kind} disk {}: {}", key(disk), describe(&e));
                    return Err(match e.raw_os_error() {
                        Some(libc::EINVAL | libc::EUCLEAN) => Error::FailedPrecondition(text),
                        Some(libc::ENODEV) => Error::Unsupported(format!("the guest kernel has no file system {kind}")),
                        _ => Error::Internal(text),
                    });
                }
            }
        } else if !scanned && began.elapsed() > RESCAN_AFTER {
            scanned = true;
            rescan(disk);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Error::DeadlineExceeded(format!("the disk at {} did not come within 5 s: {last}", key(disk))))
}

/// Mounts a layer unless it is; other containers' jobs may be at the same one.
fn mount_layer(disk: &Disk) -> Result<()> {
    let at = format!("{LAYERS}/{}", key(disk));
    fs::create_dir_all(&at).context(|| format!("cannot make {at}"))?;
    let lock = File::create(format!("{at}.lock")).context(|| format!("cannot make the lock of {at}"))?;
    sys::lock_exclusively(&lock).context(|| format!("cannot lock {at}"))?;
    let device = |path: &str| fs::metadata(path).map(|m| m.dev()).ok();
    if device(&at) != device(LAYERS) {
        return Ok(());
    }
    mount_disk(disk, &at, libc::MS_RDONLY, "")
}

/// Builds the root of container `id` at `root(id)`. `points` are paths that must exist in it for mounts to come.
pub fn assemble(id: &str, rootfs: &Rootfs, files: &[InjectedFile], points: &[String]) -> Result<()> {
    for folder in [NODES, LAYERS, &root(id), &writable(id), &format!("{CONTAINERS}/{id}/files")] {
        fs::create_dir_all(folder).context(|| format!("cannot make {folder}"))?;
    }
    for layer in &rootfs.layers {
        mount_layer(layer)?;
    }
    write_files(id, files)?;
    if rootfs.writable.is_none() && rootfs.readonly {
        if let [only] = rootfs.layers.as_slice() {
            let layer = format!("{LAYERS}/{}", key(only));
            if points.iter().chain(files.iter().map(|f| &f.path)).all(|p| exists_in(&layer, p)) {
                return sys::mount(&layer, &root(id), "", libc::MS_BIND, "")
                    .context(|| format!("cannot bind the layer {layer}"));
            }
        }
    }
    let upper = writable(id);
    match &rootfs.writable {
        Some(disk) => mount_disk(disk, &upper, 0, "noinit_itable")?,
        None => {
            let data = match rootfs.writable_tmpfs_bytes {
                Some(bytes) => format!("mode=755,size={bytes}"),
                None => "mode=755".to_string(),
            };
            sys::mount("tmpfs", &upper, "tmpfs", 0, &data).context(|| format!("cannot mount a tmpfs at {upper}"))?;
        }
    }
    overlay(id, rootfs)
}

fn overlay(id: &str, rootfs: &Rootfs) -> Result<()> {
    let upper = writable(id);
    let top = rootfs.layers.last().map(key).unwrap_or_default();
    let (up, work) = (format!("{upper}/upper"), format!("{upper}/work"));
    if !Path::new(&up).exists() {
        // The root folder's owner and mode are the upper one's, so they are taken over from the image.
        let image = fs::metadata(format!("{LAYERS}/{top}")).context(|| "cannot look at the image's root".into())?;
        fs::create_dir(&up).context(|| format!("cannot make {up}"))?;
        fs::set_permissions(&up, fs::Permissions::from_mode(image.mode() & 0o7777))
            .context(|| format!("cannot set the mode of {up}"))?;
        sys::chown(&up, image.uid(), image.gid()).context(|| format!("cannot set the owner of {up}"))?;
    }
    fs::create_dir_all(&work).context(|| format!("cannot make {work}"))?;
    let lower = rootfs.layers.iter().rev().map(key).collect::<Vec<_>>().join(":");
    std::env::set_current_dir(LAYERS).context(|| format!("cannot enter {LAYERS}"))?;
    let data = format!("lowerdir={lower},upperdir={up},workdir={work}");
    sys::mount("overlay", &root(id), "overlay", 0, &data).map_err(|e| {
        let text = format!("cannot stack {} layers: {}", rootfs.layers.len(), describe(&e));
        match e.raw_os_error() {
            Some(libc::ENODEV) => Error::Unsupported("the guest kernel has no overlay file system".into()),
            _ => Error::Internal(text),
        }
    })
}

fn exists_in(layer: &str, path: &str) -> bool {
    File::open(layer).and_then(|dir| sys::open_in_root(&dir, path, libc::O_PATH)).is_ok()
}

fn write_files(id: &str, files: &[InjectedFile]) -> Result<()> {
    if !files.is_empty() {
        // The container may write to them: it fills a file system of its own, not the agent's.
        let at = format!("{}/files", folder(id));
        let data = format!("mode=755,size={FILES_BYTES}");
        sys::mount("tmpfs", &at, "tmpfs", libc::MS_NODEV | libc::MS_NOSUID, &data)
            .context(|| format!("cannot mount a tmpfs at {at}"))?;
    }
    for (index, file) in files.iter().enumerate() {
        let path = injected(id, index);
        fs::write(&path, base64(&file.content)?).context(|| format!("cannot keep the file for {}", file.path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode & 0o7777))
            .context(|| format!("cannot set the mode of the file for {}", file.path))?;
    }
    Ok(())
}

/// Writes what the container changed to its disk.
pub fn sync(id: &str) -> Result<()> {
    let path = writable(id);
    let folder = File::open(&path).context(|| format!("cannot open {path}"))?;
    sys::syncfs(&folder).context(|| "cannot sync the writable disk".into())
}

/// Takes the container's file systems away; `unused` are disks that nobody else names. Goes on over errors and returns
/// the first. At the end the disks can be unplugged.
pub fn dismantle(id: &str, unused: &[Disk]) -> Result<()> {
    let mut first = Ok(());
    let mut note = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    note(unmount(&root(id)));
    let _ = sync(id);
    note(unmount(&writable(id)));
    let files = format!("{}/files", folder(id));
    note(unmount(&files));
    let _ = fs::remove_dir_all(&files);
    // One by one: what could not be unmounted must not be emptied.
    for empty in [root(id), writable(id), folder(id)] {
        let _ = fs::remove_dir(empty);
    }
    for disk in unused {
        let at = format!("{LAYERS}/{}", key(disk));
        if Path::new(&at).exists() {
            note(unmount(&at));
            let _ = fs::remove_dir(&at);
            let _ = fs::remove_file(format!("{at}.lock"));
        }
        if let Some((major, minor)) = find(disk) {
            wait_until_free(&format!("{NODES}/{major}.{minor}"));
            let _ = fs::remove_file(format!("{NODES}/{major}.{minor}"));
        }
    }
    first
}

/// Not mounted is as good as unmounted; a busy mount is detached and goes when its last user does.
fn unmount(path: &str) -> Result<()> {
    match sys::umount(path, 0) {
        Ok(()) => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(()),
        Err(_) => sys::umount(path, libc::MNT_DETACH).context(|| format!("cannot unmount {path}")),
    }
}

/// A mount namespace that has just ended lets go of its disks a moment later: a mounted disk refuses an exclusive open.
fn wait_until_free(node: &str) {
    let began = Instant::now();
    while began.elapsed() < RELEASE_DEADLINE {
        let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(node);
        if !opened.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
