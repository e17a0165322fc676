//! Parts: what is read one after the other, and in which order.
//!
//! A stream is all entries of one writer (one seqnum id), over however many files. A machine normally has one in /var and,
//! from boot until `systemd-journal-flush`, a second in /run. The latter is the later one: what it holds will be copied into the
//! former, under the former's numbers.
//!
//! Within a stream the numbers order the entries, but for those that a machine's sudden end left behind the end of a file
//! ([`crate::remnant`]): their numbers were given out again. So a stream with remnants has several parts:
//!
//! ```text
//! linked (0, floor 1], remnant 1, linked (floor 1, floor 2], remnant 2, ... linked (last floor, ...)
//! ```

use crate::slot::Slot;

/// Which entries a slot holds, or a part consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// The stream.
    pub(crate) seqnum_id: [u8; 16],
    /// The remnant of the file with this id; none: what is linked, in all files.
    pub(crate) remnant: Option<[u8; 16]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) key: Key,
    /// Its numbers are above this,
    pub(crate) floor: u64,
    /// and not above this.
    pub(crate) ceiling: u64,
    /// None of its files is in the first directory.
    pub(crate) is_volatile: bool,
    /// Of a remnant: the boot that wrote it.
    pub(crate) boot_id: [u8; 16],
    pub(crate) head_realtime_us: u64,
    pub(crate) tail_realtime_us: u64,
    pub(crate) tail_seqnum: u64,
    /// Files that journald may be writing to.
    pub(crate) active_files: usize,
}

impl Part {
    /// The slots with entries of this part. Those of linked entries may have others as well.
    pub(crate) fn of<'s>(&self, slots: &'s [Slot]) -> impl DoubleEndedIterator<Item = &'s Slot> {
        let part = *self;
        slots.iter().filter(move |slot| part.has(slot))
    }

    /// The number can be one of its entries', or is its floor's.
    pub(crate) fn spans(&self, seqnum: u64) -> bool {
        (self.floor..=self.ceiling).contains(&seqnum)
    }

    /// The number can be one of its entries'.
    pub(crate) fn contains(&self, seqnum: u64) -> bool {
        self.spans(seqnum) && seqnum > self.floor
    }

    fn has(&self, slot: &Slot) -> bool {
        let header = &slot.header;
        slot.key() == self.key
            && header.n_entries > 0
            && header.head_seqnum <= self.ceiling
            && (header.tail_seqnum > self.floor || !header.is_witness())
    }

    /// What the slots have of this key between these numbers; none when there is nothing.
    fn gather(key: Key, floor: u64, ceiling: u64, slots: &[Slot]) -> Option<Self> {
        let mut part = Self {
            key,
            floor,
            ceiling,
            is_volatile: true,
            boot_id: [0; 16],
            head_realtime_us: u64::MAX,
            tail_realtime_us: 0,
            tail_seqnum: 0,
            active_files: 0,
        };
        let wanted = part;
        for slot in wanted.of(slots) {
            let header = &slot.header;
            part.is_volatile &= slot.name().directory > 0;
            part.boot_id = header.boot_id;
            part.head_realtime_us = part.head_realtime_us.min(header.head_realtime_us);
            part.tail_realtime_us = part.tail_realtime_us.max(header.tail_realtime_us);
            part.tail_seqnum = part.tail_seqnum.max(header.tail_seqnum.min(ceiling));
            part.active_files += usize::from(slot.is_active());
        }
        (part.head_realtime_us < u64::MAX).then_some(part)
    }
}

/// The parts that have entries, in the order of reading: stream after stream, the oldest first.
pub(crate) fn parts(slots: &[Slot]) -> Vec<Part> {
    let mut ids: Vec<[u8; 16]> = Vec::new();
    for slot in slots.iter().filter(|slot| slot.header.n_entries > 0) {
        let id = slot.header.seqnum_id;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let mut streams: Vec<Vec<Part>> = ids.iter().map(|id| of_stream(*id, slots)).collect();
    streams.sort_by_key(|parts| {
        let is_volatile = parts.iter().all(|part| part.is_volatile);
        let head = parts.iter().map(|part| part.head_realtime_us).min();
        (
            is_volatile,
            head,
            parts.first().map(|part| part.key.seqnum_id),
        )
    });
    streams.into_iter().flatten().collect()
}

fn of_stream(seqnum_id: [u8; 16], slots: &[Slot]) -> Vec<Part> {
    let linked = Key {
        seqnum_id,
        remnant: None,
    };
    let remnants = slots
        .iter()
        .filter(|slot| slot.key().seqnum_id == seqnum_id);
    let mut remnants: Vec<_> = remnants
        .filter_map(|slot| Some((slot.floor()?, slot.header)))
        .collect();
    remnants.sort_by_key(|(floor, header)| (*floor, header.head_realtime_us, header.file_id));
    let mut parts: Vec<Part> = Vec::new();
    let mut done = None;
    for (floor, header) in remnants {
        let is_known = |part: &Part| part.key.remnant == Some(header.file_id);
        if parts.iter().any(is_known) {
            // A copy of a file beside it: the same entries.
            continue;
        }
        if done != Some(floor) {
            parts.extend(Part::gather(linked, done.unwrap_or(0), floor, slots));
        }
        let key = Key {
            seqnum_id,
            remnant: Some(header.file_id),
        };
        parts.extend(Part::gather(key, floor, header.tail_seqnum, slots));
        done = Some(floor);
    }
    parts.extend(Part::gather(linked, done.unwrap_or(0), u64::MAX, slots));
    parts
}
