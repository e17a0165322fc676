//! Bytes between a stream of a process and the host, in memory that outlives the agent.
//!
//! The kernel does the counting: what comes from a pipe is moved into the memory by one `splice(2)`, which
//! also moves the file's position, and what goes to a process by one `sendfile(2)`. So an agent that is killed
//! between any two instructions leaves no byte twice and none out, and the next one finds in the positions of the
//! two open files how far it was.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::{
    fs::{
        FallocateFlags, MemfdFlags, Mode, OFlags, SeekFrom, fallocate, ftruncate, memfd_create,
        open, seek, sendfile,
    },
    io::{Errno, pwrite, read, write},
    pipe::{SpliceFlags, splice},
};

/// The most that is taken from a process before the host has had it: what a pipe holds by default.
const CHUNK_BYTES: usize = 64 * 1024;

/// Memory is given back in such pieces.
const PAGE_BYTES: u64 = 4096;

/// What a process wrote and the host has not read yet.
#[derive(Debug)]
pub(super) struct Spool {
    /// Its position is how much came from the process.
    pub(super) tail: OwnedFd,
    /// Its position is how much went to the host.
    pub(super) head: OwnedFd,
}

/// What the host sent and the process has not taken yet.
#[derive(Debug)]
pub(super) struct Ahead {
    /// Its position is how much the process has taken.
    pub(super) file: OwnedFd,
}

fn memory() -> io::Result<OwnedFd> {
    Ok(memfd_create("seed-exec", MemfdFlags::CLOEXEC)?)
}

fn position(file: &OwnedFd) -> io::Result<u64> {
    Ok(seek(file, SeekFrom::Current(0))?)
}

/// Gives the memory below `until` back. Whole pages only: a pipe may still refer to the last one.
fn release(file: &OwnedFd, until: u64) -> io::Result<()> {
    let whole = until / PAGE_BYTES * PAGE_BYTES;
    if whole > 0 {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(file, hole, 0, whole)?;
    }
    Ok(())
}

impl Spool {
    pub(super) fn new() -> io::Result<Self> {
        let tail = memory()?;
        // Opened again, not duplicated: the two positions are two.
        let name = format!("/proc/self/fd/{}", tail.as_raw_fd());
        let head = open(name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { tail, head })
    }

    /// The host says that it has this much. An error when it has said before that it has more, or cannot have as
    /// much.
    pub(super) fn had(&self, position_of_host: u64) -> io::Result<()> {
        let all = position(&self.tail)?;
        let before = position(&self.head)?;
        // Where memory was let go there is a hole. The seek moves the position, which is set right after.
        let there = match position_of_host < all {
            true => seek(&self.head, SeekFrom::Data(position_of_host)).unwrap_or(u64::MAX),
            false => all,
        };
        if there == position_of_host {
            seek(&self.head, SeekFrom::Start(position_of_host))?;
            return Ok(());
        }
        seek(&self.head, SeekFrom::Start(before))?;
        let text = format!("the host cannot be at byte {position_of_host} of {all}");
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// Lets go of everything before the next byte for the host.
    pub(super) fn release(&self) -> io::Result<()> {
        release(&self.tail, position(&self.head)?)
    }

    /// The next bytes for the host, if there are any.
    pub(super) fn take(&self, max: usize) -> io::Result<Vec<u8>> {
        let there = position(&self.tail)?.saturating_sub(position(&self.head)?);
        let there = usize::try_from(there).unwrap_or(usize::MAX);
        let mut buffer = vec![0; there.min(max)];
        let length = read(&self.head, &mut buffer)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Moves what is in the pipe or terminal to the memory. 0 is the end.
    pub(super) fn fill(&self, from: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK;
        match splice(from.as_fd(), None, &self.tail, None, CHUNK_BYTES, flags) {
            // A terminal is no pipe. What is typed and shown is copied, in two steps.
            Err(Errno::INVAL) => {
                let mut buffer = vec![0; CHUNK_BYTES];
                let length = read(from.as_fd(), &mut buffer)?;
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    let written = write(&self.tail, rest)?;
                    rest = &rest[written..];
                }
                Ok(length)
            }
            other => Ok(other?),
        }
    }
}

impl Ahead {
    pub(super) fn new() -> io::Result<Self> {
        memory().map(|file| Self { file })
    }

    /// How much the process has taken of all that ever came.
    pub(super) fn taken(&self) -> io::Result<u64> {
        position(&self.file)
    }

    /// Puts `data` behind what the process has taken; gives back where it ends.
    pub(super) fn put(&self, mut data: &[u8]) -> io::Result<u64> {
        let mut at = self.taken()?;
        // What an interrupted writer left.
        ftruncate(&self.file, at)?;
        while !data.is_empty() {
            let written = pwrite(&self.file, data, at)?;
            data = &data[written..];
            at += written as u64;
        }
        Ok(at)
    }

    /// Gives the process as much as it takes now.
    pub(super) fn pass(&self, to: impl AsFd, until: u64) -> io::Result<u64> {
        let left = until.saturating_sub(self.taken()?);
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let passed = sendfile(to, &self.file, None, left)?;
        Ok(passed as u64)
    }

    /// Lets go of what the process has taken.
    pub(super) fn release(&self) -> io::Result<()> {
        release(&self.file, self.taken()?)
    }
}
