//! The objects of a journal file: their common header, and what a reader needs of each kind.
//!
//! Sizes and offsets come from a file that may be damaged: everything is checked against the file before
//! it is used. Follows systemd's `journal-def.h`.

use seed_protocol::journal::EntryHead;

use crate::header::{Header, LAST_SEQNUM, le32, le64};

pub(crate) const OBJECT_HEADER_BYTES: usize = 16;
/// DATA up to its payload, in compact files (the longer form).
pub(crate) const DATA_HEADER_BYTES: usize = 72;
pub(crate) const ENTRY_HEADER_BYTES: usize = 64;
pub(crate) const ARRAY_HEADER_BYTES: usize = 24;

/// No entry that journald writes comes near.
const MAX_ENTRY_OBJECT_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Field,
    Entry,
    DataHashTable,
    FieldHashTable,
    EntryArray,
    Tag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Xz,
    Lz4,
    Zstd,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct ObjectHeader {
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
    pub(crate) size: u64,
}

impl ObjectHeader {
    /// None when this cannot be the beginning of an object.
    pub(crate) fn parse(bytes: &[u8], compact: bool) -> Option<Self> {
        let (kind, shortest) = match *bytes.first()? {
            1 => (Kind::Data, data_payload_at(compact) as u64),
            2 => (Kind::Field, 40),
            3 => (Kind::Entry, ENTRY_HEADER_BYTES as u64),
            4 => (Kind::DataHashTable, 16),
            5 => (Kind::FieldHashTable, 16),
            6 => (Kind::EntryArray, ARRAY_HEADER_BYTES as u64),
            7 => (Kind::Tag, 64),
            _ => return None,
        };
        if bytes.len() < OBJECT_HEADER_BYTES {
            return None;
        }
        let flags = bytes[1];
        let allowed = if kind == Kind::Data { 0b111 } else { 0 };
        let size = le64(bytes, 8);
        let is_sane = size >= shortest && flags & !allowed == 0 && flags.count_ones() <= 1;
        is_sane.then_some(Self { kind, flags, size })
    }

    pub(crate) fn compression(&self) -> Compression {
        match self.flags {
            1 => Compression::Xz,
            2 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// Where the payload of a DATA object begins.
pub(crate) fn data_payload_at(compact: bool) -> usize {
    if compact { 72 } else { 64 }
}

/// Bytes of one item of an entry array.
pub(crate) fn array_item_bytes(compact: bool) -> u64 {
    if compact { 4 } else { 8 }
}

fn entry_item_bytes(compact: bool) -> usize {
    if compact { 4 } else { 16 }
}

/// An ENTRY object that was found and looks right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryRef {
    pub(crate) offset: u64,
    pub(crate) size: u64,
    pub(crate) head: EntryHead,
}

impl EntryRef {
    /// From the first [`ENTRY_HEADER_BYTES`] of an object. None when it is no entry of this file.
    pub(crate) fn parse(bytes: &[u8], offset: u64, header: &Header) -> Option<Self> {
        let object = ObjectHeader::parse(bytes, header.compact)?;
        if object.kind != Kind::Entry || object.size > MAX_ENTRY_OBJECT_BYTES {
            return None;
        }
        let item = entry_item_bytes(header.compact) as u64;
        let seqnum = le64(bytes, 16);
        if !(object.size - ENTRY_HEADER_BYTES as u64).is_multiple_of(item)
            || !(1..=LAST_SEQNUM).contains(&seqnum)
            || !header.allows_seqnum(seqnum)
        {
            return None;
        }
        let head = EntryHead {
            seqnum,
            realtime_us: le64(bytes, 24),
            monotonic_us: le64(bytes, 32),
            boot_id: bytes[40..56].try_into().expect("sixteen bytes"),
            xor_hash: le64(bytes, 56),
        };
        Some(Self {
            offset,
            size: object.size,
            head,
        })
    }

    /// First byte after the object, where the next one may begin.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.size).next_multiple_of(8)
    }

    /// The length of the whole object; it is bounded by `MAX_ENTRY_OBJECT_BYTES`.
    pub(crate) fn length(&self) -> usize {
        usize::try_from(self.size).expect("bounded when parsed")
    }
}

/// The offsets of an entry's DATA objects, from the bytes of the whole ENTRY object.
pub(crate) fn entry_items(bytes: &[u8], compact: bool, into: &mut Vec<u64>) {
    into.clear();
    let items = bytes.get(ENTRY_HEADER_BYTES..).unwrap_or_default();
    if compact {
        into.extend(
            items
                .as_chunks::<4>()
                .0
                .iter()
                .map(|item| u64::from(u32::from_le_bytes(*item))),
        );
    } else {
        into.extend(items.as_chunks::<16>().0.iter().map(|item| le64(item, 0)));
    }
}

/// The head of a DATA object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataHead {
    pub(crate) object: ObjectHeader,
    /// Entries that use the value, as of the moment of reading.
    pub(crate) n_entries: u64,
}

impl DataHead {
    /// From the first [`DATA_HEADER_BYTES`] (or fewer, at least 64) of an object.
    pub(crate) fn parse(bytes: &[u8], compact: bool) -> Option<Self> {
        let object = ObjectHeader::parse(bytes, compact)?;
        (object.kind == Kind::Data && bytes.len() >= 64).then(|| Self {
            object,
            n_entries: le64(bytes, 56),
        })
    }

    pub(crate) fn payload_bytes(&self, compact: bool) -> u64 {
        self.object.size - data_payload_at(compact) as u64
    }
}

/// One item of an entry array.
pub(crate) fn array_items(bytes: &[u8], compact: bool, into: &mut Vec<u64>) {
    into.clear();
    if compact {
        into.extend(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|item| u64::from(le32(item, 0))),
        );
    } else {
        into.extend(
            bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|item| u64::from_le_bytes(*item)),
        );
    }
}
