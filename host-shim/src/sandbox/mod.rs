//! One VM's life: [`state`] decides, `driver` does, [`View`] is what everybody else may know of it.
//!
//! State, pids and exit are answered from memory: nothing here asks the guest on behalf of a caller, except
//! through [`Sandbox::agent`].

mod driver;
mod exit_record;
mod failure;
mod follow;
mod grow;
mod handle;
mod last_word;
mod stages;
mod start;
pub mod state;
mod view;

pub use exit_record::ExitRecord;
pub(crate) use exit_record::unix_ns;
pub use grow::{GrowError, Wanted};
pub use handle::{FreezeError, Observer, Parts, Sandbox, StartError};
pub use state::{Exit, Kill, Phase};
pub use view::{Ended, View};
