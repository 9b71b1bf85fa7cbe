//! The loop: moves bytes between the port and `link`, hands requests to `sandbox`, `containers` and `processes`, and wakes
//! them when children, pipes, jobs or timers have something. It never blocks but in epoll.

use crate::boot::Machine;
use crate::cells::Cells;
use crate::containers::{Compiled, Container};
use crate::error::{Context, Error, Result};
use crate::jobs::Job;
use crate::link::{Event, Link};
use crate::messages;
use crate::network::{Device, Network};
use crate::processes::{Process, Which};
use crate::sandbox::Connecting;
use crate::sys::{self, Epoll, Pid};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{json, Value};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// Read from the port before other descriptors get their turn.
const PORT_BATCH_BYTES: usize = 512 * 1024;
/// How long an acknowledgement waits for more bytes that it can cover as well.
const SETTLE_MS: i32 = 1;
const JOB_DEADLINE: Duration = Duration::from_secs(30);
const MAX_LOG_BYTES: usize = 1_024;
/// Log events are dropped while this much waits for the host.
const LOG_BACKLOG_BYTES: usize = 256 * 1024;

/// Who asked, and in which life of the host: an answer to a host that is gone is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    id: u64,
    generation: u64,
}

/// What an epoll event is about; the number is a serial of `Agent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    Port,
    Children,
    Stdio(Which, u64),
    Sync(u64),
    Job(u64),
    Memory(u64),
}

impl Token {
    pub fn pack(self) -> u64 {
        let (kind, serial) = match self {
            Token::Port => (0, 0),
            Token::Children => (1, 0),
            Token::Stdio(Which::Output, s) => (2, s),
            Token::Stdio(Which::Error, s) => (3, s),
            Token::Stdio(Which::Input, s) => (4, s),
            Token::Sync(s) => (5, s),
            Token::Job(s) => (6, s),
            Token::Memory(s) => (7, s),
        };
        kind << 56 | serial
    }

    fn unpack(raw: u64) -> Self {
        let serial = raw & ((1 << 56) - 1);
        match raw >> 56 {
            0 => Token::Port,
            1 => Token::Children,
            2 => Token::Stdio(Which::Output, serial),
            3 => Token::Stdio(Which::Error, serial),
            4 => Token::Stdio(Which::Input, serial),
            5 => Token::Sync(serial),
            6 => Token::Job(serial),
            _ => Token::Memory(serial),
        }
    }
}

