//! Reads a folder of segments while another process may write it: from the oldest, from the last so many
//! entries, and on as it grows. Takes no lock and changes nothing. What comes behind damage in a segment cannot be read, and
//! is a gap before the next one.

use std::{
    convert::Infallible,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::{
    entry::{self, Record},
    segment::{
        self, FILE_HEADER_BYTES, FRAME_HEADER_BYTES, Frame, Gap, GapReason, Next, PREFIX_BYTES,
        Position, SegmentError,
    },
    store::{numbers, path_of},
};

/// Why a log cannot be read.
#[derive(Debug, Error)]
#[error("log {}", path.display())]
pub struct ReadError {
    /// The file or folder.
    pub path: PathBuf,
    /// Why.
    pub source: SegmentError,
}

/// What comes next in a log.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// A batch.
    Frame(Frame),
    /// Segments were deleted (the cap) before this reader came to them.
    Removed,
}

/// A place in a folder of segments.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    open: Option<Open>,
    /// The last segment that was read to its end; 0 before the first.
    done: u64,
    /// Behind the last frame that was read.
    last: Option<Position>,
    /// There the segment before this one had more, which is damaged.
    damaged: Option<Position>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    file: BufReader<File>,
    offset: u64,
    /// What follows does not check, or not yet.
    torn: bool,
}

impl Reader {
    /// Begins with the oldest frame. The folder need not exist yet.
    pub fn from_start(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            open: None,
            done: 0,
            last: None,
            damaged: None,
        }
    }

    /// Begins with the frame at this place of a segment.
    pub(super) fn at(dir: &Path, number: u64, offset: u64) -> Result<Self, ReadError> {
        let path = path_of(dir, number);
        let open = Open::new(&path, number, offset).map_err(|source| fault(&path, source))?;
        Ok(Self {
            open,
            ..Self::from_start(dir)
        })
    }

    /// Begins behind the newest frame.
    pub fn from_end(dir: &Path) -> Result<Self, ReadError> {
        tail(dir, 0, |_| 0).map(|tail| tail.reader)
    }

    /// The next item, `None` when there is none now.
    #[allow(
        clippy::should_implement_trait,
        reason = "None is not the end: more may come"
    )]
    pub fn next(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            if let Some(open) = &mut self.open {
                let path = path_of(&self.dir, open.number);
                if let Some(frame) = open.next().map_err(|source| fault(&path, source))? {
                    return Ok(Some(self.found(frame)));
                }
            }
            let Some(number) = self.newer()? else {
                return Ok(None);
            };
            // What was appended between the two looks comes first.
            if let Some(open) = &mut self.open {
                let path = path_of(&self.dir, open.number);
                if let Some(frame) = open.next().map_err(|source| fault(&path, source))? {
                    return Ok(Some(self.found(frame)));
                }
                self.done = open.number;
                if open.torn {
                    self.damaged = self.last;
                }
            }
            let path = path_of(&self.dir, number);
            match Open::new(&path, number, FILE_HEADER_BYTES) {
                Ok(Some(open)) => self.open = Some(open),
                // Its header is not written yet.
                Ok(None) => return Ok(None),
                // Deleted between the two looks.
                Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(fault(&path, source)),
            }
            if self.done != 0 && number != self.done + 1 {
                return Ok(Some(Item::Removed));
            }
        }
    }

    fn found(&mut self, mut frame: Frame) -> Item {
        if let Some(before) = self.damaged.take()
            && let Some(first) = before.seqnum.checked_add(1)
            && frame.seqnum_id == before.seqnum_id
            && !frame.reset
        {
            match &mut frame.gap {
                // What was missing already follows on what is damaged.
                Some(gap) => gap.first = gap.first.min(first),
                None if frame.first > first => {
                    frame.gap = Some(Gap {
                        first,
                        last: frame.first - 1,
                        reason: GapReason::Damaged,
                    });
                }
                None => {}
            }
        }
        self.last = Some(frame.position());
        Item::Frame(frame)
    }

    fn newer(&self) -> Result<Option<u64>, ReadError> {
        let current = self.open.as_ref().map_or(self.done, |open| open.number);
        let numbers = numbers(&self.dir).map_err(|source| fault(&self.dir, source.into()))?;
        Ok(numbers.into_iter().find(|number| *number > current))
    }

    /// True once when the log was removed and another one begins in its place (`seed rm`, `seed run`): this
    /// reader then begins with that. To be asked now and then by who follows a log for long.
    pub fn begin_anew(&mut self) -> Result<bool, ReadError> {
        let Some(open) = &self.open else {
            return Ok(false);
        };
        let path = path_of(&self.dir, open.number);
        let io = |source: io::Error| fault(&path, source.into());
        let ours = open.file.get_ref().metadata().map_err(io)?;
        if ours.nlink() > 0 {
            return Ok(false);
        }
        // Deleted by the cap: then there are newer ones, and the next item is one of theirs.
        let numbers = numbers(&self.dir).map_err(|source| fault(&self.dir, source.into()))?;
        let anew = numbers.last().is_some_and(|last| *last <= open.number);
        if anew {
            *self = Self::from_start(&self.dir);
        }
        Ok(anew)
    }
}

