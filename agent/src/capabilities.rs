//! Capability names of the runtime spec as bit masks. Source: capabilities(7), include/uapi/linux/capability.h.

use crate::error::{Error, Result};
use crate::spec;

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The five sets as masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

fn mask(names: &[String]) -> Result<u64> {
    let mut mask = 0;
    for name in names {
        let known = name.strip_prefix("CAP_").and_then(|short| NAMES.iter().position(|n| *n == short));
        match known {
            Some(bit) => mask |= 1u64 << bit,
            None => return Err(Error::InvalidArgument(format!("unknown capability {name:?}"))),
        }
    }
    Ok(mask)
}

/// `None` (no `capabilities` member) is no capability at all, as in the runtime spec.
pub fn parse(capabilities: Option<&spec::Capabilities>) -> Result<Sets> {
    let Some(names) = capabilities else { return Ok(Sets::default()) };
    Ok(Sets {
        bounding: mask(&names.bounding)?,
        effective: mask(&names.effective)?,
        inheritable: mask(&names.inheritable)?,
        permitted: mask(&names.permitted)?,
        ambient: mask(&names.ambient)?,
    })
}

/// The highest capability that the agent knows.
pub const LAST: u32 = NAMES.len() as u32 - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn names_become_the_kernels_bits() {
        assert_eq!(mask(&names(&["CAP_CHOWN", "CAP_KILL", "CAP_CHECKPOINT_RESTORE"])), Ok(1 | 1 << 5 | 1 << 40));
        assert_eq!(mask(&names(&["CAP_SYS_ADMIN"])), Ok(1 << 21));
        assert_eq!(mask(&names(&["CAP_MKNOD", "CAP_SETFCAP", "CAP_BPF"])), Ok(1 << 27 | 1 << 31 | 1 << 39));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        for bad in ["CAP_NOTHING", "CHOWN", "cap_chown", ""] {
            assert!(matches!(mask(&names(&[bad])), Err(Error::InvalidArgument(_))), "{bad}");
        }
    }

    #[test]
    fn no_member_is_no_capability() {
        assert_eq!(parse(None), Ok(Sets::default()));
    }
}
