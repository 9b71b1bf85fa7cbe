//! Processes of containers as the agent sees them: their records, streams, signals, window size, and their end
//! (docs/agent-protocol.md sections 5.2 and 5.3). `starting` is how one begins, `stdio` moves its bytes.

mod starting;
mod stdio;

pub use crate::launch::FAILED;
pub use starting::in_pid_namespace;

use crate::agent::{Agent, Ticket, Timer};
use crate::error::{Context, Error, Result};
use crate::files::Transfer;
use crate::messages::{Forget, ProcessSignal, Resize, Stdio};
use crate::sys::{self, Pid};
use serde_json::{json, Value};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A pipe as large as what one turn of the loop moves; what is in it when its writers are gone is always read.
const PIPE_BYTES: i32 = 256 * 1024;
/// What a process can make of its pipe (the kernel's fs.pipe-max-size).
const MAX_PIPE_BYTES: usize = 1024 * 1024;
/// Read from one process before the others get their turn.
const TURN_BYTES: usize = 256 * 1024;
/// How long output may stay open after its process has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// How long a process may take to get ready, and again to execute.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// A worker of `files` has done its work.
pub const DONE: u8 = b'D';
const DRAIN_POLL: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Output,
    Error,
    Input,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Exited,
}

#[derive(Debug, Clone, Copy)]
struct Exit {
    code: i32,
    signal: Option<i32>,
    at_ns: i64,
    at: Instant,
}

/// One descriptor and the stream it belongs to.
struct End {
    fd: OwnedFd,
    stream: u32,
    watched: bool,
}

pub struct Process {
    container: String,
    exec_id: String,
    pub pid: Pid,
    pub status: Status,
    started_ns: i64,
    exit: Option<Exit>,
    /// The exit was told (or there was nobody to tell): nothing more comes of it.
    finished: bool,
    stdio: Stdio,
    tty: bool,
    output: Option<End>,
    error: Option<End>,
    input: Option<End>,
    master: Option<OwnedFd>,
    sync: Option<OwnedFd>,
    ready: bool,
    /// Waits for execve.
    ticket: Option<Ticket>,
    failure: Option<Error>,
    streams: Vec<u32>,
    /// It is a worker of `files`.
    pub transfer: Option<Transfer>,
}

impl Process {
    pub fn new(container: &str, exec_id: &str, stdio: Stdio, tty: bool) -> Self {
        Process {
            container: container.to_string(),
            exec_id: exec_id.to_string(),
            pid: 0,
            status: Status::Created,
            started_ns: 0,
            exit: None,
            finished: false,
            stdio,
            tty,
            output: None,
            error: None,
            input: None,
            master: None,
            sync: None,
            ready: false,
            ticket: None,
            failure: None,
            streams: Vec::new(),
            transfer: None,
        }
    }

    pub fn container_id(&self) -> &str {
        &self.container
    }

    pub fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn is_init(&self) -> bool {
        self.exec_id.is_empty()
    }

    /// It was cloned, and its end is not dealt with yet.
    pub fn is_unfinished(&self) -> bool {
        self.pid != 0 && !self.finished
    }

    pub fn state(&self) -> Value {
        let status = match self.status {
            Status::Created => "created",
            Status::Running => "running",
            Status::Exited => "exited",
        };
        json!({
            "process": self.exec_id, "pid": self.pid, "status": status,
            "exit_code": self.exit.map(|e| e.code), "signal": self.exit.and_then(|e| e.signal),
            "started_ns": self.started_ns, "exited_ns": self.exit.map(|e| e.at_ns),
            "stdio": self.stdio, "tty": self.tty,
        })
    }
}

impl Agent {
    // -- streams --------------------------------------------------------------------------------------------------

    /// Makes the request's streams known, so that ACKs that follow it are taken. Returns their numbers.
    pub fn open_streams(&mut self, stdio: &Stdio, tty: bool) -> Result<Vec<u32>> {
        if tty == stdio.stderr.is_some() || stdio.stderr == Some(stdio.io) {
            let text = "stdio: without a terminal stderr needs a stream of its own, with one it has none";
            return Err(Error::InvalidArgument(text.into()));
        }
        let outputs: Vec<u32> = [stdio.io].into_iter().chain(stdio.stderr).collect();
        let inputs: &[u32] = if stdio.stdin { &[stdio.io] } else { &[] };
        if !self.link.open(&outputs, inputs) {
            return Err(Error::InvalidArgument("stdio: a stream number is 0 or in use".into()));
        }
        Ok(outputs)
    }

    pub fn close_streams(&mut self, streams: &[u32]) {
        for &stream in streams {
            self.link.close(stream);
            self.by_stream.remove(&stream);
        }
    }

    pub fn add_process(&mut self, serial: u64, mut process: Process, streams: &[u32]) {
        for &stream in streams {
            self.by_stream.insert(stream, serial);
        }
        process.streams = streams.to_vec();
        self.processes.insert(serial, process);
    }

    pub fn remove_process(&mut self, serial: u64) {
        for which in [Which::Output, Which::Error, Which::Input] {
            self.close_end(serial, which);
        }
        if let Some(process) = self.processes.remove(&serial) {
            if let Some(sync) = &process.sync {
                self.epoll.remove(sync);
            }
            self.close_streams(&process.streams);
        }
    }

