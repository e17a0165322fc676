//! Typed calls to the agent: requests are made and answers sorted here and nowhere else.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use seed_protocol::{
    kata::{
        agent::{
            CloseStdinRequest, CreateSandboxRequest, ExecProcessRequest, ReadStreamRequest,
            SignalProcessRequest, StartContainerRequest, TtyWinResizeRequest, WaitProcessRequest,
            WriteStreamRequest,
        },
        agent_ttrpc::AgentServiceClient,
        oci,
    },
    ports,
    seed::{
        v1::{
            ControlUnitRequest, ControlUnitResponse, GetIdentityRequest, GetStatusRequest,
            GuestStatus, Identity, JournalBatch, ListUnitsRequest, ListUnitsResponse,
            ReadJournalRequest,
        },
        v1_ttrpc::GuestClient,
    },
    status,
};
use thiserror::Error;
use tokio::sync::{Mutex, Semaphore};
use ttrpc::{
    Code,
    r#async::transport::Socket,
    context::{self, Context},
};

use super::{
    connect::{ConnectError, dial},
    convert::container,
    watched::{HasEnded, Watched},
};
use crate::{
    names::{ContainerId, ExecId},
    spec::VmSpec,
};

/// A call that only looks something up, or passes something on.
const SHORT: Duration = Duration::from_secs(20);

/// The start of a process. systemd starts one after the other; without KVM on a busy host one takes a second.
const EXEC: Duration = Duration::from_secs(120);

/// How many processes may be starting at a time. More would only wait in the guest, with their limit running.
const STARTS: usize = 8;

/// systemd's own default for a job is 90 s; a unit may say more.
const UNIT_JOB: Duration = Duration::from_secs(600);

/// How long a connection to a running agent may take.
const RECONNECT: Duration = Duration::from_secs(5);

/// How much later than asked a long poll may be answered.
const LATE: Duration = Duration::from_secs(20);

/// How much of a guest's message is passed on.
const MESSAGE_CHARS: usize = 1000;

/// Why a call to the agent failed.
#[derive(Debug, Error)]
pub enum AgentError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent refused.
    #[error("{message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// Why, as a status.
        code: Code,
        /// Why, as text of the guest.
        message: String,
    },
    /// The connection broke, or nothing came in time.
    #[error("{call}: the guest's agent does not answer: {source}")]
    Broken {
        /// Which call.
        call: &'static str,
        /// How.
        source: ttrpc::Error,
    },
}

impl AgentError {
    /// Whether the agent did not answer: it may do so when it has started again.
    pub fn is_unanswered(&self) -> bool {
        self.code().is_none()
    }

    /// The agent's status, if it gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Connect(_) | Self::Broken { .. } => None,
        }
    }
}

/// A process to start in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StdioSpec {
    /// It gets a terminal.
    pub terminal: bool,
    /// It gets an input.
    pub stdin: bool,
}

/// An output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The agent of one guest. Clones share one connection, which is made when it is needed and made anew
/// after it broke.
#[derive(Clone)]
pub struct Agent {
    socket: Arc<Path>,
    connection: Arc<Mutex<Option<Connection>>>,
    /// Shared by all connections to this guest: who may start a process now.
    starts: Arc<Semaphore>,
}

