//! Containers: from `container.create` (disks, cgroup, init process up to exec) to `container.delete`. The steps that wait
//! are jobs or timers, whose ends come back here as `assembled`, `synced`, `dismantled`, `check_frozen`.

use crate::agent::{After, Agent, Ticket, Timer, Token};
use crate::capabilities;
use crate::cgroup::Cgroup;
use crate::devices;
use crate::error::{describe, Context, Error, Result};
use crate::launch::{rlimit, Program, Setup};
use crate::messages::{check_id, ById, Create, Disk, Rootfs, Signal, Update};
use crate::mounts;
use crate::network;
use crate::processes::{Process, Status};
use crate::rootfs;
use crate::seccomp;
use crate::spec::{self, Spec};
use crate::sys;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const MAX_CONTAINERS: usize = 256;
const MAX_EXECS: usize = 1_024;
const FREEZE_DEADLINE: Duration = Duration::from_secs(5);
const FREEZE_POLL: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Disks and root are being made, or the init process gets ready.
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
    /// The spec's filter, for execs.
    pub seccomp: Option<spec::Seccomp>,
    /// Kept from the request until the init process is cloned.
    pending: Option<Box<Pending>>,
}

pub struct Pending {
    setup: Setup,
    program: Program,
    clone_flags: u64,
    pid_namespace: Option<OwnedFd>,
}

impl Container {
    pub fn disks(&self) -> Vec<Disk> {
        self.rootfs.layers.iter().chain(&self.rootfs.writable).copied().collect()
    }

    pub fn oom_killed(&self) -> bool {
        self.oom_kills > 0
    }

    /// The container is to be taken away: a create failed, or the host wants it gone.
    pub fn is_leaving(&self) -> bool {
        matches!(self.phase, Phase::Deleting(_) | Phase::Failing(_))
    }
}

/// Everything about a process that can be wrong is found here, before anything is made.
pub fn check_program(process: spec::Process, seccomp: Option<&spec::Seccomp>) -> Result<Program> {
    if process.args.is_empty() {
        return Err(Error::InvalidArgument("no command specified".into()));
    }
    if !process.cwd.is_empty() && !process.cwd.starts_with('/') {
        let text = format!("the working directory {:?} is invalid, it needs to be an absolute path", process.cwd);
        return Err(Error::InvalidArgument(text));
    }
    if let Some(bad) = process.rlimits.iter().find(|l| rlimit(&l.kind).is_none()) {
        return Err(Error::InvalidArgument(format!("unknown rlimit {:?}", bad.kind)));
    }
    if let Some(bad) = process.rlimits.iter().find(|l| l.soft > l.hard) {
        return Err(Error::InvalidArgument(format!(
            "rlimit {}: soft {} is above hard {}",
            bad.kind, bad.soft, bad.hard
        )));
    }
    let capabilities = capabilities::parse(process.capabilities.as_ref())?;
    let seccomp = seccomp.map(seccomp::compile).transpose()?.flatten();
    Ok(Program { process, capabilities, seccomp })
}

/// How the init process gets its namespaces.
struct Namespaces {
    clone_flags: u64,
    unshare: i32,
    join: Vec<(OwnedFd, i32)>,
    pid: Option<OwnedFd>,
}

fn namespaces(spec: &Spec) -> Result<Namespaces> {
    let mut out = Namespaces { clone_flags: libc::CLONE_NEWNS as u64, unshare: 0, join: Vec::new(), pid: None };
    let mut uts = false;
    for namespace in &spec.linux.namespaces {
        let flag = match namespace.kind.as_str() {
            "mount" if namespace.path.is_empty() => continue,
            "pid" => libc::CLONE_NEWPID,
            "uts" => libc::CLONE_NEWUTS,
            "ipc" => libc::CLONE_NEWIPC,
            "network" => libc::CLONE_NEWNET,
            "cgroup" => libc::CLONE_NEWCGROUP,
            other => {
                return Err(Error::Unsupported(format!("the namespace {other:?} cannot be had in a sandbox that way")))
            }
        };
        uts |= flag == libc::CLONE_NEWUTS;
        if namespace.path.is_empty() {
            // A cgroup namespace's root is where its maker stands, so the child makes it when it is in its cgroup.
            if flag == libc::CLONE_NEWCGROUP {
                out.unshare |= flag
            } else {
                out.clone_flags |= flag as u64
            }
            continue;
        }
        let file = File::open(&namespace.path).map_err(|e| {
            Error::NotFound(format!("namespace {}: {}: {}", namespace.kind, namespace.path, describe(&e)))
        })?;
        if flag == libc::CLONE_NEWPID {
            out.pid = Some(file.into())
        } else {
            out.join.push((file.into(), flag))
        }
    }
    if !uts && spec.hostname.as_ref().is_some_and(|h| !h.is_empty()) {
        let text = "unable to set hostname without a private UTS namespace: the sandbox's is set by sandbox.configure";
        return Err(Error::InvalidArgument(text.into()));
    }
    Ok(out)
}

