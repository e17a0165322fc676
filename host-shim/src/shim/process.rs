//! An exec: a process in the guest whose streams are pumped between the agent and containerd's FIFOs.
//!
//! The output is read until the agent says that it is at its end, and only then the exit status is asked for,
//! so that no byte is behind it. FIFOs are opened without blocking: a peer that is late or gone stops nobody, and a
//! command whose reader stays away is hung up on ([`super::outlet`]).

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use containerd_shim_protos::{
    events::task::{TaskExecStarted, TaskExit},
    protobuf::well_known_types::any::Any,
};
use seed_protocol::kata::oci;
use tokio::{
    net::unix::pipe,
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use ttrpc::Code;

use super::{
    TaskError,
    events::{Publisher, timestamp},
    exec_spec,
    outlet::{Outlet, unread},
    task::Stdio,
};
use crate::{
    agent::{Agent, AgentError, Stream},
    names::{ContainerId, ExecId},
    sandbox::{Ended, Exit, Sandbox},
};

/// One read or write of a stream.
pub(super) const CHUNK_BYTES: u32 = 32 * 1024;

/// The pause before input is offered again.
const NOTHING_TAKEN: Duration = Duration::from_millis(20);

/// How long the agent may be away: systemd starts it again within a second, under emulation within a few.
const AWAY: Duration = Duration::from_secs(30);

/// The pause before an agent that is away is looked for again.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// How long a command may go on that was hung up on, until it is killed.
pub(super) const HANGUP_GRACE: Duration = Duration::from_secs(5);

/// How long the guest may take to say that it is dead: then it is forgotten.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(20);

/// How long a process whose start gave no answer may be unknown to the agent: the time for its start is over there a little
/// later than here.
const STARTED_LATE: Duration = Duration::from_secs(2);

pub(super) const SIGHUP: u32 = 1;
pub(super) const SIGKILL: u32 = 9;

/// The status of a process whose end nobody saw.
const LOST: u32 = 137;

/// Where in its life an exec is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecPhase {
    /// Known, not started.
    Created,
    /// Runs in the guest.
    Running,
    /// Has ended.
    Stopped(Ended),
}

/// An exec.
#[derive(Debug)]
pub struct Exec {
    id: ExecId,
    container: ContainerId,
    stdio: Stdio,
    process: Mutex<Option<oci::Process>>,
    phase: watch::Sender<ExecPhase>,
    close_stdin: Arc<Notify>,
    /// Nobody reads it any more, and nobody will ask for its end.
    given_up: AtomicBool,
}

impl Exec {
    /// An exec of the process that `spec` describes.
    pub fn new(
        container: ContainerId,
        id: ExecId,
        stdio: Stdio,
        spec: &Any,
    ) -> Result<Self, TaskError> {
        let process = Mutex::new(Some(exec_spec::process(spec, stdio.terminal)?));
        let (phase, _) = watch::channel(ExecPhase::Created);
        Ok(Self {
            id,
            container,
            stdio,
            process,
            phase,
            close_stdin: Arc::default(),
            given_up: AtomicBool::new(false),
        })
    }

    /// Its streams.
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    /// Where in its life it is.
    pub fn phase(&self) -> ExecPhase {
        self.phase.borrow().clone()
    }

    /// Whether it has ended after everybody had left it.
    pub fn is_abandoned(&self) -> bool {
        self.given_up.load(Ordering::Relaxed) && matches!(self.phase(), ExecPhase::Stopped(_))
    }

    /// Its end.
    pub async fn wait(&self) -> Ended {
        let mut phase = self.phase.subscribe();
        match phase
            .wait_for(|phase| matches!(phase, ExecPhase::Stopped(_)))
            .await
            .as_deref()
        {
            Ok(ExecPhase::Stopped(ended)) => ended.clone(),
            Ok(ExecPhase::Created | ExecPhase::Running) | Err(_) => lost("the exec was forgotten"),
        }
    }

