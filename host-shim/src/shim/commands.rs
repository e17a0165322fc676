//! Commands that are asked for over the management socket: started, passed on, and never without an owner.
//!
//! A command belongs to whoever waits for it. A waiting call is dropped when its connection ends, and then the
//! command is hung up on, its output thrown away, and killed when it does not end by that. The same is done with
//! one that nobody came to wait for. Nothing is kept of the streams here: they are the agent's, who gives what comes
//! behind a position as often as it is asked for.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use seed_protocol::{
    kata::oci,
    seed::management::{
        ControlExecRequest, Output, ReadExecRequest, StartExecRequest, WriteExecRequest,
        control_exec_request::What,
    },
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    instance::backend,
    process::{CHUNK_BYTES, HANGUP_GRACE, KILL_GRACE, SIGHUP, SIGKILL, again, start_owned},
};
use crate::{
    agent::{Agent, AgentError, Stream},
    management::BackendError,
    names::{ContainerId, ExecId},
    sandbox::{Phase, Sandbox},
};

/// How long a command may be without anybody who waits for it after its start.
const CLAIM: Duration = Duration::from_secs(10);

/// Commands at a time.
const MAX_COMMANDS: usize = 64;

/// The commands of one instance.
#[derive(Debug)]
pub struct Commands {
    sandbox: Sandbox,
    /// Whether the configuration allows any.
    allowed: bool,
    /// How many were ever started: the next one's number.
    started: AtomicU64,
    running: Arc<Running>,
}

#[derive(Debug, Default)]
struct Running(Mutex<HashMap<ExecId, Arc<Command>>>);

impl Running {
    fn with<T>(&self, work: impl FnOnce(&mut HashMap<ExecId, Arc<Command>>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn find(&self, id: &str) -> Result<Arc<Command>, BackendError> {
        let known = ExecId::try_from(id).ok();
        let found = known.and_then(|id| self.with(|all| all.get(&id).cloned()));
        found.ok_or_else(|| BackendError::NotFound(format!("there is no command {id:?}")))
    }

    /// Takes it out, and ends it if it was there.
    fn abandon(&self, id: &ExecId) {
        if let Some(command) = self.with(|all| all.remove(id)) {
            tracing::info!(exec_id = %id, "command has lost its owner: it is hung up on");
            tokio::spawn(command.hang_up());
        }
    }
}

#[derive(Debug)]
struct Command {
    id: ExecId,
    container: ContainerId,
    agent: Agent,
    terminal: bool,
    /// How much of each output was given.
    given: [AtomicU64; 2],
    /// Which of them are at their end.
    ends: watch::Sender<[bool; 2]>,
    /// Somebody waits for it.
    owned: watch::Sender<bool>,
}

/// Ends the command when it is dropped.
struct Owner {
    running: Arc<Running>,
    id: ExecId,
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Without a runtime the shim itself ends, and the VM with it.
        if Handle::try_current().is_ok() {
            self.running.abandon(&self.id);
        }
    }
}

impl Commands {
    /// Of this instance.
    pub fn new(sandbox: Sandbox, allowed: bool) -> Self {
        Self {
            sandbox,
            allowed,
            started: AtomicU64::new(0),
            running: Arc::default(),
        }
    }

    /// Starts a command; its id.
    pub async fn start(&self, request: StartExecRequest) -> Result<String, BackendError> {
        if !self.allowed {
            let text = "commands over the management socket are switched off: management_exec = true in the shim's configuration";
            return Err(BackendError::NotReady(text.into()));
        }
        if self.sandbox.view().phase != Phase::Running {
            let text = "the instance does not run, so it runs no command";
            return Err(BackendError::NotReady(text.into()));
        }
        if request.args.first().is_none_or(String::is_empty) {
            return Err(BackendError::Invalid("which program?".into()));
        }
        if self.running.with(|all| all.len()) >= MAX_COMMANDS {
            let text = format!("{MAX_COMMANDS} commands run already");
            return Err(BackendError::NotReady(text));
        }
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let id = ExecId::try_from(format!("management-{number}").as_str())
            .expect("letters, a dash and digits, at most 31 of them");
        let command = Command {
            id: id.clone(),
            container: self.sandbox.spec().id.clone(),
            agent: self.sandbox.agent().apart(),
            terminal: request.terminal,
            given: Default::default(),
            // A terminal has one output.
            ends: watch::channel([false, request.terminal]).0,
            owned: watch::channel(false).0,
        };
        let (running, sandbox) = (Arc::clone(&self.running), self.sandbox.clone());
        // A task of its own: who asked may go while the guest starts it, and then it has to be ended.
        let starting = tokio::spawn(async move {
            start_owned(&sandbox, &command.agent, &command.id, process(request)).await?;
            let (id, mut owned) = (command.id.clone(), command.owned.subscribe());
            running.with(|all| all.insert(id.clone(), Arc::new(command)));
            tokio::spawn(async move {
                let claimed = owned.wait_for(|owned| *owned);
                if timeout(CLAIM, claimed).await.is_err() {
                    running.abandon(&id);
                }
            });
            Ok::<_, AgentError>(())
        });
        match starting.await {
            Ok(Ok(())) => Ok(id.to_string()),
            Ok(Err(error)) => Err(backend(error)),
            Err(error) => Err(BackendError::Internal(error.to_string())),
        }
    }

