//! One VM's life: [`state`] decides, [`driver`] does, [`view`] is what everybody else may know of it.
//!
//! State, pids and exit are answered from memory: nothing here asks the guest on behalf of a caller, except
//! through [`Sandbox::agent`].

pub mod driver;
mod exit_record;
mod failure;
pub mod state;
mod start;
mod stages;
mod view;

pub use driver::{Observer, Parts, Sandbox, StartError};
pub use exit_record::ExitRecord;
pub(crate) use {driver::with_cause, exit_record::unix_ns};
pub use state::{Exit, Kill, Phase};
pub use view::{Ended, View};
