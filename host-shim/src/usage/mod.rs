//! What an instance uses, seen from both sides: its guest's own figures, and those of its processes on
//! the host. Nothing is remembered here but the guest's last answer, and nothing is added up over time:
//! whoever asks twice can.
//!
//! The host's figures are `proc(5)`'s: CPU time from `stat`, memory as the proportional share (PSS) of
//! `smaps_rollup`, since the guest's memory is shared between the VMM and its daemons and must count once.

mod guest;
mod host;

pub use guest::{CpuTime, Disk, GuestUsage, Link, Memory, Meter};
pub use host::{HostUsage, ProcessUsage, processes, resident};
