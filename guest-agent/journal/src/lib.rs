//! Reads systemd's journal: every entry once, in order, with what is missing counted.
//!
//! Owns the reading of journal files (by positioned reads, read-only, no mmap) and their encoding into
//! the blocks of [`seed_protocol::journal`]. Never writes to a journal, keeps no state on disk, and
//! knows nothing of whoever asks. Follows systemd's "Journal File Format" page and `journal-def.h`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use seed_journal::{Journal, Position};
//! use seed_protocol::journal::BatchEncoder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut journal = Journal::system()?;
//! let mut position = Position::START;
//! loop {
//!     let mut batch = BatchEncoder::new(128 * 1024);
//!     let outcome = journal.read_after(&position, &mut batch)?;
//!     if outcome.count > 0 {
//!         position = Position { seqnum_id: outcome.seqnum_id, seqnum: outcome.last, mark: None };
//!         // ... send batch.finish()
//!     } else {
//!         journal.wait_for_change(Duration::from_secs(30));
//!     }
//! }
//! # }
//! ```
//!
//! # What is promised
//!
//! - Each entry that journald linked into a file is delivered once, in the order of its number, over
//!   rotation, the flush from /run to /var, and several files at a time.
//! - A number that should be there and is not shows as a [`Gap`], exactly.
//! - Where numbers begin anew, [`ReadOutcome::reset`] says so: another writer, a disk that was put back, and the file of a
//!   machine that was killed, whose last entries journald did not count and whose numbers it gave out again.
//! - Damaged objects are passed over and counted; a damaged entry array is replaced by a walk over the
//!   objects. Nothing is guessed: a file with a feature that is not known is refused by name.
//! - Every walk ends, whatever the file says; memory is bounded.

#![forbid(unsafe_code)]

mod arrays;
mod cache;
mod compress;
mod directory;
mod file;
mod follow;
mod hash;
mod header;
mod journal;
mod object;
mod position;
mod query;
mod remnant;
mod resume;
mod run;
mod salvage;
mod search;
mod slot;
mod stream;
mod synchronize;
mod window;

pub use crate::{
    file::{FileError, Skipped},
    hash::entry_hash,
    header::HeaderError,
    journal::{Journal, OpenError, SYSTEM_DIRECTORIES, parse_id},
    position::{FileProblem, Gap, GapReason, Mark, Position, ReadError, ReadOutcome},
    query::Query,
    synchronize::{SynchronizeError, synchronize, wait_for_end},
};
