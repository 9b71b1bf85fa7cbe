//! Processes of containers as the agent sees them: cloning, their stdio between pipes or a terminal and the link's
//! streams, signals, window size, and their end (docs/agent-protocol.md sections 5.2 and 5.3).

use crate::agent::{Agent, Ticket, Timer, Token};
use crate::containers::check_program;
use crate::error::{describe, Context, Error, Result};
use crate::launch::{self, Ends, Program, Setup, FAILED, READY, START};
use crate::link::OUTPUT_KEPT_BYTES;
use crate::messages::{check_id, Exec, Forget, ProcessSignal, Resize, Stdio};
use crate::sys::{self, Pid};
use serde_json::{json, Value};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A pipe as large as what one turn of the loop moves; what is in it when its writers are gone is always read.
const PIPE_BYTES: i32 = 256 * 1024;
/// Read from one process before the others get their turn.
const TURN_BYTES: usize = 256 * 1024;
/// How long output may stay open after its process has ended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);
/// How long a process may take to get ready, and again to execute.
const START_DEADLINE: Duration = Duration::from_secs(30);
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
        }
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

    // -- cloning --------------------------------------------------------------------------------------------------

    /// Pipes for the process, whose own ends are returned; a terminal comes from the child when it is ready.
    fn make_pipes(&mut self, serial: u64) -> Result<Ends> {
        let mut ends = Ends { stdin: None, stdout: None, stderr: None };
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(ends) };
        if process.tty {
            return Ok(ends);
        }
        let what = || "cannot make a pipe".to_string();
        let io_stream = process.stdio.io;
        if process.stdio.stdin {
            let (theirs, ours) = sys::pipe().context(what)?;
            sys::set_pipe_bytes(&ours, PIPE_BYTES);
            sys::set_nonblocking(&ours).context(what)?;
            // Without events of interest, epoll still tells that the reader is gone.
            self.epoll.add(&ours, 0, Token::Stdio(Which::Input, serial).pack()).context(what)?;
            process.input = Some(End { fd: ours, stream: io_stream, watched: false });
            ends.stdin = Some(theirs);
        }
        let (ours, theirs) = sys::pipe().context(what)?;
        sys::set_pipe_bytes(&ours, PIPE_BYTES);
        sys::set_nonblocking(&ours).context(what)?;
        process.output = Some(End { fd: ours, stream: io_stream, watched: false });
        ends.stdout = Some(theirs);
        if let Some(stream) = process.stdio.stderr {
            let (ours, theirs) = sys::pipe().context(what)?;
            sys::set_nonblocking(&ours).context(what)?;
            process.error = Some(End { fd: ours, stream, watched: false });
            ends.stderr = Some(theirs);
        }
        Ok(ends)
    }

    fn cloned(&mut self, serial: u64, pid: Pid, sync: OwnedFd) -> Result<()> {
        sys::set_nonblocking(&sync).context(|| "cannot prepare a socket".into())?;
        self.watch(&sync, libc::EPOLLIN, Token::Sync(serial));
        if let Some(process) = self.processes.get_mut(&serial) {
            process.pid = pid;
            process.sync = Some(sync);
        }
        self.by_pid.insert(pid, serial);
        self.set_timer(START_DEADLINE, Timer::Starting(serial));
        self.pump_outputs(serial);
        Ok(())
    }

    pub fn clone_init(
        &mut self,
        serial: u64,
        setup: &Setup,
        program: &Program,
        flags: u64,
        pid_namespace: Option<OwnedFd>,
        cgroup: &File,
    ) -> Result<()> {
        let ends = self.make_pipes(serial)?;
        let (sync, theirs) = sys::seqpacket_pair().context(|| "cannot make a socket".into())?;
        let pid = in_pid_namespace(pid_namespace.as_ref(), || {
            sys::clone_into(flags, cgroup, move || launch::run_init(setup, program, ends, &theirs))
        })?;
        self.cloned(serial, pid, sync)
    }

    pub fn exec(&mut self, wanted: Exec, ticket: Ticket) -> Result<Option<Value>> {
        check_id("exec id", &wanted.exec_id)?;
        self.check_execable(&wanted.id, &wanted.exec_id)?;
        // The container's filter holds for execs, too: it is compiled from the spec that came with the request.
        let seccomp = self.container(&wanted.id)?.seccomp.clone();
        let program = check_program(wanted.process, seccomp.as_ref())?;
        let streams = self.open_streams(&wanted.stdio, program.process.terminal)?;
        let serial = self.new_serial();
        let mut process = Process::new(&wanted.id, &wanted.exec_id, wanted.stdio, program.process.terminal);
        process.ticket = Some(ticket);
        self.add_process(serial, process, &streams);
        match self.clone_exec(serial, &wanted.id, &program) {
            Ok(()) => {
                self.container(&wanted.id)?.execs.insert(wanted.exec_id, serial);
                Ok(None)
            }
            Err(error) => {
                self.remove_process(serial);
                Err(error)
            }
        }
    }

    fn clone_exec(&mut self, serial: u64, id: &str, program: &Program) -> Result<()> {
        let container = self.container(id)?;
        let init = container.init;
        let folder = container.cgroup.folder().try_clone().context(|| "cannot open the cgroup".into())?;
        let init_pid = self.processes.get(&init).map_or(0, |p| p.pid);
        let gone = |e: io::Error| Error::Conflict(format!("container {id} is not running: {}", describe(&e)));
        let pidfd = sys::pidfd_open(init_pid).map_err(gone)?;
        let ends = self.make_pipes(serial)?;
        let (sync, theirs) = sys::seqpacket_pair().context(|| "cannot make a socket".into())?;
        let kinds =
            libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWCGROUP;
        let join = [(sys::dup(&pidfd).context(|| "cannot open the container".into())?, kinds)];
        let pid = in_pid_namespace(Some(&pidfd), || {
            sys::clone_into(0, &folder, || launch::run_exec(&join, program, ends, &theirs))
        })?;
        drop(theirs);
        self.cloned(serial, pid, sync)
    }

    /// Lets a waiting init process execute.
    pub fn let_go(&mut self, serial: u64, ticket: Ticket) -> Result<()> {
        let gone = || Error::Conflict("the container's process is gone".into());
        let process = self.processes.get_mut(&serial).ok_or_else(gone)?;
        if process.ticket.is_some() {
            return Err(Error::Conflict("the container is being started".into()));
        }
        let sync = process.sync.as_ref().ok_or_else(gone)?;
        sys::write(sync, &[START]).map_err(|_| gone())?;
        process.ticket = Some(ticket);
        self.set_timer_once(START_DEADLINE, Timer::Starting(serial));
        Ok(())
    }

    /// A process that neither runs nor fails (its memory limit can make it crawl for ever) is ended.
    pub fn start_overdue(&mut self, serial: u64) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if process.sync.is_some() && (process.ticket.is_some() || !process.ready) {
            let text = "the process did not start within 30 s: is the memory or CPU limit too small?";
            process.failure = Some(Error::DeadlineExceeded(text.into()));
            let _ = sys::kill(process.pid, libc::SIGKILL);
        }
    }

    /// Word from the child: ready, failed, or (the end) executing.
    pub fn sync_ready(&mut self, serial: u64) {
        let mut text = vec![0; 16 * 1024];
        loop {
            let Some(process) = self.processes.get_mut(&serial) else { return };
            let Some(sync) = &process.sync else { return };
            match sys::receive_message(sync, &mut text) {
                Ok((0, _)) => break,
                Ok((n, master)) => match text[0] {
                    READY => {
                        process.ready = true;
                        if let Some(master) = master {
                            self.attach_terminal(serial, master);
                        }
                        self.report_ready(serial, Ok(()));
                    }
                    FAILED => {
                        let lost = || Error::Internal("the process could not say why it failed".into());
                        process.failure = Some(serde_json::from_slice(&text[1..n]).unwrap_or_else(|_| lost()));
                    }
                    _ => {}
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.sync_ended(serial);
    }

    fn report_ready(&mut self, serial: u64, result: Result<()>) {
        let Some(process) = self.processes.get(&serial) else { return };
        if process.is_init() {
            let id = process.container.clone();
            self.init_ready(&id, result);
        }
    }

    fn sync_ended(&mut self, serial: u64) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        if let Some(sync) = process.sync.take() {
            self.epoll.remove(&sync);
        }
        let died = || {
            Error::ResourceExhausted(
                "the process was killed before it could start: is the memory limit too small?".into(),
            )
        };
        if process.failure.is_none() && (!process.ready || process.ticket.is_none()) {
            process.failure = Some(died());
        }
        let (ticket, failure) = (process.ticket.take(), process.failure.clone());
        let (id, init, pid) = (process.container.clone(), process.is_init(), process.pid);
        match failure {
            None => {
                process.status = Status::Running;
                process.started_ns = sys::now_ns();
                let started_ns = process.started_ns;
                if init {
                    self.init_started(&id);
                }
                if let Some(ticket) = ticket {
                    let result = if init {
                        json!({"started_ns": started_ns})
                    } else {
                        json!({"pid": pid, "started_ns": started_ns})
                    };
                    self.answer(ticket, Ok(result));
                }
            }
            Some(failure) if process.ready || !init => {
                if let Some(ticket) = ticket {
                    self.answer(ticket, Err(failure));
                }
            }
            Some(failure) => self.report_ready(serial, Err(failure)),
        }
    }

    fn attach_terminal(&mut self, serial: u64, master: OwnedFd) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let attached = || -> io::Result<(OwnedFd, OwnedFd)> {
            sys::set_nonblocking(&master)?;
            Ok((sys::dup(&master)?, sys::dup(&master)?))
        };
        match attached() {
            Ok((read, write)) => {
                process.output = Some(End { fd: read, stream: process.stdio.io, watched: false });
                if process.stdio.stdin {
                    process.input = Some(End { fd: write, stream: process.stdio.io, watched: false });
                }
                process.master = Some(master);
                self.pump_outputs(serial);
                self.pump_input(serial);
            }
            Err(e) => self.log("error", &format!("a terminal could not be attached: {e}")),
        }
    }

    // -- stdio ----------------------------------------------------------------------------------------------------

    pub fn stdio_ready(&mut self, which: Which, serial: u64, events: i32) {
        match which {
            Which::Input if events & (libc::EPOLLERR | libc::EPOLLHUP) != 0 => {
                self.refuse_input(serial, "the process closed its stdin");
            }
            Which::Input => self.pump_input(serial),
            _ => self.pump_output(serial, which),
        }
    }

    pub fn pump_outputs(&mut self, serial: u64) {
        self.pump_output(serial, Which::Output);
        self.pump_output(serial, Which::Error);
    }

    /// Moves what the process printed into its stream, as far as there is room.
    fn pump_output(&mut self, serial: u64, which: Which) {
        let mut turn = TURN_BYTES;
        loop {
            let Some(process) = self.processes.get_mut(&serial) else { return };
            let ended = process.exit.is_some();
            let end = match which {
                Which::Output => process.output.as_mut(),
                _ => process.error.as_mut(),
            };
            let Some(end) = end else { return };
            let mut room = self.link.output_room(end.stream);
            if ended {
                // What is left in the pipe is bounded and must not be lost, whoever is not reading.
                room += OUTPUT_KEPT_BYTES;
            }
            let room = room.min(self.scratch.len()).min(turn);
            if room == 0 {
                let full = turn > 0;
                if full && end.watched {
                    // Not only without interest: a closed writer would be told again and again.
                    self.epoll.remove(&end.fd);
                    end.watched = false;
                } else if !full && !end.watched {
                    let _ = self.epoll.add(&end.fd, libc::EPOLLIN, Token::Stdio(which, serial).pack());
                    end.watched = true;
                }
                return;
            }
            match sys::read(&end.fd, &mut self.scratch[..room]) {
                // A terminal whose other side is closed reads as EIO.
                Ok(0) => return self.output_ended(serial, which),
                Ok(n) => {
                    turn -= n;
                    self.link.write(end.stream, &self.scratch[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !end.watched {
                        let _ = self.epoll.add(&end.fd, libc::EPOLLIN, Token::Stdio(which, serial).pack());
                        end.watched = true;
                    }
                    return;
                }
                Err(_) => return self.output_ended(serial, which),
            }
        }
    }

    fn output_ended(&mut self, serial: u64, which: Which) {
        let stream = self.processes.get(&serial).and_then(|p| {
            match which {
                Which::Output => p.output.as_ref(),
                _ => p.error.as_ref(),
            }
            .map(|end| end.stream)
        });
        self.close_end(serial, which);
        if let Some(stream) = stream {
            self.link.finish(stream);
        }
        self.drained(serial);
    }

    /// Gives the process what the host sent to its stdin, as far as it takes it.
    pub fn pump_input(&mut self, serial: u64) {
        let mut turn = TURN_BYTES;
        loop {
            let Some(process) = self.processes.get_mut(&serial) else { return };
            let tty = process.tty;
            let Some(end) = process.input.as_mut() else { return };
            let Some((bytes, ended)) = self.link.input(end.stream) else { return };
            if bytes.is_empty() {
                if end.watched {
                    self.watch_input(serial, false);
                }
                if ended && !tty {
                    self.close_end(serial, Which::Input);
                }
                return;
            }
            if turn == 0 {
                return self.watch_input(serial, true);
            }
            match sys::write(&end.fd, &bytes[..bytes.len().min(turn)]) {
                Ok(n) => {
                    turn -= n;
                    let stream = end.stream;
                    self.link.input_taken(stream, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !end.watched {
                        self.watch_input(serial, true);
                    }
                    return;
                }
                Err(_) => return self.refuse_input(serial, "the process closed its stdin"),
            }
        }
    }

    /// `on`: tell when the process takes more. A pipe is watched for its reader's end in any case.
    fn watch_input(&mut self, serial: u64, on: bool) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let tty = process.tty;
        let Some(end) = process.input.as_mut() else { return };
        end.watched = on;
        let token = Token::Stdio(Which::Input, serial);
        let (events, fd) = (if on { libc::EPOLLOUT } else { 0 }, &end.fd);
        if tty && !on {
            self.epoll.remove(fd);
        } else if self.epoll.change(fd, events, token.pack()).is_err() {
            let _ = self.epoll.add(fd, events, token.pack());
        }
    }

    fn refuse_input(&mut self, serial: u64, reason: &'static str) {
        let stream = self.processes.get(&serial).and_then(|p| p.input.as_ref()).map(|end| end.stream);
        self.close_end(serial, Which::Input);
        if let Some(stream) = stream {
            self.link.refuse_input(stream, reason);
        }
    }

    fn close_end(&mut self, serial: u64, which: Which) {
        let Some(process) = self.processes.get_mut(&serial) else { return };
        let end = match which {
            Which::Output => process.output.take(),
            Which::Error => process.error.take(),
            Which::Input => process.input.take(),
        };
        if let Some(end) = end {
            self.epoll.remove(&end.fd);
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
            self.announce_exit(serial);
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

/// Has children be born into the PID namespace of `namespace` (a namespace's file or a pidfd) during `body`.
fn in_pid_namespace(namespace: Option<&OwnedFd>, body: impl FnOnce() -> io::Result<Pid>) -> Result<Pid> {
    let own = match namespace {
        None => None,
        Some(other) => {
            let own = File::open("/proc/self/ns/pid").context(|| "cannot open the own PID namespace".into())?;
            let gone = |e: io::Error| Error::Conflict(format!("the container is not running: {}", describe(&e)));
            sys::setns(other, libc::CLONE_NEWPID).map_err(gone)?;
            Some(own)
        }
    };
    let born = body();
    if let Some(own) = own {
        sys::setns(&own, libc::CLONE_NEWPID).context(|| "cannot go back to the own PID namespace".into())?;
    }
    born.map_err(|e| {
        let text = format!("cannot clone a process into the container: {}", describe(&e));
        match e.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOMEM) => Error::ResourceExhausted(text),
            _ => Error::Internal(text),
        }
    })
}
