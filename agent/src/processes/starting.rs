//! How a process begins, seen from the agent: its pipes, the clone into its namespaces and cgroup, what the child says until it
//! executes. `launch` is the child's side, `containers` what an init process means to its container.

use super::{End, Process, Status, Which, DONE, PIPE_BYTES, START_DEADLINE};
use crate::agent::{Agent, Ticket, Timer, Token};
use crate::error::{describe, Context, Error, Result};
use crate::launch::{self, Ends, Program, FAILED, READY, START};
use crate::messages::{check_id, Exec};
use crate::rootfs::Held;
use crate::sys::{self, Pid};
use serde_json::{json, Value};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

impl Agent {
    /// Pipes for the process, whose own ends are returned; a terminal comes from the child when it is ready.
    pub fn make_pipes(&mut self, serial: u64) -> Result<Ends> {
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

    /// The worker's end of the one pipe that moves its bytes: what comes, or what goes.
    pub fn make_transfer_pipe(&mut self, serial: u64, writes: bool) -> Result<OwnedFd> {
        let what = || "cannot make a pipe".to_string();
        let (read, write) = sys::pipe().context(what)?;
        sys::set_pipe_bytes(&read, PIPE_BYTES);
        let (ours, theirs) = if writes { (write, read) } else { (read, write) };
        sys::set_nonblocking(&ours).context(what)?;
        let Some(process) = self.processes.get_mut(&serial) else { return Ok(theirs) };
        let stream = process.stdio.io;
        if writes {
            self.epoll.add(&ours, 0, Token::Stdio(Which::Input, serial).pack()).context(what)?;
            process.input = Some(End { fd: ours, stream, watched: false });
        } else {
            process.output = Some(End { fd: ours, stream, watched: false });
        }
        Ok(theirs)
    }

    /// The process of this pid is the one: what it says is listened to.
    pub fn cloned(&mut self, serial: u64, pid: Pid, sync: OwnedFd) -> Result<()> {
        sys::set_nonblocking(&sync).context(|| "cannot prepare a socket".into())?;
        self.watch(&sync, libc::EPOLLIN, Token::Sync(serial));
        if let Some(process) = self.processes.get_mut(&serial) {
            process.pid = pid;
            process.sync = Some(sync);
        }
        self.by_pid.insert(pid, serial);
        if self.processes.get(&serial).is_some_and(|process| process.transfer.is_none()) {
            self.set_timer(START_DEADLINE, Timer::Starting(serial));
        }
        self.pump_outputs(serial);
        Ok(())
    }

    pub fn exec(&mut self, wanted: Exec, ticket: Ticket) -> Result<Option<Value>> {
        check_id("exec id", &wanted.exec_id)?;
        self.check_execable(&wanted.id, &wanted.exec_id)?;
        // The container's filter holds for execs, too.
        let seccomp = self.container(&wanted.id)?.seccomp.clone();
        let program = Program::check(wanted.process, seccomp)?;
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
        let mut keep = ends.numbers();
        keep.extend([theirs.as_raw_fd(), join[0].0.as_raw_fd()]);
        let pid = in_pid_namespace(Some(&pidfd), || {
            sys::clone_into(0, &folder, &keep, || launch::run_exec(&join, program, ends, &theirs))
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
                Ok((n, passed)) => match text[0] {
                    READY => {
                        process.ready = true;
                        let mut passed = passed.into_iter();
                        let mut held = None;
                        if process.is_init() {
                            held = passed.next().map(|root| Held { root, namespace: passed.next() });
                        }
                        if let Some(master) = passed.next() {
                            self.attach_terminal(serial, master);
                        }
                        self.report_ready(serial, Ok(held));
                    }
                    FAILED => {
                        let lost = || Error::Internal("the process could not say why it failed".into());
                        process.failure = Some(serde_json::from_slice(&text[1..n]).unwrap_or_else(|_| lost()));
                    }
                    DONE => {
                        if let Some(transfer) = &mut process.transfer {
                            transfer.result = serde_json::from_slice(&text[1..n]).ok();
                        }
                    }
                    _ => {}
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Told once, when the child has ended without reading its order; what it said comes after that.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.sync_ended(serial);
    }

    fn report_ready(&mut self, serial: u64, result: Result<Option<Held>>) {
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
        // How a worker ends is told when it has ended.
        if process.transfer.is_some() {
            return;
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
}

/// Has children be born into the PID namespace of `namespace` (a namespace's file or a pidfd) during `body`.
pub fn in_pid_namespace(namespace: Option<&OwnedFd>, body: impl FnOnce() -> io::Result<Pid>) -> Result<Pid> {
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
