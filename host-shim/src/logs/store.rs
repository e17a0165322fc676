//! A folder of segments, seen by its one writer.
//!
//! Files are numbered (`00000001.seg`, ...); only the newest is written. A lock file keeps a second writer
//! out. A batch is appended with one write; when that fails half way (a full disk) the file is cut back to
//! the last whole frame, so the same batch can be tried again later. Files are flushed to the disk when
//! they are full and when the store is closed: after a power cut the guest is asked again for what is not
//! there, because the position lives in the same frames.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

use super::{
    pack::Compression,
    segment::{self, FILE_HEADER_BYTES, Frame, Next, Position, SegmentError, VERSION},
};
use crate::locks::{self, Held};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A file is closed before it would grow beyond this.
    pub segment_bytes: u64,
    /// A file is closed when its first batch is older than this, so that old batches can go.
    pub segment_age: Duration,
    /// The oldest files are deleted when all together are longer.
    pub total_bytes: u64,
    /// Files whose last batch is older than this are deleted.
    pub total_age: Option<Duration>,
    /// How blocks lie on the disk.
    pub compression: Compression,
}

impl Limits {
    /// What holds where nothing else is said: 256 MiB, of any age.
    pub const DEFAULT: Self = Self {
        segment_bytes: 16 << 20,
        segment_age: Duration::from_secs(24 * 3600),
        total_bytes: 256 << 20,
        total_age: None,
        compression: Compression::None,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Why the store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Another process writes there.
    #[error("log {} is being written by another process", dir.display())]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// The newest segment cannot be continued.
    #[error("log segment {}", path.display())]
    Segment {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SegmentError,
    },
    /// The disk failed.
    #[error("log {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The writer of a folder of segments.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    limits: Limits,
    number: u64,
    file: File,
    length: u64,
    /// When the first batch of this file was received.
    begun_us: Option<u64>,
    position: Position,
    // Held, never read: the lock goes with it.
    _lock: Held,
}

impl Store {
    /// Opens the folder, makes it where it is missing, and cuts a torn tail.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        let fault = |source| StoreError::Io {
            path: dir.into(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fault)?;
        let lock = lock(dir)?;
        let numbers = numbers(dir).map_err(fault)?;
        let mut position = Position::default();
        let mut newest = None;
        for &number in numbers.iter().rev() {
            let scanned = scan(&path_of(dir, number))?;
            if scanned.version == VERSION || scanned.length == 0 {
                newest.get_or_insert((number, scanned.length, scanned.begun_us));
            } else {
                // An older file is read, and not continued.
                newest.get_or_insert((number + 1, 0, None));
            }
            if let Some(last) = scanned.position {
                position = last;
                break;
            }
        }
        let (number, length, begun_us) = newest.unwrap_or((1, 0, None));
        let path = path_of(dir, number);
        let fault = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        let mut file = open_for_writing(&path).map_err(fault)?;
        let length = start_file(&mut file, length).map_err(fault)?;
        let store = Self {
            dir: dir.into(),
            limits,
            number,
            file,
            length,
            begun_us,
            position,
            _lock: lock,
        };
        store.delete_old();
        Ok(store)
    }

    /// The last entry held.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Appends a batch together with the position after it.
    pub fn append(&mut self, frame: &Frame) -> Result<(), StoreError> {
        let bytes = frame.encode(self.limits.compression);
        let bytes = bytes.map_err(|source| self.fault(source))?;
        let size = bytes.len() as u64;
        let age_us = |begun| frame.received_unix_us.saturating_sub(begun);
        let is_old = self
            .begun_us
            .is_some_and(|begun| Duration::from_micros(age_us(begun)) > self.limits.segment_age);
        let is_full = self.length + size > self.limits.segment_bytes;
        if self.length > FILE_HEADER_BYTES && (is_full || is_old) {
            self.rotate()?;
        }
        if let Err(source) = self.file.write_all(&bytes) {
            // Best effort: a tail that stays is cut at the next open, and a reader takes it for torn.
            let cut = start_file(&mut self.file, self.length);
            if let Err(error) = cut {
                tracing::warn!(%error, "log segment is not cut back after a failed write");
            }
            return Err(self.fault(source));
        }
        self.length += size;
        self.begun_us.get_or_insert(frame.received_unix_us);
        self.position = frame.position();
        Ok(())
    }

