//! hyper-agent: PID 1 of a sandbox. It boots the guest (`boot`), speaks docs/agent-protocol.md with the host (`link`), and
//! runs containers (`containers`, `processes`). One thread, one epoll loop (`agent`); what may wait for a device runs in a
//! forked child (`jobs`), so a ping is always answered.

mod agent;
mod boot;
mod capabilities;
mod cgroup;
mod containers;
mod devices;
mod error;
mod frames;
mod jobs;
mod launch;
mod link;
mod messages;
mod mounts;
mod network;
mod paths;
mod processes;
mod rootfs;
mod sandbox;
mod seccomp;
mod spec;
mod streams;
mod sys;
mod syscalls;
mod users;

fn main() {
    if std::process::id() != 1 {
        println!("hyper-agent {}: runs as PID 1 of a sandbox only", env!("CARGO_PKG_VERSION"));
        std::process::exit(if std::env::args().any(|a| a == "--version") { 0 } else { 2 });
    }
    let ended = boot::boot().and_then(|machine| agent::Agent::new(machine)?.run());
    if let Err(error) = ended {
        eprintln!("hyper-agent: {error}");
    }
    sys::power_off();
}
