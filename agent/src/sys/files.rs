//! Mounts, paths and durability.

use super::{c, check, check_int, own};
use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, target, kind, data) = (c(source)?, c(target)?, c(kind)?, c(data)?);
    // SAFETY: all are C strings that outlive the call; an empty `data` is none.
    check_int(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags as libc::c_ulong, data.as_ptr().cast())
    })
    .map(|_| ())
}

pub fn umount(target: &str, flags: libc::c_int) -> io::Result<()> {
    let target = c(target)?;
    // SAFETY: a C string.
    check_int(unsafe { libc::umount2(target.as_ptr(), flags) }).map(|_| ())
}

/// The current folder becomes the root; the old root lies under it and is taken away.
pub fn pivot_here() -> io::Result<()> {
    let dot = c(".")?;
    // SAFETY: C strings. `pivot_root(".", ".")` stacks the old root over the new one, see pivot_root(2).
    check(unsafe { libc::syscall(libc::SYS_pivot_root, dot.as_ptr(), dot.as_ptr()) })?;
    mount("", ".", "", libc::MS_REC | libc::MS_SLAVE, "")?;
    umount(".", libc::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

/// A detached copy of the mount (or the folder or file) at `path`.
pub fn open_tree(path: &str, recursive: bool) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | if recursive { libc::AT_RECURSIVE as u32 } else { 0 };
    let path = c(path)?;
    // SAFETY: a C string and numbers.
    check(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) }).map(own)
}

/// A detached copy of the file or folder that is open as `fd`.
pub fn clone_tree(fd: RawFd) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: u32 = 1;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    let empty = c("")?;
    // SAFETY: a C string and numbers.
    check(unsafe { libc::syscall(libc::SYS_open_tree, fd, empty.as_ptr(), flags) }).map(own)
}

/// Attaches what was detached at `target`, whose last part is no link.
pub fn move_mount(tree: &impl AsRawFd, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
    let flags = MOVE_MOUNT_F_EMPTY_PATH;
    let (empty, target) = (c("")?, CString::new(target.as_os_str().as_bytes())?);
    // SAFETY: C strings and numbers.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty.as_ptr(), libc::AT_FDCWD, target.as_ptr(), flags)
    })
    .map(|_| ())
}

/// Makes the mount at `path` read-only and keeps its other flags.
pub fn set_readonly(path: &str) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const MOUNT_ATTR_RDONLY: u64 = 1;
    const SYS_MOUNT_SETATTR: libc::c_long = 442;
    let attr = MountAttr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns_fd: 0 };
    let path = c(path)?;
    let size = std::mem::size_of_val(&attr);
    // SAFETY: a C string and a structure of the size given.
    check(unsafe { libc::syscall(SYS_MOUNT_SETATTR, libc::AT_FDCWD, path.as_ptr(), 0u32, &attr, size) }).map(|_| ())
}

/// How far the kernel reads ahead in this block device, and in the files of the file system on it.
pub fn set_read_ahead(device: &impl AsRawFd, bytes: u64) -> io::Result<()> {
    // linux/fs.h: `_IO(0x12, 98)`, counted in sectors of 512 bytes.
    const BLKRASET: u64 = 0x1262;
    // SAFETY: BLKRASET takes a number.
    check_int(unsafe { libc::ioctl(device.as_raw_fd(), BLKRASET as _, bytes / 512) }).map(|_| ())
}

/// Has the kernel read `length` bytes from `offset` on into its cache, behind the caller.
pub fn will_need(file: &impl AsRawFd, offset: u64, length: u64) {
    let (offset, length) = (offset as libc::off_t, length as libc::off_t);
    // SAFETY: numbers only. What is not read now is read later.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, libc::POSIX_FADV_WILLNEED) };
}

pub fn mknod(path: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    let path = c(path)?;
    // SAFETY: a C string and numbers.
    check_int(unsafe { libc::mknod(path.as_ptr(), mode as libc::mode_t, libc::makedev(major, minor)) }).map(|_| ())
}

pub fn chown(path: &str, uid: u32, gid: u32) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
}

pub fn syncfs(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::syncfs(fd.as_raw_fd()) }).map(|_| ())
}

/// Opens `path` under the folder `root` as if that were `/`: links in it cannot lead outside.
pub fn open_in_root(root: &impl AsRawFd, path: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: an all-zero open_how is a valid empty one.
    let mut how: libc::open_how = unsafe { MaybeUninit::zeroed().assume_init() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = libc::RESOLVE_IN_ROOT;
    let path = c(path)?;
    let size = std::mem::size_of_val(&how);
    // SAFETY: a C string and a structure of the size given.
    check(unsafe { libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &how, size) }).map(own)
}

fn path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A pipe or a socket by its full mode.
pub fn make_special(at: &Path, mode: u32) -> io::Result<()> {
    let at = path(at)?;
    // SAFETY: a C string and numbers.
    check_int(unsafe { libc::mknod(at.as_ptr(), mode as libc::mode_t, 0) }).map(|_| ())
}

/// Times of access and change as seconds and nanoseconds; a link's own.
pub fn set_times(at: &Path, access: (i64, i64), change: (i64, i64)) -> io::Result<()> {
    let at = path(at)?;
    let time = |(tv_sec, tv_nsec): (i64, i64)| libc::timespec { tv_sec, tv_nsec };
    let times = [time(access), time(change)];
    // SAFETY: a C string and an array of two times, as the call wants it.
    check_int(unsafe { libc::utimensat(libc::AT_FDCWD, at.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
        .map(|_| ())
}

/// Copies extended attributes, access lists and file capabilities among them. What the target's file system cannot hold or
/// nobody may set is left out.
pub fn copy_attributes(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (path(from)?, path(to)?);
    let mut names = vec![0u8; 64 * 1024];
    // SAFETY: a C string and a buffer with its length.
    let listed = unsafe { libc::llistxattr(from.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let Ok(length) = usize::try_from(listed) else {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENOTSUP) { Ok(()) } else { Err(error) };
    };
    let mut value = vec![0u8; 64 * 1024];
    for name in names[..length].split_inclusive(|&b| b == 0) {
        let Ok(name) = std::ffi::CStr::from_bytes_with_nul(name) else { continue };
        // SAFETY: C strings and a buffer with its length.
        let got = unsafe { libc::lgetxattr(from.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let Ok(size) = usize::try_from(got) else { continue };
        // SAFETY: C strings and as many bytes of the buffer as were read into it.
        let set = unsafe { libc::lsetxattr(to.as_ptr(), name.as_ptr(), value.as_ptr().cast(), size, 0) };
        if set < 0 {
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::ENOTSUP | libc::EPERM)) {
                return Err(error);
            }
        }
    }
    Ok(())
}