    /// Flushes to the disk.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|source| self.fault(source))
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.sync()?;
        let path = path_of(&self.dir, self.number + 1);
        let fault = |source| StoreError::Io {
            path: path.clone(),
            source,
        };
        let mut file = open_for_writing(&path).map_err(fault)?;
        let length = start_file(&mut file, 0).map_err(fault)?;
        (self.file, self.length, self.begun_us) = (file, length, None);
        self.number += 1;
        self.delete_old();
        Ok(())
    }

    /// Deletes the oldest files that are beyond the limits. A failure is only logged: the log goes on.
    fn delete_old(&self) {
        if let Err(error) = self.try_delete_old() {
            tracing::warn!(dir = %self.dir.display(), %error, "old log segments stay");
        }
    }

    fn try_delete_old(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for number in numbers(&self.dir)? {
            files.push((number, fs::metadata(path_of(&self.dir, number))?));
        }
        // Room for the segment that is written now.
        let mut total = files
            .iter()
            .filter(|(number, _)| *number != self.number)
            .map(|(_, file)| file.len())
            .sum::<u64>()
            + self.limits.segment_bytes.max(self.length);
        for (number, file) in files {
            let is_old = self.limits.total_age.is_some_and(|age| {
                let written = file.modified().ok();
                // A time in the future is no age.
                written.is_some_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed > age))
            });
            if number == self.number || !(is_old || total > self.limits.total_bytes) {
                break;
            }
            fs::remove_file(path_of(&self.dir, number))?;
            total -= file.len();
        }
        Ok(())
    }

    fn fault(&self, source: io::Error) -> StoreError {
        StoreError::Io {
            path: path_of(&self.dir, self.number),
            source,
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.sync() {
            tracing::warn!(%error, "log is not flushed");
        }
    }
}

/// The file of this number.
pub(super) fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}

/// The numbers of the segments, oldest first. A folder that does not exist has none.
pub(super) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn lock(dir: &Path) -> Result<Held, StoreError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    let file = file.map_err(|source| StoreError::Io {
        path: path.clone(),
        source,
    })?;
    match locks::try_exclusive(&file) {
        Ok(true) => Ok(Held(file)),
        Ok(false) => Err(StoreError::Locked { dir: dir.into() }),
        Err(source) => Err(StoreError::Io { path, source }),
    }
}

fn open_for_writing(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o640)
        .open(path)?;
    // Whatever the umask is: the folder decides who gets here.
    file.set_permissions(fs::Permissions::from_mode(0o640))?;
    Ok(file)
}

/// Cuts the file to `length`, writes the header where there is none, and stands at the end.
fn start_file(file: &mut File, length: u64) -> io::Result<u64> {
    file.set_len(if length < FILE_HEADER_BYTES {
        0
    } else {
        length
    })?;
    file.seek(SeekFrom::End(0))?;
    if length < FILE_HEADER_BYTES {
        segment::write_header(file)?;
    }
    Ok(length.max(FILE_HEADER_BYTES))
}

/// What a file holds.
#[derive(Default)]
struct Scanned {
    version: u32,
    /// How much of it checks.
    length: u64,
    /// When its first frame was received.
    begun_us: Option<u64>,
    /// The position after its last frame.
    position: Option<Position>,
}

