//! Where two futures of one boot part.
//!
//! A machine that is restored with its memory gives the numbers that the host has to other entries, in the same boot. Where its
//! clock stands in the past, the guest cannot tell from the host's last entry alone which of its own are new, begins behind all
//! that look older, and says `reset`. The host has more than the last entry: it asks for what comes after the first entries of older
//! frames, by bisection, until it has the newest frame whose first entry the guest still knows, goes on there, and passes over what
//! it holds.
//!
//! ```text
//! held     ... 79 | 80 81  ... | 95 ... 100
//! guest    ... 79   80 81' ...   95'   100' 105'       after 79: answered; after 80 ... 95: `reset`, or nothing yet
//!                      ^ from here on it is new
//! ```
//!
//! Each such place, and each other one at which a log begins anew, parts two runs of numbers. The newest run that the guest knows
//! the first entry of is where its future leaves the log: within the last one, or before it, where a machine is restored to the
//! same moment again. Nothing is stored here, so that a shim that ends meanwhile begins anew.

use std::{collections::VecDeque, convert::Infallible, path::Path, time::Duration};

use seed_protocol::{
    journal::{BatchDecoder, DecodeError, EntryHead},
    seed::v1::JournalBatch,
};
use thiserror::Error;

use super::{
    JournalSource, SourceError,
    ahead::Ahead,
    entry::{Record, for_each},
    reader::{Item, ReadError, Reader, runs},
    segment::{Mark, Position},
    store::numbers,
};

/// Batches that are compared at most. What is held of the newest frame that the guest knows the first entry of is one frame, but
/// for a guest that changes its mind.
const MAX_COMPARED: usize = 64;

/// Runs that are asked for at most, in each segment its own: a log has some sixteen segments, and a guest may begin anew with each
/// batch.
const MAX_RUNS: usize = 128;

