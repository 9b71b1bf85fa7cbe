//! The processes of a container as `container.top` lists them: what /proc says of each, in plain numbers. A process may be gone
//! at any moment, which leaves it out.

use crate::sys::Pid;
use serde::Serialize;
use std::fs;
use std::io::Read;

const MAX_PROCESSES: usize = 1_024;
/// Of a process's arguments, and of all of them: an answer is one message, in which a byte may take six.
const MAX_ARGUMENT_BYTES: u64 = 4_096;
const MAX_ALL_ARGUMENT_BYTES: usize = 384 * 1024;
/// USER_HZ, which is the same on every architecture that Linux runs containers on.
const NS_PER_TICK: u64 = 10_000_000;
const PAGE_BYTES: u64 = 4_096;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    pid: Pid,
    uid: u32,
    /// The program's name, at most 15 bytes of it.
    name: String,
    /// With spaces between; empty when it has none, as a zombie.
    arguments: String,
    state: char,
    parent: i64,
    group: i64,
    session: i64,
    /// The device number of its terminal; 0: none.
    terminal: i64,
    foreground_group: i64,
    cpu_ns: u64,
    nice: i64,
    priority: i64,
    threads: u64,
    /// How long it has lived.
    age_ns: u64,
    virtual_bytes: u64,
    resident_bytes: u64,
}

pub fn list(pids: &[Pid]) -> Vec<Listed> {
    let now_ns = fs::read_to_string("/proc/uptime").ok().and_then(|text| uptime_ns(&text)).unwrap_or(0);
    let mut room = MAX_ALL_ARGUMENT_BYTES;
    let mut listed = Vec::new();
    for &pid in pids.iter().take(MAX_PROCESSES) {
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { continue };
        let Ok(status) = fs::read(format!("/proc/{pid}/status")) else { continue };
        let Some(mut found) = parse(pid, &String::from_utf8_lossy(&stat), &String::from_utf8_lossy(&status), now_ns)
        else {
            continue;
        };
        let arguments = arguments(pid);
        if arguments.len() <= room {
            room -= arguments.len();
            found.arguments = arguments;
        }
        listed.push(found);
    }
    listed
}

fn uptime_ns(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    Some(seconds.parse::<u64>().ok()? * 1_000_000_000 + hundredths.parse::<u64>().ok()? * 10_000_000)
}

fn arguments(pid: Pid) -> String {
    let mut bytes = Vec::new();
    let read = fs::File::open(format!("/proc/{pid}/cmdline"))
        .and_then(|file| file.take(MAX_ARGUMENT_BYTES).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    String::from_utf8_lossy(&bytes).into_owned()
}

/// proc(5): the name may hold anything, so it ends at the last parenthesis.
fn parse(pid: Pid, stat: &str, status: &str, now_ns: u64) -> Option<Listed> {
    let (head, rest) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1.to_string();
    let words: Vec<&str> = rest.split_whitespace().collect();
    let signed = |index: usize| words.get(index).and_then(|word| word.parse::<i64>().ok());
    let unsigned = |index: usize| words.get(index).and_then(|word| word.parse::<u64>().ok());
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    Some(Listed {
        pid,
        uid: uids.split_whitespace().nth(1)?.parse().ok()?,
        name,
        arguments: String::new(),
        state: words.first()?.chars().next()?,
        parent: signed(1)?,
        group: signed(2)?,
        session: signed(3)?,
        terminal: signed(4)?,
        foreground_group: signed(5)?,
        cpu_ns: unsigned(11)?.saturating_add(unsigned(12)?).saturating_mul(NS_PER_TICK),
        priority: signed(15)?,
        nice: signed(16)?,
        threads: unsigned(17)?,
        age_ns: now_ns.saturating_sub(unsigned(19)?.saturating_mul(NS_PER_TICK)),
        virtual_bytes: unsigned(20)?,
        resident_bytes: unsigned(21)?.saturating_mul(PAGE_BYTES),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "7 (a) b (c) S 1 7 7 34816 9 4194304 100 0 0 0 150 50 0 0 20 5 3 0 1000 8192 2 18446744073709551615 1";
    const STATUS: &str = "Name:\ta\nUid:\t1000\t1001\t1002\t1003\nGid:\t0\t0\t0\t0\n";

    #[test]
    fn a_process_is_read_even_with_a_name_that_looks_like_more() {
        let found = parse(7, STAT, STATUS, 60_000_000_000).unwrap();
        assert_eq!((found.name.as_str(), found.state, found.uid), ("a) b (c", 'S', 1001));
        assert_eq!((found.parent, found.group, found.session), (1, 7, 7));
        assert_eq!((found.terminal, found.foreground_group), (34816, 9));
        assert_eq!((found.cpu_ns, found.age_ns), (2_000_000_000, 50_000_000_000));
        assert_eq!((found.priority, found.nice, found.threads), (20, 5, 3));
        assert_eq!((found.virtual_bytes, found.resident_bytes), (8192, 8192));
    }

    #[test]
    fn what_is_no_process_is_left_out() {
        assert_eq!(parse(7, "", STATUS, 0), None);
        assert_eq!(parse(7, STAT, "", 0), None);
        assert_eq!(parse(7, "7 (x) S 1", STATUS, 0), None);
        assert!(list(&[-1]).is_empty());
    }

    #[test]
    fn this_process_is_listed_with_its_arguments() {
        let pid = std::process::id() as Pid;
        let [found] = &list(&[pid])[..] else { panic!("one is listed") };
        assert_eq!(found.pid, pid);
        assert!(found.resident_bytes > 0 && !found.arguments.is_empty() && !found.arguments.contains('\0'));
    }

    #[test]
    fn uptime_is_in_hundredths() {
        assert_eq!(uptime_ns("12.34 56.78\n"), Some(12_340_000_000));
        assert_eq!(uptime_ns(""), None);
    }
}
