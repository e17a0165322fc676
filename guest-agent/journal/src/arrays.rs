//! The chain of entry arrays: entry offsets in the order of writing.
//!
//! journald writes an item first and then raises `n_entries` in the header, so every item below that number
//! is final. Arrays are appended to the file, so offsets along the chain rise; a chain that turns back is
//! damaged, and every walk ends.

use std::fs::File;

use crate::{
    header::{Header, le64},
    object::{ARRAY_HEADER_BYTES, Kind, ObjectHeader, array_item_bytes, array_items},
    window::read_full,
};

const CHUNK_ITEMS: u64 = 512;

/// What a step along the chain gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Where an entry should be.
    Item(u64),
    /// An item that cannot be an entry's offset.
    Bad,
    /// All linked entries have been seen.
    End,
    /// The chain is damaged here; what comes after cannot be reached through it.
    Broken,
}

/// A place in the chain.
#[derive(Debug, Clone)]
pub(crate) struct Arrays {
    /// The array being read; 0 before the first.
    offset: u64,
    /// Where the next one is, when known.
    next: u64,
    capacity: u64,
    /// Items of this array that were consumed.
    used: u64,
    /// Items of all arrays that were consumed.
    total: u64,
    chunk: Vec<u64>,
    chunk_at: usize,
    last_offset: u64,
}

struct ArrayHead {
    next: u64,
    capacity: u64,
}

impl Arrays {
    pub(crate) fn new() -> Self {
        Self {
            offset: 0,
            next: 0,
            capacity: 0,
            used: 0,
            total: 0,
            chunk: Vec::new(),
            chunk_at: 0,
            last_offset: 0,
        }
    }

    /// The next item, and moves past it.
    pub(crate) fn next(&mut self, file: &File, header: &Header) -> Step {
        if self.total >= header.n_entries {
            return Step::End;
        }
        if self.chunk_at >= self.chunk.len() && !self.load_chunk(file, header) {
            return Step::Broken;
        }
        let item = self.chunk[self.chunk_at];
        let following = self.chunk.get(self.chunk_at + 1).copied();
        self.chunk_at += 1;
        self.used += 1;
        self.total += 1;
        let before = self.last_offset.max(header.header_size.saturating_sub(8));
        if !item.is_multiple_of(8) || item <= before {
            return Step::Bad;
        }
        // Offsets rise. One that is above its follower, which itself fits, is the wrong one.
        if following.is_some_and(|following| following <= item && following > before) {
            return Step::Bad;
        }
        self.last_offset = item;
        Step::Item(item)
    }

    /// The item after the one that was given last, without moving.
    pub(crate) fn look_ahead(&mut self, file: &File, header: &Header) -> Option<u64> {
        let mut ahead = self.clone();
        match ahead.next(file, header) {
            Step::Item(item) => Some(item),
            Step::Bad | Step::End | Step::Broken => None,
        }
    }

