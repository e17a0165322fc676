//! The connection to the agent, made when it is needed and made anew after it broke, and the one place where its
//! answers are sorted. The calls are beside: orders, processes, the machine, the network, what a guest of ours tells.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use seed_protocol::{
    kata::agent_ttrpc::AgentServiceClient, ports, seed::v1_ttrpc::GuestClient, status,
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
    watched::{HasEnded, Watched},
};

/// A call that only looks something up, or passes something on.
pub(super) const SHORT: Duration = Duration::from_secs(20);

/// How many processes may be starting at a time. More would only wait in the guest, with their limit running.
const STARTS: usize = 8;

/// How long a connection to a running agent may take.
const RECONNECT: Duration = Duration::from_secs(5);

/// How much of a guest's message is passed on.
pub(super) const MESSAGE_CHARS: usize = 1000;

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

/// The agent of one guest. Clones share one connection, which is made when it is needed and made anew
/// after it broke.
#[derive(Clone)]
pub struct Agent {
    socket: Arc<Path>,
    connection: Arc<Mutex<Option<Connection>>>,
    /// Shared by all connections to this guest: who may start a process now.
    pub(super) starts: Arc<Semaphore>,
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

    pub(super) async fn seed(&self) -> Result<GuestClient, AgentError> {
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
}

/// A guest's message goes into logs and onto terminals: as one line of bounded length, as data.
fn shortened(message: &str) -> String {
    let plain = crate::vmm::console::plain(&message.replace('\n', " "));
    match plain.char_indices().nth(MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain,
    }
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
