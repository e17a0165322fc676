//! The SSH server.
//!
//! [`server`] accepts connections, [`limits`] says how many and from where, [`handler`] authenticates and opens
//! channels, [`channel`] lives one channel through, [`inbox`] keeps its input, [`output`] is where a command writes, and [`host_key`] is the key
//! that the host shows. Keys only; no forwarding, no subsystem, no X11, no agent.

pub mod channel;
pub mod handler;
pub mod host_key;
pub mod inbox;
pub mod limits;
pub mod output;
pub mod server;

use std::sync::Arc;

use crate::{config::Config, follow::Bells, instances::Instances, registry::Registry};

/// What every session works with.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// The registry.
    pub registry: Arc<Registry>,
    /// The instances.
    pub instances: Instances,
    /// The followed logs.
    pub bells: Bells,
    /// Room for input that waits.
    pub spool: inbox::Spool,
}
