//! What containerd sees of us: one binary with a few commands, and the Task service behind a socket.
//!
//! [`cli`] reads the command line; [`start`], [`serve`] and [`delete`] are its commands; [`service`] adapts
//! the Task API (v2 and v3 are the same messages under two names) to [`task`] (whose files [`prepare`] sees to) and [`process`], [`pod`] stands before it for a pod's sandbox; [`events`]
//! publishes, [`restart`] begins a restart, and [`commands`] runs what the management socket asks for. Nothing in here knows QEMU or the guest.
//!
//! The contract: containerd's `core/runtime/v2/README.md`, 1.6 to 2.3.

pub mod cli;
pub mod commands;
pub mod delete;
mod error;
pub mod events;
mod exec_spec;
pub mod info;
pub mod instance;
pub mod logging;
pub mod options;
mod outlet;
pub mod pod;
mod prepare;
pub mod process;
pub mod restart;
pub mod serve;
pub mod service;
pub mod start;
pub mod state_file;
mod stats;
pub mod task;
mod wire;

pub use error::TaskError;
