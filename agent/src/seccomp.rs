//! `linux.seccomp` of the runtime spec as a classic BPF program: a binary search over system call numbers, whose leaves
//! check arguments and return the action. Compiled before the process is cloned; installed by `launch`.
//! Source: the runtime spec's config-linux.md "Seccomp", and seccomp(2).

use crate::error::{Error, Result};
use crate::spec::{Seccomp, SeccompArg, SeccompRule};
use crate::syscalls;
use libc::sock_filter;
use std::collections::BTreeMap;

#[cfg(target_arch = "x86_64")]
mod native {
    pub const AUDIT_ARCH: u32 = 0xc000_003e;
    pub const NAME: &str = "SCMP_ARCH_X86_64";
    /// Numbers from here on are the x32 ABI's, which shares the architecture word.
    pub const FOREIGN_FROM: Option<u32> = Some(0x4000_0000);
}
#[cfg(target_arch = "aarch64")]
mod native {
    pub const AUDIT_ARCH: u32 = 0xc000_00b7;
    pub const NAME: &str = "SCMP_ARCH_AARCH64";
    pub const FOREIGN_FROM: Option<u32> = None;
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_GT: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
const ARGS_AT: u32 = 16;
const MAX_INSTRUCTIONS: usize = 4096;

const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// A compiled filter and the flags it is installed with.
pub struct Filter {
    pub program: Vec<sock_filter>,
    pub flags: u64,
}

const INSTRUCTION_BYTES: usize = 8;

impl Filter {
    /// The program for another process of ours.
    pub fn encode(&self, into: &mut Vec<u8>) {
        for instruction in &self.program {
            into.extend_from_slice(&instruction.code.to_ne_bytes());
            into.extend_from_slice(&[instruction.jt, instruction.jf]);
            into.extend_from_slice(&instruction.k.to_ne_bytes());
        }
    }

    pub fn decode(bytes: &[u8], flags: u64) -> Self {
        let instruction = |b: &[u8]| sock_filter {
            code: u16::from_ne_bytes([b[0], b[1]]),
            jt: b[2],
            jf: b[3],
            k: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        Filter { program: bytes.chunks_exact(INSTRUCTION_BYTES).map(instruction).collect(), flags }
    }
}

fn op(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

fn branch(code: u16, k: u32, jt: usize, jf: usize) -> sock_filter {
    debug_assert!(jt < 256 && jf < 256);
    sock_filter { code, jt: jt as u8, jf: jf as u8, k }
}

fn action(name: &str, errno: Option<u32>) -> Result<u32> {
    let data = |default: u32| errno.unwrap_or(default) & 0xffff;
    Ok(match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_ERRNO" => ERRNO | data(libc::EPERM as u32),
        "SCMP_ACT_TRACE" => TRACE | data(libc::EPERM as u32),
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => {
            return Err(Error::Unsupported(
                "seccomp: SCMP_ACT_NOTIFY needs a listener, which a sandbox has none of".into(),
            ))
        }
        _ => return Err(Error::InvalidArgument(format!("seccomp: unknown action {name:?}"))),
    })
}

/// The filter of `seccomp`, or `None` when it allows everything.
pub fn compile(seccomp: &Seccomp) -> Result<Option<Filter>> {
    if seccomp.listener_path.is_some() {
        return Err(Error::Unsupported("seccomp: listenerPath cannot work in a sandbox".into()));
    }
    let default = action(&seccomp.default_action, seccomp.default_errno_ret)?;
    let listed = &seccomp.architectures;
    if !listed.is_empty() && !listed.iter().any(|a| a == native::NAME) {
        return Err(Error::InvalidArgument(format!("seccomp: architectures lack this machine's {}", native::NAME)));
    }
    let calls = rules_by_number(seccomp, default)?;
    if calls.is_empty() && default == ALLOW {
        return Ok(None);
    }
    let mut program = vec![op(LOAD, ARCH_AT), branch(JUMP_EQ, native::AUDIT_ARCH, 1, 0), op(RETURN, KILL_PROCESS)];
    program.push(op(LOAD, NUMBER_AT));
    if let Some(first) = native::FOREIGN_FROM {
        program.push(branch(JUMP_GE, first, 0, 1));
        program.push(op(RETURN, ERRNO | libc::ENOSYS as u32));
    }
    program.extend(search(&leaves(&calls, default)?));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error::InvalidArgument(
            "seccomp: the profile is too long for the kernel (4096 instructions)".into(),
        ));
    }
    Ok(Some(Filter { program, flags: flags(&seccomp.flags)? }))
}

fn flags(names: &[String]) -> Result<u64> {
    let mut flags = 0;
    for name in names {
        flags |= match name.as_str() {
            "SECCOMP_FILTER_FLAG_TSYNC" => 1,
            "SECCOMP_FILTER_FLAG_LOG" => 2,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
            _ => return Err(Error::InvalidArgument(format!("seccomp: unknown flag {name:?}"))),
        };
    }
    Ok(flags)
}

type Calls<'a> = BTreeMap<u32, Vec<(&'a SeccompRule, u32)>>;

/// Names that this architecture does not have are left out, as runc does: profiles name calls of many.
fn rules_by_number(seccomp: &Seccomp, default: u32) -> Result<Calls<'_>> {
    let mut calls: Calls = BTreeMap::new();
    for rule in &seccomp.syscalls {
        let value = action(&rule.action, rule.errno_ret)?;
        if value == default {
            continue;
        }
        for name in &rule.names {
            if let Some(number) = syscalls::number(name) {
                calls.entry(number).or_default().push((rule, value));
            }
        }
    }
    Ok(calls)
}

