//! One cgroup v2 per container: limits, freezing, killing, numbers. Limits given in the runtime spec's cgroup v1 terms
//! are converted as runc does. Source: Documentation/admin-guide/cgroup-v2.rst.

use crate::devices;
use crate::error::{Context, Error, Result};
use crate::spec::{BlockIo, Resources, Throttle};
use crate::sys::{self, Pid};
use serde_json::{json, Value};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub const ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "/sys/fs/cgroup/containers";
const CONTROLLERS: [&str; 5] = ["cpuset", "cpu", "io", "memory", "pids"];
/// What a container may make below its own cgroup: all of it is looked through, and removed, by the loop.
const MAX_DESCENDANTS: usize = 2_000;
const MAX_DEPTH: usize = 32;
const MAX_PIDS_LISTED: usize = 100_000;

/// Makes the folder for containers and hands it the controllers that the kernel has. It has a device program that allows
/// everything: as long as there is one somewhere, the next is attached without the kernel rewriting its own code for it
/// (a static key), which an emulator takes 3 ms for.
pub fn prepare() -> Result<()> {
    fs::create_dir_all(PARENT).context(|| format!("cannot make {PARENT}"))?;
    for folder in [ROOT, PARENT] {
        for controller in CONTROLLERS {
            // A controller that the kernel lacks shows when a limit needs it.
            let _ = fs::write(format!("{folder}/cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    // Without it containers have their own all the same.
    let _ = File::open(PARENT).and_then(|parent| {
        let program = sys::load_device_program(&devices::allow_all())?;
        sys::attach_device_program(&parent, &program)
    });
    Ok(())
}

/// The processors that containers have, as far as no limit of their own says otherwise.
pub fn effective_cpus() -> Option<String> {
    fs::read_to_string(format!("{PARENT}/cpuset.cpus.effective")).ok()
}

pub struct Cgroup {
    path: PathBuf,
    folder: File,
}

impl Cgroup {
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new(PARENT).join(name);
        fs::create_dir(&path).context(|| format!("cannot make the cgroup {name}"))?;
        for (file, most) in [("cgroup.max.descendants", MAX_DESCENDANTS), ("cgroup.max.depth", MAX_DEPTH)] {
            let _ = fs::write(path.join(file), most.to_string());
        }
        let folder = File::open(&path).context(|| format!("cannot open the cgroup {name}"))?;
        Ok(Cgroup { path, folder })
    }

    pub fn folder(&self) -> &File {
        &self.folder
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap_or_default()
    }

    /// Sets the limits; returns what the kernel cannot do and need not (swap without swap space).
    pub fn apply(&self, resources: &Resources) -> Result<Vec<String>> {
        let mut left_out = Vec::new();
        if resources.memory.as_ref().is_some_and(|m| m.disable_oom_killer == Some(true)) {
            left_out.push("the OOM killer cannot be disabled with cgroup v2".to_string());
        }
        for setting in settings(resources)? {
            let result = fs::write(self.path.join(&setting.file), &setting.value);
            match result {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound && setting.optional => {
                    left_out.push(format!("the guest kernel has no {}", setting.file));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::Unsupported(format!("the guest kernel has no cgroup file {}", setting.file)))
                }
                Err(e) => {
                    let text =
                        format!("cannot set {} to {:?}: {}", setting.file, setting.value, crate::error::describe(&e));
                    return Err(match e.raw_os_error() {
                        Some(libc::EBUSY) => Error::Conflict(text),
                        _ => Error::InvalidArgument(text),
                    });
                }
            }
        }
        Ok(left_out)
    }

    /// Holds the container to `limits` (`disk_limits`) on one of its disks.
    pub fn limit_disk(&self, (major, minor): (u32, u32), limits: &str) -> Result<()> {
        let line = format!("{major}:{minor} {limits}");
        fs::write(self.file("io.max"), &line).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Unsupported("the guest kernel cannot limit block I/O".into()),
            _ => Error::InvalidArgument(format!("cannot set io.max to {line:?}: {}", crate::error::describe(&e))),
        })
    }

    pub fn freeze(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        fs::write(self.file("cgroup.freeze"), value).context(|| "cannot write cgroup.freeze".into())
    }

    pub fn is_frozen(&self) -> bool {
        flat(&self.read("cgroup.events"), "frozen") == Some(1)
    }

    pub fn is_populated(&self) -> bool {
        flat(&self.read("cgroup.events"), "populated") == Some(1)
    }

    /// Kills every process inside, also frozen ones and those that fork meanwhile.
    pub fn kill(&self) {
        // Kernels before 5.14 have no cgroup.kill.
        if fs::write(self.file("cgroup.kill"), "1").is_err() {
            for pid in self.pids() {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
        }
    }

    /// Processes in the container and the cgroups that it made.
    pub fn pids(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.parse::<Pid>().ok()).filter(|&pid| pid > 0));
            folders.extend(subfolders(&folder));
            if pids.len() > MAX_PIDS_LISTED {
                break;
            }
        }
        pids
    }

    pub fn oom_kills(&self) -> u64 {
        flat(&self.read("memory.events"), "oom_kill").unwrap_or(0)
    }

    pub fn remove(&self) -> io::Result<()> {
        fn remove(folder: &Path, depth: usize) -> io::Result<()> {
            if depth <= MAX_DEPTH {
                for sub in subfolders(folder) {
                    remove(&sub, depth + 1)?;
                }
            }
            fs::remove_dir(folder)
        }
        remove(&self.path, 0)
    }

    /// The numbers of `container.stats`, without the networks.
    pub fn stats(&self) -> Value {
        let cpu = self.read("cpu.stat");
        let ns = |key: &str| flat(&cpu, key).unwrap_or(0).saturating_mul(1_000);
        let number = |file: &str| self.read(file).trim().parse::<u64>().ok();
        let memory_stat: serde_json::Map<String, Value> =
            pairs(&self.read("memory.stat")).map(|(k, v)| (k.to_string(), json!(v))).collect();
        json!({
            "cpu_usage_ns": ns("usage_usec"),
            "cpu_user_ns": ns("user_usec"),
            "cpu_system_ns": ns("system_usec"),
            "memory_bytes": number("memory.current").unwrap_or(0),
            "memory_limit_bytes": number("memory.max"),
            "memory_stat": memory_stat,
            "pids": number("pids.current").unwrap_or(0),
            "pids_limit": number("pids.max"),
            "oom_kills": self.oom_kills(),
            "io": io_stat(&self.read("io.stat")),
        })
    }
}

fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).take(10_000).collect()
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

fn flat(text: &str, key: &str) -> Option<u64> {
    pairs(text).find(|(k, _)| *k == key).map(|(_, v)| v)
}

fn io_stat(text: &str) -> Vec<Value> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = words.next()?.split_once(':')?;
        let mut numbers = std::collections::BTreeMap::new();
        for word in words {
            if let Some((key, value)) = word.split_once('=') {
                numbers.insert(key.to_string(), value.parse::<u64>().unwrap_or(0));
            }
        }
        let get = |key: &str| numbers.get(key).copied().unwrap_or(0);
        Some(json!({
            "major": major.parse::<u32>().ok()?, "minor": minor.parse::<u32>().ok()?,
            "rbytes": get("rbytes"), "wbytes": get("wbytes"), "rios": get("rios"), "wios": get("wios"),
        }))
    };
    text.lines().filter_map(line).collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Setting {
    file: String,
    value: String,
    /// May be left out when the kernel has no such file.
    optional: bool,
}

/// The runtime spec's limits as cgroup v2 files and what is written to them, in order.
fn settings(resources: &Resources) -> Result<Vec<Setting>> {
    let mut out = Vec::new();
    let mut set = |file: &str, value: String| out.push(Setting { file: file.into(), value, optional: false });
    let limit = |n: i64| if n < 0 { "max".to_string() } else { n.to_string() };
    if let Some(cpu) = &resources.cpu {
        if let Some(shares) = cpu.shares.filter(|&s| s > 0) {
            set("cpu.weight", weight_of_shares(shares).to_string());
        }
        if cpu.quota.is_some() || cpu.period.is_some() {
            let quota = match cpu.quota {
                Some(quota) if quota > 0 => quota.to_string(),
                _ => "max".into(),
            };
            let period = cpu.period.filter(|&p| p > 0).unwrap_or(100_000);
            set("cpu.max", format!("{quota} {period}"));
        }
        if let Some(burst) = cpu.burst {
            set("cpu.max.burst", burst.to_string());
        }
        if let Some(idle) = cpu.idle {
            set("cpu.idle", idle.to_string());
        }
        for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
            if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                set(file, value.clone());
            }
        }
    }
    if let Some(pids) = resources.pids.as_ref().filter(|p| p.limit != 0) {
        set("pids.max", limit(pids.limit));
    }
    if let Some(block) = &resources.block_io {
        if let Some(weight) = block.weight.filter(|&w| w > 0) {
            let weight = 1 + (u64::from(weight).clamp(10, 1000) - 10) * 9_999 / 990;
            set("io.weight", weight.to_string());
        }
        for (key, list) in throttles(block) {
            for (device, rate) in list.iter().filter_map(|t| Some((t.device.as_ref()?, t.rate))) {
                set("io.max", format!("{}:{} {key}={rate}", device.major, device.minor));
            }
        }
    }
    memory_settings(resources, &mut out)?;
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(Error::InvalidArgument(format!("unified: {file:?} is not a limit's file")));
        }
        out.push(Setting { file: file.clone(), value: value.clone(), optional: false });
    }
    Ok(out)
}

