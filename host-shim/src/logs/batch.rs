//! What becomes of one batch, given the position: pure. The guest may be hostile or merely broken, so
//! numbers are believed only as far as they fit, and a block is decoded before it is kept.

use std::time::{SystemTime, UNIX_EPOCH};

use seed_protocol::{
    journal::{BatchDecoder, BatchEncoder, DecodeError, Entry, EntryHead, MAX_SHARED_BYTES},
    seed::v1::{self, JournalBatch, gap::Reason},
};

use super::{
    entry::dropped,
    segment::{Frame, Gap, GapReason, MAX_BLOCK_BYTES, Mark, Position},
};

/// What becomes of a batch.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted {
    /// To be appended, and how many messages journald says, in its entries, that it dropped.
    Frame(Frame, u64),
    /// There is nothing new in it.
    Nothing,
    /// It cannot be meant. One sentence.
    Refused(String),
}

/// Judges a batch that was asked for after `position`.
pub fn accept(position: Position, batch: JournalBatch) -> Accepted {
    let JournalBatch {
        seqnum_id,
        first_seqnum,
        last_seqnum,
        block,
        gap,
        reset,
        ..
    } = batch;
    if block.is_empty() && gap.is_none() {
        return Accepted::Nothing;
    }
    let Ok(seqnum_id) = <[u8; 16]>::try_from(seqnum_id.as_slice()) else {
        return Accepted::Refused(format!("a writer's id has {} bytes", seqnum_id.len()));
    };
    if block.len() > MAX_BLOCK_BYTES {
        return Accepted::Refused(format!("a block has {} bytes", block.len()));
    }
    let reset = reset && position != Position::default();
    // Numbers of another writer, or from before a reset, say nothing about these. (Another writer without a
    // reset is the guest's own hand-over from /run to /var, which it follows by content.)
    let held = if reset || seqnum_id != position.seqnum_id {
        Held::default()
    } else {
        Held {
            seqnum: position.seqnum,
            mark: position.mark,
        }
    };
    let contents = match contents(&block, &held) {
        Ok(contents) => contents,
        Err(error) => {
            let claimed = (first_seqnum, last_seqnum);
            return undecodable(seqnum_id, held.seqnum, reset, claimed, error);
        }
    };
    let gap = match gap.into_option() {
        Some(gap) => stated_gap(&gap, held.seqnum, contents.first),
        // On a fresh position the numbering may begin anywhere.
        None if held.seqnum != 0 && contents.first > held.seqnum.saturating_add(1) => Some(Gap {
            first: held.seqnum + 1,
            last: contents.first - 1,
            reason: GapReason::Unknown,
        }),
        None => None,
    };
    let last = match (contents.count, gap) {
        (0, None) => return Accepted::Nothing,
        (0, Some(gap)) => gap.last,
        _ => contents.last,
    };
    let frame = Frame {
        seqnum_id,
        first: contents.first,
        last,
        count: contents.count,
        reset,
        gap,
        received_unix_us: now_us(),
        mark: contents.mark,
        block: contents.block.unwrap_or(block),
    };
    Accepted::Frame(frame, contents.dropped)
}

/// The last entry that is held, as far as it can be compared with these.
#[derive(Default)]
struct Held {
    seqnum: u64,
    mark: Mark,
}

impl Held {
    /// An entry that is held already. A number alone does not say so: after a killed VM the guest's disk may
    /// lack what it had sent, and the next boot gives the same numbers to other entries.
    fn has(&self, head: &EntryHead) -> bool {
        let unmarked = self.mark.boot_id == [0; 16];
        let earlier =
            head.boot_id == self.mark.boot_id && head.monotonic_us <= self.mark.monotonic_us;
        head.seqnum <= self.seqnum && (unmarked || earlier)
    }
}

#[derive(Default)]
struct Contents {
    first: u64,
    last: u64,
    count: u32,
    mark: Mark,
    dropped: u64,
    /// Written anew, without the entries that are held already.
    block: Option<Vec<u8>>,
}

