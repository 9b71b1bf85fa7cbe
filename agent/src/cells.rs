//! Cells: a cgroup, namespaces and the kernel's file systems for a container, and in them the process that will be its
//! first, which waits for its order. Making one is a third of a container's start under emulation, and nothing about it
//! depends on the image or the program. So when a sandbox's last container is deleted, a spare cell of the same shape is
//! made: a template and a pooled clone have one since their rehearsal, and the next container of that shape moves in.

use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::devices;
use crate::error::{describe, Context, Error, Result};
use crate::launch;
use crate::processes::in_pid_namespace;
use crate::shape::Shape;
use crate::spec::{DeviceRule, Namespace, Outline};
use crate::sys::{self, Pid};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

pub struct Cell {
    pub serial: u64,
    pub shape: Rc<Shape>,
    pub cgroup: Cgroup,
    /// Absent without the memory controller.
    pub memory_events: Option<File>,
    /// Comes into force when the process is ready, which mounts the container's disks before.
    pub device_program: Option<OwnedFd>,
    pub pid: Pid,
    pub sync: OwnedFd,
}

#[derive(Default)]
pub struct Cells {
    spare: Option<Cell>,
    /// Of cells that nobody wants: removed when their processes are gone.
    leaving: HashMap<Pid, Cgroup>,
}

/// How a cell gets its namespaces.
struct Namespaces {
    clone_flags: u64,
    unshare: i32,
    join: Vec<(OwnedFd, i32)>,
    pid: Option<OwnedFd>,
}

fn namespaces(wanted: &[Namespace]) -> Result<Namespaces> {
    let mut out = Namespaces { clone_flags: libc::CLONE_NEWNS as u64, unshare: 0, join: Vec::new(), pid: None };
    for namespace in wanted {
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
    Ok(out)
}

impl Agent {
    /// A cell of the spec's shape, the spare one if that has it.
    pub fn take_cell(&mut self, spec: &Outline) -> Result<Cell> {
        let words = Shape::words(spec)?;
        match self.cells.spare.take() {
            Some(spare) if spare.shape.is(&words) => return Ok(spare),
            Some(spare) => self.retire(spare),
            None => {}
        }
        self.make_cell(Rc::new(Shape::read(spec, words)?))
    }

    /// Has one ready for the next container, which is likely to be like the last.
    pub fn keep_spare(&mut self, shape: Rc<Shape>) {
        if !shape.is_repeatable() || self.cells.spare.is_some() {
            return;
        }
        match self.make_cell(shape) {
            Ok(cell) => self.cells.spare = Some(cell),
            Err(error) => self.log("warning", &format!("no spare cell: {error}")),
        }
    }

    fn make_cell(&mut self, shape: Rc<Shape>) -> Result<Cell> {
        let serial = self.new_serial();
        let program = shape.devices.as_deref().map(devices::program).transpose()?;
        let namespaces = namespaces(&shape.namespaces)?;
        let cgroup = Cgroup::create(&serial.to_string())?;
        let device_program = program.and_then(|program| self.load_device_program(&program));
        let memory_events = File::open(cgroup.file("memory.events")).ok();
        match start(&shape, namespaces, &cgroup) {
            Ok((pid, sync)) => Ok(Cell { serial, shape, cgroup, memory_events, device_program, pid, sync }),
            Err(error) => {
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// What is to hold instead of a shape's rules, if anything can be.
    pub fn device_program(&mut self, rules: &[DeviceRule]) -> Result<Option<OwnedFd>> {
        Ok(self.load_device_program(&devices::program(rules)?))
    }

    fn load_device_program(&mut self, program: &[u64]) -> Option<OwnedFd> {
        match sys::load_device_program(program) {
            Ok(program) => Some(program),
            Err(e) => {
                let text = format!("device rules are not enforced (CONFIG_CGROUP_BPF): {}", describe(&e));
                self.log("warning", &text);
                None
            }
        }
    }

    pub fn retire(&mut self, cell: Cell) {
        cell.cgroup.kill();
        self.cells.leaving.insert(cell.pid, cell.cgroup);
    }

    /// A process has ended that is nobody's. If it was a cell's, what is left of that goes as well.
    pub fn cell_ended(&mut self, pid: Pid) {
        let spare = self.cells.spare.take_if(|spare| spare.pid == pid).map(|spare| spare.cgroup);
        if let Some(cgroup) = spare.or_else(|| self.cells.leaving.remove(&pid)) {
            if let Err(e) = cgroup.remove() {
                self.log("warning", &format!("the cgroup of a spare cell stays: {e}"));
            }
        }
    }
}

/// The cell's process, and the socket by which it gets its order.
fn start(shape: &Shape, namespaces: Namespaces, cgroup: &Cgroup) -> Result<(Pid, OwnedFd)> {
    let (sync, theirs) = sys::seqpacket_pair().context(|| "cannot make a socket".into())?;
    let mut keep = vec![theirs.as_raw_fd()];
    keep.extend(namespaces.join.iter().map(|(namespace, _)| namespace.as_raw_fd()));
    let Namespaces { clone_flags, unshare, join, pid } = namespaces;
    let pid = in_pid_namespace(pid.as_ref(), || {
        sys::clone_into(clone_flags, cgroup.folder(), &keep, move || launch::run_init(shape, unshare, &join, &theirs))
    })?;
    Ok((pid, sync))
}
