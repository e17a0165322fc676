//! One exec from its start to its exit status.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::Arc,
    time::Instant,
};

use rustix::{
    fs::{Gid, Uid, fchown},
    pipe::{PipeFlags, pipe_with},
};
use tokio::sync::watch;
use tracing::info;

use super::{
    ExecError, ProcessSpec, Size, User,
    command::Command,
    stream::{Input, Output, WriteError},
    terminal::{self, Terminal},
};
use crate::{
    storage::owner::{self, OwnerNames},
    systemd::{Exit, Handle, ServiceSpec, Standard, SystemdError, Transient, UnitName},
};

/// A process that was started.
#[derive(Debug)]
pub(super) struct Session {
    id: String,
    unit: UnitName,
    input: Input,
    output: Output,
    error: Output,
    /// For its size; `None` without a terminal.
    terminal: Option<OwnedFd>,
    end: watch::Receiver<Option<(Exit, Instant)>>,
}

/// Our ends of the standard streams, and the process's.
struct Streams {
    input: Input,
    output: Output,
    error: Output,
    terminal: Option<OwnedFd>,
    theirs: Theirs,
}

enum Theirs {
    Pipes {
        input: OwnedFd,
        output: OwnedFd,
        error: OwnedFd,
    },
    Terminal(Terminal),
}

impl Session {
    /// Starts it as `unit` and returns when its program runs.
    pub(super) async fn start(
        id: &str,
        unit: UnitName,
        spec: &ProcessSpec,
        systemd: &Handle,
    ) -> Result<Arc<Self>, ExecError> {
        let command = spec.resolve(id)?;
        let failed = |source| ExecError::Stream {
            id: id.to_owned(),
            what: "making the streams",
            source,
        };
        let streams = match spec.terminal {
            None => Streams::pipes(&spec.user).map_err(failed)?,
            Some(size) => Streams::terminal(size).map_err(failed)?,
        };
        let Streams {
            input,
            output,
            error,
            terminal,
            theirs,
        } = streams;
        let service = service(unit, command, spec.no_new_privileges, &theirs);
        let transient = systemd.start_transient(service).await?;
        info!(exec_id = id, unit = %transient.unit(), "exec started");

        let (sender, end) = watch::channel(None);
        let unit = transient.unit().clone();
        // Pipes: the process's ends are its own now. A terminal's is held until the end.
        let held = match theirs {
            Theirs::Pipes { .. } => None,
            Theirs::Terminal(terminal) => Some(terminal.far_end),
        };
        tokio::spawn(follow(
            id.to_owned(),
            transient,
            systemd.clone(),
            held,
            sender,
        ));
        let id = id.to_owned();
        Ok(Arc::new(Self {
            id,
            unit,
            input,
            output,
            error,
            terminal,
            end,
        }))
    }

    /// The exit status, as soon as the process and all that it left behind have ended.
    pub(super) async fn wait(&self) -> i32 {
        let mut end = self.end.clone();
        // The sender goes away only after it has sent, or with the whole runtime.
        let seen = end.wait_for(Option::is_some).await.ok();
        seen.and_then(|end| *end)
            .map_or(255, |(exit, _)| exit.status)
    }

    /// The exit status if it has ended, and when.
    pub(super) fn ended(&self) -> Option<(i32, Instant)> {
        self.end.borrow().map(|(exit, at)| (exit.status, at))
    }

    /// Whether both outputs were read to their ends.
    pub(super) fn is_drained(&self) -> bool {
        self.output.has_ended() && self.error.has_ended()
    }

    pub(super) async fn read_output(&self, max: usize) -> Result<Vec<u8>, ExecError> {
        let read = self.output.read(max, self.until_ended()).await;
        read.map_err(|source| self.stream("reading standard output", source))
    }

    pub(super) async fn read_error(&self, max: usize) -> Result<Vec<u8>, ExecError> {
        let read = self.error.read(max, self.until_ended()).await;
        read.map_err(|source| self.stream("reading standard error", source))
    }

    pub(super) async fn write_input(&self, data: &[u8]) -> Result<(), ExecError> {
        self.input
            .write(data, self.until_ended())
            .await
            .map_err(|error| match error {
                WriteError::Closed => ExecError::InputClosed(self.id.clone()),
                WriteError::Ended => ExecError::Ended(self.id.clone()),
                WriteError::Failed(source) => self.stream("writing standard input", source),
            })
    }

