//! The journal batch block: how entries of a systemd journal travel from the guest to the host and
//! lie in the host's segments. One encoder, one decoder; no I/O, no compression, no clock.
//!
//! A block stands alone: it is the whole epoch of its dictionary. Its string table begins empty and ends with it, so any block
//! can be read without the ones before it, by whoever comes when. An empty block (no bytes at all) holds no entries.
//!
//! An epoch of many blocks would be shorter by what each block now says again, but a reader would have to go back to the epoch's
//! start: a segment that lost its head, a reconnect, a filter and a second reader would each have to begin a new one. What it
//! costs shows beside blocks that are eight times as long: 3.4 % of the bytes, on a corpus of 100,000 entries (`encode, blocks of
//! 1 MiB` of `seed-journal`'s example `journal_bench`).
//!
//! # Form, version 1
//!
//! ```text
//! block   = version entry*                    version is the byte 1
//! entry   = seq real mono boot hash field* end
//! seq     = varint                            this seqnum - the one before (0 before the first); at least 1
//! real    = zigzag varint                     CLOCK_REALTIME in microseconds, difference to the entry before
//! mono    = zigzag varint                     CLOCK_MONOTONIC in microseconds, difference to the entry before
//! boot    = varint 0, 16 bytes                a boot id seen for the first time: takes the next number, from 1
//!         | varint n                          the boot id with number n
//! hash    = 8 bytes, little endian            the journal's own xor hash of the entry
//! end     = varint 0
//! field   = varint 1, length, bytes           inline: `NAME=value`, not put into the table
//!         | varint 2, length, bytes           the same, and takes the next number of the table, from 0
//!         | varint 3, true length, length, bytes   cut: only the first `length` bytes were kept
//!         | varint 4 + n                      the string with number n
//! varint  = LEB128 of at most 64 bits; differences wrap around (two's complement)
//! ```
//!
//! Strings come in the order in which they are first used, so an encoder writes once, front to back.
//! What is a string worth sharing is the encoder's caller's choice: the journal knows how often a value
//! was used, and its place in the file is the key. Nothing is hashed by content.
//!
//! # Bounds
//!
//! Both sides hold to the constants below. The decoder never panics, and allocates at most
//! [`DECODER_BYTES_PER_INPUT_BYTE`] times its input plus [`DECODER_FIXED_BYTES`]. A block that says
//! "the same 16 KiB again" a million times is refused: the sum of all field lengths after expansion is
//! at most [`MAX_EXPANDED_BYTES`].

mod decode;
mod encode;
mod table;
mod varint;

#[cfg(test)]
mod tests;

pub use self::{
    decode::{BatchDecoder, DecodeError, Entry, Field},
    encode::{BatchEncoder, Commit, EncodeError, EntryEncoder},
};

/// First byte of every block that is not empty.
pub const BLOCK_VERSION: u8 = 1;
/// At most this much of one field (`NAME=value`) is kept; the true length is noted.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// At most this much is kept inline of all fields of one entry. What comes after is cut to
/// [`MIN_KEPT_BYTES`] a field, so that one entry fits into a ttrpc frame (4 MiB) whatever a guest logs.
pub const MAX_ENTRY_BYTES: usize = 2 * 1024 * 1024;
/// A field is never cut below this.
pub const MIN_KEPT_BYTES: usize = 256;
/// Only fields up to this length go into the string table.
pub const MAX_SHARED_BYTES: usize = 16 * 1024;
/// Fields of one entry. journald itself stops at 1024 plus its own.
pub const MAX_FIELDS: usize = 2048;
/// Sum of the lengths of all fields of all entries of one block.
pub const MAX_EXPANDED_BYTES: u64 = 64 * 1024 * 1024;
/// A string of the table costs the decoder one slice (16 bytes) for at least two bytes of input; the
/// vector's doubling makes it two.
pub const DECODER_BYTES_PER_INPUT_BYTE: usize = 16;
/// The field list of one entry, with the vector's doubling.
pub const DECODER_FIXED_BYTES: usize = 2 * MAX_FIELDS * size_of::<Field<'static>>() + 1024;

const TAG_END: u64 = 0;
const TAG_INLINE: u64 = 1;
const TAG_DEFINE: u64 = 2;
const TAG_CUT: u64 = 3;
const TAG_FIRST_REFERENCE: u64 = 4;

/// What identifies and dates an entry, apart from its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EntryHead {
    /// The writer's running number.
    pub seqnum: u64,
    /// CLOCK_REALTIME in microseconds, as journald stamped it.
    pub realtime_us: u64,
    /// CLOCK_MONOTONIC in microseconds, within the boot.
    pub monotonic_us: u64,
    /// The boot that the entry belongs to.
    pub boot_id: [u8; 16],
    /// The journal's xor of the hashes of all fields: two entries of the same number that differ here
    /// are two entries (a restored snapshot).
    pub xor_hash: u64,
}
