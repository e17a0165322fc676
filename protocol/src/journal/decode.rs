//! The reading side of the block. What it reads may come from a hostile guest: bounded, no panic.
//! The form and the bounds are documented in the parent module.

use thiserror::Error;

use super::{
    BLOCK_VERSION, EntryHead, MAX_EXPANDED_BYTES, MAX_FIELDS, TAG_CUT, TAG_DEFINE, TAG_END,
    TAG_FIRST_REFERENCE, TAG_INLINE, varint::unzigzag,
};

/// Why a block is not readable. Offsets are bytes from the start of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The first byte names a form that this decoder does not know.
    #[error("journal block has version {0}, this decoder knows {BLOCK_VERSION}")]
    Version(u8),
    /// The block ends inside an entry.
    #[error("journal block ends inside an entry that begins at byte {entry}")]
    CutShort {
        /// Where the entry begins.
        entry: usize,
    },
    /// More than 64 bits.
    #[error("journal block has a number of more than 64 bits at byte {at}")]
    LongNumber {
        /// Where the number begins.
        at: usize,
    },
    /// A string or boot id number that was not defined before.
    #[error(
        "journal block refers to string or boot {number} at byte {at}, which it does not define"
    )]
    UnknownReference {
        /// Where the entry begins.
        at: usize,
        /// The number.
        number: u64,
    },
    /// A number that does not rise, or rises beyond 64 bits.
    #[error("journal block has entries out of order at byte {at}")]
    OutOfOrder {
        /// Where the entry begins.
        at: usize,
    },
    /// More than [`MAX_FIELDS`].
    #[error("journal block has an entry of more than {MAX_FIELDS} fields at byte {at}")]
    TooManyFields {
        /// Where the entry begins.
        at: usize,
    },
    /// More than [`MAX_EXPANDED_BYTES`], or a cut field that is not shorter than its true length.
    #[error("journal block has impossible field lengths at byte {at}")]
    Length {
        /// Where the entry begins.
        at: usize,
    },
}

/// One field of an entry: `NAME=value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'b> {
    /// What was kept of it.
    pub bytes: &'b [u8],
    /// Its length in the guest's journal; more than `bytes.len()` when it was cut.
    pub true_length: u64,
}

impl<'b> Field<'b> {
    /// True when not all of it was kept.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.true_length > self.bytes.len() as u64
    }

    /// Name and value. None when there is no `=`, which no journal has; a hostile guest may.
    #[must_use]
    pub fn split(&self) -> Option<(&'b [u8], &'b [u8])> {
        let at = memchr::memchr(b'=', self.bytes)?;
        Some((&self.bytes[..at], &self.bytes[at + 1..]))
    }

    /// The value, when the field has this name.
    #[must_use]
    pub fn value_of(&self, name: &[u8]) -> Option<&'b [u8]> {
        self.bytes.strip_prefix(name)?.strip_prefix(b"=")
    }
}

/// One entry, its fields in the journal's order. A name may come more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'b> {
    /// Number, times, boot, hash.
    pub head: EntryHead,
    /// The fields.
    pub fields: Vec<Field<'b>>,
}

impl<'b> Entry<'b> {
    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'b [u8]> {
        self.fields
            .iter()
            .find_map(|field| field.value_of(name.as_bytes()))
    }
}

/// Reads one block, which may come from a hostile guest. Iterate; after an error it ends.
#[derive(Debug)]
pub struct BatchDecoder<'b> {
    block: &'b [u8],
    at: usize,
    strings: Vec<&'b [u8]>,
    boots: Vec<&'b [u8; 16]>,
    previous: EntryHead,
    expanded: u64,
    failed: bool,
}

impl<'b> BatchDecoder<'b> {
    /// Looks at the version only; entries are checked as they are read.
    ///
    /// # Errors
    /// When the version is not known.
    pub fn new(block: &'b [u8]) -> Result<Self, DecodeError> {
        match block.first() {
            None | Some(&BLOCK_VERSION) => {}
            Some(&other) => return Err(DecodeError::Version(other)),
        }
        Ok(Self {
            block,
            at: usize::from(!block.is_empty()),
            strings: Vec::new(),
            boots: Vec::new(),
            previous: EntryHead::default(),
            expanded: 0,
            failed: false,
        })
    }

