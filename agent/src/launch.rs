//! The child's side of starting a process: from the clone to execve. A cell's process makes what it can without knowing the
//! container, waits for its order and sets the container up (root, mounts, user), then waits for its start; an exec enters
//! a running container. It talks with the agent over one seqpacket socket: "O" + order (`orders`) comes, "R" (ready; beside
//! it what `Held` says, and a terminal's master) or "E" + error goes, "S" (start; an exec does not wait) comes. The socket
//! closes on exec, so its end means that the program runs. `processes` and `cells` are the agent's side.

use crate::capabilities::{self, Sets};
use crate::devices;
use crate::error::{describe, Context, Error, Result};
use crate::mounts::{self, Null};
use crate::network;
use crate::orders::{self, Order};
use crate::paths;
use crate::rootfs::{self, Held};
use crate::seccomp::Filter;
use crate::shape::Shape;
use crate::shares;
use crate::skeleton::Skeleton;
use crate::spec;
use crate::sys;
use crate::users::{self, Identity};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

pub const ORDER: u8 = b'O';
pub const READY: u8 = b'R';
pub const FAILED: u8 = b'E';
pub const START: u8 = b'S';
/// Of a program.
const READ_AHEAD_BYTES: u64 = 2 * 1024 * 1024;
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The process of the spec with everything parsed that can fail early.
pub struct Program {
    pub process: spec::Process,
    pub capabilities: Sets,
    pub seccomp: Option<Rc<Filter>>,
}

impl Program {
    /// Everything about a process that can be wrong is found here, before anything is made for it.
    pub fn check(process: spec::Process, seccomp: Option<Rc<Filter>>) -> Result<Self> {
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
        Ok(Program { process, capabilities, seccomp })
    }
}

/// The child's ends of its stdio; none of them with a terminal.
pub struct Ends {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Ends {
    pub fn numbers(&self) -> Vec<RawFd> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().flatten().map(AsRawFd::as_raw_fd).collect()
    }
}

/// Resource limits by name, checked before anything is started.
pub fn rlimit(kind: &str) -> Option<u32> {
    let number = match kind {
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        _ => return None,
    };
    Some(number)
}

fn report(sync: &OwnedFd, error: Error) -> i32 {
    let error = error.cut();
    let mut text = vec![FAILED];
    text.extend_from_slice(serde_json::to_string(&error).unwrap_or_default().as_bytes());
    let _ = sys::send_message(sync, &text, &[]);
    // What Docker shows when the message is lost: 127 not found, 126 cannot be run.
    if matches!(error, Error::NotFound(_)) {
        127
    } else {
        126
    }
}

/// A cell's process, which becomes the init process of a container; returns only when it fails or is not wanted.
pub fn run_init(shape: &Shape, unshare: i32, join: &[(OwnedFd, i32)], sync: &OwnedFd) -> i32 {
    let (skeleton, namespace) = match furnish(unshare, join, shape) {
        Ok(made) => made,
        Err(error) => return report(sync, error),
    };
    let (order, ends, filter) = match orders::await_one(sync) {
        Ok(Some(got)) => got,
        Ok(None) => return 0,
        Err(error) => return report(sync, error),
    };
    let prepared = || -> Result<(Program, Identity, Held, Option<OwnedFd>)> {
        let program = Program::check(order.process.clone(), filter.map(Rc::new))?;
        set_oom_score(program.process.oom_score_adj.unwrap_or(0));
        let null = build(shape, &skeleton, &order)?;
        let root = fs::File::open("/").context(|| "cannot open the root".into())?.into();
        let identity = users::resolve_here(&program.process.user)?;
        make_cwd(&program.process.cwd)?;
        let terminal = connect(&program, ends, null, &identity)?;
        if terminal.is_some() {
            bind_console()?;
        }
        if order.readonly {
            sys::set_readonly("/").context(|| "cannot make the root read-only".into())?;
        }
        Ok((program, identity, Held { root, namespace: Some(namespace) }, terminal))
    };
    match prepared() {
        Ok((program, identity, held, terminal)) => {
            if !tell_ready(sync, Some(held), terminal) {
                return 1;
            }
            read_ahead(&program, &identity);
            if !wait_for_start(sync) {
                return 1;
            }
            report(sync, become_program(&program, &identity))
        }
        Err(error) => report(sync, error),
    }
}

