//! What host and guest say to each other, and nothing else: messages, service traits, ports, paths,
//! statuses and the journal batch format. No logic, no I/O.
//!
//! | service | served by | called by | where |
//! |---|---|---|---|
//! | `grpc.AgentService`, `grpc.Health` ([`kata`]) | the guest's agent | our shim, an unmodified Kata shim | vsock port [`ports::AGENT`] |
//! | `seed.v1.Guest` ([`seed::v1`]) | the guest's agent | our shim | the same port |
//! | `seed.v1.Beacon` (one message, no service) | the host | the guest's agent | vsock port [`ports::BEACON`] |
//! | `seed.management.v1.Management` ([`seed::management`]) | the shim | `seed`, the seed shell | a Unix socket per instance |
//!
//! All services are ttrpc: unary calls, many in flight on one connection, frames of at most 4 MiB.
//! The journal travels by pull (`Guest.ReadJournal`) in blocks that [`journal`] documents.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod beacon;
pub mod env;
mod generated;
pub mod journal;
mod journal_namespace;
pub mod kata;
pub mod paths;
pub mod ports;
pub mod seed;
pub mod status;
pub mod version;

pub use journal_namespace::{JournalNamespace, JournalNamespaceError, MAX_NAMESPACES};