/// What a job was for; `Answer`: what it returns is the result.
pub enum After {
    Answer(Ticket),
    Synced(String),
    Dismantled(String),
    Unmounted(Ticket),
    /// A transfer of files, and how it went.
    Released(u64, Result<Value>),
    /// Cards, and whether the configuration is done with that.
    Parked(Vec<Device>, bool),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Timer {
    Job(u64),
    /// A process that has ended still has open output, or its container still has processes.
    Drain(u64),
    /// A process that was cloned or let go should have reported by now.
    Starting(u64),
    Freeze(String),
    /// A container's end has been told.
    LetGo(String),
    /// Cards that a configuration waits for may be there now.
    Cards,
    Shutdown(Ticket),
    PowerOff,
}

pub struct Agent {
    pub epoll: Epoll,
    port: File,
    /// Somebody is at the port's other end, as far as the port has told.
    host_present: bool,
    pub link: Link,
    children: OwnedFd,
    pub kernel: String,
    /// Memory that the kernel had kept for itself when the agent started.
    pub kernel_share_bytes: u64,
    debug: bool,
    pub network: Network,
    pub connecting: Option<Connecting>,
    pub cells: Cells,
    pub compiled: Option<Compiled>,
    pub containers: BTreeMap<String, Container>,
    pub processes: HashMap<u64, Process>,
    pub by_pid: HashMap<Pid, u64>,
    pub by_stream: HashMap<u32, u64>,
    jobs: HashMap<u64, (Job, After)>,
    timers: Vec<(Instant, Timer)>,
    serial: u64,
    pub stopping: bool,
    /// Milliseconds waited for killed processes during a shutdown.
    pub quiet_ticks: u64,
    /// The last answer is given: the machine goes off once the host has it.
    pub farewell: bool,
    /// Read into by everybody, one at a time.
    pub scratch: Vec<u8>,
}

impl Agent {
    pub fn new(machine: Machine) -> Result<Self> {
        let epoll = Epoll::new().context(|| "cannot make an epoll".into())?;
        let children = sys::child_signals().context(|| "cannot watch children".into())?;
        // Edge-triggered, because a port without a host is "hung up" all the time.
        let edges = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLET;
        epoll.add(&machine.port, edges, Token::Port.pack()).context(|| "cannot watch the port".into())?;
        epoll.add(&children, libc::EPOLLIN, Token::Children.pack()).context(|| "cannot watch children".into())?;
        let mut agent = Agent {
            epoll,
            port: machine.port,
            host_present: false,
            link: Link::new(machine.boot_id),
            children,
            kernel: machine.kernel,
            kernel_share_bytes: machine.kernel_share_bytes,
            debug: machine.debug,
            network: Network::default(),
            connecting: None,
            cells: Cells::default(),
            compiled: None,
            containers: BTreeMap::new(),
            processes: HashMap::new(),
            by_pid: HashMap::new(),
            by_stream: HashMap::new(),
            jobs: HashMap::new(),
            timers: Vec::new(),
            serial: 0,
            stopping: false,
            quiet_ticks: 0,
            farewell: false,
            scratch: vec![0; 64 * 1024],
        };
        for warning in machine.warnings {
            agent.log("warning", &warning);
        }
        Ok(agent)
    }

    pub fn run(mut self) -> Result<()> {
        let mut ready = Vec::new();
        let mut port_has_more = true;
        loop {
            let mut timeout = if port_has_more { 0 } else { self.timeout_ms() };
            if self.link.is_unsettled() {
                timeout = if timeout < 0 { SETTLE_MS } else { timeout.min(SETTLE_MS) };
            }
            self.epoll.wait(timeout, &mut ready).context(|| "epoll failed".into())?;
            if ready.is_empty() && !port_has_more {
                self.link.settle();
            }
            for &(raw, events) in &ready {
                match Token::unpack(raw) {
                    Token::Port => port_has_more = true,
                    Token::Children => self.reap(),
                    Token::Stdio(which, serial) => self.stdio_ready(which, serial, events),
                    Token::Sync(serial) => self.sync_ready(serial),
                    Token::Job(serial) => self.job_ready(serial),
                    Token::Memory(serial) => self.memory_ready(serial),
                }
            }
            if port_has_more {
                port_has_more = self.read_port();
            }
            self.fire_timers();
            self.write_port();
            if self.farewell && self.link.control_is_drained() {
                sys::power_off();
            }
        }
    }

    // -- the port -------------------------------------------------------------------------------------------------