fn contents(block: &[u8], held: &Held) -> Result<Contents, DecodeError> {
    let mut contents = Contents::default();
    let mut repeated = false;
    let mut decoder = BatchDecoder::new(block)?;
    let mut fields = Vec::new();
    while let Some(head) = decoder.read_into(&mut fields)? {
        if held.has(&head) {
            repeated = true;
            continue;
        }
        if contents.count == 0 {
            contents.first = head.seqnum;
        }
        contents.last = head.seqnum;
        contents.mark = Mark::from(&head);
        contents.count = contents.count.saturating_add(1);
        contents.dropped = contents.dropped.saturating_add(dropped(&fields));
    }
    if repeated {
        contents.block = Some(without_held(block, held)?);
    }
    Ok(contents)
}

fn without_held(block: &[u8], held: &Held) -> Result<Vec<u8>, DecodeError> {
    // Nothing may fall out of the block again, so it has no limit; what is encoded is what was decoded from a
    // block within the limit, with the same strings shared.
    let mut encoder = BatchEncoder::new(usize::MAX);
    for entry in BatchDecoder::new(block)? {
        let entry = entry?;
        if !held.has(&entry.head) {
            push(&mut encoder, &entry);
        }
    }
    Ok(encoder.finish())
}

fn push(encoder: &mut BatchEncoder, entry: &Entry<'_>) {
    // The decoder has seen to it that numbers rise, so an entry is never out of order.
    if let Ok(mut writer) = encoder.begin(&entry.head) {
        for field in &entry.fields {
            // A string that the block shares is at one place in it.
            let key = field.bytes.as_ptr().addr() as u64;
            if field.is_cut() || field.bytes.len() > MAX_SHARED_BYTES {
                writer.inline(field.bytes, field.true_length);
            } else if !writer.known(key) {
                writer.shared(key, field.bytes, field.true_length);
            }
        }
        // Never full: the block has no limit.
        let _ = writer.commit();
    }
}

/// A block that does not decode stands for the numbers that the batch claims, if they can be.
fn undecodable(
    seqnum_id: [u8; 16],
    held: u64,
    reset: bool,
    (first, last): (u64, u64),
    error: DecodeError,
) -> Accepted {
    let first = first.max(held.saturating_add(1));
    if last < first {
        return Accepted::Refused(error.to_string());
    }
    tracing::warn!(%error, "journal block is not kept");
    let frame = Frame {
        seqnum_id,
        first: 0,
        last,
        count: 0,
        reset,
        gap: Some(Gap {
            first,
            last,
            reason: GapReason::Undecodable,
        }),
        received_unix_us: now_us(),
        mark: Mark::default(),
        block: Vec::new(),
    };
    Accepted::Frame(frame, 0)
}

/// The gap that the guest states, cut to what lies between the position and the first entry.
fn stated_gap(gap: &v1::Gap, held: u64, first_entry: u64) -> Option<Gap> {
    let first = gap.first_seqnum.max(held.saturating_add(1));
    let last = match first_entry {
        0 => gap.last_seqnum,
        entry => gap.last_seqnum.min(entry - 1),
    };
    let reason = match gap.reason.enum_value_or_default() {
        Reason::REASON_UNSPECIFIED => GapReason::Unknown,
        Reason::REASON_VACUUMED => GapReason::Vacuumed,
        Reason::REASON_CORRUPT => GapReason::Corrupt,
    };
    (first <= last).then_some(Gap {
        first,
        last,
        reason,
    })
}