    // -- the end --------------------------------------------------------------------------------------------------

    pub fn process_ended(&mut self, serial: u64, wait_status: i32) {
        // What it still had to say comes before its end.
        self.sync_ready(serial);
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let signal = libc::WIFSIGNALED(wait_status).then(|| libc::WTERMSIG(wait_status));
        let code = signal.map_or_else(|| libc::WEXITSTATUS(wait_status), |signal| 128 + signal);
        process.exit = Some(Exit { code, signal, at_ns: sys::now_ns(), at: Instant::now() });
        process.status = Status::Exited;
        let (init, id) = (process.is_init(), process.container.clone());
        if init {
            self.init_ended(&id);
        }
        self.refuse_input(serial, "the process has ended");
        self.pump_outputs(serial);
        self.drained(serial);
    }

    /// Looks whether everything of an ended process is read, and goes on when it is or its time is over.
    pub fn drained(&mut self, serial: u64) {
        let Some(process) = self.processes.get(&serial) else { return };
        let Some(exit) = process.exit else { return };
        if process.finished {
            return;
        }
        let (init, id) = (process.is_init(), process.container.clone());
        let open = process.output.is_some() || process.error.is_some();
        let crowded = init && self.containers.get(&id).is_some_and(|c| c.cgroup.is_populated());
        if (open || crowded) && exit.at.elapsed() < DRAIN_DEADLINE {
            let timer = Timer::Drain(serial);
            self.set_timer_once(DRAIN_POLL, timer);
            return;
        }
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let streams = process.streams.clone();
        process.master = None;
        process.finished = true;
        for which in [Which::Output, Which::Error] {
            self.close_end(serial, which);
        }
        for stream in streams {
            self.link.finish(stream);
        }
        if init {
            self.init_drained(&id);
        } else {
            if self.processes.get(&serial).is_some_and(|process| process.transfer.is_some()) {
                self.transfer_ended(serial);
            } else {
                self.announce_exit(serial);
            }
            if self.containers.get(&id).is_some_and(|c| c.is_leaving()) {
                self.take_apart(&id);
            }
        }
    }

    /// Sends the exit event, unless the process never ran: then the failed request has told it.
    pub fn announce_exit(&mut self, serial: u64) {
        let Some(process) = self.processes.get(&serial) else { return };
        let (Some(exit), None) = (process.exit, &process.failure) else { return };
        let oom_killed = process.is_init() && self.containers.get(&process.container).is_some_and(|c| c.oom_killed());
        let params = json!({
            "id": process.container, "exec_id": process.exec_id, "exit_code": exit.code, "signal": exit.signal,
            "exited_ns": exit.at_ns, "oom_killed": oom_killed,
        });
        self.event("process.exited", params);
    }

    // -- requests -------------------------------------------------------------------------------------------------

    pub fn send_signal(&mut self, serial: u64, signal: i32) -> Result<()> {
        if !(0..=64).contains(&signal) {
            return Err(Error::InvalidArgument(format!("{signal} is no signal number")));
        }
        let gone = || Error::NotFound("the process has ended already".into());
        let process = self.processes.get(&serial).filter(|p| p.pid != 0 && p.exit.is_none()).ok_or_else(gone)?;
        sys::kill(process.pid, signal).map_err(|_| gone())
    }

    fn find_process(&mut self, id: &str, exec_id: &str) -> Result<u64> {
        let container = self.container(id)?;
        if exec_id.is_empty() {
            return Ok(container.init);
        }
        let unknown = || Error::NotFound(format!("no exec {exec_id:?} in container {id}"));
        container.execs.get(exec_id).copied().ok_or_else(unknown)
    }

    pub fn signal_process(&mut self, wanted: ProcessSignal) -> Result<Option<Value>> {
        let serial = self.find_process(&wanted.id, &wanted.exec_id)?;
        self.send_signal(serial, wanted.signal)?;
        Ok(Some(json!({})))
    }

    pub fn resize(&mut self, wanted: Resize) -> Result<Option<Value>> {
        let serial = self.find_process(&wanted.id, &wanted.exec_id)?;
        let process = self.processes.get(&serial).filter(|p| p.tty);
        let process = process.ok_or_else(|| Error::FailedPrecondition("the process has no terminal".into()))?;
        let master = process.master.as_ref().ok_or_else(|| Error::NotFound("the process has ended already".into()))?;
        sys::set_window_size(master, wanted.rows, wanted.columns).context(|| "cannot set the window's size".into())?;
        Ok(Some(json!({})))
    }

    pub fn forget(&mut self, wanted: Forget) -> Result<Option<Value>> {
        if wanted.exec_id.is_empty() {
            return Err(Error::InvalidArgument("the init process is forgotten by container.delete".into()));
        }
        let serial = self.find_process(&wanted.id, &wanted.exec_id)?;
        if self.processes.get(&serial).is_some_and(Process::is_unfinished) {
            return Err(Error::Conflict(format!("exec {} has not ended", wanted.exec_id)));
        }
        self.remove_process(serial);
        self.container(&wanted.id)?.execs.remove(&wanted.exec_id);
        Ok(Some(json!({})))
    }
}
