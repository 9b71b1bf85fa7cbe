//! Requests about the sandbox itself (docs/agent-protocol.md section 5.1).

use crate::agent::{After, Agent, Ticket, Timer};
use crate::error::{Context, Error, Result};
use crate::growth;
use crate::launch::sysctls;
use crate::messages::{self, base64, Configure, Interface, Nothing, Size};
use crate::network::{self, Device, Progress};
use crate::rootfs::{self, Held};
use crate::sys;
use serde_json::value::RawValue;
use serde_json::{json, Value};
use std::fs;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

const MIN_ENTROPY_BYTES: usize = 32;
const MAX_ENTROPY_BYTES: usize = 4_096;
/// How long a card may take to appear (hot-plug).
const CARDS_DEADLINE: Duration = Duration::from_secs(2);
const CARDS_POLL: Duration = Duration::from_millis(5);
/// How long killed processes may take to be gone before file systems are unmounted under them.
const KILL_DEADLINE_MS: u64 = 2_000;
/// How long the answer to a shutdown may take to reach the host.
const FAREWELL: Duration = Duration::from_millis(500);

/// A configuration whose cards are not there yet.
pub struct Connecting {
    ticket: Ticket,
    wanted: Vec<Interface>,
    began: Instant,
}

impl Agent {
    /// `None` when `method` is not the sandbox's.
    pub fn sandbox_request(
        &mut self,
        method: &str,
        params: Option<&RawValue>,
        ticket: Ticket,
    ) -> Option<Result<Option<Value>>> {
        let nothing = || messages::params::<Nothing>(method, params);
        Some(match method {
            "sandbox.ping" => nothing().map(|_| Some(json!({"time_ns": sys::now_ns()}))),
            "sandbox.state" => nothing().map(|_| Some(self.state())),
            "sandbox.configure" => self.configure(params, ticket),
            "sandbox.resize" => self.resize_sandbox(params, ticket),
            "sandbox.shutdown" => nothing().map(|_| {
                self.shutdown(ticket);
                None
            }),
            _ => return None,
        })
    }

