//! The `serve` command: the shim itself. Started by [`start`](super::start) in a session of its own; it
//! listens, says so on its standard output, and lives until containerd has no more use for it.

use std::{
    fs::{self, File},
    io,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::UnixListener,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    time::sleep,
};
use ttrpc::r#async::{Server, transport::Listener};

use super::{
    cli::Target,
    events::Publisher,
    logging,
    pod::service::{Held, Pod},
    service::Service,
    state_file::{StateFile, StateFileError},
    task::Environment,
};
use crate::{
    locks,
    net::{NamespaceError, Network},
    sockets::has_listener,
    spec, sys,
    vmm::{Backends, Vmm},
};

/// The line that says "I listen".
pub(super) const READY: &str = "ready\n";

/// Open files of a shim: a dozen for each of the execs that it may have at a time, and its own.
const FILES: u64 = 16_384;

/// How long a shim may be without a task. containerd creates one right after `start`, and says Shutdown after the last.
const UNUSED: Duration = Duration::from_secs(300);

/// How often it is looked whether there is one.
const LOOK: Duration = Duration::from_secs(2);

/// How long containerd may take to hear of the end.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// Where containerd takes events.
const EVENTS_ENV: &str = "TTRPC_ADDRESS";

/// Why the shim does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// What `start` wrote.
    #[error(transparent)]
    State(#[from] StateFileError),
    /// Its own log.
    #[error("log of bundle {} cannot be opened", bundle.display())]
    Log {
        /// The bundle.
        bundle: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its own session and mounts.
    #[error("{what} failed")]
    Process {
        /// Which call.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The socket.
    #[error("task socket {} cannot be made", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host's network.
    #[error(transparent)]
    Network(#[from] NamespaceError),
    /// ttrpc refuses to start.
    #[error("task server does not start")]
    Server(#[source] ttrpc::Error),
}

/// Serves until containerd says that it is over. Must be called before any thread exists.
pub fn run(target: &Target) -> Result<(), ServeError> {
    let process = |what| move |source| ServeError::Process { what, source };
    let bundle = std::env::current_dir().map_err(process("reading the working directory"))?;
    let state = StateFile::read(&bundle)?;
    let log = logging::Log::open(&bundle).map_err(|source| ServeError::Log {
        bundle: bundle.clone(),
        source,
    })?;
    let level = if target.debug {
        "debug"
    } else {
        &state.config.log_level
    };
    logging::start(log, level);
    // Already a leader where `start` made us one by other means.
    let _ = rustix::process::setsid();
    sys::allow_files(FILES);
    let host_mounts =
        File::open("/proc/self/ns/mnt").map_err(process("finding the host's mounts"))?;
    sys::unshare_mounts().map_err(process("making a mount namespace"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(process("starting the runtime"))?;
    runtime.block_on(serve(
        target,
        &state,
        Arc::new(Backends::new(&state.config)),
        Arc::new(host_mounts),
    ))
}

async fn serve(
    target: &Target,
    state: &StateFile,
    vmm: Arc<dyn Vmm>,
    host_mounts: Arc<File>,
) -> Result<(), ServeError> {
    let listener = listen(&state.socket)?;
    let mut name = Name(Some(state.socket.clone()));
    let events = std::env::var(EVENTS_ENV).unwrap_or_default();
    let environment = Environment {
        namespace: target.namespace.clone(),
        config: state.config.clone(),
        vmm,
        publisher: Publisher::start(&events, &target.namespace),
        host_mounts,
        host_network: Network::own()?,
        host_address: spec::host_address(),
    };
    let shutdown = Arc::new(Notify::new());
    let publisher = environment.publisher.clone();
    let service = Arc::new(Service::new(environment, Arc::clone(&shutdown)));
    let pod = Arc::new(Pod::new(service, publisher.clone()));
    let mut server = Server::new()
        .add_listener(Listener::from(listener))
        .register_service(pod.methods());
    server.start().await.map_err(ServeError::Server)?;
    say_ready().map_err(|source| ServeError::Process {
        what: "saying that it listens",
        source,
    })?;
    tracing::info!(sandbox_id = %target.id, namespace = %target.namespace, "shim serves");
    let mut sigterm = signal(SignalKind::terminate()).map_err(|source| ServeError::Process {
        what: "watching for SIGTERM",
        source,
    })?;
    let grace = tokio::select! {
        // "Now" leaves no time to power off; without it there is nothing that could.
        () = shutdown.notified() => Duration::ZERO,
        _ = sigterm.recv() => {
            tracing::info!(sandbox_id = %target.id, "host ends: instance is powered off");
            state.config.limits.poweroff()
        }
        () = unused(|| pod.held(), || std::env::current_dir().is_ok()) => {
            tracing::warn!(sandbox_id = %target.id, "shim has nothing to do, and nobody to do it for");
            Duration::ZERO
        }
    };
    pod.end(grace).await;
    name.take_away();
    publisher.flush(LAST_EVENTS).await;
    tracing::info!(sandbox_id = %target.id, "shim ends");
    // The answer to Shutdown is on its way: this waits for it.
    let _ = server.shutdown().await;
    Ok(())
}

/// Waits until the shim has had no task for [`UNUSED`], or until its bundle is gone and no machine runs: whoever started it
/// was killed before it could say what for, or before it could say that it is over, or has given it up for not answering
/// in time, and `delete` has ended the machine.
async fn unused(held: impl Fn() -> Held, has_bundle: impl Fn() -> bool) {
    let mut idle = Duration::ZERO;
    while idle < UNUSED && (held() == Held::Machine || has_bundle()) {
        sleep(LOOK).await;
        idle = if held() == Held::Nothing {
            idle + LOOK
        } else {
            Duration::ZERO
        };
    }
}

/// Listens at `path`. Of several that were started at the same time one does, and its name stays: to look for a listener, to
/// remove the name of one that was killed and to bind are steps that one shim makes at a time.
fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    let wrap = |source| ServeError::Socket {
        path: path.to_owned(),
        source,
    };
    let dir = path.parent().unwrap_or(path);
    fs::create_dir_all(dir).map_err(wrap)?;
    let turn = locks::Held(File::open(dir).map_err(wrap)?);
    if !locks::exclusive(&turn.0, locks::gone_by()).map_err(wrap)? {
        let source = io::Error::other("another shim has been making its own there for too long");
        return Err(wrap(source));
    }
    if has_listener(path) {
        return Err(wrap(io::ErrorKind::AddrInUse.into()));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrap(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(wrap)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(wrap)?;
    Ok(listener)
}

/// Tells `start`, and lets go of its pipes: containerd waits until nobody holds them.
fn say_ready() -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(READY.as_bytes())?;
    stdout.flush()?;
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// The socket's name. A shim whose tasks are over takes it away before it tells its last events: a `start` in that time would
/// find it listening, take it for the new task's shim, and lose it.
struct Name(Option<PathBuf>);

impl Name {
    /// Once: afterwards the name may be another shim's.
    fn take_away(&mut self) {
        let Some(path) = self.0.take() else { return };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "task socket was not removed");
            }
            _ => {}
        }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.take_away();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shim_that_was_given_up_stays_for_a_machine_alone() {
        for held in [Held::Nothing, Held::Names] {
            let over = unused(|| held, || false);
            timeout(LOOK, over).await.expect("nobody needs it");
        }
        for (held, has_bundle) in [(Held::Machine, false), (Held::Names, true)] {
            let over = unused(|| held, || has_bundle);
            timeout(2 * UNUSED, over).await.unwrap_err();
        }
        let begun = Instant::now();
        unused(|| Held::Nothing, || true).await;
        assert!(begun.elapsed() >= UNUSED);
    }

    #[tokio::test]
    async fn of_all_that_listen_at_once_one_does_and_is_found() {
        let runtime = tokio::runtime::Handle::current();
        for round in 0..200 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("sockets/task.sock");
            if round % 2 == 0 {
                // Of one that was killed.
                fs::create_dir(path.parent().unwrap()).unwrap();
                drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            }
            let begin = Barrier::new(4);
            let one = || {
                let _inside = runtime.enter();
                begin.wait();
                listen(&path)
            };
            let all: Vec<_> = thread::scope(|scope| {
                let all = [(); 4].map(|()| scope.spawn(one));
                all.map(|one| one.join().unwrap()).into()
            });
            let (listening, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
            assert_eq!((listening.len(), refused.len()), (1, 3), "{refused:?}");
            for error in refused {
                let is_late = matches!(&error, Err(ServeError::Socket { source, .. }) if source.kind() == io::ErrorKind::AddrInUse);
                assert!(is_late, "{error:?}");
            }
            let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
            let listener = listening.into_iter().next().unwrap().unwrap();
            timeout(UNUSED, listener.accept()).await.unwrap().unwrap();
        }
    }

    #[test]
    fn a_name_is_taken_away_once_and_then_another_shims() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("task.sock");
        fs::write(&path, "ours").unwrap();
        let mut name = Name(Some(path.clone()));
        name.take_away();
        assert!(!path.exists());
        fs::write(&path, "another's").unwrap();
        name.take_away();
        drop(name);
        assert!(path.exists());
    }
}
