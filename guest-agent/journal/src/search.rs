//! Where the last so many wanted entries begin, found from the end backwards: the last ten of a million cost as much
//! as the last ten of a hundred.

use std::collections::BTreeSet;

use crate::{
    file::JournalFile,
    journal::Journal,
    position::Position,
    query::{Filter, Query},
    slot::{Slot, Slots},
    stream::{Stream, streams},
};

/// Entries that are looked at in one step back: first few, then more.
const FIRST_BLOCK: u64 = 256;
const LARGEST_BLOCK: u64 = 64 * 1024;

impl Journal {
    /// The position from which [`Journal::read_matching`] gives the last `lines` entries that the query wants, and
    /// all later ones. The end of the journal when there is none.
    ///
    /// Blocks on file I/O, in the worst case (few matches) on a walk over all entries.
    pub fn find_last(&mut self, query: &Query, lines: usize) -> Position {
        self.look();
        let all = streams(&self.slots.slots);
        let end = all.last().map_or(Position::START, |stream| Position {
            seqnum_id: stream.id,
            seqnum: stream.tail_seqnum,
            mark: None,
        });
        let mut found = end;
        let mut left = lines;
        for stream in all.iter().rev() {
            if left == 0 {
                break;
            }
            let numbers = last_of_stream(stream, query, left, &self.slots);
            if let Some(first) = numbers.first() {
                found = Position {
                    seqnum_id: stream.id,
                    seqnum: first - 1,
                    mark: None,
                };
            }
            left -= numbers.len();
        }
        found
    }
}

/// The highest `lines` numbers of wanted entries.
fn last_of_stream(stream: &Stream, query: &Query, lines: usize, slots: &Slots) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    let of_stream = |slot: &&Slot| slot.header.seqnum_id == stream.id && slot.header.n_entries > 0;
    for slot in slots.slots.iter().rev().filter(of_stream) {
        let lowest = numbers.first().copied().unwrap_or(0);
        let is_full = numbers.len() >= lines;
        if is_full && slot.header.is_witness() && slot.header.tail_seqnum < lowest {
            continue;
        }
        // A file that went away has nothing to add.
        if let Ok(mut file) = slot.open_again() {
            last_of_file(&mut file, query, lines, &mut numbers);
        }
    }
    numbers
}

fn last_of_file(file: &mut JournalFile, query: &Query, lines: usize, numbers: &mut BTreeSet<u64>) {
    let mut filter = Filter::new(query, file);
    if filter.excludes_all() {
        return;
    }
    let mut end = file.header.n_entries;
    let mut block = FIRST_BLOCK.max(lines as u64).min(LARGEST_BLOCK);
    while end > 0 {
        let begin = end.saturating_sub(block);
        let is_certain = file.seek_index(begin);
        // Where damage hides the place, one walk over the whole file does it.
        let (begin, count) = if is_certain {
            (begin, end - begin)
        } else {
            (0, u64::MAX)
        };
        let mut first = None;
        for _ in 0..count {
            let Some(entry) = file.peek() else { break };
            file.advance();
            let seqnum = entry.head.seqnum;
            first = first.or(Some(seqnum));
            if filter.wants(&entry, file) && numbers.insert(seqnum) && numbers.len() > lines {
                numbers.pop_first();
            }
        }
        let lowest = numbers.first().copied().unwrap_or(0);
        if numbers.len() >= lines && first.is_some_and(|first| first <= lowest) {
            return;
        }
        end = begin;
        block = (block * 4).min(LARGEST_BLOCK);
    }
}
