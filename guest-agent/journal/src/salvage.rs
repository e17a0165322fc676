//! Finds entries without the entry arrays, by walking object after object through a stretch of a file.
//!
//! Used where the arrays are damaged. Objects follow each other without holes, so from a known object the next
//! one's place is known. Where an object is damaged too, the walk goes on at the next offset that the data
//! hash table names. It never searches payload bytes for something that looks like an object: what a program
//! logs must not be able to pose as an entry.

use std::fs::File;

use crate::{
    header::{Extent, Header, le64},
    object::{ENTRY_HEADER_BYTES, EntryRef, Kind, OBJECT_HEADER_BYTES, ObjectHeader},
    window::{Walk, Windows, read_full},
};

/// How often the walk may start again behind damage, for each file.
const MAX_RESTARTS: u32 = 256;
const TABLE_CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone)]
pub(crate) struct Salvage {
    /// Where the next object should be.
    at: u64,
    /// Where the object before it is, whose length may be what is damaged.
    before: u64,
    /// The walk ends before this.
    end: u64,
    restarts_left: u32,
    /// Stretches that held no readable object.
    pub(crate) damaged: u64,
}

impl Salvage {
    /// From a known object's place (or the first object's) up to `end`.
    pub(crate) fn new(from: u64, end: u64, header: &Header) -> Self {
        let at = from.max(header.header_size);
        Self {
            at,
            before: at,
            end,
            restarts_left: MAX_RESTARTS,
            damaged: 0,
        }
    }

    /// The file has grown.
    pub(crate) fn extend(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    /// The next entry numbered above `last`. A number that jumps over the number of the entry behind it is
    /// damaged: that entry is passed over, so that it does not hide the others.
    pub(crate) fn next_after(
        &mut self,
        file: &File,
        windows: &mut Windows,
        header: &Header,
        last: u64,
    ) -> Option<EntryRef> {
        loop {
            let entry = self.next(file, windows, header)?;
            let seqnum = entry.head.seqnum;
            if seqnum <= last {
                continue;
            }
            if seqnum == last + 1 {
                return Some(entry);
            }
            let following = self.clone().next(file, windows, header);
            if following.is_none_or(|next| next.head.seqnum <= last || next.head.seqnum > seqnum) {
                return Some(entry);
            }
            self.damaged += 1;
        }
    }

    /// The next entry object.
    fn next(&mut self, file: &File, windows: &mut Windows, header: &Header) -> Option<EntryRef> {
        while self.at < self.end {
            match self.object(file, windows, header) {
                Some((object, entry)) => {
                    self.before = self.at;
                    self.at = self.at.saturating_add(object.size).next_multiple_of(8);
                    if entry.is_some() {
                        return entry;
                    }
                    if object.kind == Kind::Entry {
                        self.damaged += 1;
                    }
                }
                None => {
                    self.damaged += 1;
                    self.at = self.next_known_object(file, header)?;
                    self.before = self.at;
                }
            }
        }
        None
    }

    fn object(
        &self,
        file: &File,
        windows: &mut Windows,
        header: &Header,
    ) -> Option<(ObjectHeader, Option<EntryRef>)> {
        let bytes = windows
            .get(file, self.at, OBJECT_HEADER_BYTES, Walk::Forward)
            .ok()?;
        let object = ObjectHeader::parse(bytes, header.compact)?;
        let end = self.at.checked_add(object.size)?;
        // All objects but the last end where the stretch ends, or before.
        if end > u64::MAX - 8 || (end > self.end && self.at + 1 < self.end) {
            return None;
        }
        let mut entry = None;
        if object.kind == Kind::Entry {
            let bytes = windows
                .get(file, self.at, ENTRY_HEADER_BYTES, Walk::Forward)
                .ok()?;
            entry = EntryRef::parse(bytes, self.at, header);
        }
        Some((object, entry))
    }

    /// The lowest offset that the data hash table's chains begin or end with, behind the last object that could
    /// be read; the object at the damage itself has been tried.
    fn next_known_object(&mut self, file: &File, header: &Header) -> Option<u64> {
        self.restarts_left = self.restarts_left.checked_sub(1)?;
        let Extent { offset, size } = header.data_hash_table;
        let mut buffer = vec![0; TABLE_CHUNK_BYTES];
        let mut best: Option<u64> = None;
        let mut done = 0;
        while done < size {
            let wanted = usize::try_from(size - done)
                .unwrap_or(usize::MAX)
                .min(TABLE_CHUNK_BYTES);
            let at = offset.checked_add(done)?;
            let got = read_full(file, &mut buffer[..wanted], at).unwrap_or(0) / 8 * 8;
            for known in buffer[..got].as_chunks::<8>().0 {
                let known = le64(known, 0);
                let is_behind = known > self.before && known != self.at;
                if is_behind && known < self.end && known.is_multiple_of(8) {
                    best = Some(best.map_or(known, |best| best.min(known)));
                }
            }
            if got < wanted {
                break;
            }
            done += got as u64;
        }
        best
    }
}
