//! The writing side of the block. Owns the buffer and the string table of one block; the form is
//! documented in the parent module.

use thiserror::Error;

use super::{
    BLOCK_VERSION, EntryHead, MAX_ENTRY_BYTES, MAX_EXPANDED_BYTES, MAX_FIELDS, MAX_SHARED_BYTES,
    MAX_VALUE_BYTES, MIN_KEPT_BYTES, TAG_CUT, TAG_DEFINE, TAG_END, TAG_FIRST_REFERENCE, TAG_INLINE,
    table::KeyTable,
    varint::{put_varint, zigzag},
};

/// Why an entry could not be begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// Entries of a block have rising numbers.
    #[error("journal entry {seqnum} does not come after {previous}")]
    OutOfOrder {
        /// The number that was offered.
        seqnum: u64,
        /// The number of the entry before.
        previous: u64,
    },
}

/// What became of an entry at its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// It is part of the block.
    Added,
    /// The block would be longer than its limit: the entry was taken back. Finish the block, begin the
    /// entry again in the next one.
    Full,
}

/// Writes one block.
#[derive(Debug)]
pub struct BatchEncoder {
    buffer: Vec<u8>,
    max_bytes: usize,
    table: KeyTable,
    boots: Vec<[u8; 16]>,
    previous: EntryHead,
    count: u32,
    expanded: u64,
}

impl BatchEncoder {
    /// A block that closes when it would be longer than `max_bytes`. Its first entry is always taken.
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            buffer: Vec::new(),
            max_bytes,
            table: KeyTable::default(),
            boots: Vec::new(),
            previous: EntryHead::default(),
            count: 0,
            expanded: 0,
        }
    }

    /// Bytes of the block so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// True when the block holds no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Entries in the block so far.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The head of the last entry of the block.
    #[must_use]
    pub fn last(&self) -> Option<EntryHead> {
        (self.count > 0).then_some(self.previous)
    }

    /// The limit that was given.
    #[must_use]
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Begins an entry. It becomes part of the block with [`EntryEncoder::commit`], and leaves no trace
    /// when dropped before.
    ///
    /// # Errors
    /// When its number is not above the one before.
    pub fn begin(&mut self, head: &EntryHead) -> Result<EntryEncoder<'_>, EncodeError> {
        let before = Checkpoint {
            bytes: self.buffer.len(),
            strings: self.table.len(),
            boots: self.boots.len(),
            expanded: self.expanded,
        };
        let delta = match head.seqnum.checked_sub(self.previous.seqnum) {
            Some(delta) if delta > 0 => delta,
            _ => {
                return Err(EncodeError::OutOfOrder {
                    seqnum: head.seqnum,
                    previous: self.previous.seqnum,
                });
            }
        };
        if self.buffer.is_empty() {
            self.buffer.push(BLOCK_VERSION);
        }
        let buffer = &mut self.buffer;
        put_varint(buffer, delta);
        put_varint(buffer, zigzag(head.realtime_us, self.previous.realtime_us));
        put_varint(
            buffer,
            zigzag(head.monotonic_us, self.previous.monotonic_us),
        );
        // The newest boot is the likeliest.
        match self.boots.iter().rposition(|boot| *boot == head.boot_id) {
            Some(index) => put_varint(buffer, index as u64 + 1),
            None => {
                put_varint(buffer, 0);
                buffer.extend_from_slice(&head.boot_id);
                self.boots.push(head.boot_id);
            }
        }
        buffer.extend_from_slice(&head.xor_hash.to_le_bytes());
        Ok(EntryEncoder {
            batch: self,
            before,
            head: *head,
            fields: 0,
            inline_bytes: 0,
            committed: false,
        })
    }

    /// Adds one whole entry: its fields as `NAME=value`, each with the key under which the same bytes
    /// are known (the place of the DATA object), or none for a value that will not come again.
    ///
    /// # Errors
    /// When its number is not above the one before.
    pub fn push<'f>(
        &mut self,
        head: &EntryHead,
        fields: impl IntoIterator<Item = (Option<u64>, &'f [u8])>,
    ) -> Result<Commit, EncodeError> {
        let mut entry = self.begin(head)?;
        for (key, bytes) in fields {
            match key {
                Some(key) if entry.known(key) => {}
                Some(key) => {
                    entry.shared(key, bytes, bytes.len() as u64);
                }
                None => {
                    entry.inline(bytes, bytes.len() as u64);
                }
            }
        }
        Ok(entry.commit())
    }

    /// The block. Empty when no entry was added.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.buffer
    }

    /// The block, and the encoder ready for the next one with its buffers kept.
    pub fn take(&mut self) -> Vec<u8> {
        let block = self.buffer.clone();
        self.buffer.clear();
        self.table.clear();
        self.boots.clear();
        self.previous = EntryHead::default();
        self.count = 0;
        self.expanded = 0;
        block
    }

    fn roll_back(&mut self, to: &Checkpoint) {
        self.buffer.truncate(to.bytes);
        self.table.truncate(to.strings);
        self.boots.truncate(to.boots);
        self.expanded = to.expanded;
    }
}

