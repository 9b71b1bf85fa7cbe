//! `container.create`: what the agent has to know of the request is read, a cell is taken (`cells`) and limited, and its
//! process gets its order (`orders`), by which it makes itself ready.

use super::{Container, Phase, MAX_CONTAINERS};
use crate::agent::{Agent, Ticket, Token};
use crate::cells::Cell;
use crate::cgroup;
use crate::devices;
use crate::error::{Context, Error, Result};
use crate::messages::{check_id, Create, Disk, Rootfs};
use crate::orders::{self, Outgoing};
use crate::processes::Process;
use crate::rootfs::{self, Held};
use crate::seccomp::{self, Filter};
use crate::spec::{self, Device, Outline, Resources, Seccomp, Terminal};
use crate::sys;
use serde_json::value::RawValue;
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The last profile that was compiled: nearly all containers have the same.
pub struct Compiled {
    text: String,
    filter: Option<Rc<Filter>>,
}

impl Agent {
    pub fn create(&mut self, wanted: Create, ticket: Ticket) -> Result<Option<Value>> {
        let Create { id, spec, rootfs, files, stdio, ephemeral, share } = wanted;
        check_id("container id", &id)?;
        if self.containers.contains_key(&id) {
            return Err(Error::AlreadyExists(format!("container {id} exists already in this sandbox")));
        }
        if self.containers.len() >= MAX_CONTAINERS {
            return Err(Error::ResourceExhausted(format!("a sandbox holds at most {MAX_CONTAINERS} containers")));
        }
        rootfs::check(&rootfs)?;
        self.check_disks(&rootfs)?;
        let terminal = spec::read::<Terminal>("process", Some(spec.process))?.terminal;
        let seccomp = self.filter(spec.linux.seccomp)?;
        let devices: Vec<Device> = spec::read("linux.devices", spec.linux.devices)?;
        let resources: Resources = spec::read("linux.resources", spec.linux.resources)?;
        let disk_limits = cgroup::disk_limits(&resources);
        let order = Outgoing {
            process: spec.process,
            readonly: spec.root.readonly || rootfs.readonly,
            hostname: spec.hostname.as_deref(),
            domainname: spec.domainname.as_deref(),
            devices: &devices,
            sysctl: spec.linux.sysctl,
            propagation: spec.linux.rootfs_propagation,
            rootfs: &rootfs,
            files,
            ephemeral,
            share: share.as_deref(),
        };
        let streams = self.open_streams(&stdio, terminal)?;
        let init = self.new_serial();
        self.add_process(init, Process::new(&id, "", stdio, terminal), &streams);
        let cell = match self.ordered(init, &id, &spec, &resources, &order, seccomp.as_deref()) {
            Ok(cell) => cell,
            Err(error) => {
                self.remove_process(init);
                return Err(error);
            }
        };
        let Cell { serial, shape, cgroup, memory_events, device_program, pid, sync } = cell;
        if let Some(file) = &memory_events {
            self.watch(file, libc::EPOLLPRI, Token::Memory(serial));
        }
        let container = Container {
            phase: Phase::Creating(ticket),
            init,
            execs: BTreeMap::new(),
            cgroup,
            memory_events,
            serial,
            oom_kills: 0,
            failure: None,
            rootfs,
            ephemeral,
            seccomp,
            shape,
            device_program,
            devices,
            disk_limits,
            held: None,
        };
        self.containers.insert(id.clone(), container);
        if let Err(error) = self.cloned(init, pid, sync) {
            self.creation_failed(&id, error);
        }
        Ok(None)
    }

    /// A cell that is limited as the container is to be and has its order.
    fn ordered(
        &mut self,
        init: u64,
        id: &str,
        spec: &Outline,
        resources: &Resources,
        order: &Outgoing,
        filter: Option<&Filter>,
    ) -> Result<Cell> {
        let ends = self.make_pipes(init)?;
        let cell = self.take_cell(spec)?;
        let result = cell.cgroup.apply(resources).and_then(|left_out| {
            orders::give(&cell.sync, order, ends, filter)?;
            Ok(left_out)
        });
        match result {
            Ok(left_out) => {
                for text in left_out {
                    self.log("warning", &format!("container {id}: {text}"));
                }
                Ok(cell)
            }
            Err(error) => {
                self.retire(cell);
                Err(error)
            }
        }
    }

    /// The filter of a profile, or `None` when there is nothing to filter.
    fn filter(&mut self, profile: Option<&RawValue>) -> Result<Option<Rc<Filter>>> {
        let Some(text) = profile.map(RawValue::get) else { return Ok(None) };
        if let Some(known) = self.compiled.as_ref().filter(|known| known.text == text) {
            return Ok(known.filter.clone());
        }
        let profile: Option<Seccomp> = spec::read("linux.seccomp", profile)?;
        let filter = profile.as_ref().map(seccomp::compile).transpose()?.flatten().map(Rc::new);
        self.compiled = Some(Compiled { text: text.to_string(), filter: filter.clone() });
        Ok(filter)
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

    /// The init process waits for its start, or could not be made ready.
    pub fn init_ready(&mut self, id: &str, result: Result<Option<Held>>) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Creating(ticket) = container.phase else { return };
        // Its disks are devices, too, and there only now.
        let more = devices::look_up(&container.devices).map(|(_, rules)| container.shape.with_rules(rules));
        let program = more.and_then(|rules| rules.map_or(Ok(None), |rules| self.device_program(&rules)));
        let Some(container) = self.containers.get_mut(id) else { return };
        let result = result.and_then(|held| {
            container.device_program = program?.or(container.device_program.take());
            Ok(held)
        });
        let (program, cgroup) = (container.device_program.take(), container.cgroup.folder());
        let ruled = |held: Option<Held>| {
            program.map_or(Ok(()), |program| sys::attach_device_program(cgroup, &program)).map(|()| held)
        };
        let result = result.and_then(|held| {
            if !container.disk_limits.is_empty() {
                for disk in container.disks() {
                    container.cgroup.limit_disk(rootfs::number(&disk)?, &container.disk_limits)?;
                }
            }
            ruled(held).context(|| "cannot put the device rules into force".into())
        });
        match result {
            Ok(held) => {
                container.held = held;
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
}