/// What happens from number `first` on, up to the next leaf's.
struct Leaf {
    first: u32,
    code: Vec<sock_filter>,
}

fn leaves(calls: &Calls, default: u32) -> Result<Vec<Leaf>> {
    let mut out: Vec<Leaf> = vec![Leaf { first: 0, code: vec![op(RETURN, default)] }];
    let mut add = |first: u32, code: Vec<sock_filter>| match out.last_mut() {
        Some(last) if last.first == first => last.code = code,
        Some(last) if same(&last.code, &code) => {}
        _ => out.push(Leaf { first, code }),
    };
    for (&number, rules) in calls {
        let mut code = Vec::new();
        let mut decided = false;
        for (rule, value) in rules {
            code.extend(rule_code(&rule.args, *value)?);
            if rule.args.is_empty() {
                decided = true;
                break;
            }
        }
        if !decided {
            code.push(op(RETURN, default));
        }
        add(number, code);
        add(number + 1, vec![op(RETURN, default)]);
    }
    // Neighbours that came to the same (an overwritten default between two allowed calls) are joined again.
    out.dedup_by(|b, a| same(&a.code, &b.code));
    Ok(out)
}

fn same(a: &[sock_filter], b: &[sock_filter]) -> bool {
    let key = |i: &sock_filter| (i.code, i.jt, i.jf, i.k);
    a.len() == b.len() && a.iter().map(key).eq(b.iter().map(key))
}

/// All conditions must hold for `value` to be returned; otherwise execution goes on behind the code.
fn rule_code(args: &[SeccompArg], value: u32) -> Result<Vec<sock_filter>> {
    let mut code = vec![op(RETURN, value)];
    for arg in args.iter().rev() {
        let mut test = condition(arg, code.len())?;
        test.extend(code);
        code = test;
    }
    Ok(code)
}

/// Compares one 64-bit argument in two halves. When it does not hold, skips the `behind` instructions that follow.
fn condition(arg: &SeccompArg, behind: usize) -> Result<Vec<sock_filter>> {
    if arg.index > 5 {
        return Err(Error::InvalidArgument(format!("seccomp: argument index {} is above 5", arg.index)));
    }
    if behind > 200 {
        return Err(Error::InvalidArgument("seccomp: too many argument conditions in one rule".into()));
    }
    // Little-endian, as both supported architectures are.
    let low_at = ARGS_AT + 8 * arg.index;
    let high_at = low_at + 4;
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (high, low) = halves(arg.value);
    let no = behind;
    Ok(match arg.op.as_str() {
        "SCMP_CMP_EQ" => {
            vec![op(LOAD, high_at), branch(JUMP_EQ, high, 0, no + 2), op(LOAD, low_at), branch(JUMP_EQ, low, 0, no)]
        }
        "SCMP_CMP_NE" => {
            vec![op(LOAD, high_at), branch(JUMP_EQ, high, 0, 2), op(LOAD, low_at), branch(JUMP_EQ, low, no, 0)]
        }
        "SCMP_CMP_MASKED_EQ" => {
            let (want_high, want_low) = halves(arg.value_two);
            vec![
                op(LOAD, high_at),
                op(AND, high),
                branch(JUMP_EQ, want_high, 0, no + 3),
                op(LOAD, low_at),
                op(AND, low),
                branch(JUMP_EQ, want_low, 0, no),
            ]
        }
        "SCMP_CMP_GT" => ordered(high_at, low_at, high, low, JUMP_GT, true, no),
        "SCMP_CMP_GE" => ordered(high_at, low_at, high, low, JUMP_GE, true, no),
        "SCMP_CMP_LE" => ordered(high_at, low_at, high, low, JUMP_GT, false, no),
        "SCMP_CMP_LT" => ordered(high_at, low_at, high, low, JUMP_GE, false, no),
        _ => return Err(Error::InvalidArgument(format!("seccomp: unknown operator {:?}", arg.op))),
    })
}

/// `above` with `>`/`>=` by `low_test`, or their opposites `<=`/`<` when `holds` is false.
fn ordered(high_at: u32, low_at: u32, high: u32, low: u32, low_test: u16, holds: bool, no: usize) -> Vec<sock_filter> {
    let (greater, less) = if holds { (3, no + 2) } else { (no + 3, 2) };
    let (yes_low, no_low) = if holds { (0, no) } else { (no, 0) };
    vec![
        op(LOAD, high_at),
        branch(JUMP_GT, high, greater, 0),
        branch(JUMP_EQ, high, 0, less),
        op(LOAD, low_at),
        branch(low_test, low, yes_low, no_low),
    ]
}

/// A balanced tree of comparisons; the accumulator holds the call's number until a leaf is reached.
fn search(leaves: &[Leaf]) -> Vec<sock_filter> {
    if let [leaf] = leaves {
        return leaf.code.clone();
    }
    let (left, right) = leaves.split_at(leaves.len() / 2);
    let below = search(left);
    let mut code = match below.len() {
        short @ 0..=255 => vec![branch(JUMP_GE, right[0].first, short, 0)],
        long => vec![branch(JUMP_GE, right[0].first, 0, 1), op(JUMP, long as u32)],
    };
    code.extend(below);
    code.extend(search(right));
    code
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
