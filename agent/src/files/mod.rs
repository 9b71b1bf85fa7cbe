//! Files of containers for the host (docs/agent-protocol.md section 5.5): archives in and out, what a container changed. Each
//! request is carried out by a worker, a forked child that enters the container's files (`place`) before it looks at any
//! path of them, and whose pipe is pumped like a process's. It is a process of no container: nothing in one can reach it.

mod delta;
mod naming;
mod pack;
mod place;
mod tar_in;
mod tar_out;
mod unpack;

use crate::agent::{After, Agent, Ticket};
use crate::containers::Phase;
use crate::error::{Context, Error, Result};
use crate::launch::set_oom_score;
use crate::messages::{Disk, FilePlace, FileRequest, FileStat, FileStream, FileWrite, Rootfs, Stdio};
use crate::processes::{Process, DONE, FAILED};
use crate::rootfs;
use crate::sys;
use place::{Mounts, Place};
use serde_json::{json, Value};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

/// Workers at a time, and finished ones that the host has not closed.
const MAX_TRANSFERS: usize = 64;
/// When the sandbox runs out of memory, a worker goes before what the user runs.
const OOM_SCORE: i32 = 500;

/// What a worker's process has beside the streams.
pub struct Transfer {
    pub ticket: Option<Ticket>,
    /// Waits until the worker is gone.
    pub closing: Option<Ticket>,
    pub result: Option<Value>,
    /// Are free when the request is answered.
    disks: Vec<Disk>,
}

/// What a worker does.
enum Work {
    Read(String),
    Write(String, unpack::Options),
    Export,
    Changes(Rootfs),
    Layer(Rootfs),
}

impl Agent {
    /// None when the method is not about files.
    pub fn files_request(
        &mut self,
        method: &str,
        params: Option<&serde_json::value::RawValue>,
        ticket: Ticket,
    ) -> Option<Result<Option<Value>>> {
        let request = || crate::messages::params::<FileRequest>(method, params);
        Some(match method {
            "files.stat" => self.file_stat(params, ticket),
            "files.read" => request().and_then(|wanted| {
                let path = wanted.path.clone().ok_or_else(no_path)?;
                self.transfer(wanted, Work::Read(path), ticket)
            }),
            "files.write" => self.file_write(params, ticket),
            "files.export" => request().and_then(|wanted| self.transfer(wanted, Work::Export, ticket)),
            "files.changes" => request().and_then(|wanted| {
                let rootfs = self.rootfs_of(&wanted.at)?;
                self.transfer(wanted, Work::Changes(rootfs), ticket)
            }),
            "files.layer" => request().and_then(|wanted| {
                let rootfs = self.rootfs_of(&wanted.at)?;
                self.transfer(wanted, Work::Layer(rootfs), ticket)
            }),
            "files.close" => self.file_close(params, ticket),
            _ => return None,
        })
    }

    fn file_stat(&mut self, params: Option<&serde_json::value::RawValue>, ticket: Ticket) -> Result<Option<Value>> {
        let wanted: FileStat = crate::messages::params("files.stat", params)?;
        let (place, _) = self.place_of(&wanted.at)?;
        self.run_job(After::Answer(ticket), &place.numbers(), move || {
            set_oom_score(OOM_SCORE);
            place.enter(Mounts::Files)?;
            naming::stat(&wanted.path)
        })?;
        Ok(None)
    }

    fn file_write(&mut self, params: Option<&serde_json::value::RawValue>, ticket: Ticket) -> Result<Option<Value>> {
        let wanted: FileWrite = crate::messages::params("files.write", params)?;
        let options = unpack::Options { keep_kinds: wanted.no_overwrite_dir_non_dir, owner: wanted.owner };
        let request = FileRequest { at: wanted.at, path: None, stream: wanted.stream };
        self.transfer(request, Work::Write(wanted.path, options), ticket)
    }

