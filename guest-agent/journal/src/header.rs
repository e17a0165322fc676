//! The header of a journal file, and little-endian access to its bytes.
//!
//! Follows systemd's "Journal File Format" page and `journal-def.h` (systemd 257). Only the fields that a
//! reader needs are taken; those added over the years are zero when the file is older than they are.

use thiserror::Error;

/// The header as of systemd 254. Shorter ones are older, longer ones have fields we do not need.
pub(crate) const HEADER_BYTES: usize = 272;
const SHORTEST_HEADER_BYTES: u64 = 208;
const SIGNATURE: &[u8; 8] = b"LPKSHHRH";

const FLAG_XZ: u32 = 1;
const FLAG_LZ4: u32 = 1 << 1;
const FLAG_KEYED_HASH: u32 = 1 << 2;
const FLAG_ZSTD: u32 = 1 << 3;
const FLAG_COMPACT: u32 = 1 << 4;
/// Values in a form that this build does not unpack are as unknown as a flag of tomorrow.
const KNOWN_FLAGS: u32 = FLAG_KEYED_HASH
    | FLAG_ZSTD
    | FLAG_COMPACT
    | if cfg!(feature = "lz4") { FLAG_LZ4 } else { 0 }
    | if cfg!(feature = "xz") { FLAG_XZ } else { 0 };

const STATE_ONLINE: u8 = 1;
const STATE_ARCHIVED: u8 = 2;

/// Why a file is not a journal that we can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Shorter than a header, or without the signature.
    #[error("not a journal file")]
    NotAJournal,
    /// A feature was invented that changes what the bytes mean. Guessing would be wrong.
    #[error("journal file has incompatible flags {flags:#x} that this reader does not know")]
    Incompatible {
        /// The unknown bits.
        flags: u32,
    },
    /// The header contradicts itself.
    #[error("journal file has a damaged header")]
    Damaged,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) compact: bool,
    pub(crate) keyed_hash: bool,
    /// Closed for good. (A file that is merely offline was synced, and may be written to again.)
    pub(crate) archived: bool,
    /// Being written to, or its writer ended in the middle of it.
    pub(crate) online: bool,
    pub(crate) file_id: [u8; 16],
    pub(crate) machine_id: [u8; 16],
    /// Of the last entry, or of the last boot that wrote to it (before systemd 254).
    pub(crate) boot_id: [u8; 16],
    pub(crate) seqnum_id: [u8; 16],
    pub(crate) header_size: u64,
    pub(crate) data_hash_table: Extent,
    pub(crate) field_hash_table: Extent,
    pub(crate) tail_object_offset: u64,
    /// Entries linked into the entry array: what may be read.
    pub(crate) n_entries: u64,
    /// May be one ahead of what is linked.
    pub(crate) tail_seqnum: u64,
    pub(crate) head_seqnum: u64,
    pub(crate) entry_array_offset: u64,
    pub(crate) head_realtime_us: u64,
    pub(crate) tail_realtime_us: u64,
}

/// The highest number that an entry can have. Only damage says more: there is always a next one.
pub(crate) const LAST_SEQNUM: u64 = u64::MAX - 1;

/// A range of bytes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() < 208 || bytes[..8] != SIGNATURE[..] {
            return Err(HeaderError::NotAJournal);
        }
        let flags = le32(bytes, 12);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(HeaderError::Incompatible {
                flags: flags & !KNOWN_FLAGS,
            });
        }
        let header_size = le64(bytes, 88);
        if header_size < SHORTEST_HEADER_BYTES || !header_size.is_multiple_of(8) {
            return Err(HeaderError::Damaged);
        }
        let id = |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().expect("sixteen bytes") };
        Ok(Self {
            compact: flags & FLAG_COMPACT != 0,
            keyed_hash: flags & FLAG_KEYED_HASH != 0,
            archived: bytes[16] == STATE_ARCHIVED,
            online: bytes[16] == STATE_ONLINE,
            file_id: id(24),
            machine_id: id(40),
            boot_id: id(56),
            seqnum_id: id(72),
            header_size,
            data_hash_table: Extent {
                offset: le64(bytes, 104),
                size: le64(bytes, 112),
            },
            field_hash_table: Extent {
                offset: le64(bytes, 120),
                size: le64(bytes, 128),
            },
            tail_object_offset: le64(bytes, 136),
            n_entries: le64(bytes, 152),
            tail_seqnum: le64(bytes, 160).min(LAST_SEQNUM),
            head_seqnum: le64(bytes, 168).min(LAST_SEQNUM),
            entry_array_offset: le64(bytes, 176),
            head_realtime_us: le64(bytes, 184),
            tail_realtime_us: le64(bytes, 192),
        })
    }

    /// The header's own numbers agree with each other, so that they say something about the entries.
    pub(crate) fn is_witness(&self) -> bool {
        let span = self
            .tail_seqnum
            .checked_sub(self.head_seqnum)
            .map(|span| span.saturating_add(1));
        self.head_seqnum > 0 && span.is_some_and(|span| span >= self.n_entries)
    }

    /// True when this number can be one of the file's.
    pub(crate) fn allows_seqnum(&self, seqnum: u64) -> bool {
        !self.is_witness() || (self.head_seqnum..=self.tail_seqnum).contains(&seqnum)
    }
}

/// The caller has made sure that the bytes are there.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The caller has made sure that the bytes are there.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}
