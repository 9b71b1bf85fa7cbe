//! From the kernel's first exec to a machine the agent can work in: modules, a root that can be pivoted away from,
//! kernel file systems, cgroups, `lo`, and the port to the host.

use crate::cgroup;
use crate::error::{Context, Error, Result};
use crate::growth;
use crate::network;
use crate::rootfs;
use crate::sys;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const MODULE_LIST: &str = "/etc/hyper/modules";
const DEFAULT_PORT: &str = "org.hyper.agent.0";
const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// What the agent works with.
pub struct Machine {
    pub port: File,
    pub boot_id: String,
    pub kernel: String,
    pub kernel_share_bytes: u64,
    pub debug: bool,
    /// Said before there was anybody to say it to.
    pub warnings: Vec<String>,
}

pub fn boot() -> Result<Machine> {
    let mut warnings = load_modules();
    leave_initramfs()?;
    mount_kernel_file_systems()?;
    open_console();
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    // Nobody in a container may look into the agent or its forked children through /proc.
    sys::prctl(libc::PR_SET_DUMPABLE, 0).context(|| "cannot hide the agent from ptrace".into())?;
    if let Err(error) = cgroup::prepare() {
        warnings.push(error.to_string());
    }
    rootfs::prepare()?;
    if let Err(error) = network::loopback_up() {
        warnings.push(error.to_string());
    }
    growth::prepare();
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let cmdline = text("/proc/cmdline");
    let mut words = cmdline.split_whitespace();
    let port = words.find_map(|w| w.strip_prefix("hyper.port=")).unwrap_or(DEFAULT_PORT);
    Ok(Machine {
        port: open_port(port)?,
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        kernel_share_bytes: growth::kernel_share_bytes(),
        debug: cmdline.split_whitespace().any(|w| w == "hyper.debug"),
        warnings,
    })
}

/// Loads what the list names, in its order. One that cannot be loaded may be built in, so that is only a warning.
fn load_modules() -> Vec<String> {
    let mut warnings = Vec::new();
    for path in fs::read_to_string(MODULE_LIST).unwrap_or_default().lines().map(str::trim).filter(|l| !l.is_empty()) {
        match File::open(path).and_then(|file| sys::load_module(&file)) {
            Err(e) if e.raw_os_error() != Some(libc::EEXIST) => warnings.push(format!("module {path}: {e}")),
            _ => {}
        }
    }
    warnings
}

/// pivot_root refuses to leave the initramfs, so the agent moves to a tmpfs; the initramfs' files are given back.
fn leave_initramfs() -> Result<()> {
    const NEW_ROOT: &str = "/.root";
    fs::create_dir_all(NEW_ROOT).context(|| "cannot make the new root".into())?;
    sys::mount("tmpfs", NEW_ROOT, "tmpfs", 0, "mode=755").context(|| "cannot mount the new root".into())?;
    let device = fs::metadata("/").map(|m| m.dev()).context(|| "cannot look at /".into())?;
    for entry in fs::read_dir("/").context(|| "cannot list /".into())?.flatten() {
        let path = entry.path();
        let ours = fs::symlink_metadata(&path).is_ok_and(|m| m.dev() == device);
        // A folder that cannot be emptied costs memory only.
        if ours {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
    let what = || "cannot move to the new root".to_string();
    std::env::set_current_dir(NEW_ROOT).context(what)?;
    sys::mount(".", "/", "", libc::MS_MOVE, "").context(what)?;
    std::os::unix::fs::chroot(".").context(what)?;
    std::env::set_current_dir("/").context(what)
}

fn mount_kernel_file_systems() -> Result<()> {
    let plain = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    let list: [(&str, &str, u64, &str); 8] = [
        ("/proc", "proc", plain, ""),
        ("/sys", "sysfs", plain, ""),
        ("/dev", "devtmpfs", libc::MS_NOSUID, "mode=755"),
        ("/dev/pts", "devpts", libc::MS_NOSUID | libc::MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
        ("/run", "tmpfs", libc::MS_NOSUID, "mode=755"),
        ("/tmp", "tmpfs", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
        // The limits of a container hold even for one that may write to its cgroup.
        (cgroup::ROOT, "cgroup2", plain, "nsdelegate"),
    ];
    for (path, kind, flags, data) in list {
        fs::create_dir_all(path).context(|| format!("cannot make {path}"))?;
        sys::mount(kind, path, kind, flags, data).context(|| format!("cannot mount {kind} at {path}"))?;
    }
    fs::create_dir_all("/etc").context(|| "cannot make /etc".into())
}

/// Descriptors 0 to 2 are always there, so that no other file gets their numbers.
fn open_console() {
    let open = |path: &str| fs::OpenOptions::new().read(true).write(true).open(path);
    let Ok(console) = open("/dev/console").or_else(|_| open("/dev/null")) else { return };
    for number in 0..3 {
        if console.as_raw_fd() != number {
            let _ = sys::dup_onto(&console, number);
        }
    }
    if console.as_raw_fd() < 3 {
        std::mem::forget(console);
    }
    let _ = io::stdout().flush();
}

fn find_port(name: &str) -> Option<String> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            return Some(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    None
}

fn open_port(name: &str) -> Result<File> {
    let began = Instant::now();
    loop {
        if let Some(path) = find_port(name) {
            if Path::new(&path).exists() {
                let open = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
                return open.context(|| format!("cannot open the port {name}"));
            }
        }
        if began.elapsed() > PORT_DEADLINE {
            return Err(Error::NotFound(format!("no virtio-serial port is called {name}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
