//! The journal of one machine: batches of entries after a position, whatever happens to the files meanwhile.
//!
//! ```text
//! read_after(position)
//!   look      directories changed? list them; read the headers of the files being written
//!   resolve   position -> (stream, number)                                   (resume.rs)
//!   fill      the file with the lowest next number, again and again, until the batch is full, a gap
//!             opens, or there is nothing more                                      (run.rs)
//!   hand over nothing more in this stream and a later one exists: go on there
//! ```
//!
//! The position is the caller's. What is kept here (open files, cursors, values) only saves work.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use seed_protocol::journal::{BatchEncoder, EntryHead};
use thiserror::Error;

use crate::{
    cache::ValueCache,
    directory::Directories,
    file::{FileError, Skipped},
    follow::Pace,
    header::HeaderError,
    position::{FileProblem, Mark, Position, ReadError, ReadOutcome},
    query::Query,
    remnant::current_boot,
    resume::{Resume, Start},
    run::Run,
    slot::{Slot, Slots},
    stream::{Key, Part, parts},
};

/// Where journald keeps its files: what outlives a reboot, then what does not.
pub const SYSTEM_DIRECTORIES: [&str; 2] = ["/var/log/journal", "/run/log/journal"];
/// Ends of batches that are remembered, for callers that give no mark.
const REMEMBERED_ENDS: usize = 64;

/// Why the system's journal cannot be found.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no machine id.
    #[error("cannot read {}", path.display())]
    MachineId {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not one.
    #[error("{} holds no machine id", path.display())]
    NotAnId {
        /// The file.
        path: PathBuf,
    },
}

/// A reader of one machine's journal. Every call may block on file I/O, and on nothing else; each reader needs
/// its own.
#[derive(Debug)]
pub struct Journal {
    pub(crate) machine_id: [u8; 16],
    pub(crate) directories: Directories,
    pub(crate) slots: Slots,
    pub(crate) cache: ValueCache,
    /// Where the cursors stand.
    reading: Option<Reading>,
    pub(crate) resume: Resume,
    pub(crate) pace: Pace,
    ends: VecDeque<Reading>,
}

/// A part of a stream, and the entry of it that was given last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) key: Key,
    pub(crate) last: EntryHead,
}

impl Reading {
    pub(crate) fn is_at(&self, position: &Position) -> bool {
        self.key.seqnum_id == position.seqnum_id
            && self.last.seqnum == position.seqnum
            && position
                .mark
                .is_none_or(|mark| mark == Mark::from(&self.last))
    }
}

impl Journal {
    /// The journal in `<parent>/<machine id>` of each parent, the persistent one first. Directories that are not
    /// there count as empty and may come later.
    #[must_use]
    pub fn open(parents: &[PathBuf], machine_id: [u8; 16]) -> Self {
        Self::open_named(parents, machine_id, &hexadecimal(&machine_id))
    }

    /// The journal of a `LogNamespace=`, in `<parent>/<machine id>.<namespace>`: another journald's, with streams
    /// of its own.
    #[must_use]
    pub fn open_namespace(parents: &[PathBuf], machine_id: [u8; 16], namespace: &str) -> Self {
        Self::open_named(
            parents,
            machine_id,
            &format!("{}.{namespace}", hexadecimal(&machine_id)),
        )
    }

    fn open_named(parents: &[PathBuf], machine_id: [u8; 16], name: &str) -> Self {
        let paths = parents.iter().map(|parent| parent.join(name)).collect();
        Self {
            machine_id,
            directories: Directories::new(paths),
            slots: Slots {
                boot_id: current_boot(),
                ..Slots::default()
            },
            cache: ValueCache::default(),
            reading: None,
            resume: Resume::default(),
            pace: Pace::default(),
            ends: VecDeque::with_capacity(REMEMBERED_ENDS),
        }
    }

    /// For the journal of a machine that is in another boot than this process: a container's, a copy's. What a boot before that
    /// one left unfinished is read to its end.
    #[must_use]
    pub fn in_boot(mut self, boot_id: [u8; 16]) -> Self {
        self.slots.boot_id = Some(boot_id);
        self
    }

