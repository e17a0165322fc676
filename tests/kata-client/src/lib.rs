//! An agent's host as Kata's shims are one: [`Kata`] has a function for each call, [`order`] both shims' whole
//! orders of calls (Kata 4.1). Tests drive the agent with it over a Unix socket and over a VM's vsock; neither order is
//! ours, so a change in here is a change of what a stock shim is known to do.
//!
//! It never looks into the guest by another way than these calls.

#![forbid(unsafe_code)]

mod call;
mod dial;
pub mod order;

pub use call::{Kata, calm, limit};
pub use dial::{hybrid_vsock, unix};