    fn file_close(&mut self, params: Option<&serde_json::value::RawValue>, ticket: Ticket) -> Result<Option<Value>> {
        let wanted: FileStream = crate::messages::params("files.close", params)?;
        let serial = self.by_stream.get(&wanted.stream).copied();
        let found = serial.and_then(|serial| Some((serial, self.processes.get_mut(&serial)?)));
        let Some((serial, process)) = found.filter(|(_, process)| process.transfer.is_some()) else {
            return Err(Error::NotFound(format!("no files are moved on stream {}", wanted.stream)));
        };
        if !process.is_unfinished() {
            self.remove_process(serial);
            return Ok(Some(json!({})));
        }
        if let Some(transfer) = &mut process.transfer {
            transfer.closing = Some(ticket);
        }
        let _ = sys::kill(process.pid, libc::SIGKILL);
        Ok(None)
    }

    /// Where a request's files are, and whose disks have to be free again.
    fn place_of(&mut self, at: &FilePlace) -> Result<(Place, Vec<Disk>)> {
        match (&at.container, &at.rootfs) {
            (Some(id), None) => {
                let container = self.container(id)?;
                if container.is_leaving() || matches!(container.phase, Phase::Creating(_)) {
                    return Err(Error::Conflict(format!("container {id} is being made or deleted")));
                }
                Ok((Place::live(container.held()?)?, Vec::new()))
            }
            (None, Some(rootfs)) => {
                rootfs::check(rootfs)?;
                let wanted: Vec<Disk> = rootfs.layers.iter().chain(&rootfs.writable).copied().collect();
                let writable =
                    rootfs.writable.ok_or_else(|| Error::InvalidArgument("files: no writable disk".into()))?;
                if self.containers.values().any(|container| container.disks().contains(&writable)) {
                    return Err(Error::Conflict("the writable disk is a container's in this sandbox".into()));
                }
                Ok((Place::Disks(rootfs.clone()), wanted))
            }
            _ => Err(Error::InvalidArgument("files: either a container or a rootfs must be given".into())),
        }
    }

    fn rootfs_of(&mut self, at: &FilePlace) -> Result<Rootfs> {
        match (&at.container, &at.rootfs) {
            (Some(id), None) => Ok(self.container(id)?.rootfs().clone()),
            (None, Some(rootfs)) => Ok(rootfs.clone()),
            _ => Err(Error::InvalidArgument("files: either a container or a rootfs must be given".into())),
        }
    }

    fn transfer(&mut self, wanted: FileRequest, work: Work, ticket: Ticket) -> Result<Option<Value>> {
        if self.processes.values().filter(|process| process.transfer.is_some()).count() >= MAX_TRANSFERS {
            let text = format!("at most {MAX_TRANSFERS} transfers of files at a time are possible in a sandbox");
            return Err(Error::ResourceExhausted(text));
        }
        let (place, disks) = self.place_of(&wanted.at)?;
        let writes = matches!(work, Work::Write(..));
        let stream = wanted.stream;
        let (outputs, inputs): (&[u32], &[u32]) = if writes { (&[], &[stream]) } else { (&[stream], &[]) };
        if !self.link.open(outputs, inputs) {
            return Err(Error::InvalidArgument("files: the stream number is 0 or in use".into()));
        }
        let serial = self.new_serial();
        let container = wanted.at.container.unwrap_or_default();
        let stdio = Stdio { io: stream, stderr: None, stdin: writes };
        let mut process = Process::new(&container, "files", stdio, false);
        process.transfer = Some(Transfer { ticket: Some(ticket), closing: None, result: None, disks });
        self.add_process(serial, process, &[stream]);
        if let Err(error) = self.fork_worker(serial, writes, &place, work) {
            self.remove_process(serial);
            return Err(error);
        }
        Ok(None)
    }

