//! The part of the OCI runtime spec (1.2, config.json) that the agent acts on, as plain data. Members that are not here
//! are ignored, as the runtime spec asks; what is here and cannot be done is refused by the module that meets it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::Value;
use std::collections::BTreeMap;

/// A container's spec with only that read which the agent itself acts on. The rest stays text for the process that will be
/// the container's first (`launch`): there it is read once, and nothing is copied on the way.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outline<'a> {
    #[serde(borrow)]
    pub process: &'a RawValue,
    #[serde(default)]
    pub root: Root,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    #[serde(borrow)]
    pub mounts: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub linux: Linux<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux<'a> {
    #[serde(borrow)]
    pub namespaces: Option<&'a RawValue>,
    #[serde(borrow)]
    pub devices: Option<&'a RawValue>,
    #[serde(borrow)]
    pub resources: Option<&'a RawValue>,
    #[serde(borrow)]
    pub seccomp: Option<&'a RawValue>,
    #[serde(borrow)]
    pub sysctl: Option<&'a RawValue>,
    #[serde(borrow)]
    pub rootfs_propagation: Option<&'a RawValue>,
    #[serde(borrow)]
    pub masked_paths: Option<&'a RawValue>,
    #[serde(borrow)]
    pub readonly_paths: Option<&'a RawValue>,
}

/// What an absent member stands for is its type's default.
pub fn read<'a, T: Deserialize<'a> + Default>(name: &str, text: Option<&'a RawValue>) -> Result<T> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_json::from_str(text.get()).map_err(|e| Error::InvalidArgument(format!("container.create: {name}: {e}")))
}

/// The one thing about a process that has to be known before it is read.
#[derive(Debug, Default, Deserialize)]
pub struct Terminal {
    #[serde(default)]
    pub terminal: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Root {
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    #[serde(default)]
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    #[serde(default)]
    pub user: User,
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub cwd: String,
    pub capabilities: Option<Capabilities>,
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    pub umask: Option<u32>,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
    /// Docker's `--group-add`: names that are looked up in the image, and numbers.
    #[serde(default)]
    pub additional_groups: Vec<String>,
    /// Docker's `-u` text, looked up in the image; wins over uid and gid.
    pub username: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Capabilities {
    #[serde(default)]
    pub bounding: Vec<String>,
    #[serde(default)]
    pub effective: Vec<String>,
    #[serde(default)]
    pub inheritable: Vec<String>,
    #[serde(default)]
    pub permitted: Vec<String>,
    #[serde(default)]
    pub ambient: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub hard: u64,
    pub soft: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Mount {
    pub destination: String,
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub source: String,
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    #[serde(rename = "type", default)]
    pub kind: String,
    pub path: String,
    /// Of the sandbox: a device that says what this one is, or a folder that stands for all devices in it.
    #[serde(default)]
    pub source: Option<String>,
    /// What the container may do with it (of r, w and m) beside what its rules say; for those with a source.
    #[serde(default)]
    pub access: Option<String>,
    #[serde(default)]
    pub major: i64,
    #[serde(default)]
    pub minor: i64,
    pub file_mode: Option<u32>,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    pub memory: Option<Memory>,
    pub cpu: Option<Cpu>,
    pub pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    #[serde(default)]
    pub unified: BTreeMap<String, String>,
}

/// `linux.resources` once more: these are not set as a limit but loaded as a program.
#[derive(Debug, Default, Deserialize)]
pub struct DeviceRules<'a> {
    #[serde(borrow)]
    pub devices: Option<&'a RawValue>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub period: Option<u64>,
    pub burst: Option<u64>,
    pub idle: Option<i64>,
    pub cpus: Option<String>,
    pub mems: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Pids {
    pub limit: i64,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    pub weight: Option<u16>,
    #[serde(default)]
    pub throttle_read_bps_device: Vec<Throttle>,
    #[serde(default)]
    pub throttle_write_bps_device: Vec<Throttle>,
    #[serde(default, rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops_device: Vec<Throttle>,
    #[serde(default, rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops_device: Vec<Throttle>,
}

/// Without numbers it is for each of the container's own disks.
#[derive(Debug, Clone, Deserialize)]
pub struct Throttle {
    #[serde(flatten)]
    pub device: Option<DeviceNumber>,
    pub rate: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DeviceNumber {
    pub major: i64,
    pub minor: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DeviceRule {
    pub allow: bool,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub access: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    #[serde(default)]
    pub architectures: Vec<String>,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default)]
    pub syscalls: Vec<SeccompRule>,
    /// Only said so that it can be refused: nobody listens in the sandbox.
    pub listener_path: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompRule {
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    #[serde(default)]
    pub args: Vec<SeccompArg>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompArg {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}
