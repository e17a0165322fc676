//! Builds the parts of the agent, runs them and stops them. What they share is one [`Context`]; there is
//! no other shared state.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use seed_protocol::seed::v1::Stage;
use thiserror::Error;
use tokio::{
    join,
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    beacon,
    config::{Config, Host, Listen},
    console::{Console, End, log, render},
    exec, identity, journal, oom, ports,
    sandbox::{self, Action, Event, State},
    server::{self, ListenError},
    status::Board,
    storage,
    sys::{clock, machine},
    systemd::{self, SystemdError, UnitName},
};

/// How long a host that was announced may take for its first `CreateContainer`. Under emulation a busy
/// host needs its time; a guest whose host has gone must come up in the end.
const HOST_LIMIT: Duration = Duration::from_secs(300);

/// How long the agent goes on serving after SIGTERM, for answers that are on their way.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// When the machine ends, SIGTERM comes from `systemd-shutdown(8)`, to every process that is left. How long journald, which
/// got it too, may take to write what it has received and to end.
const LAST_WRITE: Duration = Duration::from_secs(10);

/// How long after that the host may take to pull what it does not have yet, and whoever reads the container's output for
/// the rest of it. `systemd-shutdown(8)` waits longer than all of this (`DefaultTimeoutStopSec=`, 90 s).
const LAST_READ: Duration = Duration::from_secs(20);

/// How long the answer about a unit may be held back until the host has the unit's last lines.
const UNIT_DRAIN: Duration = Duration::from_secs(4);

/// The subject of problems with the age identity.
const IDENTITY: &str = "identity";

/// Where the readers of the container's output and of the log port are.
const CONSOLE: &str = "console.json";
const LOG: &str = "log.json";

/// Why the agent ended.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Nobody could ever reach it.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// SIGTERM cannot be waited for.
    #[error("signals cannot be received")]
    Signal(#[source] std::io::Error),
}

/// Everything that a request needs. One for the life of the process, behind an [`Arc`].
#[derive(Debug)]
pub struct Context {
    /// What the agent was told at its start.
    pub config: Config,
    /// How far the boot has come.
    pub status: Board,
    /// What the host has asked for so far.
    pub sandbox: sandbox::Handle,
    /// Units, readiness, power.
    pub systemd: systemd::Handle,
    /// Processes that the host started.
    pub execs: exec::Sessions,
    /// The age identity.
    pub identity: identity::Holder,
    /// The journal's reader.
    pub journal: journal::Service,
    /// The journal as the container's output.
    pub console: Console,
    /// The end of the instance.
    pub end: End,
    /// Kills for lack of memory.
    pub oom: oom::Watch,
    /// Connections to ports, for the host.
    pub ports: Arc<ports::Table>,
}

impl Context {
    /// Starts the parts that have a task or a thread of their own. Must be called inside the runtime.
    pub fn start(config: Config) -> Arc<Self> {
        let status = Board::new();
        let keeper = config.keeper.clone();
        let systemd = systemd::Handle::spawn(status.clone(), keeper.clone());
        let memory = exec::Memory::new(config.paths.exec_dir.clone(), keeper);
        let record = sandbox::read_record(&config.paths.record_file).unwrap_or_else(|error| {
            warn!(%error, "the record of this boot cannot be read");
            None
        });
        if let Some(record) = &record {
            record.restore(&status, &[IDENTITY]);
            storage::watch::resume(&config.paths.shared);
        }
        let socket = identity::Socket {
            path: config.paths.key_socket.clone(),
            group: config.instance.key_group.clone(),
            etc: config.paths.etc.clone(),
        };
        let identity = identity::Holder::new(config.paths.identity_file.clone()).lending(socket);
        let board = status.clone();
        let is_booting = move || board.is_booting(clock::boottime_us());
        let directories = config.paths.journal_dirs.clone();
        let journal = journal::Service::spawn_in_boot(directories, is_booting);
        let end = End::default();
        Arc::new(Self {
            console: Console::new(journal.clone(), end.clone(), render::human)
                .remembering(config.paths.of_this_boot(CONSOLE)),
            oom: oom::Watch::new(&config.paths.cgroup),
            ports: Arc::default(),
            sandbox: sandbox::Handle::new(record.as_ref()),
            execs: exec::Sessions::new(systemd.clone(), memory),
            identity,
            journal,
            end,
            systemd,
            status,
            config,
        })
    }