impl Open {
    fn new(path: &Path, number: u64, offset: u64) -> Result<Option<Self>, SegmentError> {
        let mut file = BufReader::with_capacity(256 << 10, File::open(path)?);
        if segment::read_header(&mut file)?.is_none() {
            return Ok(None);
        }
        file.seek(SeekFrom::Start(offset))?;
        Ok(Some(Self {
            number,
            file,
            offset,
            torn: false,
        }))
    }

    fn next(&mut self) -> Result<Option<Frame>, SegmentError> {
        let next = segment::read_frame(&mut self.file)?;
        self.torn = next == Next::Torn;
        match next {
            Next::Frame(frame, size) => {
                self.offset += size;
                Ok(Some(frame))
            }
            Next::End => Ok(None),
            Next::Torn => {
                // Perhaps it is being written: look again from its beginning.
                self.file.seek(SeekFrom::Start(self.offset))?;
                Ok(None)
            }
        }
    }
}

/// Where the last `wanted` entries of a log begin.
#[derive(Debug)]
pub struct Tail {
    /// Stands before the frame that holds the first of them.
    pub reader: Reader,
    /// How many wanted entries of that frame come before it.
    pub skip: usize,
}

/// Finds where the last `wanted` entries begin; `count` says how many of a frame's entries count. Frames
/// are read backwards, only as many as needed.
pub fn tail(
    dir: &Path,
    wanted: usize,
    mut count: impl FnMut(&Frame) -> usize,
) -> Result<Tail, ReadError> {
    let mut reader = Reader::from_start(dir);
    let mut missing = wanted;
    let all = numbers(dir).map_err(|source| fault(dir, source.into()))?;
    for number in all.into_iter().rev() {
        let path = path_of(dir, number);
        let mut open = match Open::new(&path, number, FILE_HEADER_BYTES) {
            Ok(Some(open)) => open,
            Ok(None) => continue,
            Err(SegmentError::Io(error)) if error.kind() == io::ErrorKind::NotFound => break,
            Err(source) => return Err(fault(&path, source)),
        };
        let frames = index(&mut open).map_err(|source| fault(&path, source.into()))?;
        let io = |source: io::Error| fault(&path, source.into());
        if wanted == 0 {
            open.seek_behind(&frames)
                .map_err(|source| fault(&path, source))?;
            reader.open = Some(open);
            return Ok(Tail { reader, skip: 0 });
        }
        for offset in frames.iter().rev() {
            open.seek(*offset).map_err(io)?;
            let Some(frame) = open.next().map_err(|source| fault(&path, source))? else {
                continue;
            };
            let found = count(&frame);
            if found >= missing {
                open.seek(*offset).map_err(io)?;
                reader.open = Some(open);
                let skip = found - missing;
                return Ok(Tail { reader, skip });
            }
            missing -= found;
        }
    }
    // There are not so many: all of them.
    Ok(Tail { reader, skip: 0 })
}

/// The boots that a log knows, oldest first.
pub fn boots(dir: &Path) -> Result<Vec<[u8; 16]>, ReadError> {
    let mut reader = Reader::from_start(dir);
    let mut boots: Vec<[u8; 16]> = Vec::new();
    while let Some(item) = reader.next()? {
        let Item::Frame(frame) = item else { continue };
        // Boots do not come back: where a batch ends in the boot of the one before, it holds no other.
        if boots.last() == Some(&frame.mark.boot_id) {
            continue;
        }
        let Ok(()) = entry::for_each(&frame, |record| {
            if let Record::Entry(entry) = record
                && !boots.contains(&entry.head.boot_id)
            {
                boots.push(entry.head.boot_id);
            }
            Ok::<(), Infallible>(())
        });
    }
    Ok(boots)
}