fn scan(path: &Path) -> Result<Scanned, StoreError> {
    let fault = |source| StoreError::Segment {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(|source| fault(source.into()))?;
    let mut file = BufReader::with_capacity(256 << 10, file);
    let mut scanned = Scanned::default();
    let Some(version) = segment::read_header(&mut file).map_err(fault)? else {
        return Ok(scanned);
    };
    scanned.version = version;
    scanned.length = FILE_HEADER_BYTES;
    while let Next::Frame(frame, size) =
        segment::read_head(&mut file).map_err(|source| fault(source.into()))?
    {
        scanned.length += size;
        scanned.begun_us.get_or_insert(frame.received_unix_us);
        scanned.position = Some(frame.position());
    }
    Ok(scanned)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A few frames fill a segment.
    pub(in crate::logs) const SMALL: Limits = Limits {
        segment_bytes: 1000,
        total_bytes: 1 << 20,
        ..Limits::DEFAULT
    };

    pub(in crate::logs) fn frame(last: u64, bytes: usize) -> Frame {
        Frame {
            seqnum_id: [1; 16],
            first: last,
            last,
            count: 1,
            reset: false,
            gap: None,
            received_unix_us: 1,
            mark: segment::Mark::default(),
            block: vec![b'.'; bytes],
        }
    }

    #[test]
    fn position_survives_reopening_and_a_torn_tail_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), Limits::default()).unwrap();
        assert_eq!(store.position(), Position::default());
        store.append(&frame(1, 100)).unwrap();
        store.append(&frame(2, 100)).unwrap();
        drop(store);
        let path = path_of(dir.path(), 1);
        let whole = fs::read(&path).unwrap();
        for cut in [1, 50, 100, 171] {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let store = Store::open(dir.path(), Limits::default()).unwrap();
            assert_eq!(store.position().seqnum, 1, "cut {cut}");
            assert_eq!(fs::metadata(&path).unwrap().len(), 16 + 112 + 100);
        }
        let mut store = Store::open(dir.path(), Limits::default()).unwrap();
        store.append(&frame(2, 100)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_segment_that_was_only_just_begun_does_not_lose_the_position() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), Limits::default()).unwrap();
        store.append(&frame(7, 10)).unwrap();
        drop(store);
        for begun in [0usize, 5, 16] {
            fs::write(
                path_of(dir.path(), 2),
                &fs::read(path_of(dir.path(), 1)).unwrap()[..begun],
            )
            .unwrap();
            let mut store = Store::open(dir.path(), Limits::default()).unwrap();
            assert_eq!(store.position().seqnum, 7);
            store.append(&frame(8, 10)).unwrap();
            drop(store);
            assert_eq!(
                Store::open(dir.path(), Limits::default())
                    .unwrap()
                    .position()
                    .seqnum,
                8
            );
        }
    }

    #[test]
    fn files_rotate_and_the_oldest_go_beyond_the_cap() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            segment_bytes: 1000,
            total_bytes: 4000,
            ..Limits::DEFAULT
        };
        let mut store = Store::open(dir.path(), limits).unwrap();
        for n in 1..=40 {
            store.append(&frame(n, 300)).unwrap();
        }
        let numbers = numbers(dir.path()).unwrap();
        let total: u64 = numbers
            .iter()
            .map(|n| fs::metadata(path_of(dir.path(), *n)).unwrap().len())
            .sum();
        assert!(total <= limits.total_bytes, "{total}");
        assert!(numbers.len() >= 3 && numbers[0] > 1, "{numbers:?}");
        drop(store);
        assert_eq!(
            Store::open(dir.path(), limits).unwrap().position().seqnum,
            40
        );
    }

    #[test]
    fn files_are_closed_and_deleted_by_age() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            segment_age: Duration::from_secs(60),
            total_age: Some(Duration::from_secs(3600)),
            ..Limits::DEFAULT
        };
        let aged = |n, seconds: u64| Frame {
            received_unix_us: seconds * 1_000_000,
            ..frame(n, 10)
        };
        let mut store = Store::open(dir.path(), limits).unwrap();
        for (n, seconds) in [(1, 1000), (2, 1060), (3, 1061), (4, 1000), (5, 1121)] {
            store.append(&aged(n, seconds)).unwrap();
        }
        assert_eq!(numbers(dir.path()).unwrap(), [1, 2]);
        drop(store);
        // The age of the file that is written is known again after a restart.
        let mut store = Store::open(dir.path(), limits).unwrap();
        store.append(&aged(6, 1122)).unwrap();
        assert_eq!(numbers(dir.path()).unwrap(), [1, 2, 3]);
        drop(store);
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(7200);
        for number in [1, 3] {
            let file = File::options()
                .write(true)
                .open(path_of(dir.path(), number));
            file.unwrap().set_modified(long_ago).unwrap();
        }
        let store = Store::open(dir.path(), limits).unwrap();
        // The one that is written stays, however old.
        assert_eq!(numbers(dir.path()).unwrap(), [2, 3]);
        assert_eq!(store.position().seqnum, 6);
    }

    #[test]
    fn packed_and_plain_frames_lie_side_by_side_and_an_older_file_is_not_continued() {
        let dir = tempfile::tempdir().unwrap();
        let packed = Limits {
            compression: Compression::Zstd,
            ..Limits::DEFAULT
        };
        let mut lengths = Vec::new();
        for (number, limits) in [(1, Limits::DEFAULT), (2, packed), (3, Limits::DEFAULT)] {
            let mut store = Store::open(dir.path(), limits).unwrap();
            assert_eq!(store.position().seqnum, number - 1);
            store.append(&frame(number, 5000)).unwrap();
            lengths.push(fs::metadata(path_of(dir.path(), 1)).unwrap().len());
        }
        assert_eq!(lengths[2] - lengths[1], 5112);
        assert!(lengths[1] - lengths[0] < 300, "{lengths:?}");

        let path = path_of(dir.path(), 1);
        let mut old = fs::read(&path).unwrap();
        old[8] = 1;
        fs::write(&path, &old).unwrap();
        let mut store = Store::open(dir.path(), packed).unwrap();
        assert_eq!(store.position().seqnum, 3);
        store.append(&frame(4, 5000)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), old);
        let mut reader = crate::logs::reader::Reader::from_start(dir.path());
        for number in 1..=4 {
            let item = reader.next().unwrap();
            let expected = crate::logs::reader::Item::Frame(frame(number, 5000));
            assert_eq!(item, Some(expected));
        }
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn a_segment_is_for_the_folders_group_whatever_the_umask_is() {
        let dir = tempfile::tempdir().unwrap();
        // As a tight umask leaves it.
        let path = path_of(dir.path(), 1);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        let mode = fs::metadata(path_of(dir.path(), 1)).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o640);
        drop(store);
    }

    #[test]
    fn a_second_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Limits::default()).unwrap();
        assert!(matches!(
            Store::open(dir.path(), Limits::default()),
            Err(StoreError::Locked { .. })
        ));
        drop(store);
        Store::open(dir.path(), Limits::default()).unwrap();
    }

    #[test]
    fn a_foreign_newest_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(path_of(dir.path(), 1), b"something else entirely").unwrap();
        let error = Store::open(dir.path(), Limits::default()).unwrap_err();
        assert!(matches!(
            error,
            StoreError::Segment {
                source: SegmentError::Magic,
                ..
            }
        ));
    }
}
