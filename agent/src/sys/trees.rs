//! Files and folders relative to an open folder, none of whose names is followed when it is a link; attributes; and what
//! else a walk through somebody else's tree needs.

use super::{c, check, check_int, own};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// A file name or path that may be no UTF-8.
pub fn c_bytes(text: &[u8]) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub fn open_at(folder: &impl AsRawFd, name: &CStr, flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: a C string and numbers; no file is created, so no mode is read.
    check_int(unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags) }).map(|fd| own(fd.into()))
}

pub fn stat_at(folder: &impl AsRawFd, name: &CStr) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstatat fills `stat` when it succeeds, and only then it is read.
    unsafe {
        let flags = libc::AT_SYMLINK_NOFOLLOW;
        check_int(libc::fstatat(folder.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags))?;
        Ok(stat.assume_init())
    }
}

/// lstat(2): a slash at the end has the kernel follow a link.
pub fn lstat(path: &[u8]) -> io::Result<libc::stat> {
    let path = c_bytes(path)?;
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: lstat fills `stat` when it succeeds, and only then it is read.
    unsafe {
        check_int(libc::lstat(path.as_ptr(), stat.as_mut_ptr()))?;
        Ok(stat.assume_init())
    }
}

pub fn read_link_at(folder: &impl AsRawFd, name: &CStr) -> io::Result<Vec<u8>> {
    let mut text = vec![0; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most `text.len()` bytes into `text`.
    let n = unsafe { libc::readlinkat(folder.as_raw_fd(), name.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    text.truncate(check(n as libc::c_long)? as usize);
    Ok(text)
}

/// The names in a folder but "." and "..", sorted by their bytes. Takes the descriptor's position.
pub fn list(folder: &OwnedFd) -> io::Result<Vec<CString>> {
    let copy = super::dup(folder)?.into_raw_fd();
    // SAFETY: `copy` is a descriptor that nobody else has; from here on it is the stream's.
    let stream = unsafe { libc::fdopendir(copy) };
    if stream.is_null() {
        let error = io::Error::last_os_error();
        drop(own(copy.into()));
        return Err(error);
    }
    let mut names = Vec::new();
    // SAFETY: `stream` is open until the closedir; an entry's name ends with a zero and is copied before the next call. errno
    // is this thread's own.
    let result = unsafe {
        libc::rewinddir(stream);
        loop {
            *libc::__errno_location() = 0;
            let entry = libc::readdir64(stream);
            if entry.is_null() {
                let error = io::Error::last_os_error();
                break if error.raw_os_error() == Some(0) { Ok(()) } else { Err(error) };
            }
            let name = CStr::from_ptr((*entry).d_name.as_ptr());
            if name.to_bytes() != b"." && name.to_bytes() != b".." {
                names.push(name.to_owned());
            }
        }
    };
    // SAFETY: closes what fdopendir opened, once.
    unsafe { libc::closedir(stream) };
    result?;
    names.sort_unstable();
    Ok(names)
}

/// The names of an open file's extended attributes; none where there cannot be any.
pub fn list_xattrs(file: &impl AsRawFd) -> io::Result<Vec<CString>> {
    let mut text = vec![0u8; 64 * 1024];
    // SAFETY: the kernel writes at most `text.len()` bytes into `text`.
    let n = unsafe { libc::flistxattr(file.as_raw_fd(), text.as_mut_ptr().cast(), text.len()) };
    match check(n as libc::c_long) {
        Ok(n) => text.truncate(n as usize),
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    Ok(text.split(|b| *b == 0).filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok()).collect())
}

/// An extended attribute's value; `None` when there is none of that name.
pub fn xattr(file: &impl AsRawFd, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 64 * 1024];
    // SAFETY: the kernel writes at most `value.len()` bytes into `value`.
    let n = unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match check(n as libc::c_long) {
        Ok(n) => {
            value.truncate(n as usize);
            Ok(Some(value))
        }
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets an attribute of what `path` names itself, be it a link.
pub fn set_xattr(path: &OsStr, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_bytes(path.as_bytes())?, c_bytes(name)?);
    // SAFETY: C strings, and the kernel reads `value.len()` bytes of `value`.
    check_int(unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) })
        .map(|_| ())
}

/// Sets both times of what `path` names itself.
pub fn set_time(path: &OsStr, seconds: i64, nanoseconds: u32) -> io::Result<()> {
    let path = c_bytes(path.as_bytes())?;
    let time = libc::timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = [time, time];
    // SAFETY: a C string and two times that outlive the call.
    check_int(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) })
        .map(|_| ())
}

/// Makes a device, FIFO or socket: `mode` with its kind.
pub fn make_node(path: &OsStr, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    let path = c_bytes(path.as_bytes())?;
    // SAFETY: a C string and numbers.
    check_int(unsafe { libc::mknod(path.as_ptr(), mode as libc::mode_t, libc::makedev(major, minor)) }).map(|_| ())
}

/// Takes a mount away, now or when nobody uses it any more, and follows no link to it.
pub fn detach(target: &[u8]) -> io::Result<()> {
    let target = c_bytes(target)?;
    // SAFETY: a C string and a number.
    check_int(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }).map(|_| ())
}

/// From now on no device can be opened below `path`, whatever is mounted there.
pub fn forbid_devices(path: &str) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        userns_fd: u64,
    }
    const MOUNT_ATTR_NODEV: u64 = 4;
    const SYS_MOUNT_SETATTR: libc::c_long = 442;
    let attr = MountAttr { set: MOUNT_ATTR_NODEV, clear: 0, propagation: 0, userns_fd: 0 };
    let (path, flags, size) = (c(path)?, libc::AT_RECURSIVE as u32, std::mem::size_of_val(&attr));
    // SAFETY: a C string and a structure of the size given.
    check(unsafe { libc::syscall(SYS_MOUNT_SETATTR, libc::AT_FDCWD, path.as_ptr(), flags, &attr, size) }).map(|_| ())
}

/// As many open files as this process may have.
pub fn raise_open_files() {
    let mut limit = MaybeUninit::<libc::rlimit64>::uninit();
    // SAFETY: prlimit64 fills `limit` when it succeeds, and only then it is read.
    unsafe {
        if libc::prlimit64(0, libc::RLIMIT_NOFILE, std::ptr::null(), limit.as_mut_ptr()) == 0 {
            let most = limit.assume_init().rlim_max;
            let _ = super::setrlimit(libc::RLIMIT_NOFILE, most, most);
        }
    }
}