    /// Makes or finds the identity. Without one the boot goes on, and the status says why.
    pub async fn provision_identity(&self) {
        if let Err(error) = self.identity.provision().await {
            self.status.problem(IDENTITY, sentence(&error));
        }
    }

    /// Writes down what has been done, for an agent that starts again.
    pub fn remember(&self) {
        let (path, state) = (&self.config.paths.record_file, self.sandbox.state());
        let pause = self.sandbox.pause();
        let written = sandbox::write_record(path, &state, pause.as_ref(), &self.status);
        if let Err(error) = written {
            warn!(%error, "the record of this boot cannot be written");
        }
    }

    /// Does something to a unit. With the answer the host has what the unit logged until then, unless it is slow.
    pub async fn control_unit(
        &self,
        unit: &UnitName,
        action: systemd::Action,
    ) -> Result<String, SystemdError> {
        // Of a transient unit nothing is known any more when it has ended.
        let namespace = self.systemd.log_namespace(unit).await;
        let result = self.systemd.control_unit(unit, action).await?;
        if !self.journal.drain(namespace, UNIT_DRAIN).await {
            info!(%unit, "the host does not have the unit's last lines yet");
        }
        Ok(result)
    }

    /// Lets the boot go on.
    pub fn release(&self) {
        self.remember();
        self.status.reach(Stage::STAGE_PROVISIONED);
        self.sandbox.release();
    }
}

/// An error and its causes in one line.
pub fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let words = source.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        cause = source.source();
    }
    text
}

/// Runs the agent until systemd ends it.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signal)?;
    let ctx = Context::start(config);
    let mut server = server::start(&ctx).await?;
    ctx.status.reach(Stage::STAGE_HELLO);
    tokio::spawn(host(ctx.clone()));
    tokio::spawn(ready(ctx.clone()));
    for sentence in &ctx.config.mistakes {
        warn!(%sentence, "a kernel parameter is passed over");
    }
    for parameter in &ctx.config.ignored {
        info!(%parameter, "kernel parameter means nothing to this agent");
    }
    if let Some(port) = ctx.config.log_port {
        let journal = ctx.journal.clone();
        let console = Console::new(journal, ctx.end.clone(), render::json_line)
            .remembering(ctx.config.paths.of_this_boot(LOG));
        tokio::spawn(log::serve(console, port));
    }
    terminate.recv().await;
    info!("asked to end");
    if machine::is_ending(&ctx.config.paths.proc) {
        ctx.journal.finished(LAST_WRITE).await;
        ctx.end.declare();
        // Whoever reads the container's output gets all of it, and then its end; the host all of the journal.
        let console = timeout(LAST_READ, ctx.console.finished());
        let _ = join!(console, ctx.journal.drain_all(LAST_READ));
    }
    sleep(LAST_ANSWERS).await;
    if let Some(server) = &mut server {
        server.stop().await;
    }
    Ok(())
}

/// Says hello, and goes on alone when nobody answers.
async fn host(ctx: Arc<Context>) {
    if matches!(
        ctx.sandbox.state(),
        State::Created(_) | State::Started(_) | State::Alone
    ) {
        identity_again(&ctx).await;
        return;
    }
    let reason = match ctx.config.host {
        Host::Absent => "the kernel command line names no host",
        Host::Expected { beacon_port } => {
            if let Some(port) = beacon_port
                && let Err(error) = beacon::hello(port).await
            {
                warn!(error = %sentence(&error), port, "the host does not hear the beacon");
            }
            if matches!(ctx.config.listen, Listen::Unix(_)) {
                return;
            }
            sleep(HOST_LIMIT).await;
            "no host has called in time"
        }
    };
    if let Ok(Action::ProvisionAlone) = ctx.sandbox.step(Event::NoHost) {
        info!(reason, "going on with what the closure says");
        sandbox::alone(&ctx).await;
        ctx.release();
    }
}

/// An agent that starts again finds everything in place but what it holds in memory.
async fn identity_again(ctx: &Context) {
    info!("started again: going on where the last one was");
    ctx.provision_identity().await;
    sandbox::drop_privileges(ctx);
    if matches!(ctx.sandbox.state(), State::Started(_) | State::Alone) {
        ctx.release();
    }
}

/// Tells systemd when the boot may go on.
async fn ready(ctx: Arc<Context>) {
    ctx.sandbox.released().await;
    let states = [NotifyState::Ready, NotifyState::Status("provisioned")];
    if let Err(error) = sd_notify::notify(&states) {
        warn!(%error, "systemd cannot be told that the boot may go on");
    }
}