    /// No more input comes.
    pub fn close_stdin(&self) {
        self.close_stdin.notify_one();
    }

    /// Nobody can start it any more: who waits for the end of one that never began is told so.
    pub fn forget(&self) {
        self.phase.send_if_modified(|phase| {
            let fresh = *phase == ExecPhase::Created;
            if fresh {
                *phase = ExecPhase::Stopped(lost("it was never started"));
            }
            fresh
        });
    }

    /// Starts it. Returns when the guest has taken it. `reader` is how long its output may be without one.
    pub async fn start(
        self: &Arc<Self>,
        sandbox: &Sandbox,
        publisher: &Publisher,
        reader: Duration,
    ) -> Result<u32, TaskError> {
        let taken = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(process) = taken else {
            return Err(TaskError::State(format!(
                "exec {} was started already",
                self.id
            )));
        };
        let (exec, sandbox, publisher) = (Arc::clone(self), sandbox.clone(), publisher.clone());
        // A task of its own: who asked may go while the guest starts it, and it needs its owner all the same.
        let begun = tokio::spawn(exec.begin(process, sandbox, publisher, reader));
        begun.await.map_err(|error| TaskError::File {
            what: format!("exec {}", self.id),
            source: io::Error::other(error),
        })?
    }

    async fn begin(
        self: Arc<Self>,
        process: oci::Process,
        sandbox: Sandbox,
        publisher: Publisher,
        reader: Duration,
    ) -> Result<u32, TaskError> {
        let agent = sandbox.agent().apart();
        let pid = sandbox.view().pid;
        let begun = async {
            let streams = Streams::open(&self.stdio)?;
            start_owned(&sandbox, &agent, &self.id, process).await?;
            Ok::<_, TaskError>(streams)
        };
        let begun = begun.await;
        let streams = begun.inspect_err(|_| self.stop(lost("it was not started")))?;
        let wanted = self.phase.send_if_modified(|phase| {
            let fresh = *phase == ExecPhase::Created;
            if fresh {
                *phase = ExecPhase::Running;
            }
            fresh
        });
        if wanted {
            publisher.publish(&TaskExecStarted {
                container_id: self.container.to_string(),
                exec_id: self.id.to_string(),
                pid,
                ..TaskExecStarted::default()
            });
        } else {
            // Nobody reads it, nobody will ask for its end.
            self.given_up.store(true, Ordering::Relaxed);
            self.signal(&agent, SIGKILL).await;
        }
        let result = if wanted {
            Ok(pid)
        } else {
            let text = format!("exec {} was deleted while it was started", self.id);
            Err(TaskError::State(text))
        };
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = self.run(&agent, streams, reader) => ended,
                _ = sandbox.wait() => lost("the VM has ended"),
            };
            if wanted {
                publisher.publish(&TaskExit {
                    container_id: self.container.to_string(),
                    id: self.id.to_string(),
                    pid,
                    exit_status: ended.exit.status,
                    exited_at: timestamp(ended.at),
                    ..TaskExit::default()
                });
            }
            self.stop(ended);
        });
        result
    }

    fn stop(&self, ended: Ended) {
        self.phase.send_replace(ExecPhase::Stopped(ended));
    }

    async fn run(&self, agent: &Agent, streams: Streams, reader: Duration) -> Ended {
        let Streams {
            stdin,
            mut stdout,
            mut stderr,
            probes,
        } = streams;
        let input = self.pump_input(agent.clone(), stdin);
        let outputs = async {
            let output = self.pump_output(agent, Stream::Stdout, &mut stdout);
            // A terminal has one output; asking for the other would wait for nothing.
            if self.stdio.terminal {
                output.await
            } else {
                let errors = self.pump_output(agent, Stream::Stderr, &mut stderr);
                tokio::join!(output, errors) == (true, true)
            }
        };
        let status = async {
            let whole = outputs.await;
            let status = again(|| agent.wait(&self.container, &self.id)).await?;
            Ok::<_, AgentError>((status, whole))
        };
        tokio::pin!(status);
        let waited = tokio::select! {
            waited = &mut status => Some(waited),
            () = unread(&probes, reader) => {
                tracing::warn!(exec_id = %self.id, "exec's reader is gone: it is hung up on");
                self.given_up.store(true, Ordering::Relaxed);
                self.signal(agent, SIGHUP).await;
                match timeout(HANGUP_GRACE, &mut status).await {
                    Ok(waited) => Some(waited),
                    Err(_) => {
                        self.signal(agent, SIGKILL).await;
                        timeout(KILL_GRACE, &mut status).await.ok()
                    }
                }
            }
        };
        input.abort();
        match waited {
            // A part of an output is no success, whatever the process says of itself.
            Some(Ok((0, false))) => lost("its output was not seen to its end"),
            Some(Ok((status, _))) => Ended {
                exit: Exit {
                    status: u32::try_from(status).unwrap_or(LOST),
                    reason: "the process ended".into(),
                },
                at: SystemTime::now(),
            },
            Some(Err(error)) => {
                tracing::warn!(exec_id = %self.id, %error, "exec's end was not seen");
                lost("its end was not seen")
            }
            None => {
                tracing::warn!(exec_id = %self.id, "exec was killed and did not end: it is forgotten");
                lost("it was killed and did not end")
            }
        }
    }

    async fn signal(&self, agent: &Agent, number: u32) {
        if let Err(error) = agent.signal(&self.container, Some(&self.id), number).await {
            tracing::debug!(exec_id = %self.id, number, %error, "exec was not signalled");
        }
    }

    /// Whether it came to the output's end.
    async fn pump_output(&self, agent: &Agent, stream: Stream, to: &mut Option<Outlet>) -> bool {
        let mut position = 0;
        loop {
            let read = || agent.read(&self.container, &self.id, stream, position, CHUNK_BYTES);
            let data = match again(read).await {
                Ok(data) if data.is_empty() => return true,
                Ok(data) => data,
                Err(error) => {
                    tracing::warn!(exec_id = %self.id, ?stream, %error, "exec's output ends early");
                    return false;
                }
            };
            position += data.len() as u64;
            if let Some(fifo) = to
                && let Err(error) = fifo.write(&data, &self.given_up).await
            {
                tracing::warn!(exec_id = %self.id, ?stream, %error, "exec's output cannot be written");
                *to = None;
            }
        }
    }

    fn pump_input(&self, agent: Agent, from: Option<pipe::Receiver>) -> JoinHandle<()> {
        let (container, id) = (self.container.clone(), self.id.clone());
        let closed = Arc::clone(&self.close_stdin);
        tokio::spawn(async move {
            if let Some(from) = from
                && let Err(error) = feed(&agent, &container, &id, &from, &closed).await
            {
                tracing::debug!(exec_id = %id, %error, "exec takes no more input");
            }
            if let Err(error) = again(|| agent.close_stdin(&container, &id)).await {
                tracing::debug!(exec_id = %id, %error, "exec's input was not closed");
            }
        })
    }
}

