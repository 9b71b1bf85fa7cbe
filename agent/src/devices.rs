//! A container's /dev: the default nodes and links, the spec's own devices, and the cgroup program that says which
//! device numbers may be used at all (so that CAP_MKNOD does not open the sandbox's disks or the agent's port).
//! Source: the runtime spec's config-linux.md "Default Devices" and "Allowed Device list"; linux/bpf.h.

use crate::error::{describe, Context, Error, Result};
use crate::paths;
use crate::spec::{Device, DeviceRule};
use crate::sys;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

const DEFAULT_NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// The umask is 0 while a container is set up, so the mode is as asked.
fn node(path: &str, kind: u32, mode: u32, major: u32, minor: u32) -> Result<bool> {
    match sys::mknod(path, kind | (mode & 0o7777), major, minor) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true).context(|| format!("cannot make device {path}")),
    }
}

/// Makes the default devices and links in `folder`, a container's /dev.
pub fn populate(folder: &str) -> Result<()> {
    for (name, major, minor) in DEFAULT_NODES {
        node(&format!("{folder}/{name}"), libc::S_IFCHR, 0o666, major, minor)?;
    }
    for (target, name) in LINKS {
        match std::os::unix::fs::symlink(target, format!("{folder}/{name}")) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.context(|| format!("cannot make the link {name} in /dev"))?,
        }
    }
    Ok(())
}

/// Makes the spec's own devices; the process stands in the container's root.
pub fn make(devices: &[Device]) -> Result<()> {
    for device in devices {
        let (kind, needs_number) = match device.kind.as_str() {
            "c" | "u" => (libc::S_IFCHR, true),
            "b" => (libc::S_IFBLK, true),
            "p" => (libc::S_IFIFO, false),
            other => return Err(Error::InvalidArgument(format!("device {}: unknown type {other:?}", device.path))),
        };
        let number = |n: i64| {
            u32::try_from(if needs_number { n } else { 0 })
                .map_err(|_| Error::InvalidArgument(format!("device {}: number {n} is out of range", device.path)))
        };
        let (major, minor) = (number(device.major)?, number(device.minor)?);
        let path = &device.path;
        if let Some(parent) = Path::new(path).parent() {
            paths::make_folder(parent).context(|| format!("cannot make the folder of device {path}"))?;
        }
        if node(path, kind, device.file_mode.unwrap_or(0o666), major, minor)? {
            sys::chown(path, device.uid, device.gid).context(|| format!("cannot give device {path} its owner"))?;
        }
    }
    Ok(())
}

/// Folders of a /dev that are a container's own.
const NOT_DEVICES: [&str; 4] = ["pts", "shm", "mqueue", "fd"];
const MAX_DEVICES: usize = 1_024;
const MAX_FOLDERS: usize = 8;

/// The spec's devices with those that have a source looked up in this sandbox, and the rules that let them be used.
/// What is wrong is told in Docker's words.
pub fn look_up(wanted: &[Device]) -> Result<(Vec<Device>, Vec<DeviceRule>)> {
    let (mut devices, mut rules) = (Vec::new(), Vec::new());
    for device in wanted {
        let Some(source) = &device.source else {
            devices.push(device.clone());
            continue;
        };
        let failed = |why: &str| {
            let text = format!("error gathering device information while adding custom device {source:?}: {why}");
            Error::InvalidArgument(text)
        };
        let first = devices.len();
        collect(Path::new(source), &device.path, 0, &mut devices).map_err(|e| failed(&describe(&e)))?;
        if devices.len() == first {
            return Err(failed("not a device node"));
        }
        rules.extend(devices[first..].iter().map(|found| DeviceRule {
            allow: true,
            kind: Some(found.kind.clone()),
            major: Some(found.major),
            minor: Some(found.minor),
            access: device.access.clone(),
        }));
    }
    Ok((devices, rules))
}

