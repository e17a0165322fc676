//! Waiting for new entries.
//!
//! journald holds its change notifications back for up to 250 ms, so inotify is late by that. A look at the
//! header of each active file every few milliseconds is on time and costs less than 1 % of a CPU. When nothing
//! comes it gets rarer, but never so rare that the first line after a silence is late: whoever follows a log
//! looks at exactly that line.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{journal::Journal, slot::Slots};

const BUSY: Duration = Duration::from_millis(5);
const QUIET_AFTER: Duration = Duration::from_secs(2);
const QUIET: Duration = Duration::from_millis(10);
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
            if self.has_changed() {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(self.next_look().min(left));
        }
    }

    /// Looks whether something changed since the last read. Costs a positioned read for each file that is being written.
    pub fn has_changed(&mut self) -> bool {
        if self.pace.directories_are_due() && self.directories.may_have_changed() {
            return true;
        }
        self.slots.look_at_active();
        self.pace.saw(&self.slots) || self.resume.is_due()
    }

    /// After how long it is worth while to look again.
    #[must_use]
    pub fn next_look(&self) -> Duration {
        self.pace.step()
    }
}
