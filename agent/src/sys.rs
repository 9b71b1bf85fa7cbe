//! Thin safe forms of the system calls that the standard library lacks. All of them are plain: no policy here.
//! Nearly every `unsafe` of the agent is in this file.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

// -- descriptors --------------------------------------------------------------------------------------------------

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

/// One message, with a descriptor beside it if given.
pub fn send_message(fd: &impl AsRawFd, bytes: &[u8], passed: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr() as *mut libc::c_void, iov_len: bytes.len() };
    let mut control = [0u64; 4];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    if let Some(passed) = passed {
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE only computes.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(4) } as _;
        // SAFETY: the control buffer is aligned (u64) and has room for one descriptor (CMSG_SPACE(4) is 24).
        unsafe {
            let message = libc::CMSG_FIRSTHDR(&header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(message).cast::<RawFd>().write_unaligned(passed.as_raw_fd());
        }
    }
    // SAFETY: `header` points at buffers that outlive the call.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &header, libc::MSG_NOSIGNAL) } as libc::c_long)?;
    Ok(())
}

/// One message and the descriptor beside it; an empty one is the end.
pub fn receive_message(fd: &impl AsRawFd, into: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut iov = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut control = [0u64; 4];
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut header: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = std::mem::size_of_val(&control) as _;
    // SAFETY: `header` points at buffers that outlive the call and says their sizes.
    let n = check(unsafe { libc::recvmsg(fd.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) } as libc::c_long)?;
    // SAFETY: the kernel has filled `header`; a first header, if any, lies whole within the control buffer.
    let passed = unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        let rights = !message.is_null()
            && (*message).cmsg_level == libc::SOL_SOCKET
            && (*message).cmsg_type == libc::SCM_RIGHTS
            && (*message).cmsg_len as usize >= libc::CMSG_LEN(4) as usize;
        rights.then(|| own(libc::CMSG_DATA(message).cast::<RawFd>().read_unaligned().into()))
    };
    Ok((n as usize, passed))
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

// -- epoll and signals --------------------------------------------------------------------------------------------

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

/// All signals as a fresh program expects them: default handlers, nothing blocked.
pub fn default_signals() {
    // SAFETY: resets dispositions of this process only; numbers that have none are refused, which changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

// -- processes ----------------------------------------------------------------------------------------------------

/// A forked child that runs `body` and ends with its return value. The agent has one thread, so everything may be
/// used in the child.
pub fn fork(body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the agent is single-threaded, so the child's copy of memory and locks is consistent.
    match unsafe { libc::fork() } {
        0 => {
            default_signals();
            exit_now(body())
        }
        pid => check_int(pid),
    }
}

/// As `fork`, in new namespaces (`CLONE_NEW*`) and directly inside the cgroup behind `cgroup`.
pub fn clone_into(flags: u64, cgroup: &impl AsRawFd, body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // The libc crate's constant is an int, which cannot hold it.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // SAFETY: an all-zero clone_args is a valid plain fork.
    let mut args: libc::clone_args = unsafe { MaybeUninit::zeroed().assume_init() };
    args.flags = flags | CLONE_INTO_CGROUP;
    args.exit_signal = libc::SIGCHLD as u64;
    args.cgroup = cgroup.as_raw_fd() as u64;
    let size = std::mem::size_of_val(&args);
    // SAFETY: no stack is given, so this returns twice like fork; the agent is single-threaded.
    match check(unsafe { libc::syscall(libc::SYS_clone3, &args, size) })? {
        0 => {
            default_signals();
            exit_now(body())
        }
        pid => Ok(pid as Pid),
    }
}

/// Ends a forked child at once: the parent's exit handlers are not its own.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// A child that has ended: `(pid, wait status)`.
pub fn reap() -> Option<(Pid, i32)> {
    let mut status = 0;
    // SAFETY: `status` is written by the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::kill(pid, signal) }).map(|_| ())
}

pub fn setsid() {
    // SAFETY: no pointers. It fails only for a group leader, which then has what it asked for.
    unsafe { libc::setsid() };
}

pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::unshare(flags) }).map(|_| ())
}

pub fn setns(fd: &impl AsRawFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::setns(fd.as_raw_fd(), kind) }).map(|_| ())
}

pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }).map(own)
}

/// Replaces the program; comes back only with the error.
pub fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<_>>();
    let (argv, envp) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their texts outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

pub fn prctl(option: libc::c_int, value: u64) -> io::Result<()> {
    // SAFETY: only used with options that take numbers.
    check_int(unsafe { libc::prctl(option, value, 0, 0, 0) }).map(|_| ())
}

pub fn raise_ambient(capability: u32) -> io::Result<()> {
    let raise = libc::PR_CAP_AMBIENT_RAISE;
    // SAFETY: numbers only.
    check_int(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(capability), 0, 0) }).map(|_| ())
}

/// Effective, permitted and inheritable sets as bit masks.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Head {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let head = Head { version: VERSION_3, pid: 0 };
    let word = |shift: u32| Data {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [word(0), word(32)];
    // SAFETY: version 3 wants one head and two data words, as given.
    check(unsafe { libc::syscall(libc::SYS_capset, &head, data.as_ptr()) }).map(|_| ())
}

/// Group, supplementary groups and user, for good (real, effective and saved).
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` holds `groups.len()` ids; the rest takes numbers.
    unsafe {
        check_int(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check_int(libc::setresgid(gid, gid, gid))?;
        check_int(libc::setresuid(uid, uid, uid)).map(|_| ())
    }
}

pub fn setrlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` lives through the call; no old value is asked for.
    check_int(unsafe { libc::prlimit64(0, resource as _, &limit, std::ptr::null_mut()) }).map(|_| ())
}

