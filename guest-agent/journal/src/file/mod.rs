//! One journal file: its entries in order, and the values of an entry's fields.
//!
//! Reads only what the header says is linked. When that is used up, [`JournalFile::refresh`] reads the header
//! again and forgets all windows, since the places behind the old end have changed.
//! Damage is passed over and counted: a bad item of the entry array, a bad entry, a bad value. Where items are
//! bad the stretch between their good neighbours is walked object by object (`salvage`).

mod lookup;

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use seed_protocol::journal::MAX_VALUE_BYTES;
use thiserror::Error;

use crate::{
    arrays::{Arrays, Step},
    compress::Unpacker,
    header::{HEADER_BYTES, Header, HeaderError},
    object::{
        Compression, DATA_HEADER_BYTES, DataHead, ENTRY_HEADER_BYTES, EntryRef, data_payload_at,
        entry_items,
    },
    salvage::Salvage,
    window::{ReadFault, Walk, Windows, read_full},
};

/// A packed value above this is not unpacked.
const MAX_PACKED_BYTES: u64 = 16 * 1024 * 1024;

/// Why a journal file cannot be opened.
#[derive(Debug, Error)]
pub enum FileError {
    /// The system said no.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a journal, or one that we do not understand.
    #[error("cannot read {}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Why.
        source: HeaderError,
    },
}

/// What was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Skipped {
    /// Entries and array items that could not be read. What was really lost shows as a gap.
    pub bad_objects: u64,
    /// Values that could not be read; their entries were delivered without them.
    pub bad_values: u64,
}

impl Skipped {
    /// True when nothing was passed over.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// One value of an entry.
#[derive(Debug)]
pub(crate) struct Value<'f> {
    /// `NAME=value`, at most [`MAX_VALUE_BYTES`] of it.
    pub(crate) bytes: &'f [u8],
    pub(crate) true_length: u64,
    /// More than one entry uses it.
    pub(crate) is_shared: bool,
}

#[derive(Debug)]
enum Mode {
    /// Along the entry arrays.
    Arrays,
    /// Object by object up to a good entry, then along the arrays again.
    Bridge(Salvage, EntryRef),
    /// Object by object to the end of the file: the chain is broken.
    Rest(Salvage),
}

#[derive(Debug)]
pub(crate) struct JournalFile {
    path: PathBuf,
    file: File,
    pub(crate) header: Header,
    windows: Windows,
    unpacker: Unpacker,
    arrays: Arrays,
    mode: Mode,
    peeked: Option<EntryRef>,
    /// The last good entry's number, place and end.
    last: Last,
    /// Items since then were bad.
    hole: bool,
    items: Vec<u64>,
    /// Read what begins here instead of what is linked.
    behind: Option<u64>,
    pub(crate) skipped: Skipped,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    seqnum: u64,
    offset: u64,
    end: u64,
}

/// Reads and checks the header of an open file.
pub(crate) fn read_header(file: &File, path: &Path) -> Result<Header, FileError> {
    let mut bytes = [0; HEADER_BYTES];
    let got = read_full(file, &mut bytes, 0).map_err(|source| FileError::Io {
        path: path.to_owned(),
        source,
    })?;
    Header::parse(&bytes[..got]).map_err(|source| FileError::Header {
        path: path.to_owned(),
        source,
    })
}

