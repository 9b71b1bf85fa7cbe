//! `container.create`: what the request says is checked, the cgroup made, the root assembled in a job, the init process cloned.

use super::{Container, Pending, Phase, MAX_CONTAINERS};
use crate::agent::{After, Agent, Ticket, Token};
use crate::capabilities;
use crate::cgroup::Cgroup;
use crate::devices;
use crate::error::{describe, Context, Error, Result};
use crate::launch::{rlimit, Program, Setup};
use crate::messages::{check_id, Create, Disk, Rootfs};
use crate::mounts;
use crate::processes::Process;
use crate::rootfs;
use crate::seccomp;
use crate::spec::{self, Spec};
use crate::sys;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

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
    pub fn create(&mut self, wanted: Create, ticket: Ticket) -> Result<Option<Value>> {
        let Create { id, spec, rootfs, files, stdio, ephemeral } = wanted;
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
            ephemeral,
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

    pub(super) fn creation_failed(&mut self, id: &str, error: Error) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Phase::Creating(ticket) = container.phase {
            container.phase = Phase::Failing(ticket);
            container.failure = Some(error);
        }
        self.take_apart(id);
    }
}
