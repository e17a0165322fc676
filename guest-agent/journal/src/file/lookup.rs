//! From a value to its place, by the file's hash table of values, and from there to the entries that use it, by the value's
//! own entry arrays. What is damaged is said to be unknown: then every entry has to be looked at.

use super::{JournalFile, entry_at};
use crate::{
    arrays::{Arrays, Step, linked_from},
    hash::value_hash,
    header::le64,
    object::EntryRef,
    remnant::{current_boot, is_left},
    window::Walk,
};

/// Head and tail of one chain.
const HASH_ITEM_BYTES: u64 = 16;

impl JournalFile {
    /// The DATA object that holds exactly this `NAME=value`, by the file's hash table.
    pub(crate) fn find_value(&mut self, value: &[u8]) -> Option<u64> {
        let header = self.header;
        let hash = value_hash(value, header.keyed_hash, &header.file_id);
        let buckets = header.data_hash_table.size / HASH_ITEM_BYTES;
        let bucket = hash.checked_rem(buckets)?;
        let at = header
            .data_hash_table
            .offset
            .checked_add(bucket * HASH_ITEM_BYTES)?;
        let mut offset = le64(self.windows.get(&self.file, at, 8, Walk::Jump).ok()?, 0);
        // Objects are appended, so a chain's offsets rise; one that turns back is damaged.
        let mut before = 0;
        while offset > before && offset.is_multiple_of(8) {
            before = offset;
            let bytes = self.windows.get(&self.file, offset, 64, Walk::Jump).ok()?;
            let (stored, next) = (le64(bytes, 16), le64(bytes, 24));
            if stored == hash && self.value(offset).is_some_and(|found| found.bytes == value) {
                return Some(offset);
            }
            offset = next;
        }
        None
    }

    /// The places of all entries that use the value at this place, in the order of writing. None where they are more than
    /// `most`, or cannot be known. The last entry of a file that is written to may be missing: journald links an entry to the
    /// file before it links it to its values.
    pub(crate) fn users(&mut self, data: u64, most: u64) -> Option<Vec<u64>> {
        let bytes = self.windows.get(&self.file, data, 64, Walk::Jump).ok()?;
        let (first, array, count) = (le64(bytes, 40), le64(bytes, 48), le64(bytes, 56));
        let others = count.checked_sub(1).filter(|_| count <= most)?;
        let mut places = linked_from(&self.file, &self.header, array, others)?;
        places.insert(0, first);
        let rises = places.windows(2).all(|pair| pair[0] < pair[1]);
        rises.then_some(places)
    }

    /// False where neither the table of values nor what a value says of its entries can be trusted to be whole: in what a
    /// sudden end left, since pages reach the disk in any order. journald names it `system@....journal~`, but not before it
    /// has come up again, and never what was being closed at that moment.
    pub(crate) fn knows_its_values(&self) -> bool {
        let is_whole = self
            .path
            .extension()
            .is_some_and(|ending| ending == "journal");
        self.behind.is_none() && is_whole && !is_left(&self.header, current_boot())
    }

    /// The place of the last entry that the header counts; none where that cannot be known, and where values cannot be
    /// trusted to know their entries.
    pub(crate) fn last_place(&self) -> Option<u64> {
        if !self.knows_its_values() {
            return None;
        }
        let before = self
            .header
            .n_entries
            .checked_sub(1)
            .filter(|left| *left > 0)?;
        let mut arrays = Arrays::new();
        if !arrays.skip(&self.file, &self.header, before) {
            return None;
        }
        match arrays.next(&self.file, &self.header) {
            Step::Item(place) => Some(place),
            Step::Bad | Step::End | Step::Broken => None,
        }
    }

    /// The entry at a place that an entry array named.
    pub(crate) fn entry(&mut self, place: u64) -> Option<EntryRef> {
        let (file, header) = (&self.file, &self.header);
        entry_at(file, &mut self.windows, header, place, Walk::Jump)
    }
}