/// Starts a process in the guest. One whose start gives no answer is ended before that is told: it may run, and nobody would
/// have it.
pub(super) async fn start_owned(
    sandbox: &Sandbox,
    agent: &Agent,
    id: &ExecId,
    process: oci::Process,
) -> Result<(), AgentError> {
    let container = &sandbox.spec().id;
    let started = agent.exec(container, id, process).await;
    if let Err(error @ AgentError::Broken { .. }) = &started {
        tracing::warn!(exec_id = %id, %error, "start of a process gave no answer: it is killed");
        tokio::select! {
            () = kill_unanswered(agent, container, id) => {}
            _ = sandbox.wait() => {}
        }
    }
    started
}

async fn kill_unanswered(agent: &Agent, container: &ContainerId, id: &ExecId) {
    let until = Instant::now() + STARTED_LATE;
    while let Err(error) = again(|| agent.signal(container, Some(id), SIGKILL)).await {
        if error.code() != Some(Code::NOT_FOUND) {
            tracing::warn!(exec_id = %id, %error, "process whose start gave no answer may run on");
            return;
        }
        if Instant::now() >= until {
            return;
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Makes a call until it is answered: an agent that starts again finds its execs as they were.
pub(super) async fn again<T, F>(call: impl Fn() -> F) -> Result<T, AgentError>
where
    F: Future<Output = Result<T, AgentError>>,
{
    let mut until = None;
    loop {
        match call().await {
            Err(error) if error.is_unanswered() => {
                let until = *until.get_or_insert_with(|| Instant::now() + AWAY);
                if Instant::now() >= until {
                    return Err(error);
                }
                sleep(LOOK_AGAIN).await;
            }
            answered => return answered,
        }
    }
}

/// Passes input on until its writer is gone, or until it is said that no more comes and the FIFO is empty.
async fn feed(
    agent: &Agent,
    container: &ContainerId,
    id: &ExecId,
    from: &pipe::Receiver,
    closed: &Notify,
) -> Result<(), AgentError> {
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let (mut no_more, mut position) = (false, 0);
    loop {
        match from.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                let mut rest = &buffer[..count];
                while !rest.is_empty() {
                    let write = || agent.write_stdin(container, id, position, rest.to_vec());
                    let taken = again(write).await?;
                    position += u64::from(taken);
                    let taken = usize::try_from(taken).unwrap_or(usize::MAX);
                    if taken == 0 {
                        // A guest that takes nothing is asked again, but not all the time.
                        sleep(NOTHING_TAKEN).await;
                    }
                    rest = rest.get(taken..).unwrap_or_default();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !no_more => {
                tokio::select! {
                    readable = from.readable() => if readable.is_err() { return Ok(()) },
                    () = closed.notified() => no_more = true,
                }
            }
            Err(_) => return Ok(()),
        }
    }
}

fn lost(why: &str) -> Ended {
    Ended {
        exit: Exit {
            status: LOST,
            reason: why.to_owned(),
        },
        at: SystemTime::now(),
    }
}

struct Streams {
    stdin: Option<pipe::Receiver>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    /// Of the outputs, to look for readers.
    probes: Vec<OwnedFd>,
}

impl Streams {
    fn open(stdio: &Stdio) -> Result<Self, TaskError> {
        let wrap = |path: &str| {
            let what = format!("FIFO {path}");
            move |source| TaskError::File { what, source }
        };
        let outlet = |path: &str| Outlet::open(path).map_err(wrap(path));
        let stdin = match stdio.stdin.as_str() {
            "" => None,
            // Only the reading end, so that the writer's end is an end.
            path => Some(
                pipe::OpenOptions::new()
                    .open_receiver(path)
                    .map_err(wrap(path))?,
            ),
        };
        let stderr = if stdio.terminal { "" } else { &stdio.stderr };
        let (stdout, stderr) = (outlet(&stdio.stdout)?, outlet(stderr)?);
        let probes = [&stdout, &stderr].into_iter().flatten().map(Outlet::probe);
        let probes = probes.collect::<io::Result<_>>();
        Ok(Self {
            stdin,
            stdout,
            stderr,
            probes: probes.map_err(wrap("of an exec"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_one_that_never_starts_is_told_when_it_is_forgotten() {
        let (container, id) = ("demo".parse().unwrap(), "one".parse().unwrap());
        let spec = Any {
            value: br#"{"args": ["true"]}"#.to_vec(),
            ..Any::default()
        };
        let exec = Exec::new(container, id, Stdio::default(), &spec).unwrap();
        let (ended, ()) = tokio::join!(exec.wait(), async { exec.forget() });
        assert_eq!(ended.exit.status, LOST);
        exec.forget();
        assert_eq!(exec.phase(), ExecPhase::Stopped(ended));
    }
}
