//! The guest's agent, seen from the host: one way to connect, typed calls, and the beacon that says that
//! connecting makes sense. Everything that comes from the guest is data of a stranger: it is bounded,
//! parsed, and never trusted to be on time.

mod beacon;
mod client;
mod connect;
mod convert;
mod guest;
mod journal;
mod machine;
mod network;
mod orders;
mod ports;
mod process;
mod watched;

pub use beacon::{BeaconListener, listen as listen_for_beacons};
pub use client::{Agent, AgentError};
pub use connect::{ConnectError, dial};
pub use journal::Journal;
pub use process::Stream;
