//! Messages on the control stream (docs/agent-protocol.md section 5): their framing, and the shape of every request's
//! params. Unknown members are refused here; the OCI objects inside are `spec`'s and may have more members.

use crate::error::{Error, Result};
use crate::spec;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{json, Value};

pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Puts messages together from the control stream's bytes.
#[derive(Debug, Default)]
pub struct Assembler {
    held: Vec<u8>,
}

impl Assembler {
    pub fn push(&mut self, bytes: &[u8]) -> std::result::Result<(), ()> {
        self.held.extend_from_slice(bytes);
        // One message under way and one window behind it.
        if self.held.len() > 2 * MAX_MESSAGE_BYTES {
            Err(())
        } else {
            Ok(())
        }
    }

    pub fn next_message(&mut self) -> std::result::Result<Option<Vec<u8>>, ()> {
        let Some(head) = self.held.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(());
        }
        if self.held.len() < 4 + length {
            return Ok(None);
        }
        let message = self.held[4..4 + length].to_vec();
        self.held.drain(..4 + length);
        Ok(Some(message))
    }
}

/// A request whose params are text still: they are read once, as the type that the method wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request<'a> {
    pub id: u64,
    pub method: String,
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
}

pub fn parse_request(text: &[u8]) -> std::result::Result<Request<'_>, String> {
    serde_json::from_slice(text).map_err(|e| e.to_string())
}

pub fn response(id: u64, result: &Result<Value>) -> Vec<u8> {
    let value = match result {
        Ok(result) => json!({"id": id, "result": result}),
        Err(error) => json!({"id": id, "error": error}),
    };
    value.to_string().into_bytes()
}

pub fn event(name: &str, params: Value) -> Vec<u8> {
    json!({"event": name, "params": params}).to_string().into_bytes()
}

/// The params of `method` as its type; a typing mistake names itself.
pub fn params<'a, T: Deserialize<'a>>(method: &str, text: Option<&'a RawValue>) -> Result<T> {
    let text = text.map_or("{}", RawValue::get);
    serde_json::from_str(text).map_err(|e| Error::InvalidArgument(format!("{method}: {e}")))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configure {
    pub hostname: Option<String>,
    pub time_ns: Option<i64>,
    pub entropy: Option<String>,
    /// None: the network stays as it is.
    pub interfaces: Option<Vec<Interface>>,
    #[serde(default)]
    pub sysctls: std::collections::BTreeMap<String, String>,
    pub machine_id: Option<String>,
}

/// What a sandbox is to have at least.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    pub cpus: Option<u32>,
    pub memory_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    pub mac: String,
    pub name: String,
    pub mtu: Option<u32>,
    #[serde(default)]
    pub addresses: Vec<String>,
    #[serde(default)]
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub to: String,
    pub via: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScsiAddress {
    pub channel: u32,
    pub target: u32,
    pub lun: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFs {
    Erofs,
    Ext4,
}

/// Where a disk is, never what it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    pub scsi: ScsiAddress,
    pub fs: DiskFs,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// Lowest first.
    pub layers: Vec<Disk>,
    pub writable: Option<Disk>,
    pub writable_tmpfs_bytes: Option<u64>,
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectedFile {
    pub path: String,
    pub content: String,
    #[serde(default = "default_mode")]
    pub mode: u32,
}

fn default_mode() -> u32 {
    0o644
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stdio {
    pub io: u32,
    pub stderr: Option<u32>,
    #[serde(default)]
    pub stdin: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create<'a> {
    pub id: String,
    #[serde(borrow)]
    pub spec: spec::Outline<'a>,
    pub rootfs: Rootfs,
    /// `InjectedFile`s, for the container's first process to read.
    #[serde(borrow)]
    pub files: Option<&'a RawValue>,
    pub stdio: Stdio,
    /// Nobody wants its disk afterwards: its end is told before what it wrote is durable.
    #[serde(default)]
    pub ephemeral: bool,
    /// The tag of the file system with the host's directories that mounts of the spec have as their source.
    pub share: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ById {
    pub id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    pub id: String,
    pub signal: i32,
    #[serde(default)]
    pub all: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    pub id: String,
    pub resources: spec::Resources,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    pub id: String,
    pub exec_id: String,
    pub process: spec::Process,
    pub stdio: Stdio,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSignal {
    pub id: String,
    pub exec_id: String,
    pub signal: i32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    pub id: String,
    pub exec_id: String,
    pub rows: u16,
    pub columns: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    pub id: String,
    pub exec_id: String,
}

/// Whose files: a container's that runs here, or those on the disks of one that does not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePlace {
    pub container: Option<String>,
    pub rootfs: Option<Rootfs>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStat {
    pub at: FilePlace,
    pub path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRequest {
    pub at: FilePlace,
    pub path: Option<String>,
    pub stream: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileWrite {
    pub at: FilePlace,
    pub path: String,
    pub stream: u32,
    #[serde(default)]
    pub no_overwrite_dir_non_dir: bool,
    /// Docker's `-u` text.
    pub owner: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileStream {
    pub stream: u32,
}

/// RFC 4648 base64 with padding, as the host sends bytes in JSON.
pub fn base64(text: &str) -> Result<Vec<u8>> {
    let bad = || Error::InvalidArgument("a base64 text is malformed".into());
    let bytes = text.as_bytes();
    if bytes.len() % 4 != 0 {
        return Err(bad());
    }
    let body = bytes.strip_suffix(b"==").or_else(|| bytes.strip_suffix(b"=")).unwrap_or(bytes);
    let mut out = Vec::with_capacity(bytes.len() / 4 * 3);
    let (mut held, mut bits) = (0u32, 0u32);
    for &b in body {
        let value = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(bad()),
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Ok(out)
}

/// Names become file names and cgroup names: only what is safe as both.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let good = !id.is_empty()
        && id.len() <= 128
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("{what} {id:?} must be 1 to 128 letters, digits, '_', '.' or '-'")))
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
