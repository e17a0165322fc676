//! A containerd small enough for one instance: what `seed run` uses where no containerd is. It makes a
//! bundle, starts the same shim binary with the same arguments, and speaks the same Task API, so that the
//! quick start and production run the same code.
//!
//! | file | job |
//! |---|---|
//! | [`shim`] | the binary: where it is, `start` and its answer, `delete` |
//! | [`task`] | the Task API's client, v2 or v3 by the shim's answer |
//! | [`record`] | how an instance was started: `instance.json` |
//! | [`volumes`] | volumes as a user names them; their image files |
//! | [`bundle`] | `config.json`, the overlay layer, the mounts of the root |
//! | [`instance`] | stop: the order of it all |
//! | [`remains`] | what stays of those that have ended: listed, deleted |
//! | `begin` | start: the same |
//! | `claim` | who may act on an instance, when commands meet |
//! | [`exec`] | one command in the guest, with its streams |
//!
//! It keeps no process: between two commands the shim alone runs, and what is known is on disk. Nothing here
//! knows VMs or guests.

mod begin;
pub mod bundle;
mod claim;
mod end;
pub mod exec;
pub mod instance;
pub mod record;
pub mod remains;
pub mod shim;
pub mod task;
pub mod volumes;

pub use instance::{InstanceError, Phase, StopOptions};
pub use record::{Record, RecordError};