/// All that needs no order.
fn furnish(unshare: i32, join: &[(OwnedFd, i32)], shape: &Shape) -> Result<(Skeleton, OwnedFd)> {
    set_oom_score(0);
    sys::setsid();
    sys::new_session_keyring();
    sys::umask(0);
    if unshare != 0 {
        sys::unshare(unshare).context(|| "cannot make the container's namespaces".into())?;
    }
    for (namespace, kind) in join {
        sys::setns(namespace, *kind).context(|| "cannot join a namespace".into())?;
    }
    if shape.has_own_network() {
        network::loopback_up()?;
    }
    sys::mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE, "").context(|| "cannot make mounts private".into())?;
    rootfs::make_place_for_files()?;
    let skeleton = Skeleton::build(shape)?;
    let namespace = fs::File::open("/proc/self/ns/mnt").context(|| "cannot open the mount namespace".into())?;
    Ok((skeleton, namespace.into()))
}

/// A process beside a running init. The PID namespace and the cgroup were entered by the clone.
pub fn run_exec(join: &[(OwnedFd, i32)], program: &Program, ends: Ends, sync: &OwnedFd) -> i32 {
    let prepared = || -> Result<(Identity, Option<OwnedFd>)> {
        set_oom_score(program.process.oom_score_adj.unwrap_or(0));
        sys::setsid();
        sys::new_session_keyring();
        sys::umask(0);
        let null = open_null()?;
        for (namespace, kind) in join {
            sys::setns(namespace, *kind).context(|| "cannot enter the container's namespaces".into())?;
        }
        std::env::set_current_dir("/").context(|| "cannot enter the container's root".into())?;
        let identity = users::resolve_here(&program.process.user)?;
        let terminal = connect(program, ends, null, &identity)?;
        Ok((identity, terminal))
    };
    match prepared() {
        Ok((identity, terminal)) => {
            if !tell_ready(sync, None, terminal) {
                return 1;
            }
            report(sync, become_program(program, &identity))
        }
        Err(error) => report(sync, error),
    }
}

fn tell_ready(sync: &OwnedFd, held: Option<Held>, terminal: Option<OwnedFd>) -> bool {
    let held = held.as_ref().map(|held| [Some(&held.root), held.namespace.as_ref()]);
    let passed = held.into_iter().flatten().chain([terminal.as_ref()]).flatten().map(AsFd::as_fd);
    sys::send_message(sync, &[READY], &passed.collect::<Vec<_>>()).is_ok()
}