/// Why it is not known yet.
#[derive(Debug, Error)]
pub(super) enum RejoinError {
    /// The guest does not answer.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A frame that the guest knows the first entry of.
struct Known {
    /// What is held behind that entry.
    held: Heads,
    position: Position,
    /// What the guest has after it.
    batch: JournalBatch,
}

/// Whether a batch begins anew in the stream and boot that is held.
pub(super) fn is_wanted(held: &Position, batch: &JournalBatch) -> bool {
    let first = BatchDecoder::new(&batch.block)
        .ok()
        .and_then(|mut entries| {
            let entry = entries.next()?.ok()?;
            Some(entry.head.boot_id)
        });
    batch.reset && batch.seqnum_id == held.seqnum_id && first == Some(held.mark.boot_id)
}

/// A batch with the guest's first entry that is not held, and the number before that one. `None` where the guest knows no frame,
/// or has nothing else than what it gave already.
pub(super) async fn find<S: JournalSource>(
    dir: &Path,
    held: &Position,
    ahead: &mut Ahead<S>,
) -> Result<Option<(Position, JournalBatch)>, RejoinError> {
    let all = numbers(dir).map_err(|source| ReadError {
        path: dir.into(),
        source: source.into(),
    })?;
    let id = held.seqnum_id;
    let mut asked = 0;
    for number in all.into_iter().rev() {
        // One that cannot be read says nothing.
        let runs = runs(dir, number, id).unwrap_or_default();
        for places in runs.into_iter().rev() {
            if asked == MAX_RUNS {
                return Ok(None);
            }
            asked += 1;
            let Some(first) = places.first() else {
                continue;
            };
            let reader = Reader::at(dir, number, *first)?;
            let Some(mut known) = ask_behind(reader, id, ahead).await? else {
                continue;
            };
            let (mut low, mut high) = (0, places.len());
            while high - low > 1 {
                let middle = low.midpoint(high);
                let reader = Reader::at(dir, number, places[middle])?;
                match ask_behind(reader, id, ahead).await? {
                    Some(later) => (known, low) = (later, middle),
                    None => high = middle,
                }
            }
            return compare(known, ahead).await;
        }
    }
    Ok(None)
}

/// What the guest has after the first entry that comes; `None` unless it goes on from there.
async fn ask_behind<S: JournalSource>(
    reader: Reader,
    seqnum_id: [u8; 16],
    ahead: &mut Ahead<S>,
) -> Result<Option<Known>, RejoinError> {
    let mut held = Heads {
        reader,
        heads: VecDeque::new(),
    };
    let Some(first) = held.next()? else {
        return Ok(None);
    };
    let position = Position {
        seqnum_id,
        seqnum: first.seqnum,
        mark: Mark::from(&first),
    };
    let batch = ask(position, ahead).await?;
    Ok(goes_on(&position, &batch).then_some(Known {
        held,
        position,
        batch,
    }))
}

fn goes_on(position: &Position, batch: &JournalBatch) -> bool {
    !batch.reset
        && !batch.block.is_empty()
        && batch.seqnum_id == position.seqnum_id
        && batch.first_seqnum > position.seqnum
}

/// At once: of a position that it does not know the guest says so later, or never.
async fn ask<S: JournalSource>(
    position: Position,
    ahead: &mut Ahead<S>,
) -> Result<JournalBatch, SourceError> {
    ahead.clear();
    ahead.ask(position, Duration::ZERO, false);
    let answer = ahead.next().await;
    ahead.clear();
    answer
}

/// Passes over what is held. `None` for a batch that cannot be decoded, too: the one that said `reset` is taken then.
async fn compare<S: JournalSource>(
    known: Known,
    ahead: &mut Ahead<S>,
) -> Result<Option<(Position, JournalBatch)>, RejoinError> {
    let Known {
        mut held,
        mut position,
        mut batch,
    } = known;
    for _ in 0..MAX_COMPARED {
        let Ok(heads) = heads_of(&batch.block) else {
            return Ok(None);
        };
        for head in heads {
            let mut mine = held.next()?;
            // What the guest has deleted since, of this frame.
            while !held.heads.is_empty() && mine.is_some_and(|mine| mine.seqnum < head.seqnum) {
                mine = held.next()?;
            }
            if mine != Some(head) {
                // By number alone: those before it in the batch are held.
                position.mark = Mark::default();
                return Ok(Some((position, batch)));
            }
            position.seqnum = head.seqnum;
            position.mark = Mark::from(&head);
        }
        batch = ask(position, ahead).await?;
        if !goes_on(&position, &batch) {
            break;
        }
    }
    Ok(None)
}

fn heads_of(block: &[u8]) -> Result<Vec<EntryHead>, DecodeError> {
    BatchDecoder::new(block)?
        .map(|entry| Ok(entry?.head))
        .collect()
}

/// The entries that are held from a place on.
struct Heads {
    reader: Reader,
    heads: VecDeque<EntryHead>,
}

impl Heads {
    fn next(&mut self) -> Result<Option<EntryHead>, ReadError> {
        while self.heads.is_empty() {
            let Some(Item::Frame(frame)) = self.reader.next()? else {
                return Ok(None);
            };
            let Ok(()) = for_each(&frame, |record| {
                if let Record::Entry(entry) = record {
                    self.heads.push_back(entry.head);
                }
                Ok::<(), Infallible>(())
            });
        }
        Ok(self.heads.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::{Arc, Mutex},
    };

    use seed_protocol::{journal::BatchEncoder, seed::v1::ReadJournalRequest};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::logs::{
        Handle, Reading,
        puller::spawn_with,
        store::{Limits, path_of, tests::SMALL},
    };

    const ID: [u8; 16] = [7; 16];
    /// Entries of a batch, and so of a frame.
    const BATCH: usize = 7;
    const LIMIT: Duration = Duration::from_secs(60);

    /// A guest that answers as the agent does: what it does not know any more it says late, and begins then behind all that looks
    /// older.
    #[derive(Clone, Default)]
    struct Guest {
        entries: Arc<Mutex<Vec<EntryHead>>>,
        doubted: Arc<Mutex<HashSet<u64>>>,
    }

    impl Guest {
        fn has(&self, entries: impl IntoIterator<Item = EntryHead>) {
            *self.entries.lock().unwrap() = entries.into_iter().collect();
        }

        fn now(&self, request: &ReadJournalRequest) -> Option<JournalBatch> {
            let entries = self.entries.lock().unwrap();
            let after = request.after.get_or_default();
            let is_it = |head: &EntryHead| {
                (head.seqnum, head.realtime_us) == (after.seqnum, after.realtime_us)
            };
            let is_older = |head: &EntryHead| head.realtime_us <= after.realtime_us;
            let place = entries.iter().position(is_it);
            let reset = after.seqnum > 0 && place.is_none();
            if reset && self.doubted.lock().unwrap().insert(after.seqnum) {
                return None;
            }
            let place = place.or_else(|| entries.iter().rposition(is_older));
            let given = entries.iter().skip(place.map_or(0, |place| place + 1));
            let given: Vec<_> = given.take(BATCH).collect();
            let mut encoder = BatchEncoder::new(1 << 20);
            for head in &given {
                encoder.push(head, [(None, &b"MESSAGE=m"[..])]).unwrap();
            }
            Some(JournalBatch {
                seqnum_id: ID.to_vec(),
                first_seqnum: given.first()?.seqnum,
                last_seqnum: given.last()?.seqnum,
                block: encoder.finish(),
                reset,
                ..Default::default()
            })
        }
    }

    impl JournalSource for Guest {
        fn read(&mut self, request: ReadJournalRequest) -> Reading {
            let guest = self.clone();
            Box::pin(async move {
                let until = Instant::now() + Duration::from_millis(request.wait_ms.into());
                loop {
                    match guest.now(&request) {
                        Some(batch) => return Ok(batch),
                        None if Instant::now() >= until => return Ok(JournalBatch::default()),
                        None => sleep(Duration::from_millis(1)).await,
                    }
                }
            })
        }
    }

    /// Entries whose clock shows so much more than their number.
    fn entries(
        numbers: std::ops::RangeInclusive<u64>,
        clock: u64,
    ) -> impl Iterator<Item = EntryHead> + Clone {
        numbers.map(move |seqnum| EntryHead {
            seqnum,
            realtime_us: clock + seqnum,
            monotonic_us: seqnum,
            boot_id: [1; 16],
            xor_hash: clock,
        })
    }

    async fn wait_for(handle: &Handle, entries: usize) {
        let begin = Instant::now();
        let counters = handle.counters();
        while counters.entries() < entries as u64 {
            assert!(
                begin.elapsed() < LIMIT,
                "{} of {entries}",
                counters.entries()
            );
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Numbers and clocks of what a log holds; a reset as (0, 0).
    fn stored(dir: &Path) -> Vec<(u64, u64)> {
        let mut reader = Reader::from_start(dir);
        let mut found = Vec::new();
        while let Some(Item::Frame(frame)) = reader.next().unwrap() {
            let Ok(()) = for_each(&frame, |record| {
                found.push(match record {
                    Record::Entry(entry) => (entry.head.seqnum, entry.head.xor_hash),
                    Record::Reset => (0, 0),
                    other => panic!("{other:?}"),
                });
                Ok::<(), Infallible>(())
            });
        }
        found
    }

    fn numbered(entries: impl Iterator<Item = EntryHead>) -> Vec<(u64, u64)> {
        entries.map(|head| (head.seqnum, head.xor_hash)).collect()
    }

    #[tokio::test]
    async fn a_machine_that_is_restored_with_its_memory_and_an_old_clock_loses_nothing() {
        // In the middle of a frame, at its ends, in the first of all, and in the last; one file, and several.
        for (last, limits) in [1, 6, 7, 8, 13, 14, 50, 80, 97, 98, 99]
            .into_iter()
            .flat_map(|last| [(last, Limits::DEFAULT), (last, SMALL)])
        {
            let dir = tempfile::tempdir().unwrap();
            let guest = Guest::default();
            let before = entries(1..=100, 1000);
            guest.has(before.clone());
            let handle = spawn_with(guest.clone(), dir.path(), None, limits);
            wait_for(&handle, 100).await;
            // All of these look older than what is held; then the clock is set.
            let anew = entries(last + 1..=105, 900).chain(entries(106..=110, 2000));
            let common = before.clone().take(usize::try_from(last).unwrap());
            guest.has(common.chain(anew.clone()));
            let (before, anew) = (numbered(before), numbered(anew));
            wait_for(&handle, before.len() + anew.len()).await;
            drop(handle);
            let all = [before, vec![(0, 0)], anew].concat();
            assert_eq!(stored(dir.path()), all, "back to {last}");
        }
    }

    #[tokio::test]
    async fn a_segment_that_cannot_be_read_holds_up_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let guest = Guest::default();
        let before = entries(1..=100, 1000);
        guest.has(before.clone());
        let handle = spawn_with(guest.clone(), dir.path(), None, SMALL);
        wait_for(&handle, 100).await;
        let path = path_of(dir.path(), 2);
        assert!(path.exists());
        std::fs::write(path, "this is no segment").unwrap();
        // In the first frame of all, which is before the damage.
        let anew = entries(4..=105, 900).chain(entries(106..=110, 2000));
        guest.has(before.take(3).chain(anew));
        wait_for(&handle, 100 + 107).await;
    }

    #[tokio::test]
    async fn a_machine_that_is_restored_again_and_again_loses_and_doubles_nothing() {
        // Each time later; to the same moment again; to just behind the last one; to before all of them.
        let later = [(80, 900, 120), (93, 800, 140), (126, 700, 150)];
        let again = [(80, 900, 120), (80, 800, 140), (80, 700, 130)];
        let behind = [(80, 900, 120), (81, 800, 140), (83, 700, 150)];
        let before = [(80, 900, 120), (93, 800, 140), (40, 700, 110)];
        for restores in [later, again, behind, before] {
            restore(&restores).await;
        }
    }

    /// Restores a machine to behind so many entries, with entries of such a clock from there to such a number.
    async fn restore(restores: &[(u64, u64, u64)]) {
        let dir = tempfile::tempdir().unwrap();
        let guest = Guest::default();
        let mut now: Vec<_> = entries(1..=100, 1000).collect();
        guest.has(now.clone());
        let handle = spawn_with(guest.clone(), dir.path(), None, SMALL);
        let mut all = numbered(now.iter().copied());
        wait_for(&handle, all.len()).await;
        let mut resets = 0;
        for &(last, clock, end) in restores {
            // The last five show the right time.
            let anew =
                entries(last + 1..=end - 5, clock).chain(entries(end - 4..=end, 3000 - clock));
            now.truncate(usize::try_from(last).unwrap());
            now.extend(anew.clone());
            guest.doubted.lock().unwrap().clear();
            guest.has(now.clone());
            all.push((0, 0));
            resets += 1;
            all.extend(numbered(anew));
            wait_for(&handle, all.len() - resets).await;
        }
        drop(handle);
        assert_eq!(stored(dir.path()), all, "{restores:?}");
    }
}
