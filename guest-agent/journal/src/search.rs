//! Where the last so many wanted entries begin, found from the end backwards: the last ten of a million cost as much
//! as the last ten of a hundred.

use std::collections::BTreeSet;

use seed_protocol::journal::EntryHead;

use crate::{
    file::JournalFile,
    journal::Journal,
    position::Position,
    query::{Filter, Query},
    slot::Slots,
    stream::{Part, parts},
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
        let all = parts(&self.slots.slots);
        let mut found = match all.last() {
            Some(part) => before(&all, all.len() - 1, part.tail_seqnum + 1, &self.slots),
            None => Position::START,
        };
        let mut left = lines;
        for (index, part) in all.iter().enumerate().rev() {
            if left == 0 {
                break;
            }
            let numbers = last_of_part(part, query, left, &self.slots);
            if let Some(first) = numbers.first() {
                found = before(&all, index, *first, &self.slots);
            }
            left -= numbers.len();
        }
        found
    }
}

/// The position before this number of this part. Where numbers stand for several entries it says which one it is behind.
fn before(all: &[Part], index: usize, seqnum: u64, slots: &Slots) -> Position {
    let part = &all[index];
    let id = part.key.seqnum_id;
    let plain = Position {
        seqnum_id: id,
        seqnum: seqnum - 1,
        mark: None,
    };
    let is_whole_stream = |other: &Part| other.key.seqnum_id != id || other == part;
    if all.iter().all(is_whole_stream) {
        return plain;
    }
    let of_stream = all[..=index].iter().rev();
    of_stream
        .take_while(|earlier| earlier.key.seqnum_id == id)
        .find_map(|earlier| {
            let is_own = earlier == part;
            let end = earlier.ceiling.saturating_add(1);
            last_below(earlier, if is_own { seqnum } else { end }, slots)
        })
        .map_or(plain, |head| Position::after(id, &head))
}

/// The part's last entry that is numbered below this.
fn last_below(part: &Part, seqnum: u64, slots: &Slots) -> Option<EntryHead> {
    let mut best: Option<EntryHead> = None;
    for mut file in part
        .of(&slots.slots)
        .filter_map(|slot| slot.open_again().ok())
    {
        file.seek_after(part.floor.max(seqnum.saturating_sub(FIRST_BLOCK)));
        let mut entry = file.peek();
        if entry.is_none_or(|entry| entry.head.seqnum >= seqnum) {
            // Far below, or there is none.
            file.seek_after(part.floor);
            entry = file.peek();
        }
        while let Some(head) = entry
            .map(|entry| entry.head)
            .filter(|head| head.seqnum < seqnum)
        {
            best = best.filter(|best| best.seqnum > head.seqnum).or(Some(head));
            file.advance();
            entry = file.peek();
        }
    }
    best
}

/// The highest `lines` numbers of wanted entries.
fn last_of_part(part: &Part, query: &Query, lines: usize, slots: &Slots) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    for slot in part.of(&slots.slots).rev() {
        let lowest = numbers.first().copied().unwrap_or(0);
        let is_full = numbers.len() >= lines;
        if is_full && slot.header.is_witness() && slot.header.tail_seqnum < lowest {
            continue;
        }
        // A file that went away has nothing to add.
        if let Ok(mut file) = slot.open_again() {
            last_of_file(&mut file, part, query, lines, &mut numbers);
        }
    }
    numbers
}

fn last_of_file(
    file: &mut JournalFile,
    part: &Part,
    query: &Query,
    lines: usize,
    numbers: &mut BTreeSet<u64>,
) {
    let mut filter = Filter::new(query, file);
    if filter.excludes_all() {
        return;
    }
    if let Some(places) = filter.candidates() {
        for place in places {
            let Some(entry) = file.entry(place) else {
                continue;
            };
            let seqnum = entry.head.seqnum;
            let is_low = numbers.first().is_some_and(|lowest| seqnum < *lowest);
            if numbers.len() >= lines && is_low {
                return;
            }
            if part.contains(seqnum) && filter.wants(&entry, file) {
                keep(numbers, seqnum, lines);
            }
        }
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
            if part.contains(seqnum) && filter.wants(&entry, file) {
                keep(numbers, seqnum, lines);
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

/// Adds a number, and drops the lowest where there are too many then.
fn keep(numbers: &mut BTreeSet<u64>, seqnum: u64, lines: usize) {
    if numbers.insert(seqnum) && numbers.len() > lines {
        numbers.pop_first();
    }
}