pub fn umask(mask: u32) {
    // SAFETY: no pointers, cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) };
}

pub fn can_execute(path: &CStr) -> io::Result<()> {
    let (mode, flags) = (libc::X_OK, libc::AT_EACCESS);
    // SAFETY: `path` is a C string.
    check_int(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, flags) }).map(|_| ())
}

/// Installs a seccomp filter for this process.
pub fn seccomp(program: &[libc::sock_filter], flags: u64) -> io::Result<()> {
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr() as *mut _ };
    let set_filter = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `program` points at `len` instructions that outlive the call; the kernel copies them.
    check(unsafe { libc::syscall(libc::SYS_seccomp, set_filter, flags, &program) }).map(|_| ())
}

// -- file systems -------------------------------------------------------------------------------------------------

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

/// Attaches what `open_tree` has detached at `target`.
pub fn move_mount(tree: &impl AsRawFd, target: &str) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: u32 = 4;
    const MOVE_MOUNT_T_SYMLINKS: u32 = 0x10;
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
    let (empty, target) = (c("")?, c(target)?);
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

pub fn lock_exclusively(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check_int(unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX) }).map(|_| ())
}

// -- terminals ----------------------------------------------------------------------------------------------------

/// Unlocks the slave of a new terminal and opens it.
pub fn terminal_slave(master: &impl AsRawFd) -> io::Result<OwnedFd> {
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int, TIOCGPTPEER takes open flags as its value.
    unsafe {
        check_int(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &unlock))?;
        check_int(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC))
            .map(|fd| own(fd.into()))
    }
}

pub fn terminal_number(master: &impl AsRawFd) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &mut number) })?;
    Ok(number)
}

pub fn set_controlling_terminal(slave: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    check_int(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(|_| ())
}

pub fn set_window_size(terminal: &impl AsRawFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) }).map(|_| ())
}

// -- the machine --------------------------------------------------------------------------------------------------

pub fn load_module(file: &impl AsRawFd) -> io::Result<()> {
    let empty = c("")?;
    // SAFETY: a descriptor, a C string and a number.
    check(unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), empty.as_ptr(), 0) }).map(|_| ())
}

pub fn sethostname(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes of `name`.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(|_| ())
}

pub fn setdomainname(name: &str) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes of `name`.
    check_int(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(|_| ())
}

pub fn set_clock(ns: i64) -> io::Result<()> {
    let time = libc::timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    // SAFETY: `time` lives through the call.
    check_int(unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &time) }).map(|_| ())
}

fn clock(id: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is written by the call; the clocks used always exist.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

pub fn now_ns() -> i64 {
    clock(libc::CLOCK_REALTIME)
}

pub fn uptime_ns() -> i64 {
    clock(libc::CLOCK_BOOTTIME)
}

/// Credits `entropy` to the kernel's random numbers and has it use them at once, so that clones differ.
pub fn add_entropy(entropy: &[u8]) -> io::Result<()> {
    const RNDADDENTROPY: u64 = 0x4008_5203;
    const RNDRESEEDCRNG: u64 = 0x5207;
    let random = std::fs::OpenOptions::new().write(true).open("/dev/random")?;
    let mut request = Vec::with_capacity(8 + entropy.len());
    request.extend_from_slice(&(entropy.len() as i32 * 8).to_ne_bytes());
    request.extend_from_slice(&(entropy.len() as i32).to_ne_bytes());
    request.extend_from_slice(entropy);
    // SAFETY: RNDADDENTROPY reads a rand_pool_info: two ints and as many bytes as the second says.
    unsafe {
        check_int(libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, request.as_ptr()))?;
        check_int(libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _, 0)).map(|_| ())
    }
}

/// Turns the machine off. A kernel without ACPI cannot: there a reset does it, as the VMM runs with `-no-reboot`.
pub fn power_off() -> ! {
    let off = std::path::Path::new("/sys/firmware/acpi").exists()
        || std::path::Path::new("/sys/firmware/devicetree").exists();
    let how = if off { libc::RB_POWER_OFF } else { libc::RB_AUTOBOOT };
    // SAFETY: no pointers; the file systems are unmounted.
    unsafe { libc::reboot(how) };
    exit_now(0)
}

// -- netlink ------------------------------------------------------------------------------------------------------

/// A route netlink socket whose replies are waited for at most two seconds.
pub fn route_socket() -> io::Result<OwnedFd> {
    // SAFETY: numbers only.
    let fd =
        check_int(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) })?;
    let fd = own(fd.into());
    let wait = libc::timeval { tv_sec: 2, tv_usec: 0 };
    let size = std::mem::size_of_val(&wait) as libc::socklen_t;
    // SAFETY: SO_RCVTIMEO reads one timeval.
    check_int(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size)
    })?;
    Ok(fd)
}

// -- bpf ----------------------------------------------------------------------------------------------------------

/// Loads a cgroup device program and attaches it to `cgroup`, in place of none.
pub fn attach_device_program(cgroup: &impl AsRawFd, program: &[u64]) -> io::Result<()> {
    const PROG_LOAD: libc::c_int = 5;
    const PROG_ATTACH: libc::c_int = 8;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        rest: [u64; 12],
    }
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        rest: [u64; 4],
    }
    let license = c("Apache-2.0")?;
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        code: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 12],
    };
    // SAFETY: `load` is a bpf_attr of the size given, and what it points at outlives the call.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, std::mem::size_of_val(&load)) })?;
    let fd = own(fd);
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: fd.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        rest: [0; 4],
    };
    // SAFETY: `attach` is a bpf_attr of the size given.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, std::mem::size_of_val(&attach)) }).map(|_| ())
}