    /// The next entry into `fields` (cleared first), for callers that keep the vector.
    ///
    /// # Errors
    /// When the block is not well formed; it ends there.
    pub fn read_into(
        &mut self,
        fields: &mut Vec<Field<'b>>,
    ) -> Result<Option<EntryHead>, DecodeError> {
        fields.clear();
        if self.failed || self.at >= self.block.len() {
            return Ok(None);
        }
        let result = self.entry(fields);
        self.failed = result.is_err();
        result.map(Some)
    }

    fn entry(&mut self, fields: &mut Vec<Field<'b>>) -> Result<EntryHead, DecodeError> {
        let entry = self.at;
        let delta = self.varint(entry)?;
        let seqnum = match self.previous.seqnum.checked_add(delta) {
            Some(seqnum) if delta > 0 => seqnum,
            _ => return Err(DecodeError::OutOfOrder { at: entry }),
        };
        let realtime_us = unzigzag(self.varint(entry)?, self.previous.realtime_us);
        let monotonic_us = unzigzag(self.varint(entry)?, self.previous.monotonic_us);
        let boot_id = self.boot(entry)?;
        let hash = self.array::<8>(entry)?;
        let head = EntryHead {
            seqnum,
            realtime_us,
            monotonic_us,
            boot_id,
            xor_hash: u64::from_le_bytes(*hash),
        };
        loop {
            let tag = self.varint(entry)?;
            if tag == TAG_END {
                break;
            }
            if fields.len() >= MAX_FIELDS {
                return Err(DecodeError::TooManyFields { at: entry });
            }
            let field = self.field(tag, entry)?;
            self.expanded += field.bytes.len() as u64;
            if self.expanded > MAX_EXPANDED_BYTES {
                return Err(DecodeError::Length { at: entry });
            }
            fields.push(field);
        }
        self.previous = head;
        Ok(head)
    }

    fn field(&mut self, tag: u64, entry: usize) -> Result<Field<'b>, DecodeError> {
        let (bytes, true_length) = match tag {
            TAG_INLINE | TAG_DEFINE => {
                let length = self.varint(entry)?;
                let bytes = self.slice(length, entry)?;
                if tag == TAG_DEFINE {
                    self.strings.push(bytes);
                }
                (bytes, length)
            }
            TAG_CUT => {
                let true_length = self.varint(entry)?;
                let length = self.varint(entry)?;
                if true_length <= length {
                    return Err(DecodeError::Length { at: entry });
                }
                (self.slice(length, entry)?, true_length)
            }
            reference => {
                let number = reference - TAG_FIRST_REFERENCE;
                let bytes = usize::try_from(number)
                    .ok()
                    .and_then(|index| self.strings.get(index).copied())
                    .ok_or(DecodeError::UnknownReference { at: entry, number })?;
                (bytes, bytes.len() as u64)
            }
        };
        Ok(Field { bytes, true_length })
    }

    fn boot(&mut self, entry: usize) -> Result<[u8; 16], DecodeError> {
        let number = self.varint(entry)?;
        if number == 0 {
            let boot = self.array::<16>(entry)?;
            self.boots.push(boot);
            return Ok(*boot);
        }
        usize::try_from(number - 1)
            .ok()
            .and_then(|index| self.boots.get(index))
            .map(|boot| **boot)
            .ok_or(DecodeError::UnknownReference { at: entry, number })
    }

    fn slice(&mut self, length: u64, entry: usize) -> Result<&'b [u8], DecodeError> {
        let cut_short = DecodeError::CutShort { entry };
        let length = usize::try_from(length).map_err(|_| cut_short)?;
        let end = self.at.checked_add(length).ok_or(cut_short)?;
        let bytes = self.block.get(self.at..end).ok_or(cut_short)?;
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, entry: usize) -> Result<&'b [u8; N], DecodeError> {
        self.slice(N as u64, entry)?
            .try_into()
            .map_err(|_| DecodeError::CutShort { entry })
    }

    fn varint(&mut self, entry: usize) -> Result<u64, DecodeError> {
        let start = self.at;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *self
                .block
                .get(self.at)
                .ok_or(DecodeError::CutShort { entry })?;
            self.at += 1;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::LongNumber { at: start })
    }
}

impl<'b> Iterator for BatchDecoder<'b> {
    type Item = Result<Entry<'b>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut fields = Vec::new();
        match self.read_into(&mut fields) {
            Ok(None) => None,
            Ok(Some(head)) => Some(Ok(Entry { head, fields })),
            Err(error) => Some(Err(error)),
        }
    }
}