/// Paths that must be in the root file system.
fn mount_points(spec: &Spec) -> Vec<String> {
    let cwd = Some(spec.process.cwd.clone()).filter(|cwd| !cwd.is_empty());
    let mounts = spec.mounts.iter().map(|m| m.destination.clone());
    // What lies in a mount to come is made there, not in the image.
    let inside = |path: &String| spec.mounts.iter().any(|m| path.starts_with(&format!("{}/", m.destination)));
    mounts.chain(["/dev".to_string()]).chain(cwd).filter(|path| !inside(path)).collect()
}

impl Agent {
    pub fn container(&mut self, id: &str) -> Result<&mut Container> {
        self.containers.get_mut(id).ok_or_else(|| Error::NotFound(format!("no container {id:?} in this sandbox")))
    }

    // -- create ---------------------------------------------------------------------------------------------------

    pub fn create(&mut self, wanted: Create, ticket: Ticket) -> Result<Option<Value>> {
        let Create { id, spec, rootfs, files, stdio } = wanted;
        check_id("container id", &id)?;
        if self.containers.contains_key(&id) {
            return Err(Error::AlreadyExists(format!("container {id} exists already in this sandbox")));
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Error::ResourceExhausted(format!("a sandbox holds at most {MAX_CONTAINERS} containers")));
        }
        rootfs::check(&rootfs, &files)?;
        self.check_disks(&rootfs)?;
        mounts::check(&spec.mounts)?;
        let program = check_program(spec.process.clone(), spec.linux.seccomp.as_ref())?;
        let device_program = spec.linux.resources.devices.as_deref().map(devices::program).transpose()?;
        let namespaces = namespaces(&spec)?;
        let streams = self.open_streams(&stdio, program.process.terminal)?;
        let prepared = self.prepare_cgroup(&id, &spec, device_program.as_deref());
        let (cgroup, memory_events) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.close_streams(&streams);
                return Err(error);
            }
        };
        let serial = self.new_serial();
        if let Some(file) = &memory_events {
            self.watch(file, libc::EPOLLPRI, Token::Memory(serial));
        }
        let init = self.new_serial();
        let process = Process::new(&id, "", stdio, program.process.terminal);
        self.add_process(init, process, &streams);
        let points = mount_points(&spec);
        let seccomp = spec.linux.seccomp.clone();
        let setup = Setup {
            id: id.clone(),
            readonly: spec.root.readonly || rootfs.readonly,
            spec,
            unshare: namespaces.unshare,
            join: namespaces.join,
            files: files.iter().map(|f| f.path.clone()).collect(),
        };
        let pending = Pending { setup, program, clone_flags: namespaces.clone_flags, pid_namespace: namespaces.pid };
        let container = Container {
            phase: Phase::Creating(ticket),
            init,
            execs: BTreeMap::new(),
            cgroup,
            memory_events,
            serial,
            oom_kills: 0,
            failure: None,
            rootfs: rootfs.clone(),
            seccomp,
            pending: Some(Box::new(pending)),
        };
        self.containers.insert(id.clone(), container);
        let job_id = id.clone();
        let started =
            self.run_job(After::Assembled(id.clone()), move || rootfs::assemble(&job_id, &rootfs, &files, &points));
        if let Err(error) = started {
            self.creation_failed(&id, error);
        }
        Ok(None)
    }

    /// A writable disk belongs to one container at a time; layers are shared.
    fn check_disks(&self, wanted: &Rootfs) -> Result<()> {
        for (id, container) in &self.containers {
            let taken = |disk: &Disk, others: &[Disk]| others.iter().any(|other| other.scsi == disk.scsi);
            let clash = wanted.writable.is_some_and(|disk| taken(&disk, &container.disks()))
                || container.rootfs.writable.is_some_and(|disk| taken(&disk, &wanted.layers));
            if clash {
                return Err(Error::Conflict(format!(
                    "a disk of this root file system is container {id}'s writable one"
                )));
            }
        }
        Ok(())
    }

    fn prepare_cgroup(&mut self, id: &str, spec: &Spec, devices: Option<&[u64]>) -> Result<(Cgroup, Option<File>)> {
        let cgroup = Cgroup::create(id)?;
        let prepared = || -> Result<(Vec<String>, Option<File>)> {
            let mut left_out = cgroup.apply(&spec.linux.resources)?;
            if let Some(program) = devices {
                if let Err(e) = sys::attach_device_program(cgroup.folder(), program) {
                    left_out.push(format!("device rules are not enforced (CONFIG_CGROUP_BPF): {}", describe(&e)));
                }
            }
            // Absent without the memory controller.
            Ok((left_out, File::open(cgroup.file("memory.events")).ok()))
        };
        match prepared() {
            Ok((left_out, events)) => {
                for text in left_out {
                    self.log("warning", &format!("container {id}: {text}"));
                }
                Ok((cgroup, events))
            }
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// The root file system is there (or not): the init process is cloned.
    pub fn assembled(&mut self, id: &str, result: Result<()>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(pending) = container.pending.take() else { return };
        let init = container.init;
        let folder = container.cgroup.folder().try_clone().context(|| "cannot open the cgroup".into());
        let cloned = result.and(folder).and_then(|folder| {
            let Pending { setup, program, clone_flags, pid_namespace } = *pending;
            self.clone_init(init, &setup, &program, clone_flags, pid_namespace, &folder)
        });
        if let Err(error) = cloned {
            self.creation_failed(id, error);
        }
    }

    /// The init process waits for its start, or could not be made ready.
    pub fn init_ready(&mut self, id: &str, result: Result<()>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Creating(ticket) = container.phase else { return };
        match result {
            Ok(()) => {
                container.phase = Phase::Created;
                let pid = self.processes.get(&container.init).map_or(0, |p| p.pid);
                self.answer(ticket, Ok(json!({"pid": pid})));
            }
            Err(error) => self.creation_failed(id, error),
        }
    }

    fn creation_failed(&mut self, id: &str, error: Error) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Phase::Creating(ticket) = container.phase {
            container.phase = Phase::Failing(ticket);
            container.failure = Some(error);
        }
        self.take_apart(id);
    }

    // -- start and end --------------------------------------------------------------------------------------------

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

    /// All output of the init process is read and all processes are gone: what it wrote is made durable.
    pub fn init_drained(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        if container.is_leaving() || container.rootfs.writable.is_none() || self.stopping {
            return self.synced(id, Ok(()));
        }
        let job_id = id.to_string();
        if let Err(error) = self.run_job(After::Synced(id.to_string()), move || rootfs::sync(&job_id)) {
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
        }
    }

    // -- delete ---------------------------------------------------------------------------------------------------

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
        let Some(container) = self.containers.get(id) else { return };
        let serials: Vec<u64> = container.execs.values().copied().chain([container.init]).collect();
        container.cgroup.kill();
        let alive = |s: &u64| self.processes.get(s).is_some_and(|p| p.is_unfinished());
        if serials.iter().any(alive) {
            return;
        }
        let mut disks = container.disks();
        disks.retain(|disk| !self.containers.iter().any(|(other, c)| other != id && c.disks().contains(disk)));
        let job_id = id.to_string();
        let started = self.run_job(After::Dismantled(id.to_string()), move || rootfs::dismantle(&job_id, &disks));
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
            (Phase::Deleting(ticket), _) => self.answer(ticket, result.map(|()| json!({}))),
            _ => {}
        }
    }

    // -- while it lives -------------------------------------------------------------------------------------------

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

    // -- memory ---------------------------------------------------------------------------------------------------

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
