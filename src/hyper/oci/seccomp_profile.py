"""The default seccomp profile, as an OCI ``linux.seccomp`` object: which system calls a container may make.

Which calls are open follows Docker's documented default profile, so that an image behaves as it does there:
everything that is not named fails with EPERM; some calls come with the capability that they need. Calls are grouped
here by what they are for, 32-bit and newer variants beside the call that they vary. A name that a machine does not
have is passed over by the agent. Neighbours: ``runtime_spec``, ``capabilities``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from hyper.errors import InvalidArgument

_ENOSYS = 38
_EPERM = 1
_AF_VSOCK = 40

# The CLONE_NEW* flags for cgroup, IPC, network, mount, PID, user and UTS namespaces (linux/sched.h).
_CLONE_NEW_NAMESPACES = 0x02000000 | 0x08000000 | 0x40000000 | 0x00020000 | 0x20000000 | 0x10000000 | 0x04000000

# personality(2): the query, plain Linux, and the two that 32-bit and ASLR-free programs ask for.
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)

_OPEN = """
    open openat openat2 creat close close_range dup dup2 dup3 name_to_handle_at memfd_create memfd_secret
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek _llseek readahead
    sendfile sendfile64 splice tee vmsplice copy_file_range
    fsync fdatasync sync syncfs sync_file_range fallocate ftruncate ftruncate64 truncate truncate64
    fcntl fcntl64 flock ioctl fadvise64 fadvise64_64 cachestat

    stat stat64 lstat lstat64 fstat fstat64 fstatat64 newfstatat statx statfs statfs64 fstatfs fstatfs64
    access faccessat faccessat2 getdents getdents64 readlink readlinkat getcwd chdir fchdir
    mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat unlink unlinkat rename renameat renameat2
    chmod fchmod fchmodat fchmodat2 chown chown32 fchown fchown32 fchownat lchown lchown32 umask
    utime utimes futimesat utimensat utimensat_time64
    getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr
    removexattr lremovexattr fremovexattr
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark

    pipe pipe2 eventfd eventfd2 signalfd signalfd4 poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_wait epoll_wait_old epoll_pwait epoll_pwait2
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_pgetevents_time64

    brk mmap mmap2 munmap mremap mprotect msync madvise mincore mlock mlock2 mlockall munlock munlockall
    remap_file_pages membarrier pkey_alloc pkey_free pkey_mprotect map_shadow_stack

    fork vfork execve execveat exit exit_group wait4 waitid waitpid kill tkill tgkill
    pidfd_open pidfd_send_signal process_mrelease ptrace process_vm_readv process_vm_writev
    getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address
    getuid getuid32 geteuid geteuid32 getgid getgid32 getegid getegid32 getresuid getresuid32 getresgid getresgid32
    setuid setuid32 setgid setgid32 setreuid setreuid32 setregid setregid32 setresuid setresuid32 setresgid setresgid32
    setfsuid setfsuid32 setfsgid setfsgid32 getgroups getgroups32 setgroups setgroups32 capget capset
    getrlimit ugetrlimit setrlimit prlimit64 getrusage getpriority setpriority ioprio_get ioprio_set prctl seccomp
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
    futex futex_time64 futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list rseq
    get_thread_area set_thread_area getcpu
    sched_yield sched_getaffinity sched_setaffinity sched_getattr sched_setattr sched_getparam sched_setparam
    sched_getscheduler sched_setscheduler sched_get_priority_max sched_get_priority_min
    sched_rr_get_interval sched_rr_get_interval_time64

    rt_sigaction rt_sigprocmask rt_sigpending rt_sigsuspend rt_sigreturn rt_sigqueueinfo rt_tgsigqueueinfo
    rt_sigtimedwait rt_sigtimedwait_time64 sigaltstack sigprocmask sigreturn restart_syscall pause alarm

    time times gettimeofday adjtimex nanosleep getitimer setitimer
    clock_gettime clock_gettime64 clock_getres clock_getres_time64 clock_nanosleep clock_nanosleep_time64
    clock_adjtime clock_adjtime64 timer_create timer_delete timer_getoverrun
    timer_gettime timer_gettime64 timer_settime timer_settime64
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64

    socketcall socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt
    send sendto sendmsg sendmmsg recv recvfrom recvmsg recvmmsg recvmmsg_time64

    ipc msgget msgctl msgsnd msgrcv semget semctl semop semtimedop semtimedop_time64 shmget shmctl shmat shmdt
    mq_open mq_unlink mq_notify mq_getsetattr mq_timedsend mq_timedsend_time64 mq_timedreceive mq_timedreceive_time64

    uname sysinfo getrandom
