//! Positioned reads through a few bounded buffers.
//!
//! No mmap: journald punches holes into files that it deletes and truncates others, and a mapping of a
//! truncated file is a SIGBUS. A positioned read of the same place is a short read.
//!
//! Two ways to ask. `Walk::Forward` goes through one large window that moves with the entries;
//! `Walk::Jump` (values far back in the file) looks there first and then into a few small ones.

use std::{fs::File, io, os::unix::fs::FileExt};

use thiserror::Error;

const FRONT_BYTES: usize = 128 * 1024;
/// New values stand right before the entry that first uses them.
const LOOK_BEHIND_BYTES: u64 = 8 * 1024;
const PAGE_BYTES: usize = 4 * 1024;
const PAGE_BYTES_U64: u64 = 4 * 1024;
const PAGES: usize = 8;
/// Larger objects are read into a buffer of their own, which is given back afterwards.
const LARGE_BYTES: usize = 64 * 1024;

#[derive(Debug, Error)]
pub(crate) enum ReadFault {
    #[error("the file ends before byte {0}")]
    Beyond(u64),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    Forward,
    Jump,
}

#[derive(Debug, Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn find(&self, offset: u64, length: usize) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (at.checked_add(length)? <= self.bytes.len()).then_some(at)
    }

    fn load(&mut self, file: &File, start: u64, length: usize) -> io::Result<()> {
        self.start = start;
        self.bytes.resize(length, 0);
        match read_full(file, &mut self.bytes, start) {
            Ok(got) => {
                self.bytes.truncate(got);
                Ok(())
            }
            Err(error) => {
                self.bytes.clear();
                Err(error)
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Windows {
    front: Window,
    pages: [Window; PAGES],
    next_page: usize,
    large: Window,
}

impl Windows {
    pub(crate) fn new() -> Self {
        Self {
            front: Window::default(),
            pages: std::array::from_fn(|_| Window::default()),
            next_page: 0,
            large: Window::default(),
        }
    }

    /// Forgets everything: the file may have changed under the windows.
    pub(crate) fn invalidate(&mut self) {
        self.front.bytes.clear();
        self.large = Window::default();
        for page in &mut self.pages {
            page.bytes.clear();
        }
    }

    /// `length` bytes at `offset`, all of them or an error.
    pub(crate) fn get(
        &mut self,
        file: &File,
        offset: u64,
        length: usize,
        walk: Walk,
    ) -> Result<&[u8], ReadFault> {
        if let Some(at) = self.front.find(offset, length) {
            return Ok(&self.front.bytes[at..at + length]);
        }
        let window = if length > LARGE_BYTES {
            if self.large.find(offset, length).is_none() {
                self.large.load(file, offset, length)?;
            }
            &self.large
        } else if walk == Walk::Forward {
            let start = offset.saturating_sub(LOOK_BEHIND_BYTES) / PAGE_BYTES_U64 * PAGE_BYTES_U64;
            self.front.load(file, start, FRONT_BYTES)?;
            &self.front
        } else {
            let known = self
                .pages
                .iter()
                .position(|page| page.find(offset, length).is_some());
            let index = match known {
                Some(index) => index,
                None => self.load_page(file, offset, length)?,
            };
            &self.pages[index]
        };
        let at = window
            .find(offset, length)
            .ok_or(ReadFault::Beyond(offset))?;
        Ok(&window.bytes[at..at + length])
    }

    /// Gives the buffer for large objects back.
    pub(crate) fn shrink(&mut self) {
        if self.large.bytes.capacity() > 0 {
            self.large = Window::default();
        }
    }

    fn load_page(&mut self, file: &File, offset: u64, length: usize) -> io::Result<usize> {
        let start = offset / PAGE_BYTES_U64 * PAGE_BYTES_U64;
        let before = usize::try_from(offset - start).expect("less than a page");
        let bytes = (before + length).next_multiple_of(PAGE_BYTES);
        let index = self.next_page;
        self.next_page = (index + 1) % PAGES;
        self.pages[index].load(file, start, bytes)?;
        Ok(index)
    }
}

/// Reads until the buffer is full or the file ends; returns how much was read.
pub(crate) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read_at(&mut buffer[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}