struct Connection {
    client: ttrpc::r#async::Client,
    ended: HasEnded,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

pub(super) fn within(limit: Duration) -> Context {
    context::with_duration(limit)
}

impl Agent {
    /// The agent behind this vsock socket. Nothing is connected yet.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket: socket.into(),
            connection: Arc::default(),
            starts: Arc::new(Semaphore::new(STARTS)),
        }
    }

    /// The same agent on a connection of its own, so that one caller's flood is not in another's way.
    pub fn apart(&self) -> Self {
        Self {
            socket: Arc::clone(&self.socket),
            connection: Arc::default(),
            starts: Arc::clone(&self.starts),
        }
    }

    /// Connects, and tries for as long as `limit`.
    pub async fn connect(&self, limit: Duration) -> Result<(), AgentError> {
        self.client(limit).await.map(drop)
    }

    async fn client(&self, limit: Duration) -> Result<ttrpc::r#async::Client, AgentError> {
        let mut connection = self.connection.lock().await;
        let stands = |c: &&Connection| !c.ended.load(Ordering::Acquire);
        if let Some(connection) = connection.as_ref().filter(stands) {
            return Ok(connection.client.clone());
        }
        let stream = dial(&self.socket, ports::AGENT, limit).await?;
        let (stream, ended) = Watched::new(stream);
        let client = ttrpc::r#async::Client::new(Socket::new(stream));
        *connection = Some(Connection {
            client: client.clone(),
            ended,
        });
        Ok(client)
    }

    pub(super) async fn kata(&self) -> Result<AgentServiceClient, AgentError> {
        self.kata_within(RECONNECT).await
    }

    /// The Kata dialect over a connection that may take as long as `limit` to be made.
    pub(super) async fn kata_within(
        &self,
        limit: Duration,
    ) -> Result<AgentServiceClient, AgentError> {
        Ok(AgentServiceClient::new(self.client(limit).await?))
    }

    async fn seed(&self) -> Result<GuestClient, AgentError> {
        Ok(GuestClient::new(self.client(RECONNECT).await?))
    }

    /// Sorts an error, and forgets a connection that broke.
    pub(super) async fn sorted<T>(
        &self,
        call: &'static str,
        result: ttrpc::Result<T>,
    ) -> Result<T, AgentError> {
        match result {
            Ok(value) => Ok(value),
            Err(source) => match status::of(&source) {
                // ttrpc gives its own deadline the same form as an answer; then too the agent is silent.
                Some((code, message)) if code != Code::DEADLINE_EXCEEDED => {
                    Err(AgentError::Refused {
                        call,
                        code,
                        message: shortened(message),
                    })
                }
                _ => {
                    self.connection.lock().await.take();
                    Err(AgentError::Broken { call, source })
                }
            },
        }
    }

    /// `CreateSandbox`: host name and DNS.
    pub async fn create_sandbox(&self, spec: &VmSpec, limit: Duration) -> Result<(), AgentError> {
        let request = CreateSandboxRequest {
            hostname: spec.hostname.clone(),
            dns: spec.dns.clone(),
            sandbox_id: spec.id.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .create_sandbox(within(limit), &request)
            .await;
        self.sorted("CreateSandbox", result).await.map(drop)
    }

    /// `CreateContainer`: environment and volumes.
    pub async fn create_container(&self, spec: &VmSpec, limit: Duration) -> Result<(), AgentError> {
        let request = container(spec);
        let result = self
            .kata()
            .await?
            .create_container(within(limit), &request)
            .await;
        self.sorted("CreateContainer", result).await.map(drop)
    }

    /// `StartContainer`: the boot may go on.
    pub async fn start_container(
        &self,
        id: &ContainerId,
        limit: Duration,
    ) -> Result<(), AgentError> {
        let request = StartContainerRequest {
            container_id: id.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .start_container(within(limit), &request)
            .await;
        self.sorted("StartContainer", result).await.map(drop)
    }

    /// `SignalProcess`. Without an exec, SIGTERM asks the guest to power off.
    pub async fn signal(
        &self,
        id: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
    ) -> Result<(), AgentError> {
        let request = SignalProcessRequest {
            container_id: id.to_string(),
            exec_id: exec_id(exec),
            signal,
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .signal_process(within(SHORT), &request)
            .await;
        self.sorted("SignalProcess", result).await.map(drop)
    }

    /// `ExecProcess`.
    pub async fn exec(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        process: oci::Process,
    ) -> Result<(), AgentError> {
        let request = ExecProcessRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            process: Some(process).into(),
            ..Default::default()
        };
        // Never closed, so this only waits.
        let _turn = self.starts.acquire().await;
        let result = self
            .kata()
            .await?
            .exec_process(within(EXEC), &request)
            .await;
        self.sorted("ExecProcess", result).await.map(drop)
    }

    /// `WaitProcess`: its exit status. No limit: a process runs as long as it likes.
    pub async fn wait(&self, id: &ContainerId, exec: &ExecId) -> Result<i32, AgentError> {
        let request = WaitProcessRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .wait_process(Context::default(), &request)
            .await;
        self.sorted("WaitProcess", result)
            .await
            .map(|response| response.status)
    }

    /// `ReadStdout` or `ReadStderr`: a long poll without a limit; nothing means the end. `position` is how much
    /// of the stream came already, so a call whose answer was lost may be made again.
    pub async fn read(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        stream: Stream,
        position: u64,
        bytes: u32,
    ) -> Result<Vec<u8>, AgentError> {
        let request = ReadStreamRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            len: bytes,
            position: Some(position),
            ..Default::default()
        };
        let kata = self.kata().await?;
        let (call, result) = match stream {
            Stream::Stdout => (
                "ReadStdout",
                kata.read_stdout(Context::default(), &request).await,
            ),
            Stream::Stderr => (
                "ReadStderr",
                kata.read_stderr(Context::default(), &request).await,
            ),
        };
        self.sorted(call, result)
            .await
            .map(|response| response.data)
    }

    /// `WriteStdin`: how much of `data` was taken. No limit: a process reads when it likes. `position` is how much
    /// was taken before; what was taken since, unknown to us, is not given again.
    pub async fn write_stdin(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        position: u64,
        data: Vec<u8>,
    ) -> Result<u32, AgentError> {
        let request = WriteStreamRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            data,
            position: Some(position),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .write_stdin(Context::default(), &request)
            .await;
        self.sorted("WriteStdin", result)
            .await
            .map(|response| response.len)
    }

    /// `CloseStdin`.
    pub async fn close_stdin(&self, id: &ContainerId, exec: &ExecId) -> Result<(), AgentError> {
        let request = CloseStdinRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .close_stdin(within(SHORT), &request)
            .await;
        self.sorted("CloseStdin", result).await.map(drop)
    }

    /// `TtyWinResize`.
    pub async fn resize(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        rows: u32,
        columns: u32,
    ) -> Result<(), AgentError> {
        let request = TtyWinResizeRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            row: rows,
            column: columns,
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .tty_win_resize(within(SHORT), &request)
            .await;
        self.sorted("TtyWinResize", result).await.map(drop)
    }

    /// `GetStatus`, a long poll of at most `wait`.
    pub async fn status(
        &self,
        after_revision: u64,
        wait: Duration,
    ) -> Result<GuestStatus, AgentError> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let request = GetStatusRequest {
            after_revision,
            wait_ms,
            ..Default::default()
        };
        let result = self
            .seed()
            .await?
            .get_status(within(wait + LATE), &request)
            .await;
        self.sorted("GetStatus", result).await
    }

    /// `GetIdentity`.
    pub async fn identity(&self) -> Result<Identity, AgentError> {
        let request = GetIdentityRequest::default();
        let result = self
            .seed()
            .await?
            .get_identity(within(SHORT), &request)
            .await;
        self.sorted("GetIdentity", result).await
    }

    /// `ListUnits`.
    pub async fn list_units(
        &self,
        request: &ListUnitsRequest,
    ) -> Result<ListUnitsResponse, AgentError> {
        let result = self.seed().await?.list_units(within(SHORT), request).await;
        self.sorted("ListUnits", result).await
    }

    /// `ControlUnit`: waits for the job.
    pub async fn control_unit(
        &self,
        request: &ControlUnitRequest,
    ) -> Result<ControlUnitResponse, AgentError> {
        let result = self
            .seed()
            .await?
            .control_unit(within(UNIT_JOB), request)
            .await;
        self.sorted("ControlUnit", result).await
    }

    /// `ReadJournal`: its limit is the wait that the request asks for, and some more.
    pub async fn read_journal(
        &self,
        request: &ReadJournalRequest,
    ) -> Result<JournalBatch, AgentError> {
        let limit = Duration::from_millis(request.wait_ms.into()) + LATE;
        let result = self
            .seed()
            .await?
            .read_journal(within(limit), request)
            .await;
        self.sorted("ReadJournal", result).await
    }
}