"""

_OPEN_BY_MACHINE = {
    "x86_64": ("arch_prctl", "modify_ldt"),
    "aarch64": (
        "arm_fadvise64_64",
        "arm_sync_file_range",
        "sync_file_range2",
        "breakpoint",
        "cacheflush",
        "set_tls",
    ),
}

_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}

_OPEN_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module init_module finit_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_RAWIO": "iopl ioperm",
    "CAP_SYS_TIME": "settimeofday stime clock_settime clock_settime64",
    "CAP_SYS_TTY_CONFIG": "vhangup",
    "CAP_SYSLOG": "syslog",
}


def default_profile(capabilities: Collection[str], machine: str) -> dict[str, Any]:
    """The profile for a container with these capabilities on this machine (``uname -m``)."""
    names = set(_OPEN.split()) | set(_OPEN_BY_MACHINE.get(machine, ()))
    for capability, calls in _OPEN_BY_CAPABILITY.items():
        if capability in capabilities:
            names.update(calls.split())
    rules: list[dict[str, Any]] = [_allow(sorted(names))]
    # Sockets of any family but vsock: that one leads to the host, past the VM's network.
    rules.append(_allow(["socket"], _argument(0, _AF_VSOCK, "SCMP_CMP_NE")))
    rules += [_allow(["personality"], _argument(0, value, "SCMP_CMP_EQ")) for value in _PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        # New processes and threads, but no new namespaces. clone3's flags are in memory, where a filter cannot look:
        # ENOSYS makes the C library fall back to clone.
        masked = {"index": 0, "value": _CLONE_NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append(_allow(["clone"], masked))
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": list(_ARCHITECTURES.get(machine, ())),
        "syscalls": rules,
    }


# -- a user's own, in Docker's form, which says for which capabilities, machines and kernels a rule is -----------------

_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_OLDEST_KERNEL = (5, 10)
"""What guests run is at least this old: rules for older kernels' gaps do not concern them."""


class _Filter(msgspec.Struct, frozen=True):
    caps: list[str] = []
    arches: list[str] = []
    min_kernel: str = msgspec.field(default="", name="minKernel")


class _Argument(msgspec.Struct, frozen=True, rename="camel"):
    index: int
    op: str
    value: int = 0
    value_two: int = 0


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    action: str
    names: list[str] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: list[_Argument] | None = None
    includes: _Filter | None = None
    excludes: _Filter | None = None


class _Architecture(msgspec.Struct, frozen=True, rename="camel"):
    architecture: str
    sub_architectures: list[str] | None = None


class _Profile(msgspec.Struct, frozen=True, rename="camel"):
    default_action: str
    default_errno_ret: int | None = None
    architectures: list[str] | None = None
    arch_map: list[_Architecture] | None = None
    flags: list[str] | None = None
    syscalls: list[_Rule] | None = None
    listener_path: str = ""
    listener_metadata: str = ""


def decode(text: str) -> dict[str, Any]:
    """A profile as ``--security-opt seccomp=`` brings it. InvalidArgument for what is none."""
    try:
        profile = msgspec.json.decode(text, type=_Profile)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(f"Decoding seccomp profile failed: {error}") from error
    if profile.architectures and profile.arch_map:
        raise InvalidArgument(
            "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or "
            "'archMap'"
        )
    if any(rule.name and rule.names for rule in profile.syscalls or ()):
        raise InvalidArgument("'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'")
    if profile.listener_path or profile.listener_metadata:
        raise InvalidArgument("a seccomp profile's listenerPath cannot be used: nobody listens in the container's VM")
    decoded: dict[str, Any] = msgspec.to_builtins(profile)
    return decoded


def for_container(decoded: Mapping[str, Any], capabilities: Collection[str], machine: str) -> dict[str, Any]:
    """The OCI object of a decoded profile, for a container with these capabilities."""
    profile = msgspec.convert(decoded, _Profile)
    wanted = f"SCMP_ARCH_{machine.upper()}"
    architectures = list(profile.architectures or ())
    for item in profile.arch_map or ():
        if item.architecture == wanted:
            architectures = [item.architecture, *(item.sub_architectures or ())]
    rules = []
    for rule in profile.syscalls or ():
        if not _concerns(rule, capabilities, machine):
            continue
        entry: dict[str, Any] = {"names": rule.names or [rule.name], "action": rule.action}
        if rule.errno_ret is not None:
            entry["errnoRet"] = rule.errno_ret
        if rule.args:
            entry["args"] = [msgspec.to_builtins(argument) for argument in rule.args]
        rules.append(entry)
    result: dict[str, Any] = {"defaultAction": profile.default_action, "architectures": architectures}
    if profile.default_errno_ret is not None:
        result["defaultErrnoRet"] = profile.default_errno_ret
    if profile.flags:
        result["flags"] = profile.flags
    return {**result, "syscalls": rules}


def _concerns(rule: _Rule, capabilities: Collection[str], machine: str) -> bool:
    architecture = _GO_ARCHITECTURES.get(machine, machine)
    included, excluded = rule.includes or _Filter(), rule.excludes or _Filter()
    if (included.arches and architecture not in included.arches) or architecture in excluded.arches:
        return False
    if any(name not in capabilities for name in included.caps) or any(name in capabilities for name in excluded.caps):
        return False
    if included.min_kernel and not _is_old(included.min_kernel):
        return False
    return not (excluded.min_kernel and _is_old(excluded.min_kernel))


def _is_old(version: str) -> bool:
    """Every guest's kernel is at least this one."""
    major, _, minor = version.partition(".")
    if not (major.isdecimal() and minor.partition(".")[0].isdecimal()):
        raise InvalidArgument(f"Decoding seccomp profile failed: {version[:32]!a} is no kernel version")
    return (int(major), int(minor.partition(".")[0])) <= _OLDEST_KERNEL


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": "SCMP_ACT_ALLOW"}
    if arguments:
        rule["args"] = list(arguments)
    return rule


def _argument(index: int, value: int, operator: str) -> dict[str, Any]:
    return {"index": index, "value": value, "op": operator}
