//! The whole way of the journal, from a real journald over the real agent and the real puller to segments,
//! while everything on that way is killed. What must hold in the end: the set of entries on the host equals
//! what `journalctl -o export` prints in the guest, minus what gap records state; none comes twice.
//!
//! Runs as root where `SEED_TEST_GUEST` names a guest's root. The clock cannot be stepped here, since a
//! container has the machine's: a VM case does that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod container;
mod damage;
mod end;
mod filters;
mod forms;
mod held;
mod host;
mod kills;
mod link;
mod namespaces;
mod restored;
mod stalls;
mod text;

use std::{io::Write, path::PathBuf, thread};

use container::Container;
use seed_container::guest_root;

/// A container with this `SystemMaxUse=`; `None`, and a line that says so, where there can be none.
pub(crate) fn boot(max_use: &str) -> Option<Container> {
    boot_with(max_use, "")
}

/// [`boot`], with more lines for journald.conf(5).
pub(crate) fn boot_with(max_use: &str, more: &str) -> Option<Container> {
    Some(Container::boot(&root()?, max_use, more))
}

/// The guest's root.
pub(crate) fn root() -> Option<PathBuf> {
    match guest_root() {
        Ok(root) => Some(root),
        Err(reason) => {
            // Past libtest's capture, and in one write: a skip must be seen.
            let test = thread::current();
            let line = format!("SKIPPED {}: {reason}\n", test.name().unwrap_or_default());
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}