impl JournalFile {
    pub(crate) fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(|source| FileError::Io {
            path: path.to_owned(),
            source,
        })?;
        let header = read_header(&file, path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
            header,
            windows: Windows::new(),
            unpacker: Unpacker::new(),
            arrays: Arrays::new(),
            mode: Mode::Arrays,
            peeked: None,
            last: Last::default(),
            hole: false,
            items: Vec::new(),
            behind: None,
            skipped: Skipped::default(),
        })
    }

    /// From now on this is the file's remnant: the whole entries from this place on, and no others.
    pub(crate) fn read_behind(&mut self, from: u64, header: Header) {
        self.header = header;
        self.behind = Some(from);
        self.rewind();
    }

    /// The number of the last good entry, and the first byte behind it; zeros before the first.
    pub(crate) fn last_seen(&self) -> (u64, u64) {
        (self.last.seqnum, self.last.end)
    }

    /// The header as it is now, without moving the end up to which entries are read.
    pub(crate) fn current_header(&self) -> Result<Header, FileError> {
        read_header(&self.file, &self.path)
    }

    /// Takes over a newer header. Everything that was read behind the old end is forgotten.
    pub(crate) fn refresh(&mut self, header: Header) {
        if header != self.header {
            self.header = header;
            self.windows.invalidate();
            let end = self.scan_end();
            if let Mode::Rest(salvage) = &mut self.mode {
                salvage.extend(end);
            }
        }
    }

    /// True when the file was deleted: journald punches its blocks out, so nothing in it can be trusted.
    pub(crate) fn is_deleted(&self) -> bool {
        self.file
            .metadata()
            .map_or(true, |metadata| metadata.nlink() == 0)
    }

    /// The next entry, which stays the next one until [`Self::advance`].
    pub(crate) fn peek(&mut self) -> Option<EntryRef> {
        if self.peeked.is_none() {
            self.peeked = self.find_next();
        }
        self.peeked
    }

    /// Passes over the entry that [`Self::peek`] gave.
    pub(crate) fn advance(&mut self) {
        self.peeked = None;
    }

    /// Moves so that the next entry is the first one numbered above `seqnum`.
    pub(crate) fn seek_after(&mut self, seqnum: u64) {
        if self.behind.is_some() {
            self.rewind();
            return self.pass(seqnum);
        }
        let (file, windows, header) = (&self.file, &mut self.windows, &self.header);
        let found = self.arrays.seek(file, header, |offset| {
            Some(
                entry_at(file, windows, header, offset, Walk::Jump)?
                    .head
                    .seqnum
                    <= seqnum,
            )
        });
        self.restart();
        let before = self.arrays.last_offset();
        if found && before != 0 {
            match entry_at(
                &self.file,
                &mut self.windows,
                &self.header,
                before,
                Walk::Jump,
            ) {
                Some(entry) => self.settle(&entry),
                None => self.arrays = Arrays::new(),
            }
        } else {
            self.arrays = Arrays::new();
        }
        // Where the search could not be trusted this is a walk from the beginning.
        self.pass(seqnum);
    }

    fn pass(&mut self, seqnum: u64) {
        while self.peek().is_some_and(|entry| entry.head.seqnum <= seqnum) {
            self.advance();
        }
    }

    /// Moves to the first entry.
    pub(crate) fn rewind(&mut self) {
        self.restart();
        self.arrays = Arrays::new();
    }

    fn restart(&mut self) {
        self.mode = match self.behind {
            Some(from) => Mode::Rest(Salvage::new(from, self.scan_end(), &self.header)),
            None => Mode::Arrays,
        };
        self.peeked = None;
        self.last = Last::default();
        self.hole = false;
    }

    fn settle(&mut self, entry: &EntryRef) {
        self.last = Last {
            seqnum: entry.head.seqnum,
            offset: entry.offset,
            end: entry.end(),
        };
        self.hole = false;
    }

    fn scan_end(&self) -> u64 {
        let length = self.file.metadata().map_or(0, |metadata| metadata.len());
        let tail = self.header.tail_object_offset.saturating_add(1);
        if tail <= self.header.header_size || self.behind.is_some() {
            length
        } else {
            length.min(tail)
        }
    }

    fn find_next(&mut self) -> Option<EntryRef> {
        loop {
            let last = self.last.seqnum;
            match &mut self.mode {
                Mode::Arrays => match self.arrays.next(&self.file, &self.header) {
                    Step::Item(offset) => {
                        if let Some(entry) = self.item(offset) {
                            return Some(entry);
                        }
                    }
                    Step::Bad => {
                        self.skipped.bad_objects += 1;
                        self.hole = true;
                    }
                    Step::End if self.hole => {
                        self.hole = false;
                        self.mode = Mode::Rest(self.salvage(self.scan_end()));
                    }
                    Step::End => return None,
                    Step::Broken => {
                        self.skipped.bad_objects += 1;
                        self.mode = Mode::Rest(self.salvage(self.scan_end()));
                    }
                },
                Mode::Bridge(salvage, then) => {
                    match salvage.next_after(&self.file, &mut self.windows, &self.header, last) {
                        Some(entry) if entry.head.seqnum < then.head.seqnum => {
                            self.settle(&entry);
                            return Some(entry);
                        }
                        Some(_) => {}
                        None => {
                            let then = *then;
                            self.mode = Mode::Arrays;
                            self.settle(&then);
                            return Some(then);
                        }
                    }
                }
                Mode::Rest(salvage) => {
                    let (file, windows) = (&self.file, &mut self.windows);
                    let entry = salvage.next_after(file, windows, &self.header, last)?;
                    if self.behind.is_none() || self.is_whole(&entry) {
                        self.settle(&entry);
                        return Some(entry);
                    }
                    self.skipped.bad_objects += 1;
                }
            }
        }
    }

    fn salvage(&self, end: u64) -> Salvage {
        Salvage::new(self.last.end, end, &self.header)
    }

    /// The entry that an array item points to. None: it is bad, or the way to it leads over a bridge.
    fn item(&mut self, offset: u64) -> Option<EntryRef> {
        let found = entry_at(
            &self.file,
            &mut self.windows,
            &self.header,
            offset,
            Walk::Forward,
        );
        let Some(entry) = found.filter(|entry| self.fits(entry)) else {
            self.skipped.bad_objects += 1;
            self.hole = true;
            self.arrays.reject(self.last.offset);
            return None;
        };
        if self.hole && entry.head.seqnum != self.last.seqnum + 1 {
            self.mode = Mode::Bridge(self.salvage(offset), entry);
            return None;
        }
        self.settle(&entry);
        Some(entry)
    }

    /// Numbers rise. A number that jumps is checked against the entry after it, so that one damaged number
    /// does not hide all that follow.
    fn fits(&mut self, entry: &EntryRef) -> bool {
        if entry.head.seqnum <= self.last.seqnum {
            return false;
        }
        if entry.head.seqnum == self.last.seqnum + 1 {
            return true;
        }
        let Some(offset) = self.arrays.look_ahead(&self.file, &self.header) else {
            return true;
        };
        entry_at(
            &self.file,
            &mut self.windows,
            &self.header,
            offset,
            Walk::Jump,
        )
        .filter(|next| next.head.seqnum > self.last.seqnum)
        .is_none_or(|next| next.head.seqnum > entry.head.seqnum)
    }

    /// The places of an entry's values, which [`Self::value`] reads. None when the entry is damaged.
    pub(crate) fn load_items(&mut self, entry: &EntryRef) -> Option<usize> {
        let bytes = self
            .windows
            .get(&self.file, entry.offset, entry.length(), Walk::Forward)
            .ok()?;
        entry_items(bytes, self.header.compact, &mut self.items);
        Some(self.items.len())
    }

    /// The place of one value of the entry that was loaded.
    pub(crate) fn item_offset(&self, index: usize) -> u64 {
        self.items[index]
    }

    /// The value at an offset. None when there is none, or it is damaged, or packed in a way we cannot unpack.
    pub(crate) fn value(&mut self, offset: u64) -> Option<Value<'_>> {
        let compact = self.header.compact;
        if !offset.is_multiple_of(8) || offset < self.header.header_size {
            return None;
        }
        let payload_at = data_payload_at(compact);
        let bytes = self
            .windows
            .get(&self.file, offset, payload_at, Walk::Jump)
            .ok()?;
        let head = DataHead::parse(bytes, compact)?;
        debug_assert!(payload_at <= DATA_HEADER_BYTES);
        let stored = head.payload_bytes(compact);
        let compression = head.object.compression();
        let wanted = match compression {
            Compression::None => stored.min(MAX_VALUE_BYTES as u64),
            _ if stored <= MAX_PACKED_BYTES => stored,
            Compression::Lz4 | Compression::Zstd | Compression::Xz => return None,
        };
        let wanted = usize::try_from(wanted).ok()?;
        let start = offset.checked_add(payload_at as u64)?;
        let stored_bytes = self
            .windows
            .get(&self.file, start, wanted, Walk::Jump)
            .ok()?;
        let (bytes, true_length) = match compression {
            Compression::Zstd => self.unpacker.zstd(stored_bytes, MAX_VALUE_BYTES)?,
            Compression::Lz4 => self.unpacker.lz4(stored_bytes, MAX_VALUE_BYTES)?,
            Compression::Xz => self.unpacker.xz(stored_bytes, MAX_VALUE_BYTES)?,
            Compression::None => (stored_bytes, stored),
        };
        if !has_name(bytes) {
            return None;
        }
        Some(Value {
            bytes,
            true_length,
            is_shared: head.n_entries > 1,
        })
    }

    /// Moves so that the next entry is the one with this place among all linked ones. False, and to the first
    /// entry, where damage makes that unknown.
    pub(crate) fn seek_index(&mut self, index: u64) -> bool {
        self.rewind();
        if index == 0 {
            return true;
        }
        if self.behind.is_some() || !self.arrays.skip(&self.file, &self.header, index) {
            self.rewind();
            return false;
        }
        self.last.offset = self.arrays.last_offset();
        self.last.end = self.last.offset;
        true
    }

    /// Gives back what a very large value needed.
    pub(crate) fn shrink(&mut self) {
        self.windows.shrink();
    }
}

fn entry_at(
    file: &File,
    windows: &mut Windows,
    header: &Header,
    offset: u64,
    walk: Walk,
) -> Option<EntryRef> {
    let bytes: Result<&[u8], ReadFault> = windows.get(file, offset, ENTRY_HEADER_BYTES, walk);
    EntryRef::parse(bytes.ok()?, offset, header)
}

/// journald's rule for field names: capitals, digits, underscores, at most 64. Damage rarely passes it.
fn has_name(bytes: &[u8]) -> bool {
    let Some(length) = bytes.iter().take(65).position(|byte| *byte == b'=') else {
        return false;
    };
    length > 0
        && bytes[..length]
            .iter()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
}
