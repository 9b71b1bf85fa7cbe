//! Work that may wait (for a disk, for a write to be durable, for a device to be let go) in a forked child, so that the
//! loop never does. The child writes its result as JSON to a pipe.

use crate::error::{Context, Error, Result};
use crate::sys::{self, Pid};
use serde::Serialize;
use serde_json::Value;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const MAX_REPORT_BYTES: usize = 64 * 1024;

pub struct Job {
    pub pid: Pid,
    pub pipe: OwnedFd,
    report: Vec<u8>,
}

impl Job {
    /// `keep`: descriptors that `work` owns. It is dropped in the agent when this returns.
    pub fn spawn<T: Serialize>(keep: &[RawFd], work: impl FnOnce() -> Result<T>) -> Result<Job> {
        let (pipe, end) = sys::pipe().context(|| "cannot make a pipe".into())?;
        sys::set_nonblocking(&pipe).context(|| "cannot prepare a pipe".into())?;
        let keep: Vec<RawFd> = keep.iter().copied().chain([end.as_raw_fd()]).collect();
        let pid = sys::fork(&keep, || {
            let text = serde_json::to_vec(&work().map_err(Error::cut)).unwrap_or_default();
            let mut rest = text.as_slice();
            while !rest.is_empty() {
                match sys::write(&end, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(_) => return 1,
                }
            }
            0
        })
        .context(|| "cannot fork".into())?;
        Ok(Job { pid, pipe, report: Vec::new() })
    }

    /// The result once the child has closed its pipe.
    pub fn poll(&mut self) -> Option<Result<Value>> {
        let mut chunk = [0; 4096];
        loop {
            match sys::read(&self.pipe, &mut chunk) {
                Ok(0) => break,
                Ok(n) if self.report.len() + n <= MAX_REPORT_BYTES => self.report.extend_from_slice(&chunk[..n]),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let died = || Err(Error::Internal("a helper of the agent died; the sandbox may be out of memory".into()));
        Some(serde_json::from_slice(&self.report).unwrap_or_else(|_| died()))
    }
}