    fn fork_worker(&mut self, serial: u64, writes: bool, place: &Place, work: Work) -> Result<()> {
        let pipe = self.make_transfer_pipe(serial, writes)?;
        let (sync, theirs) = sys::seqpacket_pair().context(|| "cannot make a socket".into())?;
        let mut keep = place.numbers();
        keep.extend([pipe.as_raw_fd(), theirs.as_raw_fd()]);
        let pid = sys::fork(&keep, move || report(&theirs, carry_out(place, work, pipe)));
        let pid = pid.context(|| "cannot fork".into())?;
        self.cloned(serial, pid, sync)
    }

    /// The worker is gone, and all it had to say is read.
    pub fn transfer_ended(&mut self, serial: u64) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let failure = process.take_failure();
        let Some(transfer) = &mut process.transfer else { return };
        let died = || Error::Internal("the agent's worker died; the sandbox may be out of memory".into());
        let result = match (failure, transfer.result.take()) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(died()),
        };
        let disks = std::mem::take(&mut transfer.disks);
        if disks.is_empty() || self.stopping {
            return self.transfer_released(serial, result);
        }
        let started =
            self.run_job(After::Released(serial, result.clone()), &[], move || rootfs::dismantle(None, &disks));
        if started.is_err() {
            self.transfer_released(serial, result);
        }
    }

    /// Its disks are free.
    pub fn transfer_released(&mut self, serial: u64, result: Result<Value>) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let Some(transfer) = &mut process.transfer else { return };
        let (ticket, closing) = (transfer.ticket.take(), transfer.closing.take());
        if let Some(ticket) = ticket {
            self.answer(ticket, result);
        }
        if let Some(closing) = closing {
            self.remove_process(serial);
            self.answer(closing, Ok(json!({})));
        }
    }

    /// The host that asked is gone: nobody reads or closes these any more.
    pub fn drop_transfers(&mut self) {
        for serial in self.transfers_of(None) {
            let Some(process) = self.processes.get(&serial) else { continue };
            if process.is_unfinished() {
                let _ = sys::kill(process.pid, libc::SIGKILL);
            }
            self.remove_process(serial);
        }
    }

    /// Transfers of a container, or all of them.
    pub fn transfers_of(&self, container: Option<&str>) -> Vec<u64> {
        let wanted =
            |process: &Process| process.transfer.is_some() && container.is_none_or(|id| process.container_id() == id);
        self.processes.iter().filter(|(_, process)| wanted(process)).map(|(serial, _)| *serial).collect()
    }
}

fn no_path() -> Error {
    Error::InvalidArgument("files.read: a path must be given".into())
}

// -- the worker ---------------------------------------------------------------------------------------------------

fn carry_out(place: &Place, work: Work, pipe: OwnedFd) -> Result<Value> {
    set_oom_score(OOM_SCORE);
    sys::setsid();
    sys::umask(0);
    sys::raise_open_files();
    let pipe = File::from(pipe);
    match work {
        Work::Read(path) => {
            place.enter(Mounts::Files)?;
            pack::read(&path, pipe)?;
        }
        Work::Export => {
            place.enter(Mounts::None)?;
            pack::export(pipe)?;
        }
        Work::Write(path, options) => {
            place.enter(Mounts::Files)?;
            unpack::write(&path, &options, &pipe)?;
            unpack::drain(&pipe);
            if matches!(place, Place::Disks(_)) {
                unpack::settle()?;
            }
        }
        Work::Changes(rootfs) => {
            let (upper, lower) = place::layers(&rootfs)?;
            delta::changes(upper, &lower, pipe)?;
        }
        Work::Layer(rootfs) => {
            let (upper, lower) = place::layers(&rootfs)?;
            delta::layer(upper, &lower, pipe)?;
        }
    }
    Ok(json!({}))
}

fn report(sync: &OwnedFd, result: Result<Value>) -> i32 {
    let (mark, text) = match result {
        Ok(value) => (DONE, value.to_string()),
        Err(error) => (FAILED, serde_json::to_string(&error.cut()).unwrap_or_default()),
    };
    let _ = sys::send_message(sync, &[&[mark], text.as_bytes()].concat(), &[]);
    0
}
