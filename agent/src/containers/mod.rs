//! Containers, from their start to `container.delete`; `creation` is how they come to be. The steps that wait are jobs or
//! timers, whose ends come back here as `assembled`, `synced`, `dismantled`, `check_frozen`.

mod creation;

pub use creation::Compiled;

use crate::agent::{After, Agent, Ticket, Timer};
use crate::cgroup::Cgroup;
use crate::error::{Context, Error, Result};
use crate::listing;
use crate::messages::{ById, Disk, Rootfs, Signal, Update};
use crate::network;
use crate::processes::{Process, Status};
use crate::rootfs::{self, Held};
use crate::seccomp::Filter;
use crate::shape::Shape;
use crate::spec::Device;
use crate::sys;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

const MAX_CONTAINERS: usize = 256;
const MAX_EXECS: usize = 1_024;
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
const FREEZE_POLL: Duration = Duration::from_millis(1);
/// The exit event is on its way to the host by then.
const LET_GO_AFTER: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The init process gets ready.
    Creating(Ticket),
    Created,
    Running,
    Pausing(Ticket, Instant),
    Paused,
    /// The init process is gone; output, disks or the exit event are under way.
    Ending,
    Stopped,
    /// To be deleted; the ticket waits for it.
    Deleting(Ticket),
    /// Its create has failed; the error is told when nothing of it is left.
    Failing(Ticket),
}

pub struct Container {
    pub phase: Phase,
    pub init: u64,
    /// Exec ids and their processes' serials.
    pub execs: BTreeMap<String, u64>,
    pub cgroup: Cgroup,
    memory_events: Option<File>,
    serial: u64,
    oom_kills: u64,
    failure: Option<Error>,
    rootfs: Rootfs,
    ephemeral: bool,
    /// For execs.
    pub seccomp: Option<Rc<Filter>>,
    shape: Rc<Shape>,
    /// Not in force yet.
    device_program: Option<OwnedFd>,
    /// As the spec has them.
    devices: Vec<Device>,
    /// For each of its disks, once they are there.
    disk_limits: String,
    /// From when the init process is ready.
    held: Option<Held>,
}

impl Container {
    pub fn disks(&self) -> Vec<Disk> {
        self.rootfs.layers.iter().chain(&self.rootfs.writable).copied().collect()
    }

    pub fn rootfs(&self) -> &Rootfs {
        &self.rootfs
    }

    /// Its file systems, while its processes live.
    pub fn held(&self) -> Result<&Held> {
        self.held.as_ref().ok_or_else(|| Error::Conflict("the container has no file systems now".into()))
    }

    pub fn oom_killed(&self) -> bool {
        self.oom_kills > 0
    }

    /// The container is to be taken away: a create failed, or the host wants it gone.
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Deleting(_) | Phase::Failing(_))
    }
}