fn throttles(block: &BlockIo) -> [(&'static str, &[Throttle]); 4] {
    [
        ("rbps", &block.throttle_read_bps_device),
        ("wbps", &block.throttle_write_bps_device),
        ("riops", &block.throttle_read_iops_device),
        ("wiops", &block.throttle_write_iops_device),
    ]
}

/// What io.max is to say of each of the container's disks; empty: nothing.
pub fn disk_limits(resources: &Resources) -> String {
    let Some(block) = &resources.block_io else { return String::new() };
    let of_disks = |(key, list): (&str, &[Throttle])| {
        let rate = list.iter().filter(|t| t.device.is_none()).map(|t| t.rate).min()?;
        Some(format!("{key}={rate}"))
    };
    throttles(block).into_iter().filter_map(of_disks).collect::<Vec<_>>().join(" ")
}

fn memory_settings(resources: &Resources, out: &mut Vec<Setting>) -> Result<()> {
    let Some(memory) = &resources.memory else { return Ok(()) };
    let limit = |n: i64| if n < 0 { "max".to_string() } else { n.to_string() };
    let mut set = |file: &str, value: String, optional: bool| out.push(Setting { file: file.into(), value, optional });
    if let Some(reservation) = memory.reservation.filter(|&r| r != 0) {
        set("memory.low", limit(reservation), false);
    }
    let max = memory.limit.filter(|&m| m != 0);
    if let Some(swap) = memory.swap.filter(|&s| s != 0) {
        // Version 1 counts memory and swap together, version 2 counts swap alone.
        let value = match (swap, max) {
            (..0, _) => "max".into(),
            (_, Some(max)) if max > 0 && swap >= max => (swap - max).to_string(),
            _ => {
                let text = "memory: swap is memory plus swap, so it must not be below the memory limit, which it needs";
                return Err(Error::InvalidArgument(text.into()));
            }
        };
        set("memory.swap.max", value, true);
    }
    if let Some(max) = max {
        set("memory.max", limit(max), false);
    }
    Ok(())
}

/// 2…262144 shares as 1…10000 weight, as runc and the OCI say.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(String, String)>> {
        let resources: Resources = serde_json::from_str(text).unwrap();
        Ok(settings(&resources)?.into_iter().map(|s| (s.file, s.value)).collect())
    }

    fn pair(file: &str, value: &str) -> (String, String) {
        (file.into(), value.into())
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([0, 2, 1024, 262_144, u64::MAX].map(weight_of_shares), [1, 1, 39, 10_000, 10_000]);
    }

    #[test]
    fn memory_and_swap_are_told_apart() {
        let got = of(r#"{"memory": {"limit": 1000, "swap": 1500, "reservation": 500}}"#);
        assert_eq!(
            got,
            Ok(vec![pair("memory.low", "500"), pair("memory.swap.max", "500"), pair("memory.max", "1000")])
        );
        assert_eq!(of(r#"{"memory": {"limit": 1000, "swap": -1}}"#).unwrap()[0], pair("memory.swap.max", "max"));
        assert_eq!(of(r#"{"memory": {"limit": -1}}"#), Ok(vec![pair("memory.max", "max")]));
        assert!(of(r#"{"memory": {"limit": 1000, "swap": 999}}"#).is_err());
        assert!(of(r#"{"memory": {"swap": 999}}"#).is_err());
    }

    #[test]
    fn quota_and_period_make_one_line() {
        assert_eq!(of(r#"{"cpu": {"quota": 50000, "period": 100000}}"#), Ok(vec![pair("cpu.max", "50000 100000")]));
        assert_eq!(of(r#"{"cpu": {"quota": -1}}"#), Ok(vec![pair("cpu.max", "max 100000")]));
        assert_eq!(of(r#"{"cpu": {"shares": 512, "cpus": "0-1"}}"#).unwrap()[1], pair("cpuset.cpus", "0-1"));
    }

    #[test]
    fn pids_block_io_and_unified() {
        assert_eq!(of(r#"{"pids": {"limit": 0}}"#), Ok(vec![]));
        assert_eq!(of(r#"{"pids": {"limit": -1}}"#), Ok(vec![pair("pids.max", "max")]));
        let block = r#"{"blockIO": {"weight": 1000, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 9}]}}"#;
        assert_eq!(of(block), Ok(vec![pair("io.weight", "10000"), pair("io.max", "8:0 rbps=9")]));
        assert_eq!(of(r#"{"unified": {"memory.high": "7"}}"#), Ok(vec![pair("memory.high", "7")]));
        let disks = r#"{"blockIO": {"throttleReadBpsDevice": [{"rate": 9}, {"rate": 8}, {"major": 8, "minor": 0, "rate": 7}],
            "throttleWriteIOPSDevice": [{"rate": 5}]}}"#;
        assert_eq!(of(disks), Ok(vec![pair("io.max", "8:0 rbps=7")]));
        assert_eq!(disk_limits(&serde_json::from_str(disks).unwrap()), "rbps=8 wiops=5");
        for bad in ["../x.y", "cgroup.procs", "plain"] {
            assert!(of(&format!(r#"{{"unified": {{"{bad}": "7"}}}}"#)).is_err(), "{bad}");
        }
    }

    #[test]
    fn stat_files_are_read_with_rubbish_in_them() {
        assert_eq!(flat("low 0\noom_kill 3\nx\n", "oom_kill"), Some(3));
        let stat = io_stat("8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0\nrubbish\n");
        assert_eq!(stat, vec![json!({"major": 8, "minor": 16, "rbytes": 10, "wbytes": 20, "rios": 1, "wios": 2})]);
    }
}
