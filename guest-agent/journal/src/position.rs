//! What callers say and hear: positions, marks, gaps, outcomes.

use std::path::PathBuf;

use seed_protocol::journal::EntryHead;
use thiserror::Error;

use crate::file::{FileError, Skipped};

/// A place in the journal: right after one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Whose numbers these are. Zero: the beginning.
    pub seqnum_id: [u8; 16],
    /// The last entry that the caller already has.
    pub seqnum: u64,
    /// What that entry was, as far as the caller knows. Numbers can be issued again (a killed VM, a restored
    /// snapshot) and streams can be renumbered (the flush from /run to /var); content tells.
    pub mark: Option<Mark>,
}

impl Position {
    /// Before the first entry.
    pub const START: Self = Self {
        seqnum_id: [0; 16],
        seqnum: 0,
        mark: None,
    };

    /// Right after this entry of this stream.
    #[must_use]
    pub fn after(seqnum_id: [u8; 16], head: &EntryHead) -> Self {
        Self {
            seqnum_id,
            seqnum: head.seqnum,
            mark: Some(Mark::from(head)),
        }
    }

    /// True for [`Self::START`] and any other position that names no stream.
    #[must_use]
    pub fn is_start(&self) -> bool {
        self.seqnum_id == [0; 16]
    }
}

/// What identifies an entry whatever its number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The boot that the entry belongs to.
    pub boot_id: [u8; 16],
    /// CLOCK_REALTIME in microseconds.
    pub realtime_us: u64,
    /// CLOCK_MONOTONIC in microseconds.
    pub monotonic_us: u64,
    /// The journal's xor hash of the entry's fields.
    pub xor_hash: u64,
}

impl From<&EntryHead> for Mark {
    fn from(head: &EntryHead) -> Self {
        let EntryHead {
            seqnum: _,
            realtime_us,
            monotonic_us,
            boot_id,
            xor_hash,
        } = *head;
        Self {
            boot_id,
            realtime_us,
            monotonic_us,
            xor_hash,
        }
    }
}

/// Entries that were written and cannot be had any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first missing number.
    pub from: u64,
    /// The last missing number.
    pub to: u64,
    /// Why, as far as the files show.
    pub reason: GapReason,
}

impl Gap {
    /// How many entries are missing.
    #[must_use]
    pub fn count(&self) -> u64 {
        (self.to - self.from).saturating_add(1)
    }
}

/// Why entries are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// journald deleted their file.
    Vacuumed,
    /// Their file is there and damaged.
    Corrupt,
}

/// What one read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The stream of the entries; it may differ from the one asked for also when `reset` is false. Zero when
    /// there is no journal yet.
    pub seqnum_id: [u8; 16],
    /// The number of the first entry; 0 when there is none.
    pub first: u64,
    /// The number of the last entry; when there is none, the number that was asked for.
    pub last: u64,
    /// Entries in the batch.
    pub count: u32,
    /// What is missing before `first`. A batch ends where the next gap begins.
    pub gap: Option<Gap>,
    /// It could not be shown that this goes on where the caller's position is: numbers begin anew.
    pub reset: bool,
    /// The last number that the guest has given out in this stream.
    pub tail_seqnum: u64,
    /// There is nothing more now.
    pub caught_up: bool,
    /// What was passed over on the way.
    pub skipped: Skipped,
}

impl ReadOutcome {
    /// Entries were given or passed over: [`crate::Journal::end`] is this read's. The numbers do not tell, because those that
    /// a killed machine gave out are given out again.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        self.count > 0 || !self.caught_up
    }
}

/// A journal file that is there and is not read.
#[derive(Debug)]
pub struct FileProblem<'j> {
    /// The file.
    pub path: &'j PathBuf,
    /// Why.
    pub error: &'j FileError,
}

/// Why nothing can be read at all.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadError {
    /// There are files, and each was refused; [`crate::Journal::problems`] says which and why.
    #[error("none of {count} journal files can be read; the first is {}: {reason}", path.display())]
    NoReadableFile {
        /// How many were refused.
        count: usize,
        /// The first of them.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}
