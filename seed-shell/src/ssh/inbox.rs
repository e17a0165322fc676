//! What a client sent and its command has not taken yet.
//!
//! Putting never waits: the connection stands still for whoever takes its messages late, and with it the news that
//! there is room for output again, on which a command may wait that has to go on to take more. So input waits here,
//! in memory and behind that, for commands that take much, in a file without a name; and both have an end.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, openat};
use thiserror::Error;
use tokio::sync::Notify;

/// Input in memory: somewhat more than the longest `.authorized_keys`, so that a longer one gets its own refusal.
const MEMORY_BYTES: usize = 320 << 10;

/// Input in a file.
const FILE_BYTES: u64 = 1 << 30;

/// Input in all files of a server: the registry is on the same disk.
const ALL_FILES_BYTES: u64 = 4 << 30;

/// One piece that is taken.
const PIECE_BYTES: usize = 32 << 10;

/// How much of a file is behind its reader before it is given back to the disk.
const HOLE_BYTES: u64 = 16 << 20;

/// Why no more input is taken.
#[derive(Debug, Error)]
pub enum InboxError {
    /// The command is too slow, or does not take any.
    #[error("more input came than the command takes")]
    Full,
    /// The file.
    #[error("input cannot be kept")]
    File(#[from] io::Error),
}

/// Input of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes.
    Data(Vec<u8>),
    /// No more.
    Eof,
}

/// What the files of all inboxes may hold together.
#[derive(Debug, Clone)]
pub struct Spool(Arc<AtomicU64>);

impl Default for Spool {
    fn default() -> Self {
        Self::new(ALL_FILES_BYTES)
    }
}

impl Spool {
    /// Room for so many bytes.
    fn new(bytes: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bytes)))
    }

    /// Whether there was room for so many bytes, which are taken then.
    fn take(&self, bytes: u64) -> bool {
        let less = |left: u64| left.checked_sub(bytes);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A queue of bytes with an end.
#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<u8>,
    /// Newer than what is in memory; and where its room comes from.
    file: Option<(File, Spool)>,
    written: u64,
    read: u64,
    ended: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What memory does not hold goes into a file in this folder, which has no name there, as far as there is room.
    pub fn spill(&self, dir: &Path, spool: &Spool) -> io::Result<()> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR)?;
        self.lock().file = Some((file.into(), spool.clone()));
        Ok(())
    }

    /// More input.
    pub fn put(&self, bytes: &[u8]) -> Result<(), InboxError> {
        self.lock().put(bytes)?;
        self.changed.notify_one();
        Ok(())
    }

    /// No more comes.
    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    /// The next piece; at the end always [`Input::Eof`]. One task takes. Dropping the future loses nothing.
    pub async fn take(&self) -> Result<Input, InboxError> {
        loop {
            if let Some(input) = self.lock().take()? {
                return Ok(input);
            }
            self.changed.notified().await;
        }
    }
}

impl State {
    fn put(&mut self, bytes: &[u8]) -> Result<(), InboxError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let behind = self.written > self.read;
        if !behind && self.memory.len() + bytes.len() <= MEMORY_BYTES {
            self.memory.extend(bytes);
            return Ok(());
        }
        let Some((file, spool)) = &self.file else {
            return Err(InboxError::Full);
        };
        let too_long = (self.written - self.read).saturating_add(length) > FILE_BYTES;
        if too_long || !spool.take(length) {
            return Err(InboxError::Full);
        }
        let written = file.write_all_at(bytes, self.written);
        written.inspect_err(|_| spool.give_back(length))?;
        self.written += length;
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Input>, InboxError> {
        if !self.memory.is_empty() {
            let count = self.memory.len().min(PIECE_BYTES);
            return Ok(Some(Input::Data(self.memory.drain(..count).collect())));
        }
        if let Some((file, spool)) = self.file.as_ref().filter(|_| self.written > self.read) {
            let left = usize::try_from(self.written - self.read).unwrap_or(usize::MAX);
            let mut piece = vec![0; left.min(PIECE_BYTES)];
            file.read_exact_at(&mut piece, self.read)?;
            let before = self.read / HOLE_BYTES;
            self.read += piece.len() as u64;
            spool.give_back(piece.len() as u64);
            if self.read == self.written {
                file.set_len(0)?;
                (self.read, self.written) = (0, 0);
            } else if self.read / HOLE_BYTES > before {
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // A file system without holes keeps it until the file is empty.
                let _ = fallocate(file, flags, 0, self.read);
            }
            return Ok(Some(Input::Data(piece)));
        }
        Ok(self.ended.then_some(Input::Eof))
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some((_, spool)) = &self.file {
            spool.give_back(self.written - self.read);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(inbox: &Inbox) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Input::Data(more) = inbox.take().await.unwrap() {
            bytes.extend(more);
        }
        bytes
    }

    #[tokio::test]
    async fn order_is_kept_through_memory_and_file() {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::default();
        let spool = Spool::new(8 << 20);
        inbox.spill(dir.path(), &spool).unwrap();
        let bytes: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
        let mut taken = Vec::new();
        for (at, part) in bytes.chunks(30_001).enumerate() {
            inbox.put(part).unwrap();
            // Sometimes it is behind, sometimes not.
            let pieces = if at % 40 < 30 { 0 } else { 4 };
            for _ in 0..pieces {
                if taken.len() == (at * 30_001 + part.len()) {
                    break;
                }
                let Input::Data(more) = inbox.take().await.unwrap() else {
                    panic!("no end was said");
                };
                taken.extend(more);
            }
        }
        inbox.end();
        taken.extend(all(&inbox).await);
        assert!(taken == bytes);
        assert_eq!(inbox.take().await.unwrap(), Input::Eof);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0, "it has no name");
        assert!(spool.take(8 << 20), "all of the room was given back");
    }

    #[tokio::test]
    async fn files_have_a_bound_together_and_give_their_room_back() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(1000);
        let inbox = || {
            let inbox = Inbox::default();
            inbox.spill(dir.path(), &spool).unwrap();
            inbox.put(&vec![1; MEMORY_BYTES]).unwrap();
            inbox
        };
        let (one, other) = (inbox(), inbox());
        one.put(&[2; 900]).unwrap();
        assert!(matches!(other.put(&[3; 101]), Err(InboxError::Full)));
        other.put(&[3; 100]).unwrap();
        drop(one);
        other.put(&[4; 900]).unwrap();
        other.end();
        assert_eq!(all(&other).await.len(), MEMORY_BYTES + 1000);
        assert!(spool.take(1000));
    }

    #[tokio::test]
    async fn without_a_file_it_is_full_early_and_says_so() {
        let inbox = Inbox::default();
        inbox.put(&vec![1; MEMORY_BYTES]).unwrap();
        assert!(matches!(inbox.put(&[1]), Err(InboxError::Full)));
        inbox.end();
        assert_eq!(all(&inbox).await.len(), MEMORY_BYTES);
    }
}