fn wait_for_start(sync: &OwnedFd) -> bool {
    let mut byte = [0];
    loop {
        match sys::read(sync, &mut byte) {
            Ok(1) => return byte[0] == START,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}

/// The agent itself can never be the victim; what it starts can.
pub fn set_oom_score(score: i32) {
    let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
}

fn open_null() -> Result<OwnedFd> {
    let file = fs::OpenOptions::new().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from).context(|| "cannot open /dev/null".into())
}

// -- the container ------------------------------------------------------------------------------------------------

/// From the sandbox's root to the finished container; returns the sandbox's /dev/null.
fn build(shape: &Shape, skeleton: &Skeleton, order: &Order) -> Result<OwnedFd> {
    names(shape, order)?;
    sysctls(&order.sysctl)?;
    rootfs::check_files(&order.files)?;
    let rest = &shape.mounts[skeleton.mounts..];
    if let Some(tag) = &order.share {
        shares::mount(tag)?;
    }
    rootfs::assemble(&order.rootfs, &order.files, &mount_points(shape, order), order.ephemeral)?;
    skeleton.move_into(rootfs::ROOT)?;
    let (devices, _) = devices::look_up(&order.devices)?;

    // What was protected or hidden under a mount that is yet to come.
    let later: Vec<&str> = rest
        .iter()
        .map(|m| &m.destination)
        .chain(order.files.iter().map(|f| &f.path))
        .chain(devices.iter().map(|d| &d.path))
        .map(String::as_str)
        .collect();
    let uncovered = |path: &&String| !skeleton.has_covered(path, &later);
    let readonly: Vec<&String> = shape.readonly_paths.iter().filter(uncovered).collect();
    let masked: Vec<&String> = shape.masked_paths.iter().filter(uncovered).collect();

    let null = open_null()?;
    let clone_null = |_: &&String| sys::open_tree("/dev/null", false).context(|| "cannot clone /dev/null".into());
    let masks = masked.iter().map(clone_null).collect::<Result<Vec<_>>>()?;
    let prepared = mounts::open_sources(rest)?;
    let clone_file = |index| {
        let path = rootfs::injected(index);
        sys::open_tree(&path, false).context(|| format!("cannot clone {path}"))
    };
    let files = (0..order.files.len()).map(clone_file).collect::<Result<Vec<_>>>()?;

    std::env::set_current_dir(rootfs::ROOT).context(|| "cannot enter the root file system".into())?;
    sys::pivot_here().context(|| "cannot make the root file system the root".into())?;

    // From here on no path leads out of the container.
    for mount in &prepared {
        mount.make()?;
    }
    if !skeleton.has("/dev") || rest.iter().any(|mount| mount.destination == "/dev") {
        paths::make_folder(Path::new("/dev")).context(|| "cannot make /dev".into())?;
        devices::populate("/dev")?;
    }
    devices::make(&devices)?;
    if shape.mounts.iter().any(mounts::makes_dev_readonly) {
        sys::set_readonly("/dev").context(|| "cannot make /dev read-only".into())?;
    }
    for (tree, file) in files.iter().zip(&order.files) {
        mounts::attach(tree, &file.path)?;
    }
    if let Some(word) = order.propagation.as_deref().filter(|w| !w.is_empty()) {
        let flags = mounts::propagation(word)
            .ok_or_else(|| Error::InvalidArgument(format!("rootfsPropagation: unknown word {word:?}")))?;
        sys::mount("", "/", "", flags, "").context(|| "cannot set the root's propagation".into())?;
    }
    for path in readonly {
        mounts::make_readonly(path)?;
    }
    for (path, null) in masked.iter().zip(&masks) {
        mounts::mask(path, &Null::Taken(null))?;
    }
    Ok(null)
}

/// Paths that must be in the root file system.
fn mount_points(shape: &Shape, order: &Order) -> Vec<String> {
    let cwd = Some(order.process.cwd.clone()).filter(|cwd| !cwd.is_empty());
    let mounts = shape.mounts.iter().map(|m| m.destination.clone());
    // What lies in a mount to come is made there, not in the image.
    let inside = |path: &String| shape.mounts.iter().any(|m| path.starts_with(&format!("{}/", m.destination)));
    mounts.chain(["/dev".to_string()]).chain(cwd).filter(|path| !inside(path)).collect()
}

fn names(shape: &Shape, order: &Order) -> Result<()> {
    if !shape.has_own_uts() && order.hostname.as_ref().is_some_and(|h| !h.is_empty()) {
        let text = "unable to set hostname without a private UTS namespace: the sandbox's is set by sandbox.configure";
        return Err(Error::InvalidArgument(text.into()));
    }
    if let Some(name) = order.hostname.as_deref().filter(|n| !n.is_empty()) {
        sys::sethostname(name).context(|| format!("cannot set the hostname to {name:?}"))?;
    }
    if let Some(name) = order.domainname.as_deref().filter(|n| !n.is_empty()) {
        sys::setdomainname(name).context(|| format!("cannot set the domain name to {name:?}"))?;
    }
    Ok(())
}

/// Writes kernel settings; a name is dotted, or slashed when a part has dots in it.
pub fn sysctls(settings: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in settings {
        let path = if name.contains('/') { name.clone() } else { name.replace('.', "/") };
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::InvalidArgument(format!("sysctl {name:?} is no name")));
        }
        fs::write(format!("/proc/sys/{path}"), value)
            .map_err(|e| Error::InvalidArgument(format!("cannot set sysctl {name} to {value:?}: {}", describe(&e))))?;
    }
    Ok(())
}