    /// Closes standard input. A terminal has no half to close: it gets its end-of-file character.
    pub(super) async fn close_input(&self) -> Result<(), ExecError> {
        if let Some(end) = self.terminal.as_ref().and_then(terminal::end_of_file) {
            match self.write_input(&[end]).await {
                Ok(()) | Err(ExecError::InputClosed(_) | ExecError::Ended(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.input.close().await;
        Ok(())
    }

    pub(super) fn resize(&self, size: Size) -> Result<(), ExecError> {
        let terminal = self.terminal.as_ref();
        let terminal = terminal.ok_or_else(|| ExecError::NoTerminal(self.id.clone()))?;
        terminal::resize(terminal, size).map_err(|source| self.stream("resizing", source))
    }

    /// Sends a signal: SIGKILL to everything that it started, any other to the process alone.
    pub(super) async fn signal(&self, signal: i32, systemd: &Handle) -> Result<(), ExecError> {
        if self.ended().is_some() {
            return Err(ExecError::Ended(self.id.clone()));
        }
        let whole = signal == rustix::process::Signal::KILL.as_raw();
        match systemd.kill_unit(&self.unit, whole, signal).await {
            Ok(()) => Ok(()),
            // Between the end and our hearing of it.
            Err(SystemdError::NoSuchUnit(_) | SystemdError::NoProcess(_)) => {
                Err(ExecError::Ended(self.id.clone()))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn until_ended(&self) {
        self.wait().await;
    }

    fn stream(&self, what: &'static str, source: io::Error) -> ExecError {
        ExecError::Stream {
            id: self.id.clone(),
            what,
            source,
        }
    }
}

/// Waits for the end of the service, and only then lets go of the terminal.
async fn follow(
    id: String,
    transient: Transient,
    systemd: Handle,
    held: Option<OwnedFd>,
    end: watch::Sender<Option<(Exit, Instant)>>,
) {
    let exit = transient.ended(&systemd).await;
    info!(exec_id = id, status = exit.status, "exec ended");
    drop(held);
    end.send_replace(Some((exit, Instant::now())));
}

fn service(
    unit: UnitName,
    command: Command,
    no_new_privileges: bool,
    theirs: &Theirs,
) -> ServiceSpec<'_> {
    let Command {
        program,
        arguments,
        environment,
        directory,
        user,
        group,
    } = command;
    // Arguments may be secrets, and the description goes to the journal: the program alone.
    let description = format!("exec {}", program.display());
    ServiceSpec {
        unit,
        description,
        program,
        arguments,
        environment,
        directory,
        user,
        group,
        no_new_privileges,
        standard: match theirs {
            Theirs::Pipes {
                input,
                output,
                error,
            } => Standard::Files {
                input: Some(input.as_fd()),
                output: output.as_fd(),
                error: error.as_fd(),
            },
            Theirs::Terminal(terminal) => Standard::Terminal(&terminal.path),
        },
    }
}

/// Who gets the pipes; `None` leaves them with root. A name that only systemd knows does, too: it costs
/// the program no more than `/dev/stdout`.
fn owner_of_pipes(user: &User) -> Option<(Uid, Option<Gid>)> {
    match user {
        User::Number { uid: 0, .. } => None,
        User::Number { uid, gid } => Some((Uid::from_raw(*uid), gid.map(Gid::from_raw))),
        User::Name(name) => {
            let names = OwnerNames {
                user: Some(name.clone()),
                group: None,
            };
            let owner = owner::resolve(&names, Path::new("/etc")).ok()?;
            Some((Uid::from_raw(owner.uid), Some(Gid::from_raw(owner.gid))))
        }
    }
}

impl Streams {
    fn pipes(user: &User) -> io::Result<Self> {
        let (their_input, our_input) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_output, their_output) = pipe_with(PipeFlags::CLOEXEC)?;
        let (our_error, their_error) = pipe_with(PipeFlags::CLOEXEC)?;
        // A pipe belongs to who made it, and `/dev/stdout` opens it anew: without this a program that
        // is not root could write to its output and yet not open it.
        if let Some((uid, gid)) = owner_of_pipes(user) {
            for pipe in [&their_input, &their_output, &their_error] {
                fchown(pipe, Some(uid), gid)?;
            }
        }
        Ok(Self {
            input: Input::new(our_input)?,
            output: Output::new(our_output)?,
            error: Output::new(our_error)?,
            terminal: None,
            theirs: Theirs::Pipes {
                input: their_input,
                output: their_output,
                error: their_error,
            },
        })
    }

    fn terminal(size: Size) -> io::Result<Self> {
        let terminal = Terminal::open(size)?;
        Ok(Self {
            input: Input::new(terminal.master.try_clone()?)?,
            output: Output::new(terminal.master.try_clone()?)?,
            error: Output::none(),
            terminal: Some(terminal.master.try_clone()?),
            theirs: Theirs::Terminal(terminal),
        })
    }
}