    /// The journal of the system that this runs on.
    ///
    /// # Errors
    /// When `/etc/machine-id` cannot be read.
    pub fn system() -> Result<Self, OpenError> {
        let path = Path::new("/etc/machine-id");
        let text = fs::read_to_string(path).map_err(|source| OpenError::MachineId {
            path: path.to_owned(),
            source,
        })?;
        let machine_id = parse_id(text.trim()).ok_or_else(|| OpenError::NotAnId {
            path: path.to_owned(),
        })?;
        Ok(Self::open(
            &SYSTEM_DIRECTORIES.map(PathBuf::from),
            machine_id,
        ))
    }

    /// Files that are there and are not read.
    #[must_use]
    pub fn problems(&self) -> Vec<FileProblem<'_>> {
        let problems = self.slots.problems.iter();
        problems
            .map(|(name, error)| FileProblem {
                path: &name.path,
                error,
            })
            .collect()
    }

    /// When it will be clear whether the journal went back to an earlier state; none when nothing looks so. Until then a read
    /// gives nothing, which is not yet the end.
    #[must_use]
    pub fn unclear_until(&self) -> Option<Instant> {
        self.resume.due()
    }

    /// A file in a form that this reader does not know, and what it does not know of it, as of the last read or wait.
    /// While there is one, somebody else has to read the journal: what this reader gives is not all of it.
    #[must_use]
    pub fn unknown_form(&self) -> Option<(&Path, HeaderError)> {
        self.slots
            .problems
            .iter()
            .find_map(|(name, error)| match error {
                FileError::Header {
                    source: source @ HeaderError::Incompatible { .. },
                    ..
                } => Some((name.path.as_path(), *source)),
                FileError::Header { .. } | FileError::Io { .. } => None,
            })
    }

    /// The directories of this machine's files; not all of them need be there.
    #[must_use]
    pub fn folders(&self) -> &[PathBuf] {
        self.directories.paths()
    }

    /// Where the last read ended, with the mark of the entry there; none when it moved nowhere.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        self.reading
            .map(|reading| Position::after(reading.key.seqnum_id, &reading.last))
    }

    /// Looks for files that came or went, without reading an entry.
    pub fn look_for_files(&mut self) {
        self.look();
    }

    /// Adds the entries after `after` to the batch, which should be a new one, until it is full or there are no
    /// more. Blocks only on file I/O.
    ///
    /// # Errors
    /// When there are journal files and none of them can be read.
    pub fn read_after(
        &mut self,
        after: &Position,
        batch: &mut BatchEncoder,
    ) -> Result<ReadOutcome, ReadError> {
        self.read(after, None, batch)
    }

    /// [`Self::read_after`], with only the entries that the query wants. What is passed over counts as read:
    /// [`ReadOutcome::last`] moves on also when `count` is 0, and gaps are told all the same. One call looks at a
    /// bounded number of entries, so an empty batch that has not caught up means: ask again.
    ///
    /// # Errors
    /// When there are journal files and none of them can be read.
    pub fn read_matching(
        &mut self,
        after: &Position,
        query: &Query,
        batch: &mut BatchEncoder,
    ) -> Result<ReadOutcome, ReadError> {
        self.read(after, Some(query).filter(|query| !query.is_empty()), batch)
    }

    fn read(
        &mut self,
        after: &Position,
        query: Option<&Query>,
        batch: &mut BatchEncoder,
    ) -> Result<ReadOutcome, ReadError> {
        self.look();
        if self.slots.slots.is_empty()
            && let Some((name, error)) = self.slots.problems.first()
        {
            return Err(ReadError::NoReadableFile {
                count: self.slots.problems.len(),
                path: name.path.clone(),
                reason: chain(error),
            });
        }
        let continuing = self.reading.filter(|reading| reading.is_at(after));
        let remembered = continuing
            .or_else(|| self.remembered(after))
            .map(|end| end.last);
        let known = Position {
            mark: after.mark.or(remembered.as_ref().map(Mark::from)),
            ..*after
        };
        let all = parts(&self.slots.slots);
        let continuing = continuing.map(|reading| reading.key);
        let Some(start) = self.resume.resolve(&known, continuing, &all, &self.slots) else {
            return Ok(nothing(after, &all));
        };
        let (mut outcome, mut progressed) = self.fill(&start, after, &all, query, batch);
        let mut from = start;
        while !progressed
            && outcome.caught_up
            && let Some(next) = self.resume.hand_over(&known, &from, &all, &self.slots)
        {
            let skipped = outcome.skipped;
            (outcome, progressed) = self.fill(&next, after, &all, query, batch);
            outcome.skipped.bad_objects += skipped.bad_objects;
            outcome.skipped.bad_values += skipped.bad_values;
            from = next;
        }
        let end = all
            .iter()
            .rfind(|part| part.key.seqnum_id == from.key.seqnum_id);
        let is_end = end.is_none_or(|part| from.is_in(part));
        if progressed && (outcome.count == 0 || !is_end) {
            // Read, or passed over, all of this part; there may be another.
            outcome.caught_up = false;
        }
        self.remember();
        Ok(outcome)
    }

    /// Learns what changed in the directories and the active files.
    pub(crate) fn look(&mut self) {
        if self.directories.may_have_changed() {
            if self.slots.scan(&mut self.directories, &self.machine_id) {
                // What the cursors stood on may be gone: the next position is checked by content.
                self.reading = None;
            }
        } else {
            self.slots.look_at_active();
        }
        self.pace.saw(&self.slots);
    }

    fn fill(
        &mut self,
        start: &Start,
        asked: &Position,
        all: &[Part],
        query: Option<&Query>,
        batch: &mut BatchEncoder,
    ) -> (ReadOutcome, bool) {
        let mut limit = start.ceiling;
        if let Some(part) = all.iter().find(|part| start.is_in(part))
            && part.active_files > 1
        {
            // Several files are being written: what is below the highest number seen is in them by now, what is
            // above may be in one and not yet in the other.
            limit = part.tail_seqnum;
            self.slots.look_at_active();
        }
        let at_start = self
            .reading
            .is_some_and(|reading| reading.key == start.key && reading.last.seqnum == start.after);
        if !at_start {
            self.reading = None;
            self.slots.slots.iter_mut().for_each(Slot::forget_place);
        }
        let mut run = Run::new(start, limit, query);
        let caught_up = self.run(start.key, &mut run, batch);
        if let Some(last) = run.head {
            self.reading = Some(Reading {
                key: start.key,
                last,
            });
        }
        let tail = self
            .slots
            .slots
            .iter()
            .filter(|slot| slot.key() == start.key);
        let tail_seqnum = tail
            .map(|slot| slot.header.tail_seqnum)
            .max()
            .unwrap_or(run.last);
        let progressed = run.head.is_some();
        let outcome = ReadOutcome {
            seqnum_id: if progressed {
                start.key.seqnum_id
            } else {
                asked.seqnum_id
            },
            first: run.first,
            last: if progressed { run.last } else { asked.seqnum },
            count: if run.first > 0 { batch.count() } else { 0 },
            gap: run.gap,
            reset: progressed && start.reset,
            tail_seqnum: tail_seqnum.max(run.last),
            caught_up,
            skipped: run.skipped,
        };
        (outcome, progressed)
    }

    fn remembered(&self, position: &Position) -> Option<Reading> {
        self.ends
            .iter()
            .rev()
            .find(|end| end.is_at(position))
            .copied()
    }

    fn remember(&mut self) {
        if let Some(reading) = self.reading
            && self.ends.back() != Some(&reading)
        {
            if self.ends.len() == REMEMBERED_ENDS {
                self.ends.pop_front();
            }
            self.ends.push_back(reading);
        }
    }
}

fn nothing(asked: &Position, all: &[Part]) -> ReadOutcome {
    let mut of_stream = all
        .iter()
        .filter(|part| part.key.seqnum_id == asked.seqnum_id);
    ReadOutcome {
        seqnum_id: asked.seqnum_id,
        first: 0,
        last: asked.seqnum,
        count: 0,
        gap: None,
        reset: false,
        tail_seqnum: of_stream
            .next_back()
            .map_or(asked.seqnum, |part| part.tail_seqnum),
        caught_up: true,
        skipped: Skipped::default(),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

pub(crate) fn hexadecimal(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 128 bits of 32 hexadecimal digits, with or without dashes (machine-id(5)); `None` for any other text.
pub fn parse_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|digit| *digit != '-').collect();
    if digits.len() != 32 || !digits.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (index, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(id)
}