/// As Docker does, a working folder that the image lacks is made, and belongs to root.
fn make_cwd(cwd: &str) -> Result<()> {
    if cwd.is_empty() {
        return Ok(());
    }
    let path = paths::resolve(Path::new("/"), cwd)?;
    paths::make_folder(&path).map_err(|e| Error::InvalidArgument(format!("mkdir {cwd}: {}", describe(&e))))
}

// -- stdio --------------------------------------------------------------------------------------------------------

/// Makes descriptors 0, 1 and 2; with a terminal returns its master for the agent.
fn connect(program: &Program, ends: Ends, null: OwnedFd, identity: &Identity) -> Result<Option<OwnedFd>> {
    let what = || "cannot connect the process's stdio".to_string();
    if !program.process.terminal {
        let pairs = [(ends.stdin, 0), (ends.stdout, 1), (ends.stderr, 2)];
        for (end, number) in pairs {
            let end = end.as_ref();
            // A program that opens /dev/stdout again must be allowed to, as any user.
            if let Some(end) = end {
                sys::fchown(end.as_raw_fd(), identity.uid, identity.gid).context(what)?;
            }
            sys::dup_onto(end.unwrap_or(&null), number).context(what)?;
        }
        return Ok(None);
    }
    let needs = |why: &str| Error::FailedPrecondition(format!("a terminal needs devpts mounted at /dev/pts: {why}"));
    let flags = libc::O_NOCTTY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let open = fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/pts/ptmx");
    let master = open.map(OwnedFd::from).map_err(|e| needs(&describe(&e)))?;
    // The agent will read it: nothing that a container put there instead.
    let found = sys::file_kind(master.as_raw_fd()).context(what)?;
    if found.st_mode & libc::S_IFMT != libc::S_IFCHR || found.st_rdev != libc::makedev(5, 2) {
        return Err(needs("its ptmx is none"));
    }
    let slave = sys::terminal_slave(&master).context(|| "cannot open the terminal".into())?;
    if let Some(size) = program.process.console_size.filter(|s| s.height > 0 || s.width > 0) {
        sys::set_window_size(&master, size.height, size.width).context(|| "cannot set the window's size".into())?;
    }
    // The group stays devpts' own (tty).
    sys::fchown(slave.as_raw_fd(), identity.uid, u32::MAX).context(|| "cannot give the user the terminal".into())?;
    sys::set_controlling_terminal(&slave).context(|| "cannot make the terminal the controlling one".into())?;
    for number in 0..3 {
        sys::dup_onto(&slave, number).context(what)?;
    }
    Ok(Some(master))
}

/// /dev/console is the init process's terminal, which is its descriptor 0 by now: a path could be another's.
fn bind_console() -> Result<()> {
    let what = || "cannot make /dev/console".to_string();
    let tree = sys::clone_tree(0).context(what)?;
    mounts::attach(&tree, "/dev/console").map(|_| ())
}

// -- the program --------------------------------------------------------------------------------------------------

/// Drops what is to be dropped and executes; comes back only with the error.
fn become_program(program: &Program, identity: &Identity) -> Error {
    match prepare_program(program, identity) {
        Ok((path, args, env)) => {
            let error = sys::exec(&path, &args, &env);
            let shown = path.to_string_lossy();
            let text = format!("exec {shown}: {}", describe(&error));
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Error::NotFound(text),
                _ => Error::PermissionDenied(text),
            }
        }
        Err(error) => error,
    }
}

