//! The machine itself: modules, names, clocks, random numbers, power, the route socket, device programs.

use super::{c, check, check_int, exit_now, own};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

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

/// Memory that the kernel can give out (MemTotal).
pub fn memory_bytes() -> u64 {
    let mut info = MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: sysinfo fills `info` when it succeeds, and only then it is read.
    unsafe {
        match libc::sysinfo(info.as_mut_ptr()) {
            0 => info.assume_init_ref().totalram.saturating_mul(u64::from(info.assume_init_ref().mem_unit)),
            _ => 0,
        }
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

/// Loads a cgroup device program.
pub fn load_device_program(program: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const TYPE_CGROUP_DEVICE: u32 = 15;
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        rest: [u64; 12],
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
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &load, std::mem::size_of_val(&load)) }).map(own)
}

/// Has every use of a device in `cgroup` and below decided by the program, too.
pub fn attach_device_program(cgroup: &impl AsRawFd, program: &OwnedFd) -> io::Result<()> {
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        rest: [u64; 4],
    }
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        rest: [0; 4],
    };
    // SAFETY: `attach` is a bpf_attr of the size given.
    check(unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &attach, std::mem::size_of_val(&attach)) }).map(|_| ())
}
