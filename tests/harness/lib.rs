//! How the VM cases work: where the programs and the guest are ([`lab`]), one instance driven through
//! the `seed` command line as a user would ([`instance`]), named limits ([`limit`]), and a runner that
//! shows every skip with its reason ([`runner`]). [`stub`], [`containerd`], [`parts`] and [`disk`] are for cases that need no guest.
//!
//! It never reaches into the shim or the agent: what a case needs, a user can see.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "results of cases are for the terminal")]

pub mod containerd;
pub mod cri;
pub mod disk;
mod generated;
pub mod instance;
pub mod lab;
pub mod limit;
pub mod machine;
pub mod parts;
pub mod process;
pub mod runner;
pub mod stub;

pub use containerd::{Containerd, Version};
pub use cri::Cri;
pub use disk::SmallDisk;
pub use instance::{Instance, Spec};
pub use lab::Lab;
pub use machine::Machine;
pub use runner::Runner;
