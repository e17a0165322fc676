//! One pass over one stream: the files' entries merged by number into a batch.
//!
//! The file with the lowest next number is read up to the next number of any other file, so that with one
//! file, which is the rule, nothing is compared entry by entry. A batch ends before a gap; the next one begins
//! with it.

use seed_protocol::journal::{BatchEncoder, EntryHead};

use crate::{
    file::Skipped,
    journal::Journal,
    object::EntryRef,
    position::{Gap, GapReason},
    query::{Filter, Query},
    resume::Start,
    slot::{Encoded, Slot},
    stream::Key,
};

/// Entries that one filtered read looks at.
const MAX_TESTED: u32 = 200_000;

/// One pass over one stream.
#[derive(Debug)]
pub(crate) struct Run<'q> {
    pub(crate) last: u64,
    check_gap: bool,
    pub(crate) first: u64,
    pub(crate) gap: Option<Gap>,
    gap_confirmed: bool,
    pub(crate) skipped: Skipped,
    limit: u64,
    /// The last entry that was delivered or passed over.
    pub(crate) head: Option<EntryHead>,
    query: Option<&'q Query>,
    /// The query in terms of each file, by the file's id.
    filters: Vec<([u8; 16], Filter<'q>)>,
    tested: u32,
}

impl<'q> Run<'q> {
    pub(crate) fn new(start: &Start, limit: u64, query: Option<&'q Query>) -> Self {
        Self {
            last: start.after,
            check_gap: start.check_gap,
            first: 0,
            gap: None,
            gap_confirmed: false,
            skipped: Skipped::default(),
            limit,
            head: None,
            query,
            filters: Vec::new(),
            tested: 0,
        }
    }

    fn passed(&mut self, head: &EntryHead) {
        self.last = head.seqnum;
        self.head = Some(*head);
        self.check_gap = true;
    }

    fn wants(&mut self, slot: &mut Slot, entry: &EntryRef) -> bool {
        let Some(query) = self.query else { return true };
        let Some(file) = slot.file_mut() else {
            return true;
        };
        self.tested += 1;
        let id = file.header.file_id;
        let known = self.filters.iter().position(|(known, _)| *known == id);
        let index = match known {
            Some(index) if !self.filters[index].1.is_stale(file) => index,
            Some(index) => {
                self.filters[index].1 = Filter::new(query, file);
                index
            }
            None => {
                self.filters.push((id, Filter::new(query, file)));
                self.filters.len() - 1
            }
        };
        self.filters[index].1.wants(entry, file)
    }

    /// The gap that was already noted before this number.
    fn gap_at(&self, seqnum: u64) -> Option<Gap> {
        self.gap.filter(|gap| gap.to + 1 == seqnum)
    }

    /// The entry behind the gap cannot be had either: the gap is noted anew before the next one.
    fn widen_gap(&mut self) {
        if self.first == 0 {
            self.gap = None;
        }
    }

    fn add(&mut self, skipped: Skipped) {
        self.skipped.bad_objects += skipped.bad_objects;
        self.skipped.bad_values += skipped.bad_values;
    }
}

impl Journal {
    /// True when there is nothing more.
    pub(crate) fn run(&mut self, key: Key, run: &mut Run<'_>, batch: &mut BatchEncoder) -> bool {
        while let Some((index, bound)) = self.pick(key, run) {
            loop {
                let slot = &mut self.slots.slots[index];
                let Ok(Some(entry)) = slot.peek_after(run.last, &mut self.slots.serials) else {
                    break;
                };
                let seqnum = entry.head.seqnum;
                if slot.has_skipped() && slot.is_deleted() {
                    self.slots.slots.remove(index);
                    break;
                }
                if seqnum > run.limit {
                    return true;
                }
                if seqnum > bound {
                    break;
                }
                if run.check_gap && seqnum != run.last + 1 && run.gap_at(seqnum).is_none() {
                    if run.first > 0 || run.gap.is_some() {
                        return false;
                    }
                    if !run.gap_confirmed {
                        // A file may have been missed while it was renamed.
                        run.gap_confirmed = true;
                        self.slots.scan(&mut self.directories, &self.machine_id);
                        break;
                    }
                    let is_damage =
                        self.has_file_with(key, run.last + 1) || !self.slots.problems.is_empty();
                    let reason = if is_damage {
                        GapReason::Corrupt
                    } else {
                        GapReason::Vacuumed
                    };
                    run.gap = Some(Gap {
                        from: run.last + 1,
                        to: seqnum - 1,
                        reason,
                    });
                }
                let slot = &mut self.slots.slots[index];
                if !run.wants(slot, &entry) {
                    slot.advance();
                    run.passed(&entry.head);
                    if run.tested >= MAX_TESTED {
                        return false;
                    }
                    continue;
                }
                match slot.encode(&entry, batch, &mut self.cache) {
                    Encoded::Added => {
                        slot.advance();
                        if run.first == 0 {
                            run.first = seqnum;
                        }
                        run.passed(&entry.head);
                    }
                    Encoded::Damaged => {
                        slot.advance();
                        run.widen_gap();
                    }
                    Encoded::Full => return false,
                    Encoded::Deleted => {
                        self.slots.slots.remove(index);
                        run.widen_gap();
                        break;
                    }
                }
            }
        }
        for slot in &mut self.slots.slots {
            run.add(slot.take_skipped());
        }
        true
    }

    /// A file that says that it has this entry.
    fn has_file_with(&self, key: Key, seqnum: u64) -> bool {
        let mut slots = self.slots.slots.iter().filter(|slot| slot.key() == key);
        slots.any(|slot| {
            let header = &slot.header;
            (header.head_seqnum..=header.tail_seqnum).contains(&seqnum)
        })
    }

    /// The file whose next entry has the lowest number, and the highest number up to which no other file has to
    /// be asked.
    fn pick(&mut self, key: Key, run: &mut Run<'_>) -> Option<(usize, u64)> {
        let mut best: Option<(u64, usize)> = None;
        let mut bound = u64::MAX;
        for index in 0..self.slots.slots.len() {
            let slot = &mut self.slots.slots[index];
            if slot.key() != key {
                continue;
            }
            if !slot.may_have_after(run.last) {
                run.add(slot.close_if_read(run.last));
                continue;
            }
            if let Some((lowest, _)) = best
                && slot.header.head_seqnum > lowest
            {
                bound = bound.min(slot.header.head_seqnum - 1);
                break;
            }
            // A file that cannot be opened any more was deleted: the next listing will not have it.
            let next = slot
                .peek_after(run.last, &mut self.slots.serials)
                .ok()
                .flatten();
            let is_deleted = slot.has_skipped() && slot.is_deleted();
            run.add(slot.close_if_read(run.last));
            let Some(entry) = next.filter(|_| !is_deleted) else {
                continue;
            };
            let seqnum = entry.head.seqnum;
            match best {
                Some((lowest, _)) if seqnum >= lowest => bound = bound.min(seqnum - 1),
                Some((lowest, _)) => {
                    bound = bound.min(lowest - 1);
                    best = Some((seqnum, index));
                }
                None => best = Some((seqnum, index)),
            }
        }
        best.map(|(seqnum, index)| (index, bound.max(seqnum)))
    }
}
