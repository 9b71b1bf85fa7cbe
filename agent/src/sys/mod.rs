//! Thin safe forms of the system calls that the standard library lacks, by concern. All of them are plain: no policy here.
//! Nearly every `unsafe` of the agent is in this folder.

mod descriptors;
mod files;
mod machine;
mod processes;
mod terminals;
mod trees;

pub use descriptors::*;
pub use files::*;
pub use machine::*;
pub use processes::*;
pub use terminals::*;
pub use trees::*;

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

pub type Pid = libc::pid_t;

fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

fn check_int(ret: libc::c_int) -> io::Result<libc::c_int> {
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Text for the kernel; a NUL inside is refused as the kernel would refuse an unknown name.
pub fn c(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn own(fd: libc::c_long) -> OwnedFd {
    // SAFETY: only called with a descriptor that a successful system call has just made for us.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}
