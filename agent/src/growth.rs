//! `sandbox.resize`: processors and memory that the host plugs in are waited for and put to use (docs/agent-protocol.md
//! section 5.1). Nothing is ever taken away here. Waiting is a job's; `sandbox` runs it.
//! Source: the kernel's Documentation/core-api/cpu_hotplug.rst and admin-guide/mm/memory-hotplug.rst.

use crate::cgroup;
use crate::error::{describe, Error, Result};
use crate::messages::Size;
use crate::sys;
use serde_json::{json, Value};
use std::fs;
use std::time::{Duration, Instant};

const CPUS: &str = "/sys/devices/system/cpu";
const MEMORY: &str = "/sys/devices/system/memory";
const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(4);
/// Looking at every block costs more than looking at the sum.
const BLOCKS_POLL: Duration = Duration::from_millis(100);
/// Firmware keeps some of the memory that the host gives, and virtio-mem rounds.
const MEMORY_TOLERANCE_BYTES: u64 = 8 * 1024 * 1024;

/// Memory that is plugged in is used at once, whatever the kernel was built or booted with.
pub fn prepare() {
    // A kernel without memory hot-plug cannot grow, which a resize will tell.
    let _ = fs::write(format!("{MEMORY}/auto_online_blocks"), "online");
}

/// What of the machine's memory is not in MemTotal: the kernel, and its descriptions of the pages. Only right as long as no
/// memory has been plugged in.
pub fn kernel_share_bytes() -> u64 {
    ram_bytes(&fs::read_to_string("/proc/iomem").unwrap_or_default()).saturating_sub(sys::memory_bytes())
}

fn ram_bytes(iomem: &str) -> u64 {
    let size = |line: &str| {
        let (range, name) = line.split_once(" : ")?;
        let (first, last) = range.split_once('-')?;
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        (name == "System RAM").then_some(number(last)?.checked_sub(number(first)?)?.checked_add(1)?)
    };
    iomem.lines().filter_map(size).fold(0, u64::saturating_add)
}

/// Processors in a list like `0-3,6`.
fn listed(text: &str) -> Vec<u32> {
    let mut out = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            out.extend(first..=last.min(first.saturating_add(8_191)));
        }
    }
    out
}

fn cpus(which: &str) -> Vec<u32> {
    listed(&fs::read_to_string(format!("{CPUS}/{which}")).unwrap_or_default())
}

/// Processors that containers can use: those online, once the cgroups have heard of them.
fn usable_cpus() -> usize {
    let online = cpus("online").len();
    match cgroup::effective_cpus() {
        Some(text) => listed(&text).len().min(online),
        None => online,
    }
}

pub fn check(wanted: &Size) -> Result<()> {
    let possible = cpus("possible").len();
    if wanted.cpus.is_some_and(|n| n as usize > possible) {
        return Err(Error::InvalidArgument(format!(
            "sandbox.resize: this sandbox can have at most {possible} processors"
        )));
    }
    Ok(())
}

/// The result, if the sandbox is large enough.
pub fn reached(wanted: &Size, kernel_share_bytes: u64) -> Option<Value> {
    let (cpus, memory_bytes) = (usable_cpus(), sys::memory_bytes());
    let enough_cpus = wanted.cpus.is_none_or(|n| cpus >= n as usize);
    let enough_memory = wanted.memory_bytes.is_none_or(|n| is_enough(memory_bytes, kernel_share_bytes, n));
    (enough_cpus && enough_memory).then(|| json!({"cpus": cpus, "memory_bytes": memory_bytes}))
}

fn is_enough(total_bytes: u64, kernel_share_bytes: u64, wanted_bytes: u64) -> bool {
    total_bytes.saturating_add(kernel_share_bytes).saturating_add(MEMORY_TOLERANCE_BYTES) >= wanted_bytes
}

/// Waits until the sandbox is large enough, and sets online what comes.
pub fn grow(wanted: &Size, kernel_share_bytes: u64) -> Result<Value> {
    let began = Instant::now();
    let mut looked_at_blocks: Option<Instant> = None;
    let mut refused = String::new();
    loop {
        if let Some(reached) = reached(wanted, kernel_share_bytes) {
            return Ok(reached);
        }
        if began.elapsed() > DEADLINE {
            return Err(Error::DeadlineExceeded(format!(
                "the sandbox has {} processors and {} MiB of memory after 10 s{refused}",
                usable_cpus(),
                sys::memory_bytes() >> 20,
            )));
        }
        if let Err(error) = online_cpus(wanted.cpus.unwrap_or(0) as usize) {
            refused = format!(" ({error})");
        }
        if wanted.memory_bytes.is_some() && looked_at_blocks.is_none_or(|at| at.elapsed() > BLOCKS_POLL) {
            looked_at_blocks = Some(Instant::now());
            if let Err(error) = online_blocks() {
                refused = format!(" ({error})");
            }
        }
        std::thread::sleep(POLL);
    }
}

/// In ascending order, until so many are online.
fn online_cpus(wanted: usize) -> std::result::Result<(), String> {
    let mut online = cpus("online");
    for cpu in cpus("present") {
        if online.len() >= wanted {
            break;
        }
        if !online.contains(&cpu) {
            fs::write(format!("{CPUS}/cpu{cpu}/online"), "1")
                .map_err(|e| format!("processor {cpu}: {}", describe(&e)))?;
            online.push(cpu);
        }
    }
    Ok(())
}

/// Blocks that came before the kernel was told to use them by itself.
fn online_blocks() -> std::result::Result<(), String> {
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let state = entry.path().join("state");
        if fs::read_to_string(&state).is_ok_and(|text| text.trim() == "offline") {
            let block = entry.file_name().to_string_lossy().into_owned();
            fs::write(&state, "online").map_err(|e| format!("{block}: {}", describe(&e)))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(listed("0-3,6\n"), [0, 1, 2, 3, 6]);
        assert_eq!(listed("0\n"), [0]);
        assert_eq!(listed(""), [0; 0]);
        assert_eq!(listed("x-y,3-1,2"), [2]);
    }

    #[test]
    fn only_the_machines_own_memory_is_summed_up() {
        let text = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n00100000-07fdffff : System RAM\n  \
                    01000000-01ffffff : Kernel code\n100000000-17fffffff : virtio0\n  100000000-107ffffff : System RAM (virtio_mem)\n";
        assert_eq!(ram_bytes(text), 0x9ec00 + 0x7ee_0000);
        assert_eq!(ram_bytes("5-4 : System RAM\nrubbish\n0-ffffffffffffffff : System RAM"), 0);
    }

    #[test]
    fn the_kernels_share_counts_as_memory_that_is_there() {
        let mib = 1 << 20;
        assert!(is_enough(96 * mib, 31 * mib, 128 * mib));
        assert!(!is_enough(96 * mib, 31 * mib, 256 * mib));
        assert!(!is_enough(96 * mib, 0, 128 * mib));
    }
}