    /// Moves to the last place that `is_before` says yes to, so that [`Self::next`] gives the first item
    /// that it says no to. False when something on the way was damaged: begin anew and walk.
    pub(crate) fn seek(
        &mut self,
        file: &File,
        header: &Header,
        mut is_before: impl FnMut(u64) -> Option<bool>,
    ) -> bool {
        *self = Self::new();
        let mut offset = header.entry_array_offset;
        // The array whose first item is still before the place that is looked for.
        let mut found = None;
        let mut total = 0;
        while offset != 0 && total < header.n_entries {
            let Some(head) = read_head(file, header, offset) else {
                return false;
            };
            if head.capacity == 0 || (head.next != 0 && head.next <= offset) {
                return false;
            }
            let Some(first) = read_item(file, header, offset, 0) else {
                return false;
            };
            match is_before(first) {
                Some(true) => {}
                Some(false) => break,
                None => return false,
            }
            found = Some((offset, total));
            total = head.capacity.saturating_add(total);
            offset = head.next;
        }
        let Some((offset, total)) = found else {
            return true;
        };
        let Some(head) = read_head(file, header, offset) else {
            return false;
        };
        // Item `low` is before, item `high` is not.
        let mut low = 0;
        let mut high = head.capacity.min(header.n_entries - total);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let Some(item) = read_item(file, header, offset, middle) else {
                return false;
            };
            match is_before(item) {
                Some(true) => low = middle,
                Some(false) => high = middle,
                None => return false,
            }
        }
        let Some(last_offset) = read_item(file, header, offset, low) else {
            return false;
        };
        self.offset = offset;
        self.next = head.next;
        self.capacity = head.capacity;
        self.used = low + 1;
        self.total = total + low + 1;
        self.last_offset = last_offset;
        true
    }

    /// Moves behind the first `items` items. False, and back to the beginning, when the chain is damaged.
    pub(crate) fn skip(&mut self, file: &File, header: &Header, items: u64) -> bool {
        *self = Self::new();
        let mut offset = header.entry_array_offset;
        let mut total = 0_u64;
        while let Some(head) = read_head(file, header, offset).filter(|head| head.capacity > 0) {
            if items - total <= head.capacity {
                let used = items - total;
                let Some(last_offset) = read_item(file, header, offset, used - 1) else {
                    break;
                };
                self.offset = offset;
                self.next = head.next;
                self.capacity = head.capacity;
                (self.used, self.total, self.last_offset) = (used, items, last_offset);
                return true;
            }
            if head.next <= offset {
                break;
            }
            total += head.capacity;
            offset = head.next;
        }
        false
    }

    /// Where the entry before this place is; 0 at the beginning.
    pub(crate) fn last_offset(&self) -> u64 {
        self.last_offset
    }

    /// The item given last was no entry: later items are measured against `last_good` again.
    pub(crate) fn reject(&mut self, last_good: u64) {
        self.last_offset = last_good;
    }

    fn load_chunk(&mut self, file: &File, header: &Header) -> bool {
        if self.used >= self.capacity && !self.enter_next(file, header) {
            return false;
        }
        let left = (self.capacity - self.used).min(header.n_entries - self.total);
        let wanted = left.min(CHUNK_ITEMS);
        let item = array_item_bytes(header.compact);
        let mut bytes = [0; 8 * 512];
        let Ok(length) = usize::try_from(wanted * item) else {
            return false;
        };
        let at = self.offset + ARRAY_HEADER_BYTES as u64 + self.used * item;
        let got = read_full(file, &mut bytes[..length], at).unwrap_or(0);
        array_items(&bytes[..got], header.compact, &mut self.chunk);
        self.chunk_at = 0;
        !self.chunk.is_empty()
    }

    fn enter_next(&mut self, file: &File, header: &Header) -> bool {
        let offset = if self.offset == 0 {
            header.entry_array_offset
        } else {
            // The link was set after this array was entered.
            read_head(file, header, self.offset).map_or(self.next, |head| head.next)
        };
        if offset <= self.offset {
            return false;
        }
        let Some(head) = read_head(file, header, offset).filter(|head| head.capacity > 0) else {
            return false;
        };
        self.offset = offset;
        self.next = head.next;
        self.capacity = head.capacity;
        self.used = 0;
        true
    }
}

/// The first `count` items of the chain that begins at this array; none where it is shorter or turns back.
pub(crate) fn linked_from(
    file: &File,
    header: &Header,
    mut array: u64,
    count: u64,
) -> Option<Vec<u64>> {
    let mut items = Vec::with_capacity(usize::try_from(count).ok()?);
    let mut part = Vec::new();
    while let Some(left) = count
        .checked_sub(items.len() as u64)
        .filter(|left| *left > 0)
    {
        let head = read_head(file, header, array).filter(|head| head.capacity > 0)?;
        let length = left.min(head.capacity) * array_item_bytes(header.compact);
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let got = read_full(file, &mut bytes, array + ARRAY_HEADER_BYTES as u64).ok()?;
        if got < bytes.len() {
            return None;
        }
        array_items(&bytes, header.compact, &mut part);
        items.append(&mut part);
        if head.next != 0 && head.next <= array {
            return None;
        }
        array = head.next;
    }
    Some(items)
}

fn read_head(file: &File, header: &Header, offset: u64) -> Option<ArrayHead> {
    if offset < header.header_size || !offset.is_multiple_of(8) {
        return None;
    }
    let mut bytes = [0; ARRAY_HEADER_BYTES];
    if read_full(file, &mut bytes, offset).ok()? < bytes.len() {
        return None;
    }
    let object = ObjectHeader::parse(&bytes, header.compact)?;
    if object.kind != Kind::EntryArray || offset.checked_add(object.size).is_none() {
        return None;
    }
    let capacity = (object.size - ARRAY_HEADER_BYTES as u64) / array_item_bytes(header.compact);
    Some(ArrayHead {
        next: le64(&bytes, 16),
        capacity,
    })
}

fn read_item(file: &File, header: &Header, array: u64, index: u64) -> Option<u64> {
    let item = array_item_bytes(header.compact);
    let mut bytes = [0; 8];
    let length = if header.compact { 4 } else { 8 };
    let at = array + ARRAY_HEADER_BYTES as u64 + index * item;
    let got = read_full(file, &mut bytes[..length], at).ok()?;
    (got == length).then(|| u64::from_le_bytes(bytes))
}