fn collect(source: &Path, path: &str, depth: usize, into: &mut Vec<Device>) -> io::Result<()> {
    let found = fs::metadata(source)?;
    let kind = found.file_type();
    if kind.is_dir() && depth < MAX_FOLDERS {
        for entry in fs::read_dir(source)?.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !NOT_DEVICES.contains(name)) else { continue };
            // Links in it would be devices once more; what goes away meanwhile is not there.
            if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let _ = collect(&entry.path(), &format!("{}/{name}", path.trim_end_matches('/')), depth + 1, into);
            }
        }
    } else if (kind.is_char_device() || kind.is_block_device()) && into.len() < MAX_DEVICES {
        into.push(Device {
            kind: if kind.is_char_device() { "c" } else { "b" }.into(),
            path: path.into(),
            major: libc::major(found.rdev()).into(),
            minor: libc::minor(found.rdev()).into(),
            file_mode: Some(found.permissions().mode() & 0o777),
            uid: found.uid(),
            gid: found.gid(),
            ..Device::default()
        });
    }
    Ok(())
}

// -- the cgroup program -------------------------------------------------------------------------------------------

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;
const BLOCK: u32 = 1;
const CHAR: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// What every container may use, whatever its list says: the nodes above, terminals, and making nodes.
fn always() -> Vec<Rule> {
    let allow = |kind, major, minor, access| Rule { allow: true, kind: Some(kind), major, minor, access };
    let mut rules = vec![allow(CHAR, None, None, MKNOD), allow(BLOCK, None, None, MKNOD)];
    rules.extend(DEFAULT_NODES.map(|(_, major, minor)| allow(CHAR, Some(major), Some(minor), ALL)));
    rules.extend([(5, Some(1)), (5, Some(2)), (136, None)].map(|(major, minor)| allow(CHAR, Some(major), minor, ALL)));
    rules
}

