//! One exec from its start to its exit status.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use rustix::{
    fs::{Gid, Uid, fchown},
    pipe::{PipeFlags, pipe_with},
    process::Signal,
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    ExecError, ProcessSpec, Size, User,
    command::Command,
    record::{self, Connections, Memory, Part, Record},
    spool::{Ahead, Spool},
    stream::{Input, Output, WriteError},
    terminal::{self, Terminal},
};
use crate::{
    storage::owner::{self, OwnerNames},
    sys::descriptors::Held,
    systemd::{Exit, Handle, ServiceSpec, Standard, SystemdError, Transient, UnitName},
};

/// How and when it ended, once it has.
type End = Option<(Exit, Instant)>;

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
    end: watch::Receiver<End>,
    /// Where its descriptors are held; `None` for one that ends with the agent.
    memory: Option<Memory>,
}

/// Our ends of the standard streams, by their part.
struct Ours(Vec<(Part, OwnedFd)>);

/// The process's ends.
enum Theirs {
    Pipes {
        input: OwnedFd,
        output: OwnedFd,
        error: OwnedFd,
    },
    Terminal {
        far_end: OwnedFd,
        path: PathBuf,
    },
}

impl Session {
    /// Starts it as `unit` and returns when its program runs.
    pub(super) async fn start(
        id: &str,
        unit: UnitName,
        spec: &ProcessSpec,
        systemd: &Handle,
        memory: Option<(&Memory, &Record)>,
    ) -> Result<Arc<Self>, ExecError> {
        let command = spec.resolve(id)?;
        // systemd serves whoever gives it descriptors before it serves the bus: a host that asks again and again
        // while the connection is made would keep it from ever being made.
        systemd.ready().await?;
        let failed = |source| ExecError::Stream {
            id: id.to_owned(),
            what: "making the streams",
            source,
        };
        let made = match spec.terminal {
            None => Ours::pipes(&spec.user),
            Some(size) => Ours::terminal(size),
        };
        let (ours, theirs) = made.map_err(failed)?;
        if let Some((memory, _)) = memory {
            ours.hold(memory, &unit);
        }
        // Whatever may fail on our side comes before the start.
        let let_go = || {
            if let Some((memory, _)) = memory {
                memory.let_go_of_all(&unit);
            }
        };
        let made = ours.session(id, unit.clone(), memory.map(|(memory, _)| memory));
        let (session, sender) = made.inspect_err(|_| let_go()).map_err(failed)?;
        let service = service(unit.clone(), command, spec.no_new_privileges, &theirs);
        let started = systemd.start_transient(service).await;
        let transient = started.inspect_err(|_| let_go())?;
        info!(exec_id = id, unit = %unit, "exec started");
        // Pipes: the process's ends are its own now. A terminal's is held until the end.
        let far_end = match theirs {
            Theirs::Pipes { .. } => None,
            Theirs::Terminal { far_end, .. } => Some(far_end),
        };
        let memory = memory.map(|(memory, record)| (memory.clone(), record.clone()));
        let follow = session.follow(far_end, sender, memory);
        tokio::spawn(follow.run(transient, systemd.clone()));
        Ok(Arc::new(session))
    }

    /// Takes over what an earlier agent started. `connections` are needed until systemd knows that
    /// we refer to it, too.
    pub(super) fn resume(
        record: &Record,
        unit: UnitName,
        held: &mut Held,
        systemd: &Handle,
        memory: &Memory,
        connections: &Arc<Connections>,
    ) -> io::Result<Arc<Self>> {
        let mut ours = Ours(Vec::new());
        for part in Part::ALL {
            ours.0
                .extend(record::take(held, &unit, part).map(|descriptor| (part, descriptor)));
        }
        let far_end = ours.take(Part::FarEnd);
        let (session, sender) = ours.session(&record.exec, unit.clone(), Some(memory))?;
        info!(exec_id = record.exec, unit = %unit, "exec goes on");
        let follow = session.follow(far_end, sender, Some((memory.clone(), record.clone())));
        if let Some(status) = record.status {
            follow.ended(Exit { status });
            return Ok(Arc::new(session));
        }
        let (systemd, connections) = (systemd.clone(), Arc::clone(connections));
        tokio::spawn(async move {
            let adopted = systemd.adopt(unit).await;
            Connections::done(connections);
            if let Some(transient) = adopted {
                follow.run(transient, systemd).await;
            }
        });
        Ok(Arc::new(session))
    }

    /// Its service.
    pub(super) fn unit(&self) -> &UnitName {
        &self.unit
    }