/// Where a segment's frames begin that end with an entry of a stream: a list for each run of its numbers, the newest last. A run
/// ends where the log begins anew, and where another stream follows.
pub(super) fn runs(
    dir: &Path,
    number: u64,
    seqnum_id: [u8; 16],
) -> Result<Vec<Vec<u64>>, ReadError> {
    let path = path_of(dir, number);
    let mut runs: Vec<Vec<u64>> = Vec::new();
    let open = Open::new(&path, number, FILE_HEADER_BYTES);
    let Some(mut open) = open.map_err(|source| fault(&path, source))? else {
        return Ok(runs);
    };
    let io = |source: io::Error| fault(&path, source.into());
    let mut begins = true;
    while let Next::Frame(frame, size) = segment::read_head(&mut open.file).map_err(io)? {
        let is_other = frame.seqnum_id != seqnum_id;
        begins |= is_other || frame.reset;
        if !is_other && frame.count > 0 {
            match runs.last_mut() {
                Some(run) if !begins => run.push(open.offset),
                _ => runs.push(vec![open.offset]),
            }
            begins = false;
        }
        open.offset += size;
    }
    Ok(runs)
}

impl Open {
    fn seek(&mut self, offset: u64) -> io::Result<()> {
        self.offset = offset;
        self.file.seek(SeekFrom::Start(offset)).map(drop)
    }

    /// Behind the last frame, if that is whole, else before it.
    fn seek_behind(&mut self, frames: &[u64]) -> Result<(), SegmentError> {
        self.seek(frames.last().copied().unwrap_or(FILE_HEADER_BYTES))?;
        self.next().map(drop)
    }
}

/// The offsets of the frames, found by their lengths alone; the checksum is looked at when one is read.
fn index(open: &mut Open) -> io::Result<Vec<u64>> {
    let length = open.file.get_ref().metadata()?.len();
    let mut offsets = Vec::new();
    let mut offset = FILE_HEADER_BYTES;
    while offset + PREFIX_BYTES <= length {
        let mut prefix = [0; 4];
        open.file.read_exact(&mut prefix)?;
        let body = u64::from(u32::from_le_bytes(prefix));
        let end = offset + PREFIX_BYTES + body;
        if body < FRAME_HEADER_BYTES as u64 || end > length {
            break;
        }
        offsets.push(offset);
        let skip = i64::try_from(end - offset - 4).unwrap_or(i64::MAX);
        open.file.seek_relative(skip)?;
        offset = end;
    }
    Ok(offsets)
}