/// Has the kernel fetch the program while the host is about to start it: one large read instead of one for each part that
/// is run. What is wrong with the program is found later.
fn read_ahead(program: &Program, identity: &Identity) {
    let env = environment(&program.process.env, identity);
    let path = find_program(program.process.args.first().map_or("", |a| a), &env);
    let opened = path.ok().and_then(|path| {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        // Not a device or a FIFO, which the image may have there.
        fs::metadata(path).is_ok_and(|file| file.is_file()).then(|| fs::File::open(path).ok())?
    });
    if let Some(file) = opened {
        sys::will_need(&file, 0, READ_AHEAD_BYTES);
    }
}

type Image = (CString, Vec<CString>, Vec<CString>);

fn prepare_program(program: &Program, identity: &Identity) -> Result<Image> {
    let process = &program.process;
    let env = environment(&process.env, identity);
    for limit in &process.rlimits {
        let number =
            rlimit(&limit.kind).ok_or_else(|| Error::InvalidArgument(format!("unknown rlimit {}", limit.kind)))?;
        sys::setrlimit(number, limit.soft, limit.hard)
            .map_err(|e| Error::InvalidArgument(format!("cannot set {}: {}", limit.kind, describe(&e))))?;
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    let entered = std::env::set_current_dir(cwd);
    let what = || "cannot become the process's user".to_string();
    if process.no_new_privileges {
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context(what)?;
    } else {
        // Without no_new_privs, installing a filter takes a capability that is about to go.
        install_filter(program)?;
    }
    drop_bounding(program.capabilities.bounding).context(what)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1).context(what)?;
    sys::set_ids(identity.uid, identity.gid, &identity.groups).context(what)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0).context(what)?;
    let sets = effective_sets(program.capabilities);
    sys::capset(sets.effective, sets.permitted, sets.inheritable).context(|| "cannot set the capabilities".into())?;
    for bit in (0..=capabilities::LAST).filter(|bit| sets.ambient >> bit & 1 == 1) {
        sys::raise_ambient(bit)
            .map_err(|e| Error::InvalidArgument(format!("cannot raise an ambient capability: {}", describe(&e))))?;
    }
    if let Err(error) = entered.or_else(|_| std::env::set_current_dir(cwd)) {
        return Err(Error::InvalidArgument(format!(
            "chdir to cwd ({cwd:?}) set in config.json failed: {}",
            describe(&error)
        )));
    }
    // A folder outside the container's root has no path in it.
    if std::env::current_dir().is_err() {
        return Err(Error::PermissionDenied(format!("the working directory {cwd:?} lies outside of the container")));
    }
    sys::umask(process.user.umask.unwrap_or(0o022));
    let path = find_program(process.args.first().map_or("", |a| a), &env)?;
    let strings = |list: &[String]| {
        let text = |s: &String| {
            sys::c(s).map_err(|_| Error::InvalidArgument("an argument or variable has a NUL byte in it".into()))
        };
        list.iter().map(text).collect::<Result<Vec<_>>>()
    };
    let image = (path, strings(&process.args)?, strings(&env)?);
    sys::close_on_exec_from(3).context(|| "cannot close descriptors".into())?;
    if process.no_new_privileges {
        install_filter(program)?;
    }
    Ok(image)
}

fn install_filter(program: &Program) -> Result<()> {
    match &program.seccomp {
        Some(filter) => {
            sys::seccomp(&filter.program, filter.flags).context(|| "cannot install the seccomp filter".into())
        }
        None => Ok(()),
    }
}

