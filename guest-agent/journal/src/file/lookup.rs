//! From a value to its place, by the file's hash table of values. Never looks at entries.

use super::JournalFile;
use crate::{hash::value_hash, header::le64, window::Walk};

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
}