fn parse(rule: &DeviceRule) -> Result<Rule> {
    let bad = |what: &str| Error::InvalidArgument(format!("resources.devices: {what}"));
    let kind = match rule.kind.as_deref() {
        None | Some("" | "a") => None,
        Some("c" | "u") => Some(CHAR),
        Some("b") => Some(BLOCK),
        Some(_) => return Err(bad("the type must be a, b or c")),
    };
    let number = |n: Option<i64>| match n {
        None | Some(-1) => Ok(None),
        Some(n) => u32::try_from(n).map(Some).map_err(|_| bad("a number is out of range")),
    };
    let mut access = 0;
    for letter in rule.access.as_deref().unwrap_or("").chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => return Err(bad("access is made of r, w and m")),
        };
    }
    let access = if access == 0 { ALL } else { access };
    Ok(Rule { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
}

/// One eBPF instruction.
fn op(code: u8, registers: u8, offset: i16, value: u32) -> u64 {
    u64::from(code) | u64::from(registers) << 8 | u64::from(offset as u16) << 16 | u64::from(value) << 32
}

const MOVE_VALUE: u8 = 0xb7;
const EXIT: u8 = 0x95;

/// The program that refuses nothing.
pub fn allow_all() -> Vec<u64> {
    vec![op(MOVE_VALUE, 0x00, 0, 1), op(EXIT, 0, 0, 0)]
}

/// The program for `rules`, of which a later one wins; what none names is refused.
pub fn program(rules: &[DeviceRule]) -> Result<Vec<u64>> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE: u8 = 0xbf;
    const AND_VALUE: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_NOT_VALUE: u8 = 0x55;
    const JUMP_NOT: u8 = 0x5d;
    // r1: context (access << 16 | type, major, minor). r2: type, r3: access, r4: major, r5: minor, r6: scratch.
    let mut code = vec![
        op(LOAD_WORD, 0x12, 0, 0),
        op(MOVE, 0x23, 0, 0),
        op(AND_VALUE, 0x02, 0, 0xffff),
        op(SHIFT_RIGHT, 0x03, 0, 16),
        op(LOAD_WORD, 0x14, 4, 0),
        op(LOAD_WORD, 0x15, 8, 0),
    ];
    let mut all = rules.iter().map(parse).collect::<Result<Vec<_>>>()?;
    all.extend(always());
    if all.len() > 400 {
        return Err(Error::InvalidArgument("resources.devices: more than 400 rules".into()));
    }
    for rule in all.iter().rev() {
        let mut tests: Vec<(u8, u8, u32)> = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push((JUMP_NOT_VALUE, 0x02, kind));
        }
        if rule.access != ALL {
            tests.push((MOVE, 0x36, 0));
            tests.push((AND_VALUE, 0x06, rule.access));
            tests.push((JUMP_NOT, 0x36, 0));
        }
        if let Some(major) = rule.major {
            tests.push((JUMP_NOT_VALUE, 0x04, major));
        }
        if let Some(minor) = rule.minor {
            tests.push((JUMP_NOT_VALUE, 0x05, minor));
        }
        let count = tests.len();
        for (at, (opcode, registers, value)) in tests.into_iter().enumerate() {
            let jumps = matches!(opcode, JUMP_NOT | JUMP_NOT_VALUE);
            // Over the tests left and the two instructions of the answer.
            let offset = if jumps { (count - at - 1 + 2) as i16 } else { 0 };
            code.push(op(opcode, registers, offset, value));
        }
        code.push(op(MOVE_VALUE, 0x00, 0, u32::from(rule.allow)));
        code.push(op(EXIT, 0, 0, 0));
        if count == 0 {
            // Nothing behind a rule that always matches can be reached, which the kernel's verifier would refuse.
            return Ok(code);
        }
    }
    code.push(op(MOVE_VALUE, 0x00, 0, 0));
    code.push(op(EXIT, 0, 0, 0));
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sourced(source: &str, path: &str) -> Device {
        let (source, access) = (Some(source.to_string()), Some("r".to_string()));
        Device { path: path.into(), source, access, ..Device::default() }
    }

    #[test]
    fn a_device_is_what_its_source_is_in_the_sandbox() {
        let (devices, rules) = look_up(&[sourced("/dev/null", "/dev/nothing")]).unwrap();
        let found = &devices[0];
        assert_eq!((found.kind.as_str(), found.path.as_str(), found.major, found.minor), ("c", "/dev/nothing", 1, 3));
        assert_eq!((rules[0].major, rules[0].minor, rules[0].access.as_deref()), (Some(1), Some(3), Some("r")));
    }

    #[test]
    fn a_folder_stands_for_the_devices_in_it() {
        let (devices, rules) = look_up(&[sourced("/dev", "/dev/")]).unwrap();
        assert!(devices.iter().any(|device| device.path == "/dev/zero"));
        assert!(!devices.iter().any(|device| device.path.starts_with("/dev/pts/")));
        assert_eq!(devices.len(), rules.len());
    }

    #[test]
    fn a_device_that_is_not_there_is_told_in_dockers_words() {
        let said = |source: &str| look_up(&[sourced(source, "/dev/x")]).unwrap_err().message().to_string();
        let about = "error gathering device information while adding custom device";
        assert_eq!(said("/dev/nosuch"), format!("{about} \"/dev/nosuch\": no such file or directory"));
        assert_eq!(said("/etc/passwd"), format!("{about} \"/etc/passwd\": not a device node"));
    }

    fn rules(text: &str) -> Vec<DeviceRule> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_rule_for_everything_ends_the_program() {
        let deny = program(&rules(r#"[{"allow": false, "access": "rwm"}]"#)).unwrap();
        let open = program(&rules(r#"[{"allow": false}, {"allow": true, "type": "a"}]"#)).unwrap();
        assert_eq!(deny.len(), open.len());
        let answer = |code: &[u64]| code[code.len() - 2] >> 32;
        assert_eq!((answer(&deny), answer(&open)), (0, 1));
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in [
            r#"[{"allow": true, "type": "x"}]"#,
            r#"[{"allow": true, "access": "rwx"}]"#,
            r#"[{"allow": true, "major": -7}]"#,
        ] {
            assert!(program(&rules(bad)).is_err(), "{bad}");
        }
    }
}
