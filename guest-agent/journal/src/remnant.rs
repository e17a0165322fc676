//! What a machine that ended without notice left in a journal file behind the end that the file's header names.
//!
//! journald writes to mapped pages, and the kernel brings them to the disk in an order of its own. After a kill the header can
//! be older than the entries: they are there, whole, and nothing counts them. The next journald takes the header's word. It
//! renames the file and numbers its own entries on from the header's last, so that two different entries have one number:
//!
//! ```text
//! file 1   head .. floor | floor+1 .. r      the header's end is `floor`; r was written last
//! file 2                   floor+1 ..        another boot's entries
//! ```
//!
//! The entries between are the file's remnant, which is read as a part of the stream of its own ([`crate::stream`]): after the floor,
//! before file 2. Owns finding it. An entry counts when all its values are there and their hash is the one in the entry, so
//! that nothing half-written is taken for one. Follows `journal_file_append_entry` of systemd 257.

use std::fs;

use crate::{
    file::JournalFile, hash::entry_hash, header::Header, journal::parse_id, object::EntryRef,
};

/// No machine writes as many entries between two of one file: a number that says so is damaged.
const MAX_STEP: u64 = 1 << 32;

/// A remnant: where it is, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Remnant {
    /// The first byte behind the last linked entry.
    pub(crate) from: u64,
    /// The last linked number; that of the file before when nothing is linked.
    pub(crate) floor: u64,
    /// The file's header, telling of the remnant's entries alone.
    pub(crate) header: Header,
}

impl Remnant {
    /// Looks behind the end of a file that a sudden end left ([`is_left`]). Reads that much of the file and no more.
    pub(crate) fn find(mut file: JournalFile, this_boot: Option<[u8; 16]>) -> Option<Self> {
        let whole = file.header;
        if !is_left(&whole, this_boot) {
            return None;
        }
        file.seek_after(u64::MAX);
        let (linked, from) = file.last_seen();
        let floor = if linked == 0 {
            whole.tail_seqnum
        } else {
            linked
        };
        // Says nothing of the numbers yet, so that all are allowed.
        let unknown = Header {
            archived: true,
            n_entries: 0,
            head_seqnum: 0,
            ..whole
        };
        file.read_behind(from, unknown);
        let mut found: Option<Header> = None;
        while let Some(entry) = file.peek() {
            let head = entry.head;
            if Some(head.boot_id) == this_boot {
                break;
            }
            file.advance();
            let before = found.map_or(floor, |header| header.tail_seqnum);
            if head.seqnum <= floor || head.seqnum - before > MAX_STEP {
                continue;
            }
            let header = found.get_or_insert(Header {
                head_seqnum: head.seqnum,
                head_realtime_us: head.realtime_us,
                boot_id: head.boot_id,
                ..unknown
            });
            header.n_entries += 1;
            header.tail_seqnum = head.seqnum;
            header.tail_realtime_us = head.realtime_us;
        }
        let header = found?;
        // Whoever else's boot it is, while the header moves somebody writes.
        let is_still = file.current_header().ok() == Some(whole);
        is_still.then_some(Self {
            from,
            floor,
            header,
        })
    }
}

impl JournalFile {
    /// All values are there and are those that the entry was written with. One that journald was given twice is in the hash
    /// twice, which is as if it were not, and in the entry once.
    pub(crate) fn is_whole(&mut self, entry: &EntryRef) -> bool {
        let hashes = self.load_items(entry).and_then(|count| {
            let hashes = (0..count).map(|index| {
                let value = self.value(self.item_offset(index))?;
                let is_all = value.true_length == value.bytes.len() as u64;
                is_all.then(|| entry_hash(value.bytes))
            });
            hashes.collect::<Option<Vec<_>>>()
        });
        hashes.is_some_and(|hashes| {
            let rest = hashes
                .iter()
                .fold(entry.head.xor_hash, |rest, hash| rest ^ hash);
            !hashes.is_empty() && (rest == 0 || hashes.contains(&rest))
        })
    }
}

/// Nobody writes to it any more, and whoever did neither synced nor closed it: the machine ended suddenly.
pub(crate) fn is_left(header: &Header, this_boot: Option<[u8; 16]>) -> bool {
    header.online && this_boot.is_some_and(|boot| boot != header.boot_id)
}

/// This boot, which outlives the process.
pub(crate) fn current_boot() -> Option<[u8; 16]> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    parse_id(text.trim())
}
