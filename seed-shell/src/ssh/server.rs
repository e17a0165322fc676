//! Accepts connections, lets each in through the gate, and ends those that take too long to authenticate or have
//! no channel for long.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use russh::{
    Disconnect, MethodKind, MethodSet, SshId,
    server::{Config as SshConfig, Handle, run_stream},
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Shared,
    handler::{Connection, Open},
    host_key::{self, HostKeyError},
    limits::{Gate, Place},
};

/// What the server calls itself.
const SERVER_ID: &str = concat!("SSH-2.0-seed_", env!("CARGO_PKG_VERSION"));

/// How often a quiet client is asked whether it is there, and how often it may fail to answer.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_MAX: usize = 3;

/// Failed attempts to authenticate on one connection: agents offer all the keys that they hold.
const AUTH_ATTEMPTS: usize = 20;

/// How long the listener rests after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a client may send before it is taken off.
const WINDOW_BYTES: u32 = 256 << 10;

/// How long sessions may take to end when the server stops.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why the server does not run.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The host key.
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    /// An address.
    #[error("address {address} cannot be listened on")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    shared: Shared,
    ssh: Arc<SshConfig>,
    listeners: Vec<TcpListener>,
    gate: Gate,
}

impl Server {
    /// Loads the host key and listens.
    pub async fn bind(shared: Shared) -> Result<Self, ServeError> {
        let config = &shared.config;
        let key = host_key::load(&config.host_key())?;
        let mut listeners = Vec::new();
        for &address in &config.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| ServeError::Listen { address, source })?);
        }
        let ssh = SshConfig {
            server_id: SshId::Standard(SERVER_ID.into()),
            methods: MethodSet::from(&[MethodKind::PublicKey][..]),
            auth_rejection_time: Duration::ZERO,
            auth_rejection_time_initial: Some(Duration::ZERO),
            max_auth_attempts: AUTH_ATTEMPTS,
            keys: vec![key],
            window_size: WINDOW_BYTES,
            inactivity_timeout: None,
            keepalive_interval: Some(KEEPALIVE),
            keepalive_max: KEEPALIVE_MAX,
            nodelay: true,
            ..SshConfig::default()
        };
        Ok(Self {
            gate: Gate::new(config.limits.clone()),
            shared,
            ssh: Arc::new(ssh),
            listeners,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until `stop` changes; then says goodbye to everybody.
    pub async fn run(self, stop: watch::Receiver<bool>) {
        let Self {
            shared,
            ssh,
            listeners,
            gate,
        } = self;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let (shared, ssh, gate) = (shared.clone(), Arc::clone(&ssh), gate.clone());
            accepting.spawn(accept(listener, shared, ssh, gate, stop.clone()));
        }
        while accepting.join_next().await.is_some() {}
    }
}

async fn accept(
    listener: TcpListener,
    shared: Shared,
    ssh: Arc<SshConfig>,
    gate: Gate,
    mut stop: watch::Receiver<bool>,
) {
    let mut sessions = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
            // Takes off those that have ended.
            Some(_) = sessions.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => match gate.enter(peer.ip(), Instant::now()) {
                Ok(place) => {
                    let session = serve(
                        stream,
                        peer,
                        place,
                        shared.clone(),
                        Arc::clone(&ssh),
                        stop.clone(),
                    );
                    sessions.spawn(session);
                }
                // Closed at once: the stream is dropped.
                Err(refusal) => tracing::debug!(address = %peer.ip(), ?refusal, "refused"),
            },
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let all = async { while sessions.join_next().await.is_some() {} };
    if timeout(GOODBYE, all).await.is_err() {
        tracing::warn!("sessions did not end in time");
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    shared: Shared,
    ssh: Arc<SshConfig>,
    mut stop: watch::Receiver<bool>,
) {
    let limits = shared.config.limits.clone();
    // A second handle on the socket: the library listens to nobody while keys are exchanged.
    let (stream, socket) = match twice(stream) {
        Ok(both) => both,
        Err(error) => {
            tracing::warn!(%error, "connection cannot be used");
            return;
        }
    };
    let (authenticated, mut login) = watch::channel(false);
    let open = Open::default();
    let connection = Connection::new(shared, peer.ip(), place, authenticated, open.clone());
    let deadline = tokio::time::Instant::now() + limits.login();
    let started = tokio::time::timeout_at(deadline, run_stream(ssh, stream, connection)).await;
    let session = match started {
        Ok(Ok(session)) => session,
        Ok(Err(error)) => {
            tracing::debug!(address = %peer.ip(), %error, "no SSH");
            return;
        }
        Err(_) => return,
    };
    let handle = session.handle();
    let mut session = std::pin::pin!(session);
    let late = async {
        let logged_in = login.wait_for(|done| *done);
        let in_time = tokio::time::timeout_at(deadline, logged_in)
            .await
            .is_ok_and(|told| told.is_ok());
        if in_time {
            std::future::pending::<()>().await;
        }
    };
    let reason = tokio::select! {
        ended = &mut session => {
            if let Err(error) = ended {
                tracing::debug!(address = %peer.ip(), %error, "connection ended");
            }
            return;
        }
        () = late => "authentication took too long",
        () = idle(&open, limits.idle()) => "nothing was asked for, for too long",
        _ = stop.changed() => "the server stops",
    };
    goodbye(&handle, reason).await;
    if timeout(GOODBYE, &mut session).await.is_err() {
        // The session reads the end of its connection, and ends.
        let _ = socket.shutdown(Shutdown::Both);
        let _ = timeout(GOODBYE, session).await;
    }
}

fn twice(stream: TcpStream) -> io::Result<(TcpStream, std::net::TcpStream)> {
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, socket))
}

/// Ends when there was no channel for so long.
async fn idle(open: &Open, limit: Duration) {
    let mut changes = open.changes();
    loop {
        changes.mark_unchanged();
        // The sender of changes is `open`'s, so it is there.
        if open.count() > 0 {
            let _ = changes.changed().await;
            continue;
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep(limit) => return,
        }
    }
}

async fn goodbye(handle: &Handle, reason: &str) {
    let told = handle.disconnect(Disconnect::ByApplication, reason.into(), "en".into());
    // A client that reads nothing does not hear it.
    let _ = timeout(GOODBYE, told).await;
}