/// A guest's message goes into logs and onto terminals: as one line of bounded length, as data.
fn shortened(message: &str) -> String {
    let plain = crate::vmm::console::plain(&message.replace('\n', " "));
    match plain.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain,
    }
}

fn exec_id(exec: Option<&ExecId>) -> String {
    exec.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixListener,
        time::{sleep, timeout},
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_that_the_guest_closed_is_made_anew_before_the_next_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = Agent::new(path);
        let mut accepted = Vec::new();
        for _ in 0..2 {
            let (connected, stream) = tokio::join!(agent.connect(SHORT), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.read_exact(&mut [0; 13]).await.unwrap();
                stream.write_all(b"OK 1\n").await.unwrap();
                stream
            });
            connected.unwrap();
            accepted.push(stream);
            // While it stands it is used.
            let again = timeout(Duration::from_millis(50), listener.accept());
            let (connected, again) = tokio::join!(agent.connect(SHORT), again);
            connected.unwrap();
            again.unwrap_err();
            // The agent was killed.
            accepted.clear();
            while !agent.has_ended().await {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }

    impl Agent {
        async fn has_ended(&self) -> bool {
            let connection = self.connection.lock().await;
            connection
                .as_ref()
                .is_none_or(|c| c.ended.load(Ordering::Acquire))
        }
    }

    #[test]
    fn a_guests_message_is_one_short_line() {
        assert_eq!(shortened("a\nb\x1b[31mc\x07"), "a bc");
        assert_eq!(
            shortened(&"é".repeat(5000)).chars().count(),
            MESSAGE_CHARS + 3
        );
    }
}
