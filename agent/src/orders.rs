//! What a cell's process is told when the cell becomes a container's: written by the agent, mostly in the words of the
//! request, and read by that process, which has the agent's program but none of what came after it was cloned. It is a
//! JSON text and behind it the seccomp filter, in a memory file that is passed with the ends of the container's stdio.

use crate::error::{Context, Error, Result};
use crate::launch::{Ends, ORDER};
use crate::messages::{InjectedFile, Rootfs};
use crate::seccomp::Filter;
use crate::spec;
use crate::sys;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

/// See `Order`, which reads it.
#[derive(Serialize)]
pub struct Outgoing<'a> {
    pub process: &'a RawValue,
    pub readonly: bool,
    pub hostname: Option<&'a str>,
    pub domainname: Option<&'a str>,
    pub devices: &'a [spec::Device],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sysctl: Option<&'a RawValue>,
    pub propagation: Option<&'a RawValue>,
    pub rootfs: &'a Rootfs,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<&'a RawValue>,
    pub ephemeral: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<&'a str>,
}

#[derive(Deserialize)]
pub struct Order {
    pub process: spec::Process,
    pub readonly: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    #[serde(default)]
    pub devices: Vec<spec::Device>,
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    pub propagation: Option<String>,
    pub rootfs: Rootfs,
    #[serde(default)]
    pub files: Vec<InjectedFile>,
    pub ephemeral: bool,
    pub share: Option<String>,
}

/// The message that the descriptors come with.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    text_bytes: u32,
    /// Which of stdin, stdout and stderr there are.
    ends: [bool; 3],
    filter_flags: Option<u64>,
}

const HEAD_BYTES: usize = 17;

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0] = ORDER;
        out[1..5].copy_from_slice(&self.text_bytes.to_ne_bytes());
        for (at, &there) in self.ends.iter().enumerate() {
            out[5 + at] = u8::from(there);
        }
        out[8] = u8::from(self.filter_flags.is_some());
        out[9..17].copy_from_slice(&self.filter_flags.unwrap_or(0).to_ne_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Head> {
        let bytes: &[u8; HEAD_BYTES] = bytes.try_into().ok()?;
        (bytes[0] == ORDER).then_some(())?;
        Some(Head {
            text_bytes: u32::from_ne_bytes(bytes[1..5].try_into().ok()?),
            ends: [bytes[5], bytes[6], bytes[7]].map(|b| b != 0),
            filter_flags: (bytes[8] != 0).then_some(u64::from_ne_bytes(bytes[9..17].try_into().ok()?)),
        })
    }
}

/// Gives the order; `ends` are the process's from then on.
pub fn give(sync: &OwnedFd, order: &Outgoing, ends: Ends, filter: Option<&Filter>) -> Result<()> {
    let mut bytes =
        serde_json::to_vec(order).map_err(|e| Error::Internal(format!("an order cannot be written: {e}")))?;
    let head = Head {
        text_bytes: bytes.len() as u32,
        ends: [ends.stdin.is_some(), ends.stdout.is_some(), ends.stderr.is_some()],
        filter_flags: filter.map(|f| f.flags),
    };
    if let Some(filter) = filter {
        filter.encode(&mut bytes);
    }
    let mut file = sys::memory_file(c"hyper-order").context(|| "cannot make a memory file".into())?;
    file.write_all(&bytes).context(|| "cannot write to a memory file".into())?;
    let mut passed = vec![file.as_fd()];
    passed.extend([&ends.stdin, &ends.stdout, &ends.stderr].into_iter().flatten().map(AsFd::as_fd));
    match sys::send_message(sync, &head.encode(), &passed) {
        // A cell that could not be made has said why, which is read like any other word of its process.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        result => result.context(|| "cannot send an order".into()),
    }
}

