//! The instance's journal on the host.
//!
//! ```text
//!  guest's agent <--- ReadJournal(after position) --- puller ---> segments on disk ---> `seed logs`
//!                                                                        |
//!                                                                        +--> fifo task --> stdout FIFO
//! ```
//!
//! | file | job |
//! |---|---|
//! | [`puller`] | pulls batches and appends them |
//! | [`ahead`] | the requests that are under way: two, so that the guest never waits for the host |
//! | [`namespaces`] | the folders of the guest's journal namespaces, each a log of its own |
//! | [`batch`] | one batch against the position: duplicates, gaps, what cannot be |
//! | [`rejoin`] | where a machine that was restored within its boot has other entries than the log |
//! | [`segment`], [`crc`], [`pack`] | the form of one segment file: frames, checksums, the torn tail, compression |
//! | [`store`] | a folder of segments: one writer, rotation, the cap |
//! | [`reader`] | reads a folder of segments, from the start, from the end, and on as it grows |
//! | [`entry`] | one entry, decoded from a block, and the marks between entries |
//! | [`filter`], [`when`] | which entries are asked for; points in time |
//! | [`render`] | entries as text for people, for the container's stdout and stderr, as journalctl writes them |
//! | [`show`] | the last entries of a log, and on as it grows, as text |
//! | [`fifo`] | the container's stdout and stderr |
//!
//! Data and position are one write, so a crash on either side neither loses nor repeats an entry. Loss in
//! the guest is never silent: a gap is a record of its own and is shown.

use std::{future::Future, pin::Pin};

use seed_protocol::seed::v1::{JournalBatch, ReadJournalRequest};
use thiserror::Error;

pub mod ahead;
pub mod batch;
mod crc;
pub mod entry;
pub mod fifo;
pub mod filter;
pub mod namespaces;
pub mod pack;
pub mod puller;
pub mod reader;
mod rejoin;
pub mod render;
pub mod segment;
pub mod show;
pub mod store;
pub mod when;

pub use puller::{Counters, Handle};

/// Why a batch did not come.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The guest is not there now. The next call tries to connect anew.
    #[error("the guest's journal cannot be reached: {0}")]
    Unreachable(String),
    /// The guest answered with an error.
    #[error("the guest cannot read its journal: {0}")]
    Refused(String),
    /// Nothing came in time.
    #[error("the guest's journal does not answer")]
    Silent,
    /// The guest is gone for good: its VM has ended.
    #[error("the guest has ended")]
    Ended,
}

/// A call that is under way.
pub type Reading = Pin<Box<dyn Future<Output = Result<JournalBatch, SourceError>> + Send>>;

/// Where batches come from: the agent's `ReadJournal` on a connection that carries nothing else. A clone reads over the
/// same connection.
pub trait JournalSource: Clone + Send + 'static {
    /// One call; several can be under way, and then go over one connection. After
    /// [`SourceError::Unreachable`] the next call makes a new one; it is the puller that waits in between. Dropping
    /// the future must be harmless.
    fn read(&mut self, request: ReadJournalRequest) -> Reading;
}
