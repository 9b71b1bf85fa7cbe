//! A container's root file system: finding its disks, mounting layers and the writable disk, stacking them with overlayfs.
//! It is put together by the container's first process in a mount namespace of its own, so the places below are the same
//! for all containers, and what was mounted goes with the namespace. All of it may wait for a device, which the agent's
//! loop never does. Layers that several containers name are one file system in the kernel all the same.

use crate::error::{describe, Context, Error, Result};
use crate::messages::{base64, Disk, DiskFs, InjectedFile, Rootfs};
use crate::shares;
use crate::sys;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

pub const ROOT: &str = "/run/hyper/root";
const LAYERS: &str = "/run/hyper/layers";
const WRITABLE: &str = "/run/hyper/writable";
const FILES: &str = "/run/hyper/files";
const DISK_DEADLINE: Duration = Duration::from_secs(5);
const DISK_POLL: Duration = Duration::from_micros(500);
const RESCAN_AFTER: Duration = Duration::from_millis(300);
const RELEASE_DEADLINE: Duration = Duration::from_secs(2);
/// Room for what a message can bring, and for what the container makes of it.
const FILES_BYTES: u64 = 8 * 1024 * 1024;
const MAX_LAYERS: usize = 127;
const READ_AHEAD_BYTES: u64 = 512 * 1024;

/// What the agent keeps of a container's file systems, so that they outlive its processes.
pub struct Held {
    pub root: OwnedFd,
    /// The mount namespace: its end takes time, which the container's last process would spend before it is gone.
    pub namespace: Option<OwnedFd>,
}

impl Held {
    pub fn numbers(&self) -> Vec<RawFd> {
        [Some(&self.root), self.namespace.as_ref()].into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }
}

/// The file that stands for `files[index]` of the request.
pub fn injected(index: usize) -> String {
    format!("{FILES}/{index}")
}

pub fn check(rootfs: &Rootfs) -> Result<()> {
    if rootfs.layers.is_empty() || rootfs.layers.len() > MAX_LAYERS {
        return Err(Error::InvalidArgument(format!("rootfs: there must be 1 to {MAX_LAYERS} layers")));
    }
    if rootfs.writable.is_some_and(|w| w.fs != DiskFs::Ext4 || rootfs.layers.iter().any(|l| l.scsi == w.scsi)) {
        return Err(Error::InvalidArgument("rootfs: the writable disk must be an ext4 disk of its own".into()));
    }
    Ok(())
}

pub fn check_files(files: &[InjectedFile]) -> Result<()> {
    for file in files {
        if !file.path.starts_with('/') || file.path.contains('\0') {
            return Err(Error::InvalidArgument(format!("files: {:?} must be an absolute path", file.path)));
        }
        base64(&file.content)?;
    }
    Ok(())
}

fn shown(disk: &Disk) -> String {
    format!("{}:{}:{}", disk.scsi.channel, disk.scsi.target, disk.scsi.lun)
}

/// The node of the disk at this address, once the kernel has found it.
fn find(disk: &Disk) -> Option<String> {
    for host in fs::read_dir("/sys/class/scsi_host").ok()?.flatten() {
        let host = host.file_name();
        let number = host.to_str()?.strip_prefix("host")?;
        let device = format!("/sys/class/scsi_device/{number}:{}/device/block", shown(disk));
        if let Some(block) = fs::read_dir(device).ok().and_then(|mut entries| entries.next()?.ok()) {
            return Some(format!("/dev/{}", block.file_name().to_str()?));
        }
    }
    None
}