/// Waits for the order. None: the cell is not wanted any more.
pub fn await_one(sync: &OwnedFd) -> Result<Option<(Order, Ends, Option<Filter>)>> {
    let mut message = [0; HEAD_BYTES];
    let (count, passed) = loop {
        match sys::receive_message(sync, &mut message) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            result => break result.context(|| "cannot receive an order".into())?,
        }
    };
    if count == 0 {
        return Ok(None);
    }
    let bad = || Error::Internal("an order is malformed".into());
    let head = Head::decode(&message[..count]).ok_or_else(bad)?;
    let mut passed = passed.into_iter();
    let mut file = std::fs::File::from(passed.next().ok_or_else(bad)?);
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context(|| "cannot read an order".into())?;
    let (text, filter) = bytes.split_at_checked(head.text_bytes as usize).ok_or_else(bad)?;
    let order = serde_json::from_slice(text)
        .map_err(|e| Error::InvalidArgument(format!("container.create: in the spec or the files: {e}")))?;
    let filter = head.filter_flags.map(|flags| Filter::decode(filter, flags));
    let [stdin, stdout, stderr] = head.ends.map(|there| if there { passed.next() } else { None });
    Ok(Some((order, Ends { stdin, stdout, stderr }, filter)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }

    fn rootfs() -> Rootfs {
        serde_json::from_value(json!({"layers": [{"scsi": {"channel": 0, "target": 1, "lun": 0}, "fs": "erofs"}]}))
            .unwrap()
    }

    fn given(process: &str, ends: Ends, filter: Option<&Filter>) -> Result<Option<(Order, Ends, Option<Filter>)>> {
        let (ours, theirs) = sys::seqpacket_pair().unwrap();
        let (process, rootfs) = (raw(process), rootfs());
        let order = Outgoing {
            process: &process,
            readonly: true,
            hostname: Some("box"),
            domainname: None,
            devices: &[],
            sysctl: None,
            propagation: None,
            rootfs: &rootfs,
            files: None,
            ephemeral: true,
            share: None,
        };
        give(&ours, &order, ends, filter).unwrap();
        await_one(&theirs)
    }

    #[test]
    fn an_order_arrives_whole_with_its_ends_and_its_filter() {
        let (stdout, mut reader) = {
            let (reader, writer) = sys::pipe().unwrap();
            (writer, std::fs::File::from(reader))
        };
        let argument = "x".repeat(1 << 20);
        let filter = Filter { program: vec![libc::sock_filter { code: 6, jt: 1, jf: 2, k: 0x7fff_0000 }], flags: 5 };
        let ends = Ends { stdin: None, stdout: Some(stdout), stderr: None };
        let (order, ends, got) = given(&json!({"args": [argument]}).to_string(), ends, Some(&filter)).unwrap().unwrap();
        assert_eq!(order.process.args, [argument]);
        assert!(order.readonly && order.ephemeral && order.devices.is_empty() && order.files.is_empty());
        assert_eq!((order.hostname.as_deref(), order.rootfs.layers.len()), (Some("box"), 1));
        let got = got.unwrap();
        assert_eq!((got.flags, got.program.len(), got.program[0].k), (5, 1, 0x7fff_0000));
        assert!(ends.stdin.is_none() && ends.stderr.is_none());
        std::fs::File::from(ends.stdout.unwrap()).write_all(b"out").unwrap();
        let mut said = [0; 3];
        reader.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"out");
    }

    #[test]
    fn what_the_host_wrote_wrongly_is_told_as_such() {
        let ends = || Ends { stdin: None, stdout: None, stderr: None };
        assert!(matches!(given(r#"{"args": "no list"}"#, ends(), None), Err(Error::InvalidArgument(_))));
        assert!(given(r#"{"args": []}"#, ends(), None).unwrap().unwrap().2.is_none());
    }

    #[test]
    fn nobody_at_the_other_end_is_no_order() {
        let (ours, theirs) = sys::seqpacket_pair().unwrap();
        drop(ours);
        assert!(await_one(&theirs).unwrap().is_none());
    }
}