    /// True when there is more to read.
    fn read_port(&mut self) -> bool {
        let mut events = Vec::new();
        let mut total = 0;
        let more = loop {
            match sys::read(&self.port, self.link.room()) {
                // Nobody is there. Bytes of a host that has just come can be read before the port tells of it: only one that
                // was known to be there has gone.
                Ok(0) => {
                    if std::mem::take(&mut self.host_present) {
                        self.link.hung_up();
                    }
                    break false;
                }
                Ok(n) => {
                    self.link.received(n, &mut events);
                    total += n;
                    if total >= PORT_BATCH_BYTES {
                        break true;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    self.host_present = true;
                    break false;
                }
                Err(_) => {
                    self.link.hung_up();
                    break false;
                }
            }
        };
        // One turn for each stream, however many frames it got.
        let mut touched = Vec::new();
        for event in events {
            match event {
                Event::Message(text) => self.request(&text),
                Event::Input(stream) if !touched.contains(&(stream, true)) => touched.push((stream, true)),
                Event::Room(stream) if !touched.contains(&(stream, false)) => touched.push((stream, false)),
                Event::Input(_) | Event::Room(_) => {}
                Event::Connected { resumed } => {
                    if !resumed {
                        self.drop_transfers();
                    }
                    self.log("debug", &format!("connected, resumed: {resumed}"));
                }
                Event::Closed(reason) => self.log("warning", &reason),
            }
        }
        for (stream, input) in touched {
            if let Some(&serial) = self.by_stream.get(&stream) {
                if input {
                    self.pump_input(serial);
                } else {
                    self.pump_outputs(serial);
                }
            }
        }
        more
    }

    fn write_port(&mut self) {
        loop {
            let bytes = self.link.output();
            if bytes.is_empty() {
                return;
            }
            match sys::write(&self.port, bytes) {
                // The port takes at most 32 KiB a call.
                Ok(n) if n > 0 => {
                    self.host_present = true;
                    self.link.wrote(n);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // Full, or nobody there: an edge comes when that changes.
                _ => return,
            }
        }
    }

    // -- answers and events ---------------------------------------------------------------------------------------

    fn request(&mut self, text: &[u8]) {
        let request = match messages::parse_request(text) {
            Ok(request) => request,
            Err(why) => {
                self.log("error", &format!("a request could not be read: {why}"));
                return;
            }
        };
        let ticket = Ticket { id: request.id, generation: self.link.generation() };
        match self.dispatch(&request.method, request.params, ticket) {
            Ok(Some(result)) => self.answer(ticket, Ok(result)),
            Ok(None) => {}
            Err(error) => self.answer(ticket, Err(error)),
        }
    }

    /// `None` when the answer comes later.
    fn dispatch(&mut self, method: &str, params: Option<&RawValue>, ticket: Ticket) -> Result<Option<Value>> {
        if self.stopping && method != "sandbox.ping" {
            return Err(Error::Unavailable("the sandbox is shutting down".into()));
        }
        if let Some(result) = self.sandbox_request(method, params, ticket) {
            return result;
        }
        if let Some(result) = self.files_request(method, params, ticket) {
            return result;
        }
        match method {
            "container.create" => self.create(messages::params(method, params)?, ticket),
            "container.start" => self.start(messages::params(method, params)?, ticket),
            "container.signal" => self.signal(messages::params(method, params)?),
            "container.pause" => self.pause(messages::params(method, params)?, ticket),
            "container.resume" => self.resume(messages::params(method, params)?),
            "container.update" => self.update(messages::params(method, params)?),
            "container.stats" => self.stats(messages::params(method, params)?),
            "container.top" => self.top(messages::params(method, params)?),
            "container.processes" => self.list_processes(messages::params(method, params)?),
            "container.delete" => self.delete(messages::params(method, params)?, ticket),
            "process.exec" => self.exec(messages::params(method, params)?, ticket),
            "process.signal" => self.signal_process(messages::params(method, params)?),
            "process.resize" => self.resize(messages::params(method, params)?),
            "process.forget" => self.forget(messages::params(method, params)?),
            _ => Err(Error::Unsupported(format!("this agent does not know the method {method:?}"))),
        }
    }

    pub fn answer(&mut self, ticket: Ticket, result: Result<Value>) {
        if ticket.generation == self.link.generation() {
            self.link.send_message(&messages::response(ticket.id, &result));
        }
    }

    pub fn event(&mut self, name: &str, params: Value) {
        if self.link.has_instance() {
            self.link.send_message(&messages::event(name, params));
        }
    }

    pub fn log(&mut self, level: &str, message: &str) {
        if self.debug {
            eprintln!("hyper-agent: {level}: {message}");
        }
        if level == "debug" || self.link.control_kept() > LOG_BACKLOG_BYTES {
            return;
        }
        let mut end = message.len().min(MAX_LOG_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        self.event("agent.log", json!({"level": level, "message": &message[..end]}));
    }

    // -- jobs and timers ------------------------------------------------------------------------------------------

    pub fn new_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub fn run_job<T: Serialize>(
        &mut self,
        after: After,
        keep: &[RawFd],
        work: impl FnOnce() -> Result<T>,
    ) -> Result<()> {
        let job = Job::spawn(keep, work)?;
        let serial = self.new_serial();
        self.epoll.add(&job.pipe, libc::EPOLLIN, Token::Job(serial).pack()).context(|| "cannot watch a job".into())?;
        self.jobs.insert(serial, (job, after));
        self.set_timer(JOB_DEADLINE, Timer::Job(serial));
        Ok(())
    }

    fn job_ready(&mut self, serial: u64) {
        if let Some(result) = self.jobs.get_mut(&serial).and_then(|(job, _)| job.poll()) {
            self.end_job(serial, result);
        }
    }

    fn end_job(&mut self, serial: u64, result: Result<Value>) {
        let Some((job, after)) = self.jobs.remove(&serial) else { return };
        self.epoll.remove(&job.pipe);
        self.timers.retain(|(_, timer)| *timer != Timer::Job(serial));
        let (answer, result) = (result.clone(), result.map(|_| ()));
        match after {
            After::Answer(ticket) => self.answer(ticket, answer),
            After::Synced(id) => self.synced(&id, result),
            After::Dismantled(id) => self.dismantled(&id, result),
            After::Unmounted(ticket) => self.unmounted(ticket, result),
            After::Released(serial, outcome) => self.transfer_released(serial, outcome),
            After::Parked(devices, last) => self.parked(devices, last, result),
        }
    }

    pub fn set_timer(&mut self, after: Duration, timer: Timer) {
        self.timers.push((Instant::now() + after, timer));
    }

    /// As `set_timer`, unless the same is set already.
    pub fn set_timer_once(&mut self, after: Duration, timer: Timer) {
        if !self.timers.iter().any(|(_, set)| *set == timer) {
            self.set_timer(after, timer);
        }
    }

    fn timeout_ms(&self) -> i32 {
        match self.timers.iter().map(|(at, _)| *at).min() {
            None => -1,
            // Rounded up, so that the timer is due when epoll comes back.
            Some(at) => at.saturating_duration_since(Instant::now()).as_micros().div_ceil(1_000) as i32,
        }
    }

    fn fire_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.timers).into_iter().partition(|(at, _)| *at <= now);
        self.timers = later;
        let due: Vec<(Instant, Timer)> = due;
        for (_, timer) in due {
            match timer {
                Timer::Job(serial) => {
                    if let Some((job, _)) = self.jobs.get(&serial) {
                        let _ = sys::kill(job.pid, libc::SIGKILL);
                    }
                    self.end_job(
                        serial,
                        Err(Error::DeadlineExceeded("it took longer than 30 s in the sandbox".into())),
                    );
                }
                Timer::Drain(serial) => self.drained(serial),
                Timer::Starting(serial) => self.start_overdue(serial),
                Timer::Freeze(id) => self.check_frozen(&id),
                Timer::LetGo(id) => self.let_namespace_go(&id),
                Timer::Cards => self.connect(),
                Timer::Shutdown(ticket) => self.unmount_all(ticket),
                Timer::PowerOff => sys::power_off(),
            }
        }
    }

    fn reap(&mut self) {
        // The signals say only that there is something to reap.
        let mut ignored = [0; 128 * 8];
        while sys::read(&self.children, &mut ignored).is_ok_and(|n| n > 0) {}
        while let Some((pid, status)) = sys::reap() {
            match self.by_pid.remove(&pid) {
                Some(serial) => self.process_ended(serial, status),
                None => self.cell_ended(pid),
            }
        }
    }

    pub fn watch(&self, fd: &impl AsRawFd, events: i32, token: Token) {
        if self.epoll.add(fd, events, token.pack()).is_err() {
            // Registered already: only the events change.
            let _ = self.epoll.change(fd, events, token.pack());
        }
    }
}
