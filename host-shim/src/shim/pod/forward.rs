//! Connections to the loopback of a pod's network, each taken on to the same port of the guest's loopback by its agent:
//! what a CRI engine's `PortForward` dials. Where the kernel cannot lead them here a pod has none, and all else.
//!
//! A connection that the guest does not take, or that breaks, is reset: an end in order is only what an end in order was. The
//! agent does the same on the guest's side with what is closed before its end was passed on.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::net::sockopt::set_socket_linger;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use crate::{
    agent::{Agent, AgentError},
    names::ContainerId,
    net::Loopback,
    shim::service::Service,
    text::chain,
};

/// How many there may be at a time: fewer than the agent takes.
const MAX_CONNECTIONS: usize = 64;

/// The bytes of one call.
const PIECE_BYTES: usize = 32 * 1024;

/// How long one call waits for bytes, or for room.
const WAIT: Duration = Duration::from_secs(20);

/// The pause after a call that brought nothing, and after a failed `accept(2)`: a guest may answer as fast as it likes.
const PAUSE: Duration = Duration::from_millis(20);

/// How often the agent is told that a connection is still wanted, which it forgets after 90 s.
const HOLD: Duration = Duration::from_secs(30);

/// A connection of which one half has ended may be silent for so many times [`HOLD`].
const SILENT_HOLDS: u32 = 20;

/// Why a connection ended out of order.
#[derive(Debug, Error)]
enum ForwardError {
    /// The guest.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Who connected.
    #[error("client's connection broke")]
    Client(#[from] io::Error),
    /// Half of it has ended, and in the other one nothing came.
    #[error("half-closed connection was silent for ten minutes")]
    Silent,
}

/// Who answers on a pod's loopback. Dropping it ends what is open.
#[derive(Debug)]
pub(super) struct Forwarder(JoinHandle<()>);

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Forwarder {
    /// Answers on the loopback of the calling thread's network, which is not the host's. `None`, and a line in the log,
    /// where that cannot be.
    pub(super) fn start(pod: &ContainerId, machine: Arc<Service>) -> Option<Self> {
        match Loopback::take(machine.host_network()) {
            Ok(loopback) => Some(Self(tokio::spawn(serve(loopback, machine)))),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(sandbox_id = %pod, error, "pod's ports cannot be forwarded");
                None
            }
        }
    }
}

async fn serve(loopback: Loopback, machine: Arc<Service>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Those that are over first: they count for nothing.
            biased;
            Some(_) = connections.join_next() => {}
            accepted = loopback.accept() => match accepted {
                Ok((stream, port)) => {
                    let agent = machine.agent();
                    match agent.filter(|_| connections.len() < MAX_CONNECTIONS) {
                        Some(agent) => {
                            connections.spawn(forward(stream, port, agent));
                        }
                        None => {
                            tracing::warn!(port, "connection is reset: no instance runs, or it has too many");
                            reset(stream);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "connection to the pod's loopback was not accepted");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

async fn forward(mut stream: TcpStream, port: u16, agent: Agent) {
    tracing::debug!(port, "connection to a port of the guest");
    let mut opened = None;
    let result = async {
        let id = *opened.insert(agent.open_port(port).await?);
        relay(&mut stream, id, &agent).await
    };
    match result.await {
        Ok(()) => drop(stream),
        Err(error) => {
            let error = chain(&error);
            tracing::info!(port, error, "connection to a port of the guest is reset");
            reset(stream);
        }
    }
    if let Some(id) = opened {
        // It may be the guest that broke: then it has none any more.
        let _ = agent.close_port(id).await;
    }
}

/// Passes bytes on both ways until both have ended.
async fn relay(stream: &mut TcpStream, id: u64, agent: &Agent) -> Result<(), ForwardError> {
    // The pieces are whole writes of the other side.
    stream.set_nodelay(true)?;
    let (mut client, mut to_client) = stream.split();
    let half = AtomicBool::new(false);
    let silent = AtomicU32::new(0);
    let inwards = async {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = client.read(&mut piece).await?;
            silent.store(0, Ordering::Relaxed);
            pass_on(agent, id, &piece[..count]).await?;
            if count == 0 {
                half.store(true, Ordering::Relaxed);
                return Ok::<(), ForwardError>(());
            }
        }
    };
    let outwards = async {
        let most = u32::try_from(PIECE_BYTES).unwrap_or(u32::MAX);
        loop {
            let (data, end) = agent.read_port(id, most, WAIT).await?;
            to_client.write_all(&data).await?;
            if end || !data.is_empty() {
                silent.store(0, Ordering::Relaxed);
            }
            if end {
                to_client.shutdown().await?;
                half.store(true, Ordering::Relaxed);
                return Ok(());
            }
            if data.is_empty() {
                sleep(PAUSE).await;
            }
        }
    };
    let held = async {
        loop {
            sleep(HOLD).await;
            // Whoever waits for the client to take its bytes makes no calls.
            agent.read_port(id, 0, Duration::ZERO).await?;
            let times = silent.fetch_add(1, Ordering::Relaxed);
            if times >= SILENT_HOLDS && half.load(Ordering::Relaxed) {
                return Err(ForwardError::Silent);
            }
        }
    };
    tokio::select! {
        both = async { tokio::try_join!(inwards, outwards) } => both.map(drop),
        broken = held => broken,
    }
}

/// All of them, or, without any, that nothing more comes.
async fn pass_on(agent: &Agent, id: u64, mut data: &[u8]) -> Result<(), AgentError> {
    if data.is_empty() {
        return agent.write_port(id, data, true, WAIT).await.map(drop);
    }
    while !data.is_empty() {
        let written = agent.write_port(id, data, false, WAIT).await?;
        data = &data[written..];
        if written == 0 {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

/// Ends it so that the other side knows.
fn reset(stream: TcpStream) {
    if let Err(error) = set_socket_linger(&stream, Some(Duration::ZERO)) {
        tracing::debug!(%error, "connection is closed in place of a reset");
    }
}