    /// The next bytes of an output, none at its end.
    pub async fn read(&self, request: ReadExecRequest) -> Result<Vec<u8>, BackendError> {
        let command = self.running.find(&request.exec_id)?;
        let stream = match request.output.enum_value_or_default() {
            Output::OUTPUT_STDOUT => Stream::Stdout,
            Output::OUTPUT_STDERR if command.terminal => return Ok(Vec::new()),
            Output::OUTPUT_STDERR => Stream::Stderr,
        };
        let read = command.read(stream, request.position);
        self.while_it_runs(read).await
    }

    /// Input; how much of it was taken.
    pub async fn write(&self, request: WriteExecRequest) -> Result<u32, BackendError> {
        let command = self.running.find(&request.exec_id)?;
        let write = again(|| {
            command.agent.write_stdin(
                &command.container,
                &command.id,
                request.position,
                request.data.clone(),
            )
        });
        self.while_it_runs(write).await
    }

    /// The input's end, a signal, or the terminal's size.
    pub async fn control(&self, request: ControlExecRequest) -> Result<(), BackendError> {
        let command = self.running.find(&request.exec_id)?;
        let (agent, container, id) = (&command.agent, &command.container, &command.id);
        let done = match request.what {
            None => return Err(BackendError::Invalid("nothing is asked for".into())),
            Some(What::CloseInput(_)) => again(|| agent.close_stdin(container, id)).await,
            Some(What::Signal(number)) => agent.signal(container, Some(id), number).await,
            Some(What::Size(size)) => agent.resize(container, id, size.rows, size.columns).await,
            Some(_) => return Err(BackendError::Invalid("unknown to this shim".into())),
        };
        done.map_err(backend)
    }

    /// Its exit status, when all its output has been read. Whoever waits owns it.
    pub async fn wait(&self, id: &str) -> Result<u32, BackendError> {
        let command = self.running.find(id)?;
        if command.owned.send_replace(true) {
            let text = format!("somebody else waits for command {id:?}");
            return Err(BackendError::NotReady(text));
        }
        let owner = Owner {
            running: Arc::clone(&self.running),
            id: command.id.clone(),
        };
        let mut ends = command.ends.subscribe();
        let ended = async {
            // The command holds the sender.
            let _ = ends.wait_for(|ends| *ends == [true, true]).await;
            again(|| command.agent.wait(&command.container, &command.id)).await
        };
        let status = self.while_it_runs(ended).await?;
        self.running.with(|all| all.remove(&command.id));
        drop(owner);
        Ok(u32::try_from(status).unwrap_or(u32::MAX))
    }

    /// Ends with the instance at the latest.
    async fn while_it_runs<T>(
        &self,
        work: impl Future<Output = Result<T, AgentError>>,
    ) -> Result<T, BackendError> {
        tokio::select! {
            done = work => done.map_err(backend),
            _ = self.sandbox.wait() => {
                Err(BackendError::Unavailable("the instance has ended, and the command with it".into()))
            }
        }
    }
}

impl Command {
    async fn read(&self, stream: Stream, position: u64) -> Result<Vec<u8>, AgentError> {
        let at = usize::from(stream == Stream::Stderr);
        let (agent, container, id) = (&self.agent, &self.container, &self.id);
        let data = again(|| agent.read(container, id, stream, position, CHUNK_BYTES)).await?;
        if data.is_empty() {
            self.ends.send_modify(|ends| ends[at] = true);
        }
        self.given[at].fetch_max(position, Ordering::Relaxed);
        Ok(data)
    }

    /// Reads an output to its end, and throws it away.
    async fn drain(&self, stream: Stream) {
        let mut position =
            self.given[usize::from(stream == Stream::Stderr)].load(Ordering::Relaxed);
        loop {
            match self.read(stream, position).await {
                Ok(data) if data.is_empty() => return,
                Ok(data) => position += data.len() as u64,
                Err(error) => {
                    tracing::debug!(exec_id = %self.id, %error, "output is not drained");
                    return;
                }
            }
        }
    }

    async fn hang_up(self: Arc<Self>) {
        let ended = async {
            let errors = async {
                if !self.terminal {
                    self.drain(Stream::Stderr).await;
                }
            };
            tokio::join!(self.drain(Stream::Stdout), errors);
            self.agent.wait(&self.container, &self.id).await
        };
        tokio::pin!(ended);
        for (signal, patience) in [(SIGHUP, HANGUP_GRACE), (SIGKILL, KILL_GRACE)] {
            let told = self.agent.signal(&self.container, Some(&self.id), signal);
            if let Err(error) = told.await {
                tracing::debug!(exec_id = %self.id, signal, %error, "command was not signalled");
            }
            tokio::select! {
                _ = &mut ended => return,
                () = sleep(patience) => {}
            }
        }
        tracing::warn!(exec_id = %self.id, "command does not end");
    }
}

fn process(request: StartExecRequest) -> oci::Process {
    let StartExecRequest {
        args,
        env,
        terminal,
        rows,
        columns,
        special_fields: _,
    } = request;
    let size = terminal.then(|| oci::Box {
        Height: rows,
        Width: columns,
        ..oci::Box::default()
    });
    oci::Process {
        Terminal: terminal,
        ConsoleSize: size.into(),
        User: Some(oci::User::default()).into(),
        Args: args,
        Env: env,
        Cwd: "/".into(),
        ..oci::Process::default()
    }
}