    fn state(&self) -> Value {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let bytes = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1_024
        };
        json!({
            "containers": self.containers.keys().filter_map(|id| self.container_state(id)).collect::<Vec<_>>(),
            "uptime_ns": sys::uptime_ns(),
            "kernel": self.kernel,
            "memory": {"total_bytes": bytes("MemTotal"), "available_bytes": bytes("MemAvailable")},
        })
    }

    fn configure(&mut self, params: Option<&RawValue>, ticket: Ticket) -> Result<Option<Value>> {
        let wanted: Configure = messages::params("sandbox.configure", params)?;
        let entropy = wanted.entropy.as_deref().map(base64).transpose()?;
        if entropy.as_ref().is_some_and(|e| !(MIN_ENTROPY_BYTES..=MAX_ENTROPY_BYTES).contains(&e.len())) {
            return Err(Error::InvalidArgument("sandbox.configure: entropy must be 32 to 4096 bytes".into()));
        }
        if wanted.machine_id.as_ref().is_some_and(|m| m.len() != 32 || !m.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(Error::InvalidArgument("sandbox.configure: machine_id must be 32 hex digits".into()));
        }
        network::check(wanted.interfaces.as_deref().unwrap_or_default())?;
        if wanted.interfaces.is_some() && self.connecting.is_some() {
            return Err(Error::Conflict("sandbox.configure: an earlier one is still at the interfaces".into()));
        }
        apply(&wanted, entropy.as_deref())?;
        let Some(interfaces) = wanted.interfaces else { return Ok(Some(json!({}))) };
        self.connecting = Some(Connecting { ticket, wanted: interfaces, began: Instant::now() });
        self.connect();
        Ok(None)
    }

    /// One step of what is left of a configuration. It ends in an answer, or comes back here.
    pub fn connect(&mut self) {
        let Some(connecting) = &self.connecting else { return };
        let (ticket, late) = (connecting.ticket, connecting.began.elapsed() > CARDS_DEADLINE);
        let result = match self.network.configure(&connecting.wanted) {
            Ok(Progress::Done) => Ok(()),
            Ok(Progress::TooFew) if !late => return self.set_timer_once(CARDS_POLL, Timer::Cards),
            Ok(Progress::TooFew) => {
                let text = format!("there is no card for each of {} interfaces after 2 s", connecting.wanted.len());
                Err(Error::NotFound(text))
            }
            // A container that has every card in use again at once is not run after for ever.
            Ok(Progress::Park(_)) if late => Err(Error::Conflict("the cards are in use by a container".into())),
            Ok(Progress::Park(devices)) => return self.park(devices, false),
            Ok(Progress::ParkLast(devices)) => return self.park(devices, true),
            Err(error) => Err(error),
        };
        self.connecting = None;
        self.answer(ticket, result.map(|()| json!({})));
    }

    fn park(&mut self, devices: Vec<Device>, last: bool) {
        let job = devices.clone();
        let started = self.run_job(After::Parked(devices, last), &[], move || job.iter().try_for_each(Device::park));
        if let Err(error) = started {
            self.parked(Vec::new(), last, Err(error));
        }
    }

    pub fn parked(&mut self, devices: Vec<Device>, last: bool, result: Result<()>) {
        // One that could not be parked is there still; bringing it back does nothing then.
        self.network.parked(devices);
        match result {
            Ok(()) if !last => self.connect(),
            result => {
                if let Some(connecting) = self.connecting.take() {
                    self.answer(connecting.ticket, result.map(|()| json!({})));
                }
            }
        }
    }

    /// At least this many processors and this much memory, which the host has plugged in or is plugging in.
    fn resize_sandbox(&mut self, params: Option<&RawValue>, ticket: Ticket) -> Result<Option<Value>> {
        let wanted: Size = messages::params("sandbox.resize", params)?;
        growth::check(&wanted)?;
        let share = self.kernel_share_bytes;
        if let Some(reached) = growth::reached(&wanted, share) {
            return Ok(Some(reached));
        }
        self.run_job(After::Answer(ticket), &[], move || growth::grow(&wanted, share))?;
        Ok(None)
    }

    fn shutdown(&mut self, ticket: Ticket) {
        self.stopping = true;
        // Everything but this process and the kernel's own.
        let _ = sys::kill(-1, libc::SIGKILL);
        self.quiet_ticks = 0;
        self.set_timer(Duration::from_millis(1), Timer::Shutdown(ticket));
    }

    /// Called until every process is gone or has had its time.
    pub fn unmount_all(&mut self, ticket: Ticket) {
        self.quiet_ticks += 1;
        if !self.by_pid.is_empty() && self.quiet_ticks < KILL_DEADLINE_MS {
            self.set_timer(Duration::from_millis(1), Timer::Shutdown(ticket));
            return;
        }
        let (mut held, disks) = self.surrender();
        let keep: Vec<RawFd> = held.iter().flat_map(Held::numbers).collect();
        let started = self.run_job(After::Unmounted(ticket), &keep, move || {
            let last = held.pop();
            held.into_iter().try_for_each(|held| rootfs::dismantle(Some(held), &[]))?;
            rootfs::dismantle(last, &disks)
        });
        if let Err(error) = started {
            self.unmounted(ticket, Err(error));
        }
    }

    pub fn unmounted(&mut self, ticket: Ticket, result: Result<()>) {
        self.answer(ticket, result.map(|()| json!({})));
        self.set_timer(FAREWELL, Timer::PowerOff);
        self.farewell = true;
    }
}

/// Sets what the request names but the interfaces. None of it waits.
fn apply(wanted: &Configure, entropy: Option<&[u8]>) -> Result<()> {
    // Random numbers and time first: what follows may use both.
    if let Some(entropy) = entropy {
        sys::add_entropy(entropy).context(|| "cannot add entropy".into())?;
    }
    if let Some(ns) = wanted.time_ns {
        sys::set_clock(ns).context(|| "cannot set the clock".into())?;
    }
    if let Some(name) = &wanted.hostname {
        sys::sethostname(name).context(|| format!("cannot set the hostname to {name:?}"))?;
    }
    if let Some(id) = &wanted.machine_id {
        fs::write("/etc/machine-id", format!("{id}\n")).context(|| "cannot write the machine id".into())?;
    }
    sysctls(&wanted.sysctls)
}
