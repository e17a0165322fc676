//! The one listener of the agent and the services behind it: both halves of the Kata dialect and
//! `seed.v1`. It checks who connects; what is asked for is the adapters' business.

pub mod error;
pub mod kata;
pub mod seed;

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use seed_protocol::{
    kata::{self as dialect, health_ttrpc},
    ports,
    seed::v1_ttrpc,
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep},
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};
use tracing::{info, warn};
use ttrpc::asynchronous::{Server as TtrpcServer, transport::Listener};

use crate::{
    agent::Context,
    config::{Host, Listen},
};

/// How long vsock may take to come up where a host is expected: its module is loaded by udev.
const BIND_LIMIT: Duration = Duration::from_secs(60);

/// How long to wait between two tries, and after a failed `accept(2)`.
const PAUSE: Duration = Duration::from_millis(50);

/// Only root may connect to the test socket.
const SOCKET_MODE: u32 = 0o600;

/// Why the agent cannot be reached.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The vsock port.
    #[error("vsock port {port} cannot be listened on")]
    Vsock {
        /// The port.
        port: u32,
        /// Why.
        source: io::Error,
    },
    /// The Unix socket.
    #[error("socket {path} cannot be listened on")]
    Unix {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The server did not take the listener.
    #[error("the server does not start: {0}")]
    Server(String),
}

/// The running server.
pub struct Server {
    inner: TtrpcServer,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Takes no more connections and lets the open ones go. Requests that never end do not hold it up.
    pub async fn stop(&mut self) {
        self.inner.stop_listen().await;
    }
}

/// Listens where the configuration says, and serves until the runtime ends. `None` when there is neither
/// a host nor vsock: then nobody can call, and nobody is missed.
pub async fn start(ctx: &Arc<Context>) -> Result<Option<Server>, ListenError> {
    let bound = match &ctx.config.listen {
        Listen::Vsock(port) => vsock(*port, ctx.config.host).await,
        Listen::Unix(path) => unix(path),
    };
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) if ctx.config.host == Host::Absent => {
            info!(%error, "nobody can call");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut inner = TtrpcServer::new()
        .add_listener(listener)
        .register_service(dialect::agent_service(Arc::new(kata::Agent::new(ctx))))
        .register_service(health_ttrpc::create_health(Arc::new(kata::Health)))
        .register_service(v1_ttrpc::create_guest(Arc::new(seed::Service::new(
            ctx.clone(),
        ))));
    inner
        .start()
        .await
        .map_err(|error| ListenError::Server(error.to_string()))?;
    info!(listen = ?ctx.config.listen, "listening");
    Ok(Some(Server { inner }))
}

async fn vsock(port: u32, host: Host) -> Result<Listener, ListenError> {
    let address = VsockAddr::new(VMADDR_CID_ANY, port);
    let limit = if host == Host::Absent {
        Duration::ZERO
    } else {
        BIND_LIMIT
    };
    let deadline = Instant::now() + limit;
    let listener = loop {
        match VsockListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            Err(source) => return Err(ListenError::Vsock { port, source }),
        }
    };
    let connections = stream::unfold(listener, |listener| async move {
        let accepted = accept_host(&listener).await;
        Some((accepted, listener))
    });
    Ok(Listener::new(connections))
}

/// The next connection that comes from the host. Others, such as processes of the guest itself over the
/// loopback, are turned away.
async fn accept_host(listener: &VsockListener) -> io::Result<VsockStream> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) if is_host(peer) => return Ok(stream),
            Ok((_, peer)) => warn!(cid = peer.cid(), "connection refused: not from the host"),
            Err(error) => {
                // Out of descriptors, for one: without a pause this would spin.
                sleep(PAUSE).await;
                return Err(error);
            }
        }
    }
}

fn is_host(peer: VsockAddr) -> bool {
    peer.cid() == ports::HOST_CID
}

fn unix(path: &Path) -> Result<Listener, ListenError> {
    let failed = |source| ListenError::Unix {
        path: path.display().to_string(),
        source,
    };
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    let connections = stream::unfold(listener, |listener| async move {
        let accepted: io::Result<UnixStream> = match listener.accept().await {
            Ok((stream, _)) => Ok(stream),
            Err(error) => {
                sleep(PAUSE).await;
                Err(error)
            }
        };
        Some((accepted, listener))
    });
    Ok(Listener::new(connections))
}

#[cfg(test)]
mod tests {
    use tokio_vsock::{VMADDR_CID_HYPERVISOR, VMADDR_CID_LOCAL};

    use super::*;

    #[test]
    fn only_the_host_may_talk() {
        let from = |cid| is_host(VsockAddr::new(cid, 1023));
        assert!(from(2));
        // The guest's own processes over the loopback, and other guests.
        for other in [
            VMADDR_CID_HYPERVISOR,
            VMADDR_CID_LOCAL,
            VMADDR_CID_ANY,
            3,
            4711,
        ] {
            assert!(!from(other), "{other}");
        }
    }
}