fn fault(path: &Path, source: SegmentError) -> ReadError {
    ReadError {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::store::{
            Limits, Store,
            tests::{SMALL, frame},
        },
        *,
    };

    fn lasts(reader: &mut Reader) -> Vec<u64> {
        let mut seen = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            match item {
                Item::Frame(frame) => seen.push(frame.last),
                Item::Removed => seen.push(0),
            }
        }
        seen
    }

    #[test]
    fn a_reader_follows_through_rotation_and_sees_each_frame_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::from_start(&dir.path().join("logs"));
        assert_eq!(reader.next().unwrap(), None);
        let mut store = Store::open(&dir.path().join("logs"), SMALL).unwrap();
        assert_eq!(reader.next().unwrap(), None);
        let mut seen = Vec::new();
        for n in 1..=20 {
            store.append(&frame(n, 300)).unwrap();
            if n % 3 == 0 {
                seen.extend(lasts(&mut reader));
            }
        }
        seen.extend(lasts(&mut reader));
        assert_eq!(seen, (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn the_tail_is_found_across_segments_and_the_reader_goes_on_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), SMALL).unwrap();
        for n in 1..=10 {
            store.append(&frame(n, 300)).unwrap();
        }
        for wanted in [0usize, 1, 2, 3, 5, 9, 10, 11, 100] {
            let mut tail = tail(dir.path(), wanted, |_| 1).unwrap();
            let expected = (1..=10u64).rev().take(wanted).collect::<Vec<_>>();
            let expected = expected.into_iter().rev().collect::<Vec<_>>();
            assert_eq!((tail.skip, lasts(&mut tail.reader)), (0, expected));
        }
        // A frame that holds more than is wanted.
        let mut several = tail(dir.path(), 5, |_| 3).unwrap();
        assert_eq!((several.skip, lasts(&mut several.reader)), (1, vec![9, 10]));
        let even = |f: &Frame| usize::from(f.last.is_multiple_of(2));
        let mut tail = tail(dir.path(), 3, even).unwrap();
        assert_eq!(lasts(&mut tail.reader), [6, 7, 8, 9, 10]);
        store.append(&frame(11, 300)).unwrap();
        store.append(&frame(12, 900)).unwrap();
        assert_eq!(lasts(&mut tail.reader), [11, 12]);
    }

    #[test]
    fn a_frame_that_is_half_written_is_read_when_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), Limits::default()).unwrap();
        store.append(&frame(1, 10)).unwrap();
        let path = path_of(dir.path(), 1);
        let before = fs::read(&path).unwrap();
        store.append(&frame(2, 10)).unwrap();
        let after = fs::read(&path).unwrap();
        for cut in before.len()..after.len() {
            fs::write(&path, &after[..cut]).unwrap();
            let mut end = Reader::from_end(dir.path()).unwrap();
            let mut start = tail(dir.path(), 5, |_| 1).unwrap().reader;
            assert_eq!((lasts(&mut start), lasts(&mut end)), (vec![1], vec![]));
            fs::write(&path, &after).unwrap();
            assert_eq!(lasts(&mut start), [2], "cut {cut}");
            assert_eq!(lasts(&mut end), [2], "cut {cut}");
        }
    }

    #[test]
    fn what_a_damaged_segment_has_lost_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), SMALL).unwrap();
        // Two in each file.
        for n in 1..=6 {
            store.append(&frame(n, 300)).unwrap();
        }
        let path = path_of(dir.path(), 2);
        let whole = fs::read(&path).unwrap();
        let first = usize::try_from(FILE_HEADER_BYTES).unwrap();
        for (at, lost) in [(whole.len() - 1, 4..=4), (first + 30, 3..=4)] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let gap = Gap {
                first: *lost.start(),
                last: *lost.end(),
                reason: GapReason::Damaged,
            };
            let mut reader = Reader::from_start(dir.path());
            for n in (1..=6).filter(|n| !lost.contains(n)) {
                let expected = Frame {
                    gap: (n == 5).then_some(gap),
                    ..frame(n, 300)
                };
                assert_eq!(reader.next().unwrap(), Some(Item::Frame(expected)));
            }
            assert_eq!(reader.next().unwrap(), None);
        }
    }

    #[test]
    fn a_gap_behind_damage_begins_with_the_damage() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), SMALL).unwrap();
        store.append(&frame(1, 300)).unwrap();
        store.append(&frame(2, 300)).unwrap();
        let gap = |first| Gap {
            first,
            last: 8,
            reason: GapReason::Vacuumed,
        };
        let later = Frame {
            gap: Some(gap(3)),
            ..frame(9, 300)
        };
        store.append(&later).unwrap();
        let path = path_of(dir.path(), 1);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        let mut reader = Reader::from_start(dir.path());
        let expected = Frame {
            gap: Some(gap(2)),
            ..later
        };
        for frame in [frame(1, 300), expected] {
            assert_eq!(reader.next().unwrap(), Some(Item::Frame(frame)));
        }
    }

    #[test]
    fn deleted_segments_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), SMALL).unwrap();
        store.append(&frame(1, 300)).unwrap();
        let mut reader = Reader::from_start(dir.path());
        assert_eq!(lasts(&mut reader), [1]);
        for n in 2..=10 {
            store.append(&frame(n, 300)).unwrap();
        }
        fs::remove_file(path_of(dir.path(), 2)).unwrap();
        let seen = lasts(&mut reader);
        assert!(seen.contains(&0) && seen.ends_with(&[9, 10]), "{seen:?}");
    }

    #[test]
    fn a_log_that_was_removed_and_begun_again_is_read_from_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        let mut store = Store::open(&logs, SMALL).unwrap();
        for n in 1..=10 {
            store.append(&frame(n, 300)).unwrap();
        }
        let mut reader = Reader::from_end(&logs).unwrap();
        assert!(!reader.begin_anew().unwrap());
        drop(store);
        fs::remove_dir_all(&logs).unwrap();
        assert!(!reader.begin_anew().unwrap(), "there is none yet");
        let mut store = Store::open(&logs, SMALL).unwrap();
        store.append(&frame(1, 10)).unwrap();
        assert!(lasts(&mut reader).is_empty());
        assert!(reader.begin_anew().unwrap());
        assert_eq!(lasts(&mut reader), [1]);
        assert!(!reader.begin_anew().unwrap());
    }
}
