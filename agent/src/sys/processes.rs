//! Processes: forking, signals, namespaces, and what a process gives up before it executes a program.

use super::{check, check_int, close_all_but, own, Pid};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

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

/// A forked child that has no descriptors but 0, 1, 2 and `keep`, runs `body` and ends with its return value. The agent has one thread, so everything may be
/// used in the child.
pub fn fork(keep: &[RawFd], body: impl FnOnce() -> i32) -> io::Result<Pid> {
    // SAFETY: the agent is single-threaded, so the child's copy of memory and locks is consistent.
    match unsafe { libc::fork() } {
        0 => {
            default_signals();
            close_all_but(keep);
            exit_now(body())
        }
        pid => check_int(pid),
    }
}

/// As `fork`, in new namespaces (`CLONE_NEW*`) and directly inside the cgroup behind `cgroup`.
pub fn clone_into(flags: u64, cgroup: &impl AsRawFd, keep: &[RawFd], body: impl FnOnce() -> i32) -> io::Result<Pid> {
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
            close_all_but(keep);
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

/// Keys of the agent, or of whoever was started before, are not the process's. A kernel without keys needs nothing.
pub fn new_session_keyring() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for a new anonymous keyring.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0usize) };
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
