//! Links, addresses, routes and neighbours, set and listed through rtnetlink. The host says what it wants;
//! nothing is remembered here, and nothing is taken away that the host did not name.
//!
//! [`words`] turns the host's text into checked values, [`link`], [`route`] and [`neighbour`] talk to the
//! kernel. Everything blocks and belongs on a thread of its own.

pub mod link;
pub mod neighbour;
pub mod route;
pub mod words;

use std::io;

use seed_netlink::Conversation;
use thiserror::Error;

use crate::sys::pci::PciPath;

pub use link::{Interface, InterfaceOrder, list as interfaces, update as update_interface};
pub use neighbour::{Neighbour, add as add_neighbour};
pub use route::{Route, list as routes, update as update_routes};

/// Why the network is not as the host wants it.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// A value that cannot be meant.
    #[error("{value:?} is no {what}")]
    Value {
        /// What was wanted.
        what: &'static str,
        /// What came.
        value: String,
    },
    /// More entries than anybody means.
    #[error("{0} entries are too many")]
    TooMany(usize),
    /// No link has this address or name. A Kata shim tries again when it reads the first three words.
    #[error("Link not found: {0}")]
    NoLink(String),
    /// The device did not appear.
    #[error("Link not found: no network device at PCI path {0}")]
    NoDevice(PciPath),
    /// The kernel cannot be asked.
    #[error("rtnetlink cannot be spoken")]
    Open(#[source] io::Error),
    /// The kernel refused something.
    #[error("{what} {subject}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// On what.
        subject: String,
        /// Why not.
        source: io::Error,
    },
}

fn converse() -> Result<Conversation, NetworkError> {
    Conversation::open().map_err(NetworkError::Open)
}

fn failed(what: &'static str, subject: impl ToString) -> impl FnOnce(io::Error) -> NetworkError {
    let subject = subject.to_string();
    move |source| NetworkError::Kernel {
        what,
        subject,
        source,
    }
}
