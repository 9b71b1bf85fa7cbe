//! hyper-agent: PID 1 of a sandbox. It boots the guest (`boot`), speaks docs/agent-protocol.md with the host (`link`), and
//! runs containers (`containers`, `processes`). One thread, one epoll loop (`agent`); what may wait for a device runs in a
//! forked child (`jobs`), so a ping is always answered.

mod agent;
mod boot;
mod capabilities;
mod cells;
mod cgroup;
mod containers;
mod copy_up;
mod devices;
mod error;
mod files;
mod frames;
mod growth;
mod jobs;
mod launch;
mod link;
mod listing;
mod messages;
mod mounts;
mod network;
mod orders;
mod paths;
mod processes;
mod rehearsal;
mod rootfs;
mod sandbox;
mod seccomp;
mod shape;
mod shares;
mod skeleton;
mod spec;
mod streams;
mod sys;
mod syscalls;
mod users;

fn main() {
    // Before the process id, because a container's init process has the same.
    if std::env::args().nth(1).as_deref() == Some("--rehearse") {
        std::process::exit(rehearsal::run());
    }
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