    fn follow(
        &self,
        far_end: Option<OwnedFd>,
        sender: watch::Sender<End>,
        memory: Option<(Memory, Record)>,
    ) -> Follow {
        Follow {
            id: self.id.clone(),
            unit: self.unit.clone(),
            memory,
            far_end,
            sender,
        }
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

    pub(super) async fn read_output(
        &self,
        max: usize,
        position: Option<u64>,
    ) -> Result<Vec<u8>, ExecError> {
        let read = self.output.read(max, position, self.until_ended()).await;
        read.map_err(|source| self.stream("reading standard output", source))
    }

    pub(super) async fn read_error(
        &self,
        max: usize,
        position: Option<u64>,
    ) -> Result<Vec<u8>, ExecError> {
        let read = self.error.read(max, position, self.until_ended()).await;
        read.map_err(|source| self.stream("reading standard error", source))
    }

    pub(super) async fn write_input(
        &self,
        data: &[u8],
        position: Option<u64>,
    ) -> Result<(), ExecError> {
        self.input
            .write(data, position, self.until_ended())
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
            match self.write_input(&[end], None).await {
                Err(ExecError::InputClosed(_)) => {}
                written => written.or_else(ended_is_fine)?,
            }
        }
        self.input.close().await;
        // A terminal is held open by its master, which the output needs.
        if let Some(memory) = self.memory.as_ref().filter(|_| self.terminal.is_none()) {
            memory.let_go(&self.unit, Part::Input);
        }
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
        let whole = signal == Signal::KILL.as_raw();
        match systemd.kill_unit(&self.unit, whole, signal).await {
            Ok(()) => Ok(()),
            // Between the end and our hearing of it.
            Err(SystemdError::NoSuchUnit(_) | SystemdError::NoProcess(_)) => {
                Err(ExecError::Ended(self.id.clone()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends it with all that it started. Best effort.
    pub(super) async fn end(&self, systemd: &Handle) {
        let killed = self.signal(Signal::KILL.as_raw(), systemd).await;
        if let Err(error) = killed.or_else(ended_is_fine) {
            warn!(exec_id = self.id, %error, "exec cannot be ended");
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

fn ended_is_fine(error: ExecError) -> Result<(), ExecError> {
    match error {
        ExecError::Ended(_) => Ok(()),
        error => Err(error),
    }
}

/// What is done at the end of the service.
struct Follow {
    id: String,
    unit: UnitName,
    memory: Option<(Memory, Record)>,
    far_end: Option<OwnedFd>,
    sender: watch::Sender<End>,
}

impl Follow {
    /// Waits for the end, writes it down, and only then lets systemd forget it.
    async fn run(self, mut transient: Transient, systemd: Handle) {
        let exit = transient.ended(&systemd).await;
        if let Some((memory, record)) = &self.memory {
            let status = Some(exit.status);
            memory.remember(&Record {
                status,
                ..record.clone()
            });
        }
        transient.release().await;
        self.ended(exit);
    }

    /// Lets go of the terminal, which only now can come to its end, and tells everybody.
    fn ended(self, exit: Exit) {
        info!(exec_id = self.id, status = exit.status, "exec ended");
        if let (Some((memory, _)), Some(_)) = (&self.memory, &self.far_end) {
            memory.let_go(&self.unit, Part::FarEnd);
        }
        drop(self.far_end);
        self.sender.send_replace(Some((exit, Instant::now())));
    }
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
            Theirs::Terminal { path, .. } => Standard::Terminal(path),
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

impl Ours {
    fn pipes(user: &User) -> io::Result<(Self, Theirs)> {
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
        let (output, error) = (Spool::new()?, Spool::new()?);
        let ours = Self(vec![
            (Part::Input, our_input),
            (Part::Ahead, Ahead::new()?.file),
            (Part::Output, our_output),
            (Part::OutputTail, output.tail),
            (Part::OutputHead, output.head),
            (Part::Error, our_error),
            (Part::ErrorTail, error.tail),
            (Part::ErrorHead, error.head),
        ]);
        let theirs = Theirs::Pipes {
            input: their_input,
            output: their_output,
            error: their_error,
        };
        Ok((ours, theirs))
    }

    fn terminal(size: Size) -> io::Result<(Self, Theirs)> {
        let Terminal {
            master,
            far_end,
            path,
        } = Terminal::open(size)?;
        let output = Spool::new()?;
        let ours = Self(vec![
            (Part::Ahead, Ahead::new()?.file),
            (Part::Output, master),
            (Part::OutputTail, output.tail),
            (Part::OutputHead, output.head),
            (Part::FarEnd, far_end.try_clone()?),
        ]);
        Ok((ours, Theirs::Terminal { far_end, path }))
    }

    fn hold(&self, memory: &Memory, unit: &UnitName) {
        for (part, descriptor) in &self.0 {
            if let Err(error) = memory.hold(unit, *part, descriptor.as_fd()) {
                warn!(%unit, ?part, %error, "an exec will not outlive this agent");
            }
        }
    }

    fn take(&mut self, part: Part) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(each, _)| *each == part)?;
        Some(self.0.swap_remove(at).1)
    }

    fn output(&mut self, parts: [Part; 3]) -> io::Result<Output> {
        let mut part = |part| self.take(part).ok_or(io::ErrorKind::NotFound);
        let [source, tail, head] = parts;
        let (source, tail, head) = (part(source)?, part(tail)?, part(head)?);
        Output::new(source, Spool { tail, head })
    }

    /// The session that these are the streams of, and who will tell its end. It has a terminal when there is
    /// nothing but an output.
    fn session(
        mut self,
        id: &str,
        unit: UnitName,
        memory: Option<&Memory>,
    ) -> io::Result<(Session, watch::Sender<End>)> {
        let (sender, end) = watch::channel(None);
        let has_errors = self.0.iter().any(|(part, _)| *part == Part::Error);
        let terminal = match self.0.iter().find(|(part, _)| *part == Part::Output) {
            Some((_, master)) if !has_errors => Some(master.try_clone()?),
            _ => None,
        };
        let sink = match &terminal {
            Some(master) => Some(master.try_clone()?),
            None => self.take(Part::Input),
        };
        let input = match (sink, self.take(Part::Ahead)) {
            (Some(sink), Some(file)) => Input::new(sink, Ahead { file })?,
            // It was closed.
            _ => Input::none(),
        };
        let output = self.output([Part::Output, Part::OutputTail, Part::OutputHead])?;
        let error = match has_errors {
            true => self.output([Part::Error, Part::ErrorTail, Part::ErrorHead])?,
            false => Output::none(),
        };
        let session = Session {
            id: id.to_owned(),
            unit,
            input,
            output,
            error,
            terminal,
            end,
            memory: memory.cloned(),
        };
        Ok((session, sender))
    }
}