#[derive(Debug, Clone, Copy)]
struct Checkpoint {
    bytes: usize,
    strings: usize,
    boots: usize,
    expanded: u64,
}

/// One entry being written; see [`BatchEncoder::begin`].
#[derive(Debug)]
pub struct EntryEncoder<'e> {
    batch: &'e mut BatchEncoder,
    before: Checkpoint,
    head: EntryHead,
    fields: usize,
    inline_bytes: usize,
    committed: bool,
}

impl EntryEncoder<'_> {
    /// Writes a reference when the block already has the string of this key, so that its bytes need
    /// not be fetched. False: give it with [`Self::shared`] or [`Self::inline`].
    pub fn known(&mut self, key: u64) -> bool {
        if self.fields >= MAX_FIELDS {
            return false;
        }
        let Some((id, length)) = self.batch.table.get(key) else {
            return false;
        };
        self.fields += 1;
        self.batch.expanded += u64::from(length);
        put_varint(&mut self.batch.buffer, TAG_FIRST_REFERENCE + u64::from(id));
        true
    }

    /// Writes a field and remembers it under `key`. `true_length` is more than `bytes.len()` where the
    /// caller has already cut it. False when the entry has no room for another field.
    pub fn shared(&mut self, key: u64, bytes: &[u8], true_length: u64) -> bool {
        let whole = true_length == bytes.len() as u64;
        if !whole || bytes.len() > MAX_SHARED_BYTES || self.batch.table.is_full() {
            return self.inline(bytes, true_length);
        }
        if self.fields >= MAX_FIELDS || self.room() < bytes.len() {
            return self.inline(bytes, true_length);
        }
        let length = u32::try_from(bytes.len()).expect("at most MAX_SHARED_BYTES");
        self.batch.table.insert(key, length);
        self.write(TAG_DEFINE, bytes, true_length);
        true
    }

    /// Writes a field that is not put into the table. False when the entry has no room for another.
    pub fn inline(&mut self, bytes: &[u8], true_length: u64) -> bool {
        if self.fields >= MAX_FIELDS {
            return false;
        }
        let kept = bytes.len().min(MAX_VALUE_BYTES).min(self.room());
        let bytes = &bytes[..kept];
        let tag = if true_length > kept as u64 {
            TAG_CUT
        } else {
            TAG_INLINE
        };
        self.write(tag, bytes, true_length);
        true
    }

    /// Fields written so far.
    #[must_use]
    pub fn fields(&self) -> usize {
        self.fields
    }

    /// Makes the entry part of the block, or takes it back when the block is full.
    #[must_use = "an entry that came back as full must be written again"]
    pub fn commit(mut self) -> Commit {
        put_varint(&mut self.batch.buffer, TAG_END);
        let too_long = self.batch.buffer.len() > self.batch.max_bytes
            || self.batch.expanded > MAX_EXPANDED_BYTES;
        if too_long && self.batch.count > 0 {
            return Commit::Full;
        }
        self.batch.previous = self.head;
        self.batch.count += 1;
        self.committed = true;
        Commit::Added
    }

    fn room(&self) -> usize {
        MAX_ENTRY_BYTES
            .saturating_sub(self.inline_bytes)
            .max(MIN_KEPT_BYTES)
    }

    fn write(&mut self, tag: u64, bytes: &[u8], true_length: u64) {
        let buffer = &mut self.batch.buffer;
        put_varint(buffer, tag);
        if tag == TAG_CUT {
            put_varint(buffer, true_length);
        }
        put_varint(buffer, bytes.len() as u64);
        buffer.extend_from_slice(bytes);
        self.fields += 1;
        self.inline_bytes += bytes.len();
        self.batch.expanded += bytes.len() as u64;
    }
}

impl Drop for EntryEncoder<'_> {
    fn drop(&mut self) {
        if !self.committed {
            let before = self.before;
            self.batch.roll_back(&before);
        }
    }
}
