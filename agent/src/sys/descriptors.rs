//! Descriptors: pipes, sockets that carry descriptors, epoll, and which of them a forked child keeps.

use super::{check, check_int, own};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: `fds` has room for the two descriptors that pipe2 writes.
    check_int(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(fds[0].into()), own(fds[1].into())))
}

/// A pair that keeps message boundaries and can carry descriptors.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that socketpair writes.
    check_int(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    Ok((own(fds[0].into()), own(fds[1].into())))
}

pub fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: fcntl on a descriptor we hold, without pointers.
    let flags = check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: as above.
    check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })?;
    Ok(())
}

pub fn set_pipe_bytes(fd: &impl AsRawFd, bytes: i32) {
    // SAFETY: fcntl on a descriptor we hold. A refusal leaves the pipe as it was, which is as good.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) };
}

pub fn read(fd: &impl AsRawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes into `into`.
    let n = unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
    check(n as libc::c_long).map(|n| n as usize)
}

pub fn write(fd: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `bytes.len()` bytes of `bytes`.
    let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    check(n as libc::c_long).map(|n| n as usize)
}

pub fn pread_start(fd: &impl AsRawFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `into.len()` bytes into `into`.
    let n = unsafe { libc::pread(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), 0) };
    check(n as libc::c_long).map(|n| n as usize)
}

/// How many descriptors a message can bring.
const MAX_PASSED: usize = 4;
/// Room for a control header and that many descriptors, aligned as the header must be.
type Control = [u64; 2 + MAX_PASSED / 2];

/// One message with descriptors beside it, at most four.
pub fn send_message(fd: &impl AsRawFd, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> io::Result<()> {
    if passed.len() > MAX_PASSED {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    let mut control: Control = [0; 2 + MAX_PASSED / 2];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    if !passed.is_empty() {
        let length = (passed.len() * std::mem::size_of::<RawFd>()) as u32;
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the macros only compute; the buffer is aligned (u64), and has room for a header and four descriptors
        // (CMSG_SPACE(16) is 32), of which there are no more, as looked at above.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(length) as _;
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(length) as _;
            let data = libc::CMSG_DATA(message).cast::<RawFd>();
            for (at, fd) in passed.iter().enumerate() {
                data.add(at).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    // SAFETY: `header` points at buffers that outlive the call.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_NOSIGNAL) } as libc::c_long)?;
    Ok(())
}

/// One message and the descriptors beside it; an empty one is the end.
pub fn receive_message(fd: &impl AsRawFd, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut control: Control = [0; 2 + MAX_PASSED / 2];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = std::mem::size_of_val(&control) as _;
    // SAFETY: `header` points at buffers that outlive the call and says their sizes.
    let n = check(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) } as libc::c_long)?;
    let mut passed = Vec::new();
    // SAFETY: the kernel has filled `header`; a first header, if any, lies whole within the control buffer, and so does its
    // data, whose length it says.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        let rights =
            !message.is_null() && (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS;
        if rights {
            let bytes = ((*message).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
            let data = libc::CMSG_DATA(message).cast::<RawFd>();
            for at in 0..bytes / std::mem::size_of::<RawFd>() {
                passed.push(own(data.add(at).read_unaligned().into()));
            }
        }
    }
    Ok((n as usize, passed))
}

/// A file of memory that nobody else can open.
pub fn memory_file(name: &CStr) -> io::Result<File> {
    // SAFETY: a C string and a number.
    check_int(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) }).map(|fd| own(fd.into()).into())
}

pub fn dup(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl on a descriptor we hold, without pointers.
    check_int(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) }).map(|fd| own(fd.into()))
}

/// Makes `fd` the descriptor `number` for the program to come (dup2 drops close-on-exec, also for itself through dup).
pub fn dup_onto(fd: &impl AsRawFd, number: RawFd) -> io::Result<()> {
    // SAFETY: dup2 on descriptors, without pointers.
    check_int(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(|_| ())
}

/// Closes everything but 0, 1, 2 and `keep`. A forked child has the agent's descriptors until it executes: through
/// /proc/self/fd a path of the image could lead to them, and the ends of other processes' pipes would stay open in it.
pub fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().filter_map(|&fd| u32::try_from(fd).ok()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for last in keep.into_iter().chain([u32::MAX]) {
        if last > first {
            let end = if last == u32::MAX { last } else { last - 1 };
            // SAFETY: numbers only; in a forked child nothing uses the descriptors that are closed.
            unsafe { libc::syscall(libc::SYS_close_range, first, end, 0u32) };
        }
        first = first.max(last.saturating_add(1));
    }
}

pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; CLOSE_RANGE_CLOEXEC is 4.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 4u32) }).map(|_| ())
}

pub fn fchown(fd: RawFd, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::fchown(fd, uid, gid) }).map(|_| ())
}

pub fn file_kind(fd: RawFd) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat fills `stat` when it succeeds, and only then it is read.
    unsafe {
        check_int(libc::fstat(fd, stat.as_mut_ptr()))?;
        Ok(stat.assume_init())
    }
}

pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        check_int(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(|fd| Epoll(own(fd.into())))
    }

    fn control(&self, op: libc::c_int, fd: &impl AsRawFd, events: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: `event` lives through the call.
        check_int(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &mut event) }).map(|_| ())
    }

    pub fn add(&self, fd: &impl AsRawFd, events: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, token)
    }

    pub fn change(&self, fd: &impl AsRawFd, events: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, token)
    }

    pub fn remove(&self, fd: &impl AsRawFd) {
        // A descriptor that is not registered is removed already.
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
    }

    /// `(token, events)` of what is ready, after `timeout_ms` at the latest; -1 waits for ever.
    pub fn wait(&self, timeout_ms: i32, into: &mut Vec<(u64, i32)>) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 64];
        // SAFETY: the kernel writes at most 64 events into the array.
        let n = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), 64, timeout_ms) };
        into.clear();
        match check_int(n) {
            Ok(n) => into.extend(events.iter().take(n as usize).map(|e| (e.u64, e.events as i32))),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// Blocks SIGCHLD and gives a descriptor that is readable when children have ended.
pub fn child_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises `set` before the rest uses it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        check_int(libc::sigprocmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()))?;
        check_int(libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)).map(|fd| own(fd.into()))
    }
}
