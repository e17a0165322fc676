//! The loopback of a pod's network. A CRI engine that forwards a port enters the namespace and connects to `localhost`
//! there, where the guest does not listen; so the shim does in its place, on every port ([`lookup`]). Who connects
//! is told apart by the port that was asked for, which the kernel keeps as the accepted socket's own address.

use std::{fs::File, io, net::Ipv4Addr};

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};

use super::namespace::{NamespaceError, Network, OWN};
use crate::sys::lookup;

/// Why connections to the loopback do not come here.
#[derive(Debug, Error)]
pub enum LoopbackError {
    /// It is not a pod's.
    #[error("the loopback is the host's")]
    Host,
    /// It is not known whose it is.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A step failed.
    #[error("{what} failed")]
    Failed {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Takes the loopback of the calling thread's network, whose device may be down, and gives it back.
pub(super) fn try_take() -> io::Result<()> {
    let namespace = File::open(OWN)?;
    let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    lookup::take_loopback(&listener, &namespace).map(drop)
}

/// Every TCP port of a loopback over IPv4, until it is dropped.
#[derive(Debug)]
pub struct Loopback {
    listener: TcpListener,
    /// Held, it leads connections to the listener.
    _taken: lookup::Taken,
}

impl Loopback {
    /// Takes the loopback of the calling thread's network namespace, which must be another than `host`, the network of
    /// everybody else. To be called inside the runtime.
    pub fn take(host: Network) -> Result<Self, LoopbackError> {
        if Network::own()? == host {
            return Err(LoopbackError::Host);
        }
        let failed = |what| move |source| LoopbackError::Failed { what, source };
        let namespace = File::open(OWN).map_err(failed("opening the pod's network"))?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            })
            .map_err(failed("listening on the pod's loopback"))?;
        let taken = lookup::take_loopback(&listener, &namespace);
        Ok(Self {
            listener,
            _taken: taken.map_err(failed("leading the pod's loopback to the shim"))?,
        })
    }

    /// The next connection, and to which port.
    pub async fn accept(&self) -> io::Result<(TcpStream, u16)> {
        let (stream, _) = self.listener.accept().await?;
        let port = stream.local_addr()?.port();
        Ok((stream, port))
    }
}
