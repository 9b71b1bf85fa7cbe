//! Filters are compiled and run in forked children on this machine's kernel.

use super::*;
use crate::sys;

fn profile(text: &str) -> Result<Option<Filter>> {
    compile(&serde_json::from_str(text).unwrap())
}

/// The exit status of a child that installs `filter` and makes `call`: its errno, 0 for success, 128+n when killed.
fn run(filter: &Filter, call: impl FnOnce() -> libc::c_long) -> i32 {
    // SAFETY: the child only makes system calls and ends with _exit, as a child of a process with threads must.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code =
            match sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).and_then(|()| sys::seccomp(&filter.program, filter.flags)) {
                Err(_) => 125,
                Ok(()) if call() < 0 => std::io::Error::last_os_error().raw_os_error().unwrap_or(124),
                Ok(()) => 0,
            };
        sys::exit_now(code);
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    }
}

fn getppid() -> libc::c_long {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_getppid) }
}

fn personality(value: u64) -> libc::c_long {
    // SAFETY: a number only; the child ends right after it.
    unsafe { libc::syscall(libc::SYS_personality, value) }
}

#[test]
fn named_calls_get_their_action() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getppid", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
        {"names": ["sync"], "action": "SCMP_ACT_ERRNO"}, {"names": ["getuid"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
    let filter = profile(text).unwrap().unwrap();
    assert_eq!(run(&filter, getppid), 28);
    // SAFETY: no arguments.
    assert_eq!(run(&filter, || unsafe { libc::syscall(libc::SYS_sync) }), libc::EPERM);
    // SAFETY: no arguments.
    assert_eq!(run(&filter, || unsafe { libc::syscall(libc::SYS_getuid) }), 128 + libc::SIGSYS);
    // SAFETY: no arguments.
    assert_eq!(run(&filter, || unsafe { libc::syscall(libc::SYS_getgid) }), 0);
}

#[test]
fn an_allow_list_refuses_the_rest() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
        {"names": ["exit_group", "exit", "getppid"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let filter = profile(text).unwrap().unwrap();
    assert_eq!(run(&filter, getppid), 0);
    // SAFETY: no arguments.
    assert_eq!(run(&filter, || unsafe { libc::syscall(libc::SYS_getuid) }), 38);
}

/// For each operator: `personality(argument)` is refused exactly when the condition holds.
#[test]
fn arguments_are_compared_as_64_bit_numbers() {
    const BIG: u64 = 1 << 40;
    // Operator, value, second value, and arguments with whether they are refused.
    type Case = (&'static str, u64, u64, &'static [(u64, bool)]);
    let cases: [Case; 8] = [
        ("EQ", 5, 0, &[(5, true), (4, false), (5 + BIG, false)]),
        ("NE", 5, 0, &[(5, false), (4, true), (5 + BIG, true)]),
        ("GT", 5, 0, &[(5, false), (6, true), (4, false), (BIG, true)]),
        ("GE", 5, 0, &[(5, true), (6, true), (4, false), (BIG, true)]),
        ("LT", 5, 0, &[(5, false), (6, false), (4, true), (BIG, false)]),
        ("LE", 5, 0, &[(5, true), (6, false), (4, true), (BIG, false)]),
        ("GT", BIG + 7, 0, &[(BIG + 8, true), (BIG + 7, false), (8, false), (2 * BIG, true)]),
        ("MASKED_EQ", 0xf0 | BIG, 0x30, &[(0x3f, true), (0x4f, false), (0x30 | BIG, false), (0x130, true)]),
    ];
    for (op, value, two, probes) in cases {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["personality"], "action": "SCMP_ACT_ERRNO",
            "errnoRet": 99, "args": [{{"index": 0, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}]}}]}}"#
        );
        let filter = profile(&text).unwrap().unwrap();
        for &(argument, refused) in probes {
            assert_eq!(run(&filter, || personality(argument)) == 99, refused, "{argument:#x} {op} {value:#x}");
        }
    }
}

#[test]
fn all_conditions_of_a_rule_must_hold_and_any_rule_may() {
    let rule = |conditions: &str| {
        format!(r#"{{"names": ["dup2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99, "args": [{conditions}]}}"#)
    };
    let arg = |index: u32, value: u64| format!(r#"{{"index": {index}, "value": {value}, "op": "SCMP_CMP_EQ"}}"#);
    let both = rule(&format!("{},{}", arg(0, 1000), arg(1, 1001)));
    let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{both}, {}]}}"#, rule(&arg(0, 2000)));
    let filter = profile(&text).unwrap().unwrap();
    // SAFETY: numbers only.
    let dup2 = |a: i32, b: i32| run(&filter, || i64::from(unsafe { libc::dup2(a, b) }));
    assert_eq!([dup2(1000, 1001), dup2(1000, 1002), dup2(2000, 5)], [99, libc::EBADF, 99]);
}

#[test]
fn a_list_of_every_call_fits_the_kernel() {
    let names: Vec<&str> = syscalls::SYSCALLS.iter().map(|s| s.0).collect();
    for step in [1, 2] {
        let list = serde_json::to_string(&names.iter().step_by(step).collect::<Vec<_>>()).unwrap();
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": {list}, "action": "SCMP_ACT_ALLOW"}},
            {{"names": ["exit_group", "getppid"], "action": "SCMP_ACT_ALLOW"}}]}}"#
        );
        let filter = profile(&text).unwrap().unwrap();
        assert!(filter.program.len() < 2_000, "{}", filter.program.len());
        assert_eq!(run(&filter, getppid), 0);
    }
}

#[test]
fn what_cannot_be_done_is_refused() {
    for bad in [
        r#"{"defaultAction": "SCMP_ACT_WHAT"}"#,
        r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_MIPS"]}"#,
        r#"{"defaultAction": "SCMP_ACT_KILL", "flags": ["SECCOMP_FILTER_FLAG_X"]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["sync"], "action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        assert!(profile(bad).is_err(), "{bad}");
    }
    assert!(profile(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap().is_none());
}

#[test]
fn the_table_is_sorted_and_names_are_found() {
    assert!(syscalls::SYSCALLS.windows(2).all(|w| w[0].0 < w[1].0));
    assert_eq!(syscalls::number("read"), Some(libc::SYS_read as u32));
    assert_eq!(syscalls::number("nothing"), None);
}
