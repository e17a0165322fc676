//! The network of a pod: its namespace, which the shim enters, and in it the wire between the pod's links and
//! the guest's cards.
//!
//! For each link that CNI made there is a tap device with a card of the same hardware address behind it; `tc`
//! redirects every frame between the two ([`redirect`]). Addresses and routes go to the guest through its agent.
//! What connects to the namespace's loopback comes to the shim ([`loopback`]).
//! A network is one machine's at a time ([`hold`]). The tap devices go when the last holder of their files does, so that a
//! killed shim leaves none; its redirections stay on the pod's links until [`sweep`].

mod hold;
mod links;
mod loopback;
mod namespace;
mod redirect;

use std::{io, net::IpAddr, os::fd::OwnedFd, path::Path, sync::Arc, thread, time::Instant};

use seed_netlink::Conversation;
use thiserror::Error;

use crate::sys::{self, tun};

use hold::Hold;

pub use hold::HoldError;
pub use links::{Neighbour, Route};
pub use loopback::{Loopback, LoopbackError};
pub use namespace::{NamespaceError, Network, enter};

/// Names of tap devices: the kernel puts a number at the end.
const TAP: &str = "seedtap";
const TAP_PATTERN: &str = "seedtap%d";

/// Why there is no wire.
#[derive(Debug, Error)]
pub enum NetError {
    /// The kernel refuses.
    #[error("{what} in the pod's network failed")]
    Kernel {
        /// Which step.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no tap device.
    #[error("a tap device cannot be made")]
    Tap(#[source] io::Error),
    /// There is one, and it is not to be found.
    #[error("tap device {0} has no number")]
    Lost(String),
    /// The namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// It is another machine's.
    #[error(transparent)]
    Hold(#[from] HoldError),
}

/// A network card of the guest, and what the guest is told of it.
#[derive(Debug, Clone)]
pub struct Nic {
    /// The name of the pod's link, and of the guest's.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses, with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes over it.
    pub routes: Vec<Route>,
    /// Neighbours that it shall not ask for.
    pub neighbours: Vec<Neighbour>,
    /// The tap device's file: the VMM's end.
    pub tap: Arc<OwnedFd>,
}

#[cfg(test)]
impl Nic {
    pub(crate) fn sample(tap: Arc<OwnedFd>) -> Self {
        Self {
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            addresses: Vec::new(),
            routes: Vec::new(),
            neighbours: Vec::new(),
            tap,
        }
    }
}

/// The wires of one machine. They are taken away when this is dropped, by a thread that is in the pod's network.
#[derive(Debug)]
pub struct Wires {
    nics: Vec<Nic>,
    links: Vec<u32>,
    /// Let go of when all else is taken away.
    _hold: Hold,
}

impl Wires {
    /// Takes the calling thread into the network namespace at `network`, as [`enter`] does, and makes a wire for each link there.
    /// None in `host`, the host's own network: its links are no guest's, and what is redirected is taken from the host. A
    /// network that another machine has is refused, and left as it is.
    ///
    /// Blocks for as long as the kernel takes, and for some seconds where links are busy or the network is taken.
    pub fn in_pod(network: &Path, host: Network) -> Result<Option<Self>, NetError> {
        enter(network)?;
        if Network::own()? == host {
            return Ok(None);
        }
        Self::make(Hold::take(network)?).map(Some)
    }

    fn make(hold: Hold) -> Result<Self, NetError> {
        let mut kernel = speak()?;
        let mut wires = Self {
            nics: Vec::new(),
            links: Vec::new(),
            _hold: hold,
        };
        for link in links::list(&mut kernel, TAP)? {
            let (tap, name) = tun::make_tap(TAP_PATTERN).map_err(NetError::Tap)?;
            let index = index_of(&name).ok_or_else(|| NetError::Lost(name.clone()))?;
            redirect::up(&mut kernel, index, link.mtu)?;
            // Before the first redirection, so that a failure takes it away too.
            wires.links.push(link.index);
            redirect::add(&mut kernel, link.index, index)?;
            redirect::add(&mut kernel, index, link.index)?;
            let mac = mac_text(&link.mac);
            tracing::info!(
                link = link.name,
                tap = name,
                mac,
                mtu = link.mtu,
                "pod is wired"
            );
            wires.nics.push(Nic {
                name: link.name,
                mac,
                mtu: link.mtu,
                addresses: link.addresses,
                routes: link.routes,
                neighbours: link.neighbours,
                tap: Arc::new(tap),
            });
        }
        Ok(wires)
    }

    /// The guest's cards.
    pub fn nics(&self) -> &[Nic] {
        &self.nics
    }
}

impl Drop for Wires {
    fn drop(&mut self) {
        match Conversation::open() {
            Ok(mut kernel) => {
                for link in &self.links {
                    redirect::remove(&mut kernel, *link);
                }
            }
            Err(error) => tracing::warn!(%error, "pod's redirections were not taken away"),
        }
    }
}

/// Takes away what a killed shim left on the links of its pod's network: redirections to tap devices that go with it, which
/// swallow every frame. Where the network is held a machine is on the wire, perhaps another shim's, and nothing is touched; nor
/// in the caller's own network, which is no pod's. Blocks for as long as the kernel takes, and where the holder is
/// about to end until `until`: a killed process counts as ended when its first thread has, and its files are closed by the last.
pub fn sweep(network: &Path, until: Instant) -> Result<(), NetError> {
    if Network::at(network)? == Network::own()? {
        return Ok(());
    }
    in_thread("taking redirections away", || {
        enter(network)?;
        let Some(_hold) = Hold::take_over(network, until)? else {
            return Ok(());
        };
        let mut kernel = speak()?;
        let links = links::bare(&mut kernel)?.into_iter();
        // A machine that is about to end takes its own with it.
        for link in links.filter(|link| !link.name.starts_with(TAP)) {
            redirect::remove(&mut kernel, link.index);
        }
        Ok(())
    })
}

/// A thread that may go to another network.
fn in_thread(
    what: &'static str,
    work: impl FnOnce() -> Result<(), NetError> + Send,
) -> Result<(), NetError> {
    thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|_| {
        let source = io::Error::other("the thread is gone");
        Err(NetError::Kernel { what, source })
    })
}

fn speak() -> Result<Conversation, NetError> {
    let what = "speaking rtnetlink";
    Conversation::open().map_err(|source| NetError::Kernel { what, source })
}

/// Whether this kernel can lead frames from one link to another as a pod's wire does: tried between two taps in a
/// network of their own, which is gone afterwards. The kernel loads what it has as modules. Root alone can try it.
pub fn try_wire() -> Result<(), NetError> {
    in_new_network(|| {
        let taps = [TAP_PATTERN; 2].map(|pattern| tun::make_tap(pattern).map_err(NetError::Tap));
        let [one, other] = taps;
        let (one, other) = (one?, other?);
        let index = |name: &str| index_of(name).ok_or_else(|| NetError::Lost(name.to_owned()));
        redirect::add(&mut speak()?, index(&one.1)?, index(&other.1)?)
    })
}

/// Whether it can lead what connects to a pod's loopback to the shim ([`Loopback`]), tried as [`try_wire`] tries.
pub fn try_loopback() -> Result<(), NetError> {
    in_new_network(|| {
        let what = "leading the loopback to a listener";
        loopback::try_take().map_err(|source| NetError::Kernel { what, source })
    })
}

/// A thread in a network that goes with it.
fn in_new_network(work: impl FnOnce() -> Result<(), NetError> + Send) -> Result<(), NetError> {
    in_thread("trying it", || {
        let what = "making a network";
        sys::unshare_network().map_err(|source| NetError::Kernel { what, source })?;
        work()
    })
}

/// A hardware address as people write it.
pub fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The kernel's number of a link of the calling thread's namespace. `/sys` shows the namespace in which it was
/// mounted, `/proc/net` the process's own.
fn index_of(name: &str) -> Option<u32> {
    let mut kernel = Conversation::open().ok()?;
    let all = links::bare(&mut kernel).ok()?;
    all.into_iter()
        .find(|link| link.name == name)
        .map(|link| link.index)
}
