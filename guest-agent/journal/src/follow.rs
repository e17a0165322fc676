//! Waiting for new entries.
//!
//! journald holds its change notifications back for up to 250 ms, so inotify is late by that. A look at the
//! header of each active file every few milliseconds is on time and costs less than 1 % of a CPU; the longer
//! nothing comes, the rarer it gets.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{journal::Journal, slot::Slots};

const BUSY: Duration = Duration::from_millis(5);
const QUIET_AFTER: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(10);
const IDLE_AFTER: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_millis(50);
/// A rotation shows in the header of the file that is closed; what shows only in a directory (a first file, a mount, a
/// deletion) is looked for this often.
const DIRECTORIES: Duration = Duration::from_millis(40);

/// What the active files said last, and when that changed.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    seen: u64,
    changed_at: Option<Instant>,
    directories_at: Option<Instant>,
}

impl Pace {
    /// Notes what the files' headers say now. True when it differs from before.
    pub(crate) fn saw(&mut self, slots: &Slots) -> bool {
        let seen = slots.slots.iter().fold(0_u64, |sum, slot| {
            let header = &slot.header;
            let parts = [
                header.n_entries,
                u64::from(header.archived),
                u64::from(header.file_id[0]),
            ];
            parts
                .iter()
                .fold(sum, |sum, part| sum.rotate_left(7).wrapping_add(*part))
        });
        let changed = seen != self.seen;
        if changed || self.changed_at.is_none() {
            self.seen = seen;
            self.changed_at = Some(Instant::now());
        }
        changed
    }

    /// Each look at a directory is a system call; they are most of what waiting costs.
    fn directories_are_due(&mut self) -> bool {
        let is_due = self
            .directories_at
            .is_none_or(|at| at.elapsed() >= DIRECTORIES);
        if is_due {
            self.directories_at = Some(Instant::now());
        }
        is_due
    }

    fn step(&self) -> Duration {
        match self.changed_at.map(|at| at.elapsed()) {
            Some(quiet) if quiet >= IDLE_AFTER => IDLE,
            Some(quiet) if quiet >= QUIET_AFTER => QUIET,
            _ => BUSY,
        }
    }
}

impl Journal {
    /// Sleeps until something changed since the last read, or the time is over. True: read again.
    ///
    /// Blocks the thread; there is no way to wake it early, so give a short time where that matters.
    pub fn wait_for_change(&mut self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            if self.pace.directories_are_due() && self.directories.may_have_changed() {
                return true;
            }
            self.slots.look_at_active();
            if self.pace.saw(&self.slots) {
                return true;
            }
            let now = Instant::now();
            if self.resume.due().is_some_and(|due| due <= now) {
                return true;
            }
            let Some(left) = end
                .checked_duration_since(now)
                .filter(|left| !left.is_zero())
            else {
                return false;
            };
            thread::sleep(self.pace.step().min(left));
        }
    }
}
