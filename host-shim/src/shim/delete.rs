//! The `delete` command: called when a shim is gone, after a crash or an orderly end, or given up. It kills what a dead
//! shim left, removes its files, and tells the true exit status. It never touches volumes, logs or TPM state, but
//! for taking that back from the user that its TPM ran as, and a second call finds nothing to do.
//!
//! A shim that lives is not ended here: it goes on for the other containers of its pod, or sees by itself that it is
//! not needed any more. One that stands still or hangs sees nothing, and is killed.

use std::{
    env, fs, io, iter,
    path::Path,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use containerd_shim_protos::{
    api::DeleteResponse,
    protobuf::{Message, well_known_types::timestamp::Timestamp},
};
use rustix::{
    io::retry_on_intr,
    net::sockopt,
    process::{PidfdFlags, Signal, pidfd_open},
};
use serde::Deserialize;
use thiserror::Error;
use tokio::{runtime, time::timeout};

use super::{cli::Target, state_file::Left};
use crate::{
    cgroup,
    config::Config,
    containerd::{shim::Address, task::TaskClient},
    kept, management,
    names::ContainerId,
    net,
    paths::{InstancePaths, Paths},
    sandbox::ExitRecord,
    sockets::connect_at_once,
    spec::Bundle,
    sys, tpm,
    vmm::{VmmKind, users},
};

/// The status of a VM that a dead shim took with it.
const KILLED: u32 = 137;

/// How long killed processes are waited for.
const GONE_LIMIT: Duration = Duration::from_secs(3);

/// After so long nothing is waited for any more: containerd gives the whole command five seconds. The last threads of a large
/// machine give its memory back before they leave its control group and its TPM's state, those of its shim before its network.
const LIMIT: Duration = Duration::from_secs(4);

/// How often it is looked.
const GONE_POLL: Duration = Duration::from_millis(5);

/// How long a shim may be silent until it counts as hung. What it is asked it answers from memory, and containerd has waited for it
/// before: it calls this command for a shim that lives only when it has given that one up.
const SILENT: Duration = Duration::from_secs(2);

/// How long a shim that was killed may take to hang up on who connects to it.
const HANG_UP: Duration = Duration::from_millis(100);

/// Why the answer could not be given.
#[derive(Debug, Error)]
pub enum DeleteError {
    /// The working directory.
    #[error("the working directory cannot be read")]
    Directory(#[source] io::Error),
    /// The answer.
    #[error("the answer cannot be encoded")]
    Encode(#[source] containerd_shim_protos::protobuf::Error),
}

#[derive(Debug, Deserialize)]
struct PidEntry {
    name: String,
    pid: u32,
    start: Option<u64>,
}

/// Cleans up, and returns the `DeleteResponse` to print. Blocks for [`LIMIT`] at the most, and whatever the host's disk takes.
pub fn run(target: &Target) -> Result<Vec<u8>, DeleteError> {
    run_from(target, Instant::now())
}

/// As if it had begun at `begun`: what there is to wait for has one end for all of it.
fn run_from(target: &Target, begun: Instant) -> Result<Vec<u8>, DeleteError> {
    let bundle = match &target.bundle {
        Some(bundle) => bundle.clone(),
        None => env::current_dir().map_err(DeleteError::Directory)?,
    };
    let (config, socket, member) = match Left::read(&bundle) {
        Ok(Left {
            config,
            socket,
            member,
        }) => (Config::from(config), Some(socket), member),
        Err(_) => (Config::load(None).unwrap_or_default(), None, None),
    };
    let folders = Paths::new(&config);
    let paths = |id: &ContainerId| kept::paths(folders.instance(&target.namespace, id));
    // Only a name is taken for one.
    let member = member.and_then(|id| id.parse().ok());
    let instances: Vec<_> = iter::once(&target.id).chain(&member).map(paths).collect();
    let pids: Vec<_> = instances.iter().map(read_pids).collect();
    let (gone, until) = (begun + GONE_LIMIT, begun + LIMIT);
    // The VMM before its daemons, and the shim not at all: if it lives, it is not ours to end here. They end while it is asked.
    let killed = kill(pids.iter().flatten().filter(|entry| !is_shim(entry)));
    let stuck = socket.as_deref().and_then(|socket| stuck(socket, SILENT));
    let killed = [killed, kill(&stuck)].concat();
    wait_for_end(&killed, gone);
    for paths in &instances {
        tpm::reclaim(paths, until);
        while !cgroup::forget(paths) && Instant::now() < until {
            sleep(GONE_POLL);
        }
        remove(paths);
    }
    // A pod's shim goes on when one container of it is gone, and its wires are its own. One that was killed may take its time to be
    // gone, and serves nobody any more.
    if let Some(socket) = socket.filter(|socket| stuck.is_some() || !is_served(socket, HANG_UP)) {
        let _ = fs::remove_file(socket);
        unwire(&bundle, until);
    }
    let ended = ended(&bundle, &pids[0]);
    ended.write_to_bytes().map_err(DeleteError::Encode)
}

/// How the instance of this bundle ended, as it has told itself, or as whoever is killed.
fn ended(bundle: &Path, pids: &[PidEntry]) -> DeleteResponse {
    let vmm = pids
        .iter()
        .find(|entry| VmmKind::is_name(&entry.name))
        .map(|entry| entry.pid);
    match ExitRecord::read(bundle) {
        Some(record) => DeleteResponse {
            pid: record.pid,
            exit_status: record.status,
            exited_at: Some(Timestamp::from(record.at())).into(),
            ..DeleteResponse::default()
        },
        None => DeleteResponse {
            pid: vmm.unwrap_or_default(),
            exit_status: KILLED,
            exited_at: Some(Timestamp::from(SystemTime::now())).into(),
            ..DeleteResponse::default()
        },
    }
}

fn read_pids(paths: &InstancePaths) -> Vec<PidEntry> {
    let read = fs::read(paths.pids()).ok();
    read.and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// Kills what the instance runs, and then its shim, which is stuck: the one that is written down, and `listener`, who
/// listens on its socket. Whether they are all gone. What a shim runs that is not written down yet dies with it.
pub(crate) fn kill_with_shim(paths: &InstancePaths, listener: Option<u32>) -> bool {
    let (mut shim, others): (Vec<_>, Vec<_>) = read_pids(paths).into_iter().partition(is_shim);
    shim.extend(listener.map(shim_of));
    for pids in [&others, &shim] {
        wait_for_end(&kill(pids), Instant::now() + GONE_LIMIT);
    }
    !shim.is_empty() && !others.iter().chain(&shim).any(is_alive)
}

/// Who listens on a shim's socket (unix(7), `SO_PEERCRED`).
pub(crate) fn listener(socket: &Path) -> Option<u32> {
    let stream = connect_at_once(socket).ok()?;
    let peer = sockopt::socket_peercred(stream).ok()?;
    // A server in this very process is no shim of its own.
    let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).ok()?;
    (pid != std::process::id()).then_some(pid)
}

/// The shim that listens on this socket, if it is stopped or says nothing for so long.
fn stuck(socket: &Path, silent: Duration) -> Option<PidEntry> {
    let is_stuck = |entry: &PidEntry| sys::is_stopped(entry.pid) || is_silent(socket, silent);
    listener(socket).map(shim_of).filter(is_stuck)
}

/// Whether whoever listens on this socket leaves a call without an answer for so long. A refusal is an answer, and who hangs up
/// is about to end.
fn is_silent(socket: &Path, limit: Duration) -> bool {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return false };
    let address = Address {
        socket: socket.to_owned(),
        version: 2,
    };
    let asked = runtime.block_on(async {
        timeout(limit, async {
            // Whatever is said, it is said.
            if let Ok(client) = TaskClient::connect(&address).await {
                let _ = client.state("").await;
            }
        })
        .await
    });
    asked.is_err()
}

fn shim_of(pid: u32) -> PidEntry {
    PidEntry {
        name: "shim".into(),
        pid,
        start: sys::start_time(pid),
    }
}

fn is_shim(entry: &PidEntry) -> bool {
    entry.name == "shim"
}

fn is_alive(entry: &PidEntry) -> bool {
    entry.start.is_some() && sys::start_time(entry.pid) == entry.start
}

/// Kills the processes of the list that are still the same ones. Those that it has killed are still to end.
fn kill<'a>(pids: impl IntoIterator<Item = &'a PidEntry>) -> Vec<&'a PidEntry> {
    let pids: Vec<_> = pids.into_iter().filter(|entry| is_alive(entry)).collect();
    for entry in &pids {
        let fd = sys::pid(entry.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at again: the pidfd now names whatever process has the pid.
        if let Some(fd) = fd.filter(|_| is_alive(entry)) {
            let _ = sys::signal(fd, Signal::KILL);
        }
    }
    pids
}

fn wait_for_end(pids: &[&PidEntry], until: Instant) {
    while pids.iter().any(|entry| is_alive(entry)) && Instant::now() < until {
        sleep(GONE_POLL);
    }
}

fn remove(paths: &InstancePaths) {
    let socket = paths.management_socket();
    let _ = fs::remove_file(management::hidden(&socket));
    let _ = fs::remove_file(socket);
    let _ = fs::remove_file(paths.kept_name());
    let _ = fs::remove_dir_all(paths.vm_dir());
    users::sweep(paths.users_dir());
    // Empty once its shim is gone; never with content.
    let _ = fs::remove_dir(paths.share_dir());
    // Only if nothing else is in it.
    let _ = fs::remove_dir(paths.run_dir());
}

/// Takes a dead shim's redirections off the pod's links. After an orderly end there are none. The network may be gone, as may be
/// the bundle's file.
fn unwire(bundle: &Path, until: Instant) {
    let bundle = Bundle::read(bundle).ok();
    if let Some(network) = bundle.and_then(|bundle| bundle.network_namespace) {
        let _ = net::sweep(&network, until);
    }
}

/// Whether a shim listens there. One that was killed loses its connections before its socket, so it may be about to lose that one
/// only now: whoever has just connected is hung up on then.
fn is_served(socket: &Path, hang_up: Duration) -> bool {
    let heard = connect_at_once(socket).and_then(|stream| {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(hang_up))?;
        // With a time limit the kernel starts no read again that a signal woke (signal(7)).
        Ok(retry_on_intr(|| rustix::io::read(&stream, &mut [0_u8]))?)
    });
    // Nothing is said, or so many wait that there is no room for another one.
    heard.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::{
            fs::{MetadataExt, chown},
            net::UnixListener,
        },
        path::PathBuf,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::{names::Namespace, shim::state_file::StateFile, sockets};

    #[test]
    fn a_socket_is_served_until_its_server_hangs_up() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("task.sock");
        let server = UnixListener::bind(&socket).unwrap();
        assert!(is_served(&socket, Duration::from_millis(1)));
        // It ends when somebody has connected: first the one above, then the one below.
        let ends = std::thread::spawn(move || {
            let _callers = [server.accept().unwrap(), server.accept().unwrap()];
            // A child that another test is just starting may have a copy of the listener.
            rustix::net::shutdown(&server, rustix::net::Shutdown::Both).unwrap();
        });
        assert!(!is_served(&socket, Duration::from_secs(60)));
        ends.join().unwrap();
        assert!(!is_served(&socket, HANG_UP));
        let full = dir.path().join("full.sock");
        let _waits = sockets::tests::full(&full);
        assert!(is_served(&full, Duration::from_secs(60)) && listener(&full).is_none());
    }

    #[test]
    fn who_takes_no_call_is_silent_and_who_hangs_up_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("task.sock");
        assert!(!is_silent(&socket, Duration::from_secs(60)));
        let server = UnixListener::bind(&socket).unwrap();
        assert!(is_silent(&socket, Duration::from_millis(50)));
        // First the one above is let in, then the one below.
        let ends = std::thread::spawn(move || {
            let _callers = [server.accept().unwrap(), server.accept().unwrap()];
        });
        assert!(!is_silent(&socket, Duration::from_secs(60)));
        ends.join().unwrap();
    }

    /// A user as whom a TPM may run.
    const TPM_USER: u32 = 1_879_048_193;

    /// The bundle in `dir`, its shim's configuration, and for what `delete` is called.
    fn bench(dir: &Path) -> (PathBuf, Config, Target) {
        let bundle = dir.join("bundle");
        fs::create_dir(&bundle).unwrap();
        let config = Config {
            run_dir: dir.join("run"),
            state_dir: dir.join("state"),
            ..Config::default()
        };
        let target = Target {
            namespace: Namespace::try_from("default").unwrap(),
            id: ContainerId::try_from("demo").unwrap(),
            address: String::new(),
            bundle: Some(bundle.clone()),
            debug: false,
        };
        (bundle, config, target)
    }

    #[test]
    fn all_waits_have_one_end() {
        if !sys::identity::can_switch() {
            let text = "SKIPPED all_waits_have_one_end: another user's files need root\n";
            io::stderr().write_all(text.as_bytes()).unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (bundle, config, target) = bench(dir.path());
        let paths = Paths::new(&config).instance(&target.namespace, &target.id);
        // Somebody else still has it, for which a machine that starts waits three seconds.
        let held = tpm::StateDir::lock(&paths).unwrap();
        chown(paths.tpm_dir(), Some(TPM_USER), None).unwrap();
        fs::create_dir_all(paths.vm_dir()).unwrap();
        let state = StateFile {
            config,
            socket: dir.path().join("task.sock"),
            member: None,
        };
        state.write(&bundle).unwrap();
        let now = Instant::now();
        run_from(&target, now.checked_sub(LIMIT).unwrap()).unwrap();
        assert!(now.elapsed() < GONE_LIMIT, "{:?}", now.elapsed());
        assert_eq!(fs::metadata(paths.tpm_dir()).unwrap().uid(), TPM_USER);
        assert!(!paths.vm_dir().exists());
        drop(held);
    }

    #[test]
    fn what_a_dead_shim_left_is_removed_and_a_second_call_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, config, target) = bench(dir.path());
        let paths = Paths::new(&config).instance(&target.namespace, &target.id);
        let app = ContainerId::try_from("app").unwrap();
        let app = Paths::new(&config).instance(&target.namespace, &app);
        let socket = dir.path().join("task.sock");
        fs::create_dir_all(paths.vm_dir()).unwrap();
        fs::create_dir_all(app.vm_dir()).unwrap();
        fs::create_dir_all(paths.tpm_dir()).unwrap();
        fs::write(paths.kept_name(), "prod_web-0_app").unwrap();
        fs::write(management::hidden(&app.management_socket()), "").unwrap();
        let kept = paths.clone().kept_as("prod_web-0_app");
        fs::create_dir_all(kept.tpm_dir()).unwrap();
        if sys::identity::can_switch() {
            chown(kept.tpm_dir(), Some(TPM_USER), None).unwrap();
        }
        fs::write(&socket, "").unwrap();
        StateFile {
            config,
            socket: socket.clone(),
            member: Some("app".into()),
        }
        .write(&bundle)
        .unwrap();
        let sleep = || {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).spawn().unwrap()
        };
        let (mut left, mut of_app, mut other) = (sleep(), sleep(), sleep());
        let start = sys::start_time(of_app.id());
        let entries = serde_json::json!([{"name": "qemu", "pid": of_app.id(), "start": start}]);
        fs::write(app.pids(), entries.to_string()).unwrap();
        let entries = serde_json::json!([
            {"name": "qemu", "pid": left.id(), "start": sys::start_time(left.id())},
            {"name": "swtpm", "pid": other.id(), "start": 1},
        ]);
        fs::write(paths.pids(), entries.to_string()).unwrap();

        let first = DeleteResponse::parse_from_bytes(&run(&target).unwrap()).unwrap();
        assert_eq!((first.exit_status, first.pid), (KILLED, left.id()));
        assert!(!left.wait().unwrap().success() && !of_app.wait().unwrap().success());
        assert_eq!(
            other.try_wait().unwrap(),
            None,
            "a pid of somebody else was killed"
        );
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(!paths.run_dir().exists() && !app.run_dir().exists() && !socket.exists());
        assert!(paths.tpm_dir().exists());
        let owner = fs::metadata(kept.tpm_dir()).unwrap().uid();
        assert_eq!(owner, rustix::process::geteuid().as_raw());
        run(&target).unwrap();
    }
}