fn now_us() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::entry::{Record, for_each};

    const ID: [u8; 16] = [9; 16];

    fn head(boot: u8, seqnum: u64) -> EntryHead {
        EntryHead {
            seqnum,
            boot_id: [boot; 16],
            monotonic_us: seqnum * 10,
            ..Default::default()
        }
    }

    fn block_of(boot: u8, seqnums: &[u64]) -> Vec<u8> {
        let mut encoder = BatchEncoder::new(MAX_BLOCK_BYTES);
        for &seqnum in seqnums {
            let head = head(boot, seqnum);
            let message = format!("MESSAGE={seqnum}");
            encoder
                .push(
                    &head,
                    [(Some(1), &b"_COMM=x"[..]), (None, message.as_bytes())],
                )
                .unwrap();
        }
        encoder.finish()
    }

    fn block(seqnums: &[u64]) -> Vec<u8> {
        block_of(1, seqnums)
    }

    fn batch(id: [u8; 16], seqnums: &[u64]) -> JournalBatch {
        JournalBatch {
            seqnum_id: id.to_vec(),
            first_seqnum: seqnums.first().copied().unwrap_or(0),
            last_seqnum: seqnums.last().copied().unwrap_or(0),
            count: u32::try_from(seqnums.len()).unwrap(),
            block: block(seqnums),
            tail_seqnum: seqnums.last().copied().unwrap_or(0),
            ..Default::default()
        }
    }

    fn at(seqnum: u64) -> Position {
        Position {
            seqnum_id: ID,
            seqnum,
            mark: Mark::from(&head(1, seqnum)),
        }
    }

    fn frame(accepted: Accepted) -> Frame {
        match accepted {
            Accepted::Frame(frame, _) => frame,
            other => panic!("{other:?}"),
        }
    }

    fn numbers(frame: &Frame) -> Vec<u64> {
        let mut numbers = Vec::new();
        let Ok(()) = for_each(frame, |record| {
            if let Record::Entry(entry) = record {
                numbers.push(entry.head.seqnum);
            }
            Ok::<(), std::convert::Infallible>(())
        });
        numbers
    }

    #[test]
    fn what_journald_dropped_is_counted_once() {
        let notice: [(Option<u64>, &[u8]); 3] = [
            (None, b"_TRANSPORT=driver"),
            (None, b"MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e"),
            (None, b"N_DROPPED=12"),
        ];
        let mut encoder = BatchEncoder::new(MAX_BLOCK_BYTES);
        for seqnum in 5..=6 {
            encoder.push(&head(1, seqnum), notice).unwrap();
        }
        let batch = JournalBatch {
            block: encoder.finish(),
            ..batch(ID, &[5, 6])
        };
        let dropped = |held| match accept(at(held), batch.clone()) {
            Accepted::Frame(_, dropped) => dropped,
            other => panic!("{other:?}"),
        };
        assert_eq!((dropped(4), dropped(5)), (24, 12));
    }

    #[test]
    fn what_follows_is_taken_whole() {
        let frame = frame(accept(at(4), batch(ID, &[5, 6, 7])));
        assert_eq!((frame.first, frame.last, frame.count), (5, 7, 3));
        assert_eq!((frame.reset, frame.gap), (false, None));
        assert_eq!(frame.block, block(&[5, 6, 7]));
    }

    #[test]
    fn entries_that_are_held_are_dropped() {
        let part = frame(accept(at(5), batch(ID, &[4, 5, 6, 7])));
        assert_eq!(
            (part.first, part.last, part.count, part.gap),
            (6, 7, 2, None)
        );
        assert_eq!(numbers(&part), [6, 7]);
        assert_eq!(accept(at(7), batch(ID, &[5, 6, 7])), Accepted::Nothing);
    }

    #[test]
    fn numbers_that_jump_are_a_gap_even_when_the_guest_says_nothing() {
        let frame = frame(accept(at(4), batch(ID, &[9])));
        assert_eq!(
            frame.gap,
            Some(Gap {
                first: 5,
                last: 8,
                reason: GapReason::Unknown
            })
        );
    }

    #[test]
    fn a_stated_gap_is_cut_to_where_it_can_be() {
        let mut with_gap = batch(ID, &[9]);
        let gap = v1::Gap {
            first_seqnum: 1,
            last_seqnum: u64::MAX,
            reason: Reason::REASON_VACUUMED.into(),
            ..Default::default()
        };
        with_gap.gap = Some(gap.clone()).into();
        let cut = frame(accept(at(4), with_gap));
        assert_eq!(
            cut.gap,
            Some(Gap {
                first: 5,
                last: 8,
                reason: GapReason::Vacuumed
            })
        );

        let alone = JournalBatch {
            seqnum_id: ID.to_vec(),
            gap: Some(gap).into(),
            ..Default::default()
        };
        let frame = frame(accept(at(4), alone));
        assert_eq!((frame.count, frame.last), (0, u64::MAX));
        assert_eq!(frame.gap.unwrap().count(), u64::MAX - 4);
    }

    #[test]
    fn behind_the_last_number_of_all_there_is_no_other() {
        let end = Position {
            seqnum: u64::MAX,
            ..at(7)
        };
        assert_eq!(accept(end, batch(ID, &[5, 6])), Accepted::Nothing);
        let unmarked = Position {
            mark: Mark::default(),
            ..end
        };
        assert_eq!(accept(unmarked, batch(ID, &[5])), Accepted::Nothing);
        // Other entries begin anew, whatever they are numbered.
        let mut again = batch(ID, &[5, 6]);
        again.block = block_of(2, &[5, 6]);
        assert_eq!(numbers(&frame(accept(end, again))), [5, 6]);
    }

    #[test]
    fn another_writer_begins_where_it_begins_and_is_a_reset_only_when_the_guest_says_so() {
        let handed_over = frame(accept(at(100), batch([3; 16], &[7, 8])));
        assert_eq!(
            (handed_over.reset, handed_over.gap, handed_over.first),
            (false, None, 7)
        );
        assert_eq!(handed_over.position().seqnum_id, [3; 16]);
        let reset = JournalBatch {
            reset: true,
            ..batch([3; 16], &[7, 8])
        };
        assert!(frame(accept(at(100), reset.clone())).reset);
        assert!(
            !frame(accept(Position::default(), reset)).reset,
            "nothing was before it"
        );
    }

    #[test]
    fn numbers_that_are_given_again_after_a_killed_vm_are_other_entries() {
        let mut again = batch(ID, &[5, 6, 7]);
        again.block = block_of(2, &[5, 6, 7]);
        let other = frame(accept(at(6), again.clone()));
        assert_eq!((other.first, other.last, other.gap), (5, 7, None));
        assert_eq!(other.mark, Mark::from(&head(2, 7)));
        // Without a mark there are only the numbers.
        let unmarked = Position {
            mark: Mark::default(),
            ..at(6)
        };
        assert_eq!(numbers(&frame(accept(unmarked, again))), [7]);
        // A reset goes back in the same numbering.
        let back = JournalBatch {
            reset: true,
            ..batch(ID, &[5, 6])
        };
        assert_eq!(numbers(&frame(accept(at(9), back))), [5, 6]);
    }

    #[test]
    fn a_block_that_does_not_decode_is_a_gap_or_refused_and_never_stored() {
        let mut broken = batch(ID, &[5, 6, 7]);
        broken.block.truncate(broken.block.len() - 1);
        let frame = frame(accept(at(4), broken.clone()));
        assert_eq!(
            frame.gap,
            Some(Gap {
                first: 5,
                last: 7,
                reason: GapReason::Undecodable
            })
        );
        assert!(frame.block.is_empty());
        broken.last_seqnum = 3;
        assert!(matches!(accept(at(4), broken), Accepted::Refused(_)));
    }

    #[test]
    fn ids_and_blocks_of_impossible_length_are_refused() {
        let mut short = batch(ID, &[5]);
        short.seqnum_id.pop();
        assert!(matches!(accept(at(4), short), Accepted::Refused(_)));
        let mut long = batch(ID, &[5]);
        long.block.resize(MAX_BLOCK_BYTES + 1, 0);
        assert!(matches!(accept(at(4), long), Accepted::Refused(_)));
        assert_eq!(accept(at(4), JournalBatch::default()), Accepted::Nothing);
    }
}