/// Capabilities that the kernel does not know are left out: profiles are written for newer ones, too.
fn effective_sets(sets: Sets) -> Sets {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|t| t.trim().parse::<u32>().ok());
    let known = u64::MAX >> (63 - last.unwrap_or(capabilities::LAST).min(63));
    Sets {
        bounding: sets.bounding & known,
        effective: sets.effective & sets.permitted & known,
        inheritable: sets.inheritable & known,
        permitted: sets.permitted & known,
        ambient: sets.ambient & sets.permitted & sets.inheritable & known,
    }
}

fn drop_bounding(keep: u64) -> io::Result<()> {
    for bit in 0..64u32 {
        if keep >> bit & 1 == 1 {
            continue;
        }
        match sys::prctl(libc::PR_CAPBSET_DROP, u64::from(bit)) {
            // Past the last one that the kernel knows.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// The spec's variables, with PATH and HOME when it has none.
fn environment(given: &[String], identity: &Identity) -> Vec<String> {
    let mut env = given.to_vec();
    if !env.iter().any(|v| v.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_string());
    }
    if !env.iter().any(|v| v.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    env
}

/// The file to execute, found as Docker finds it, with its words when it is not.
fn find_program(name: &str, env: &[String]) -> Result<CString> {
    let text =
        |path: &str| sys::c(path).map_err(|_| Error::InvalidArgument("the program's name has a NUL byte in it".into()));
    if name.is_empty() {
        return Err(Error::InvalidArgument("no command specified".into()));
    }
    if name.contains('/') {
        let path = text(name)?;
        return match fs::metadata(name) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::PermissionDenied(format!("exec: {name:?}: permission denied")))
            }
            Err(e) => Err(Error::NotFound(format!("exec: {name:?}: stat {name}: {}", describe(&e)))),
            Ok(file) if file.is_dir() => Err(Error::PermissionDenied(format!("exec: {name:?}: is a directory"))),
            Ok(_) if sys::can_execute(&path).is_err() => {
                Err(Error::PermissionDenied(format!("exec: {name:?}: permission denied")))
            }
            Ok(_) => Ok(path),
        };
    }
    let folders = env.iter().rev().find_map(|v| v.strip_prefix("PATH=")).unwrap_or("");
    for folder in folders.split(':') {
        let candidate = if folder.is_empty() { format!("./{name}") } else { format!("{folder}/{name}") };
        let path = text(&candidate)?;
        if fs::metadata(&candidate).is_ok_and(|m| m.is_file()) && sys::can_execute(&path).is_ok() {
            return Ok(path);
        }
    }
    Err(Error::NotFound(format!("exec: {name:?}: executable file not found in $PATH")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { uid: 0, gid: 0, groups: vec![], home: "/root".into() }
    }

    #[test]
    fn path_and_home_are_added_only_when_missing() {
        assert_eq!(environment(&[], &identity()), [DEFAULT_PATH, "HOME=/root"]);
        let own = ["PATH=/x".to_string(), "HOME=/y".to_string()];
        assert_eq!(environment(&own, &identity()), own);
    }

    #[test]
    fn programs_are_found_or_missed_in_dockers_words() {
        let env = ["PATH=/nowhere:/bin".to_string()];
        assert_eq!(find_program("sh", &env), Ok(c"/bin/sh".into()));
        let said = |name: &str| find_program(name, &env).unwrap_err();
        assert_eq!(said("foo"), Error::NotFound("exec: \"foo\": executable file not found in $PATH".into()));
        assert_eq!(said("/foo"), Error::NotFound("exec: \"/foo\": stat /foo: no such file or directory".into()));
        assert_eq!(said("/etc/passwd"), Error::PermissionDenied("exec: \"/etc/passwd\": permission denied".into()));
        assert_eq!(said("/etc"), Error::PermissionDenied("exec: \"/etc\": is a directory".into()));
    }

    #[test]
    fn sysctl_names_cannot_leave_their_folder() {
        for bad in ["kernel/../../x", "", "a..b"] {
            assert!(sysctls(&BTreeMap::from([(bad.to_string(), "1".to_string())])).is_err(), "{bad}");
        }
    }
}
