//! Streams: all entries of one writer (one seqnum id), over however many files, and the order of streams.
//!
//! A machine normally has one stream in /var and, from boot until `systemd-journal-flush`, a second in /run. The
//! latter is the later one: what it holds will be copied into the former, under the former's numbers.

use crate::slot::Slot;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) id: [u8; 16],
    /// None of its files is in the first directory.
    pub(crate) is_volatile: bool,
    pub(crate) head_realtime_us: u64,
    pub(crate) tail_realtime_us: u64,
    pub(crate) tail_seqnum: u64,
    /// Files that journald may be writing to.
    pub(crate) active_files: usize,
}

/// The streams that have entries, the oldest first.
pub(crate) fn streams(slots: &[Slot]) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    for slot in slots.iter().filter(|slot| slot.header.n_entries > 0) {
        let header = &slot.header;
        let is_volatile = slot.name().directory > 0;
        let active_files = usize::from(slot.is_active());
        match streams
            .iter_mut()
            .find(|stream| stream.id == header.seqnum_id)
        {
            Some(stream) => {
                stream.is_volatile &= is_volatile;
                stream.head_realtime_us = stream.head_realtime_us.min(header.head_realtime_us);
                stream.tail_realtime_us = stream.tail_realtime_us.max(header.tail_realtime_us);
                stream.tail_seqnum = stream.tail_seqnum.max(header.tail_seqnum);
                stream.active_files += active_files;
            }
            None => streams.push(Stream {
                id: header.seqnum_id,
                is_volatile,
                head_realtime_us: header.head_realtime_us,
                tail_realtime_us: header.tail_realtime_us,
                tail_seqnum: header.tail_seqnum,
                active_files,
            }),
        }
    }
    streams.sort_by_key(|stream| (stream.is_volatile, stream.head_realtime_us, stream.id));
    streams
}