/// The number of a disk that is mounted.
pub fn number(disk: &Disk) -> Result<(u32, u32)> {
    let gone = || Error::Internal(format!("the disk at {} has gone", shown(disk)));
    let node = find(disk).ok_or_else(gone)?;
    let device = fs::metadata(&node).context(|| format!("cannot look at {node}"))?.rdev();
    Ok((libc::major(device), libc::minor(device)))
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
    let mut scanned = false;
    let mut last = "it has not appeared".to_string();
    while began.elapsed() < DISK_DEADLINE {
        if let Some(node) = find(disk) {
            if disk.fs == DiskFs::Erofs {
                // A request to a virtual disk costs more than its bytes: fewer and larger ones.
                let _ = File::open(&node).and_then(|device| sys::set_read_ahead(&device, READ_AHEAD_BYTES));
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
                    let text = format!("cannot mount the {kind} disk {}: {}", shown(disk), describe(&e));
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
        std::thread::sleep(DISK_POLL);
    }
    Err(Error::DeadlineExceeded(format!("the disk at {} did not come within 5 s: {last}", shown(disk))))
}

/// A disk that nobody wants afterwards needs no journal and no order among its writes. One whose last use was cut short
/// is brought in order by its journal first: the kernel refuses to leave it out.
fn mount_writable(disk: &Disk, ephemeral: bool) -> Result<()> {
    if ephemeral && mount_disk(disk, WRITABLE, 0, "noinit_itable,noload,nobarrier").is_ok() {
        return Ok(());
    }
    mount_disk(disk, WRITABLE, 0, "noinit_itable")
}

/// The folders that everything here is mounted at.
pub fn prepare() -> Result<()> {
    for folder in [ROOT, LAYERS, WRITABLE, FILES, shares::FOLDER] {
        fs::create_dir_all(folder).context(|| format!("cannot make {folder}"))?;
    }
    Ok(())
}

/// Where the root's files will come from that the request brought, which have a file system of their own: the container may
/// write to them, and fills nothing of the agent's.
pub fn make_place_for_files() -> Result<()> {
    let data = format!("mode=755,size={FILES_BYTES}");
    sys::mount("tmpfs", FILES, "tmpfs", libc::MS_NODEV | libc::MS_NOSUID, &data)
        .context(|| format!("cannot mount a tmpfs at {FILES}"))
}

/// Builds the root at `ROOT`. `points` are paths that must exist in it for mounts to come.
pub fn assemble(rootfs: &Rootfs, files: &[InjectedFile], points: &[String], ephemeral: bool) -> Result<()> {
    mount_layers(&rootfs.layers)?;
    write_files(files)?;
    if rootfs.writable.is_none() && rootfs.readonly && rootfs.layers.len() == 1 {
        let layer = format!("{LAYERS}/0");
        if points.iter().chain(files.iter().map(|f| &f.path)).all(|p| exists_in(&layer, p)) {
            return sys::mount(&layer, ROOT, "", libc::MS_BIND, "")
                .context(|| format!("cannot bind the layer {layer}"));
        }
    }
    match &rootfs.writable {
        Some(disk) => mount_writable(disk, ephemeral)?,
        None => {
            let data = match rootfs.writable_tmpfs_bytes {
                Some(bytes) => format!("mode=755,size={bytes}"),
                None => "mode=755".to_string(),
            };
            sys::mount("tmpfs", WRITABLE, "tmpfs", 0, &data)
                .context(|| format!("cannot mount a tmpfs at {WRITABLE}"))?;
        }
    }
    overlay(rootfs.layers.len())
}

/// Mounts the writable disk, and the layers as one read-only folder: the paths of its upper folder and of that.
pub fn apart(rootfs: &Rootfs) -> Result<(String, String)> {
    let Some(writable) = &rootfs.writable else {
        return Err(Error::Unsupported("the container has no writable disk".into()));
    };
    mount_disk(writable, WRITABLE, 0, "noinit_itable")?;
    mount_layers(&rootfs.layers)?;
    let up = format!("{WRITABLE}/upper");
    // A container that never started has none yet.
    if !Path::new(&up).exists() {
        overlay(rootfs.layers.len())?;
        sys::umount(ROOT, 0).context(|| format!("cannot unmount {ROOT}"))?;
    }
    if rootfs.layers.len() == 1 {
        return Ok((up, format!("{LAYERS}/0")));
    }
    std::env::set_current_dir(LAYERS).context(|| format!("cannot enter {LAYERS}"))?;
    let data = format!("lowerdir={}", lower_folders(rootfs.layers.len()));
    sys::mount("overlay", ROOT, "overlay", libc::MS_RDONLY, &data).context(|| "cannot stack the layers".into())?;
    Ok((up, ROOT.into()))
}

fn mount_layers(layers: &[Disk]) -> Result<()> {
    for (at, layer) in layers.iter().enumerate() {
        let folder = format!("{LAYERS}/{at}");
        match fs::create_dir(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(e).context(|| format!("cannot make {folder}"))?
            }
            _ => mount_disk(layer, &folder, libc::MS_RDONLY, "")?,
        }
    }
    Ok(())
}

/// Short names, because the options must fit one page.
fn lower_folders(layers: usize) -> String {
    (0..layers).rev().map(|at| at.to_string()).collect::<Vec<_>>().join(":")
}

fn overlay(layers: usize) -> Result<()> {
    let (up, work) = (format!("{WRITABLE}/upper"), format!("{WRITABLE}/work"));
    if !Path::new(&up).exists() {
        // The root folder's owner and mode are the upper one's, so they are taken over from the image.
        let top = format!("{LAYERS}/{}", layers - 1);
        let image = fs::metadata(top).context(|| "cannot look at the image's root".into())?;
        fs::create_dir(&up).context(|| format!("cannot make {up}"))?;
        fs::set_permissions(&up, fs::Permissions::from_mode(image.mode() & 0o7777))
            .context(|| format!("cannot set the mode of {up}"))?;
        sys::chown(&up, image.uid(), image.gid()).context(|| format!("cannot set the owner of {up}"))?;
    }
    fs::create_dir_all(&work).context(|| format!("cannot make {work}"))?;
    let lower = lower_folders(layers);
    std::env::set_current_dir(LAYERS).context(|| format!("cannot enter {LAYERS}"))?;
    let data = format!("lowerdir={lower},upperdir={up},workdir={work}");
    sys::mount("overlay", ROOT, "overlay", 0, &data).map_err(|e| {
        let text = format!("cannot stack {layers} layers: {}", describe(&e));
        match e.raw_os_error() {
            Some(libc::ENODEV) => Error::Unsupported("the guest kernel has no overlay file system".into()),
            _ => Error::Internal(text),
        }
    })
}

fn exists_in(layer: &str, path: &str) -> bool {
    File::open(layer).and_then(|dir| sys::open_in_root(&dir, path, libc::O_PATH)).is_ok()
}

fn write_files(files: &[InjectedFile]) -> Result<()> {
    for (index, file) in files.iter().enumerate() {
        let path = injected(index);
        fs::write(&path, base64(&file.content)?).context(|| format!("cannot keep the file for {}", file.path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode & 0o7777))
            .context(|| format!("cannot set the mode of the file for {}", file.path))?;
    }
    Ok(())
}

/// Writes what the container changed to its disk.
pub fn sync(root: &OwnedFd) -> Result<()> {
    sys::syncfs(root).context(|| "cannot sync the writable disk".into())
}

/// Lets go of a container's file systems, whose processes are gone; `unused` are disks that no other container names. At the
/// end these can be unplugged.
pub fn dismantle(held: Option<Held>, unused: &[Disk]) -> Result<()> {
    if let Some(held) = held {
        // A disk that fails has told its container already.
        let _ = sync(&held.root);
    }
    for node in unused.iter().filter_map(find) {
        wait_until_free(&node);
    }
    Ok(())
}

/// A mount namespace that has just ended lets go of its disks a moment later: a mounted disk refuses an exclusive open.
fn wait_until_free(node: &str) {
    let began = Instant::now();
    while began.elapsed() < RELEASE_DEADLINE {
        let opened = fs::OpenOptions::new().read(true).custom_flags(libc::O_EXCL | libc::O_CLOEXEC).open(node);
        if !opened.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY)) {
            return;
        }
        std::thread::sleep(DISK_POLL);
    }
}
