//! The requests that are under way: the next batch is asked for before this one is here, so that the guest reads
//! while the host decodes and writes, and a new entry always finds a request that waits for it.
//!
//! Requests are numbered, and all but the first of a row say "after what you answered to the one before"
//! (`seed.v1.Turn`). Answers are taken in their order only. Whatever goes wrong ends the row: what else is under
//! way is dropped, and the next request begins at the position that is held. A guest that knows no turns
//! shows that by its first answer, and is then asked for one batch at a time.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesOrdered};
use seed_protocol::{
    JournalNamespace,
    seed::v1::{JournalBatch, Position as WirePosition, ReadJournalRequest, Turn},
};
use tokio::time::timeout;

use super::{JournalSource, Reading, SourceError, segment::Position};

/// How many requests are under way.
const DEPTH: usize = 2;

/// How long an answer may be late beyond the wait that was asked for.
const LATE: Duration = Duration::from_secs(20);

/// The size of a batch that is asked for. The guest holds each some times over while it is on its way, and larger ones
/// are no faster.
const BATCH_BYTES: u32 = 128 << 10;

/// The requests to one source.
pub(super) struct Ahead<S> {
    source: S,
    /// Whose journal; empty for the system's.
    namespace: String,
    caller: u64,
    /// The last number that was given.
    number: u64,
    /// The number of the oldest request under way.
    oldest: u64,
    under_way: FuturesOrdered<Reading>,
    /// How many may be: 1 until the guest has shown, by its first answer of a row, that it knows turns.
    depth: usize,
}

impl<S: JournalSource> Ahead<S> {
    pub(super) fn new(source: S, namespace: String) -> Self {
        Self {
            source,
            namespace,
            // Different for each puller, which is all that is asked of it.
            caller: RandomState::new().hash_one(std::process::id()) | 1,
            number: 0,
            oldest: 1,
            under_way: FuturesOrdered::new(),
            depth: 1,
        }
    }

    /// The requests for a namespace's journal, over the same connection.
    pub(super) fn beside(&self, namespace: &JournalNamespace) -> Self {
        Self::new(self.source.clone(), namespace.to_string())
    }

    /// Drops what is under way: the next request begins at the position that is held.
    pub(super) fn clear(&mut self) {
        self.under_way = FuturesOrdered::new();
        self.depth = 1;
    }

    /// Asks until enough is under way. The first request of a row may have journald write out what it has.
    pub(super) fn ask(&mut self, held: Position, wait: Duration, synchronize: bool) {
        while self.under_way.len() < self.depth {
            let follows = self.depth > 1;
            self.number += 1;
            if self.under_way.is_empty() {
                self.oldest = self.number;
            }
            let turn = Turn {
                caller: self.caller,
                number: self.number,
                follows,
                ..Default::default()
            };
            let request = ReadJournalRequest {
                namespace: self.namespace.clone(),
                ..request(held, wait, synchronize && !follows, turn)
            };
            let answer = self.source.read(request);
            self.under_way.push_back(Box::pin(async move {
                match timeout(wait + LATE, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Err(SourceError::Silent),
                }
            }));
        }
    }

    /// Asks for what comes after the answer that was just given. A guest that knows no turns has to be told the position
    /// after that answer, which is not held yet.
    pub(super) fn ask_on(&mut self, held: Position, wait: Duration) {
        if self.depth > 1 {
            self.ask(held, wait, false);
        }
    }

    /// The answer to the oldest request; waits for ever when there is none. What is under way stays so when the
    /// future is dropped.
    pub(super) async fn next(&mut self) -> Result<JournalBatch, SourceError> {
        let Some(answer) = self.under_way.next().await else {
            return std::future::pending().await;
        };
        let batch = match answer {
            Ok(batch) => batch,
            Err(error) => {
                self.clear();
                return Err(error);
            }
        };
        if batch.turn == self.oldest {
            self.depth = DEPTH;
        }
        self.oldest += 1;
        Ok(batch)
    }
}

fn request(after: Position, wait: Duration, synchronize: bool, turn: Turn) -> ReadJournalRequest {
    let some = |id: [u8; 16]| {
        if id == [0; 16] {
            Vec::new()
        } else {
            id.to_vec()
        }
    };
    let after = WirePosition {
        seqnum_id: some(after.seqnum_id),
        seqnum: after.seqnum,
        boot_id: some(after.mark.boot_id),
        realtime_us: after.mark.realtime_us,
        monotonic_us: after.mark.monotonic_us,
        xor_hash: after.mark.xor_hash,
        ..Default::default()
    };
    ReadJournalRequest {
        after: Some(after).into(),
        max_bytes: BATCH_BYTES,
        wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        synchronize,
        turn: Some(turn).into(),
        ..Default::default()
    }
}