impl Agent {
    pub fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::NotFound(format!("no container {id:?} in this sandbox")))
    }

    // -- start and end ---------------------------------------------------------------------------------------------------

    pub fn start(&mut self, wanted: ById, ticket: Ticket) -> Result<Option<Value>> {
        let container = self.container(&wanted.id)?;
        if container.phase != Phase::Created {
            return Err(Error::Conflict(format!("container {} is not in the state \"created\"", wanted.id)));
        }
        let init = container.init;
        self.let_go(init, ticket)?;
        Ok(None)
    }

    pub fn init_started(&mut self, id: &str) {
        if let Some(container) = self.containers.get_mut(id) {
            if container.phase == Phase::Created {
                container.phase = Phase::Running;
            }
        }
    }

    /// The init process has ended: nothing of the container lives on.
    pub fn init_ended(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.cgroup.kill();
        if let Phase::Pausing(ticket, _) = container.phase {
            let error = Error::Conflict(format!("container {id} has ended"));
            container.phase = Phase::Ending;
            self.answer(ticket, Err(error));
        } else if !container.is_leaving() && !matches!(container.phase, Phase::Creating(_)) {
            container.phase = Phase::Ending;
        }
        self.count_oom_kills(id);
    }

    /// All output of the init process is read and all processes are gone: what it wrote is made durable, if anybody wants it.
    pub fn init_drained(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        let unwanted = container.rootfs.writable.is_none() || container.ephemeral;
        if container.is_leaving() || unwanted || self.stopping {
            return self.synced(id, Ok(()));
        }
        let Some(held) = &container.held else { return self.synced(id, Ok(())) };
        let started = sys::dup(&held.root).context(|| "cannot open the root".into()).and_then(|root| {
            self.run_job(After::Synced(id.to_string()), &[root.as_raw_fd()], move || rootfs::sync(&root))
        });
        if let Err(error) = started {
            self.synced(id, Err(error));
        }
    }

    pub fn synced(&mut self, id: &str, result: Result<()>) {
        if let Err(error) = result {
            self.log("error", &format!("container {id}: {error}"));
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        let init = container.init;
        if container.phase == Phase::Ending {
            container.phase = Phase::Stopped;
        }
        let leaving = container.is_leaving();
        self.announce_exit(init);
        if leaving {
            self.take_apart(id);
        } else {
            self.set_timer(LET_GO_AFTER, Timer::LetGo(id.to_string()));
        }
    }

    /// The end is told: now there is time to take the container's mounts away, but for its root.
    pub fn let_namespace_go(&mut self, id: &str) {
        if let Some(held) = self.containers.get_mut(id).and_then(|container| container.held.as_mut()) {
            held.namespace = None;
        }
    }

    // -- delete ----------------------------------------------------------------------------------------------------------

    pub fn delete(&mut self, wanted: ById, ticket: Ticket) -> Result<Option<Value>> {
        let container = self.container(&wanted.id)?;
        match container.phase {
            Phase::Creating(_) => Err(Error::Conflict(format!("container {} is being created", wanted.id))),
            Phase::Deleting(_) | Phase::Failing(_) => {
                Err(Error::Conflict(format!("container {} is being deleted", wanted.id)))
            }
            Phase::Pausing(..) => Err(Error::Conflict(format!("container {} is being paused", wanted.id))),
            Phase::Ending => {
                // The sync that is under way comes back to it.
                container.phase = Phase::Deleting(ticket);
                Ok(None)
            }
            _ => {
                container.phase = Phase::Deleting(ticket);
                self.take_apart(&wanted.id);
                Ok(None)
            }
        }
    }

    /// One step of taking a container away: kill, wait (the ends of its processes come back here), unmount.
    pub fn take_apart(&mut self, id: &str) {
        // Who works on its files holds its disks.
        let transfers = self.transfers_of(Some(id));
        let Some(container) = self.containers.get_mut(id) else { return };
        let mut serials: Vec<u64> = container.execs.values().copied().chain([container.init]).collect();
        container.cgroup.kill();
        for process in transfers.iter().filter_map(|serial| self.processes.get(serial)).filter(|p| p.is_unfinished()) {
            let _ = sys::kill(process.pid, libc::SIGKILL);
        }
        serials.extend(transfers);
        let alive = |s: &u64| self.processes.get(s).is_some_and(|p| p.is_unfinished());
        if serials.iter().any(alive) {
            return;
        }
        let (held, mut disks) = (container.held.take(), container.disks());
        disks.retain(|disk| !self.containers.iter().any(|(other, c)| other != id && c.disks().contains(disk)));
        let keep = held.as_ref().map(Held::numbers).unwrap_or_default();
        let after = After::Dismantled(id.to_string());
        let started = self.run_job(after, &keep, move || rootfs::dismantle(held, &disks));
        if let Err(error) = started {
            self.dismantled(id, Err(error));
        }
    }

    pub fn dismantled(&mut self, id: &str, result: Result<()>) {
        let Some(container) = self.containers.remove(id) else { return };
        for serial in container.execs.values().chain([&container.init]) {
            self.remove_process(*serial);
        }
        if let Some(file) = &container.memory_events {
            self.epoll.remove(file);
        }
        if let Err(e) = container.cgroup.remove() {
            self.log("warning", &format!("container {id}: its cgroup stays: {e}"));
        }
        match (container.phase, container.failure) {
            (Phase::Failing(ticket), Some(error)) => self.answer(ticket, Err(error)),
            (Phase::Deleting(ticket), _) => {
                self.answer(ticket, result.map(|()| json!({})));
                if self.containers.is_empty() && !self.stopping {
                    self.keep_spare(container.shape);
                }
            }
            _ => {}
        }
    }

    /// What is held of all containers, for a shutdown; and all their disks.
    pub fn surrender(&mut self) -> (Vec<Held>, Vec<Disk>) {
        let held = self.containers.values_mut().filter_map(|container| container.held.take()).collect();
        (held, self.containers.values().flat_map(Container::disks).collect())
    }

    // -- while it lives --------------------------------------------------------------------------------------------------

    pub fn signal(&mut self, wanted: Signal) -> Result<Option<Value>> {
        let container = self.container(&wanted.id)?;
        let init = container.init;
        if wanted.all {
            let pids = container.cgroup.pids();
            if wanted.signal == libc::SIGKILL {
                container.cgroup.kill();
            }
            for pid in &pids {
                let _ = sys::kill(*pid, wanted.signal);
            }
            if pids.is_empty() {
                return Err(Error::NotFound(format!("container {} has no live process", wanted.id)));
            }
            return Ok(Some(json!({})));
        }
        self.send_signal(init, wanted.signal)?;
        Ok(Some(json!({})))
    }

    pub fn pause(&mut self, wanted: ById, ticket: Ticket) -> Result<Option<Value>> {
        let container = self.container(&wanted.id)?;
        match container.phase {
            Phase::Running => {}
            Phase::Paused => return Err(Error::Conflict(format!("container {} is already paused", wanted.id))),
            _ => return Err(Error::Conflict(format!("container {} is not running", wanted.id))),
        }
        container.cgroup.freeze(true)?;
        container.phase = Phase::Pausing(ticket, Instant::now());
        self.check_frozen(&wanted.id);
        Ok(None)
    }

    pub fn check_frozen(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Pausing(ticket, began) = container.phase else { return };
        if container.cgroup.is_frozen() {
            container.phase = Phase::Paused;
            self.answer(ticket, Ok(json!({})));
        } else if began.elapsed() > FREEZE_DEADLINE {
            let _ = container.cgroup.freeze(false);
            container.phase = Phase::Running;
            let text = format!("container {id} could not be frozen within 5 s; it runs on");
            self.answer(ticket, Err(Error::DeadlineExceeded(text)));
        } else {
            self.set_timer(FREEZE_POLL, Timer::Freeze(id.to_string()));
        }
    }

    pub fn resume(&mut self, wanted: ById) -> Result<Option<Value>> {
        let container = self.container(&wanted.id)?;
        if container.phase != Phase::Paused {
            return Err(Error::Conflict(format!("container {} is not paused", wanted.id)));
        }
        container.cgroup.freeze(false)?;
        container.phase = Phase::Running;
        Ok(Some(json!({})))
    }

    pub fn update(&mut self, wanted: Update) -> Result<Option<Value>> {
        let container = self.container(&wanted.id)?;
        let left_out = container.cgroup.apply(&wanted.resources)?;
        for text in left_out {
            self.log("warning", &format!("container {}: {text}", wanted.id));
        }
        Ok(Some(json!({})))
    }

    pub fn stats(&mut self, wanted: ById) -> Result<Option<Value>> {
        let mut stats = self.container(&wanted.id)?.cgroup.stats();
        stats["networks"] = network::counters();
        Ok(Some(stats))
    }

    pub fn top(&mut self, wanted: ById) -> Result<Option<Value>> {
        let pids = self.container(&wanted.id)?.cgroup.pids();
        Ok(Some(json!({"processes": listing::list(&pids)})))
    }

    pub fn list_processes(&mut self, wanted: ById) -> Result<Option<Value>> {
        let pids = self.container(&wanted.id)?.cgroup.pids();
        Ok(Some(json!({"pids": pids})))
    }

    /// Room for one more exec, and the container in a state to take it.
    pub fn check_execable(&mut self, id: &str, exec_id: &str) -> Result<()> {
        let container = self.container(id)?;
        match container.phase {
            Phase::Running => {}
            Phase::Paused | Phase::Pausing(..) => {
                return Err(Error::Conflict(format!("container {id} is paused, unpause the container before exec")))
            }
            _ => return Err(Error::Conflict(format!("container {id} is not running"))),
        }
        if container.execs.contains_key(exec_id) {
            return Err(Error::AlreadyExists(format!("exec {exec_id} exists already in container {id}")));
        }
        if container.execs.len() >= MAX_EXECS {
            return Err(Error::ResourceExhausted(format!("a container keeps at most {MAX_EXECS} execs: forget some")));
        }
        Ok(())
    }

    // -- memory ----------------------------------------------------------------------------------------------------------

    pub fn memory_ready(&mut self, serial: u64) {
        let found = self.containers.iter().find(|(_, c)| c.serial == serial).map(|(id, _)| id.clone());
        if let Some(id) = found {
            self.count_oom_kills(&id);
        }
    }

    fn count_oom_kills(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(file) = &container.memory_events {
            // Reading from the start is what arms the next notice.
            let mut text = [0; 512];
            let _ = sys::pread_start(file, &mut text);
        }
        let kills = container.cgroup.oom_kills();
        if kills > container.oom_kills {
            container.oom_kills = kills;
            self.event("container.oom", json!({"id": id}));
        }
    }

    pub fn container_state(&self, id: &str) -> Option<Value> {
        let container = self.containers.get(id)?;
        let init = self.processes.get(&container.init)?;
        let status = match container.phase {
            Phase::Creating(_) | Phase::Created => "created",
            Phase::Running | Phase::Pausing(..) => "running",
            Phase::Paused => "paused",
            Phase::Ending if init.status != Status::Exited => "running",
            _ => "stopped",
        };
        let serials = [container.init].into_iter().chain(container.execs.values().copied());
        let processes: Vec<Value> = serials.filter_map(|s| self.processes.get(&s)).map(Process::state).collect();
        Some(json!({
            "id": id, "status": status, "pid": init.pid, "oom_killed": container.oom_killed(), "processes": processes,
        }))
    }
}
