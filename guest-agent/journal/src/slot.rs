//! The files of one machine that are known, each opened only while it is read.
//!
//! A slot is one journal file by its file id; its name may change under us (rotation renames the active file).
//! Closed files are read once and closed; a deleted file leaves the list.

use std::io;

use seed_protocol::journal::{BatchEncoder, Commit};

use crate::{
    cache::ValueCache,
    directory::{Directories, Name},
    file::{FileError, JournalFile, Skipped},
    header::Header,
    object::EntryRef,
    remnant::Remnant,
    stream::Key,
};

/// Keys of values: the serial number of the open file above, the place in the file below.
const OFFSET_BITS: u32 = 44;

#[derive(Debug)]
pub(crate) struct Slot {
    name: Name,
    /// As of the last look.
    pub(crate) header: Header,
    file: Option<JournalFile>,
    /// Distinguishes this opening of this file from all others.
    serial: u64,
    /// The open file's cursor stands where the journal's reading stands.
    placed: bool,
    /// Nothing more will come from this file.
    exhausted: bool,
    /// What the file has behind its end, if anything; another slot reads it.
    remnant: Option<Remnant>,
    /// This is that other slot.
    is_remnant: bool,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoded {
    Added,
    Full,
    /// It cannot be read.
    Damaged,
    /// The file was deleted while we read it.
    Deleted,
}

impl Slot {
    fn new(name: Name, header: Header, remnant: Option<Remnant>, is_remnant: bool) -> Self {
        Self {
            name,
            header,
            file: None,
            serial: 0,
            placed: false,
            exhausted: false,
            remnant,
            is_remnant,
        }
    }

    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    pub(crate) fn key(&self) -> Key {
        Key {
            seqnum_id: self.header.seqnum_id,
            remnant: self.is_remnant.then_some(self.header.file_id),
        }
    }

    /// Of a remnant's slot: the number that it goes on from.
    pub(crate) fn floor(&self) -> Option<u64> {
        let remnant = self.remnant.filter(|_| self.is_remnant);
        remnant.map(|remnant| remnant.floor)
    }

    /// journald may still write to it.
    pub(crate) fn is_active(&self) -> bool {
        !self.header.archived && self.name.is_active()
    }

    /// The cursor has to be placed anew.
    pub(crate) fn forget_place(&mut self) {
        self.placed = false;
        self.exhausted = false;
    }

    /// A second reader of the same file, for looking something up.
    pub(crate) fn open_again(&self) -> Result<JournalFile, FileError> {
        let mut file = JournalFile::open(&self.name.path)?;
        if let Some(remnant) = self.remnant.filter(|_| self.is_remnant) {
            file.read_behind(remnant.from, self.header);
        }
        Ok(file)
    }

    /// Reads the header again, and keeps the file open for the next time. What was deleted meanwhile keeps its old
    /// header until the next listing.
    fn look(&mut self, serials: &mut u64) {
        let Ok(file) = self.open(serials) else { return };
        if let Ok(header) = file.current_header()
            && header.file_id == self.header.file_id
        {
            self.see(header);
        }
    }

    /// A file that is written to has its entries in their place.
    fn see(&mut self, header: Header) {
        if header.n_entries != self.header.n_entries {
            self.remnant = None;
        }
        self.header = header;
    }

    /// The name may be another file's by now: journald renames the active one. The next listing knows.
    fn open(&mut self, serials: &mut u64) -> Result<&mut JournalFile, FileError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let file = self.open_again()?;
                if file.header.file_id != self.header.file_id {
                    let path = self.name.path.clone();
                    return Err(FileError::Io {
                        path,
                        source: io::ErrorKind::NotFound.into(),
                    });
                }
                *serials += 1;
                self.serial = *serials;
                self.placed = false;
                file
            }
        };
        Ok(self.file.insert(file))
    }

    /// True when the file can have an entry numbered above `last`.
    pub(crate) fn may_have_after(&self, last: u64) -> bool {
        !self.exhausted
            && self.header.n_entries > 0
            && (self.header.tail_seqnum > last || !self.header.is_witness())
    }

    /// The first entry numbered above `last`. Opens the file when needed.
    pub(crate) fn peek_after(
        &mut self,
        last: u64,
        serials: &mut u64,
    ) -> Result<Option<EntryRef>, FileError> {
        self.open(serials)?;
        let header = self.header;
        let Some(file) = &mut self.file else {
            return Ok(None);
        };
        if !self.placed {
            if header.head_seqnum > last {
                file.rewind();
            } else {
                file.seek_after(last);
            }
            self.placed = true;
        }
        loop {
            match file.peek() {
                Some(entry) if entry.head.seqnum > last => return Ok(Some(entry)),
                Some(_) => file.advance(),
                None if file.header != self.header => file.refresh(self.header),
                None => break,
            }
        }
        if !self.is_active() {
            self.exhausted = true;
        }
        Ok(None)
    }

    /// Closes a file that has nothing above `last` and will have nothing more. A file costs a window while it is open, and a
    /// journal has a hundred of them.
    pub(crate) fn close_if_read(&mut self, last: u64) -> Skipped {
        let skipped = self.take_skipped();
        if !self.is_active() && !self.may_have_after(last) {
            self.file = None;
        }
        skipped
    }

    /// The open file, for testing the entry that was peeked.
    pub(crate) fn file_mut(&mut self) -> Option<&mut JournalFile> {
        self.file.as_mut()
    }

    /// Passes over the entry that was peeked.
    pub(crate) fn advance(&mut self) {
        if let Some(file) = &mut self.file {
            file.advance();
        }
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.file.as_ref().is_some_and(JournalFile::is_deleted)
    }

    /// What was passed over since the last call.
    pub(crate) fn take_skipped(&mut self) -> Skipped {
        self.file
            .as_mut()
            .map(|file| std::mem::take(&mut file.skipped))
            .unwrap_or_default()
    }

    /// Whether something was passed over since the last [`Self::take_skipped`].
    pub(crate) fn has_skipped(&self) -> bool {
        self.file
            .as_ref()
            .is_some_and(|file| !file.skipped.is_nothing())
    }

    /// Writes the entry into the batch.
    pub(crate) fn encode(
        &mut self,
        entry: &EntryRef,
        batch: &mut BatchEncoder,
        cache: &mut ValueCache,
    ) -> Encoded {
        let Some(file) = &mut self.file else {
            return Encoded::Damaged;
        };
        let Some(items) = file.load_items(entry) else {
            file.skipped.bad_objects += 1;
            return Encoded::Damaged;
        };
        let Ok(mut out) = batch.begin(&entry.head) else {
            return Encoded::Damaged;
        };
        let mut bad_values = 0;
        for index in 0..items {
            let offset = file.item_offset(index);
            let key = (self.serial << OFFSET_BITS) | ((offset >> 3) & ((1 << OFFSET_BITS) - 1));
            if out.known(key) {
                continue;
            }
            let written = if let Some(bytes) = cache.get(key) {
                out.shared(key, bytes, bytes.len() as u64)
            } else {
                match file.value(offset) {
                    None => false,
                    Some(value) if value.is_shared => {
                        if value.true_length == value.bytes.len() as u64 {
                            cache.insert(key, value.bytes);
                        }
                        out.shared(key, value.bytes, value.true_length)
                    }
                    Some(value) => out.inline(value.bytes, value.true_length),
                }
            };
            bad_values += u64::from(!written);
        }
        if bad_values > 0 && file.is_deleted() {
            return Encoded::Deleted;
        }
        match out.commit() {
            Commit::Added => {
                file.skipped.bad_values += bad_values;
                file.shrink();
                Encoded::Added
            }
            Commit::Full => Encoded::Full,
        }
    }
}

/// All files that are there, and those that are there and cannot be read.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    pub(crate) slots: Vec<Slot>,
    /// How many files were opened so far.
    pub(crate) serials: u64,
    pub(crate) problems: Vec<(Name, FileError)>,
    /// The boot that journald runs in, when it is known.
    pub(crate) boot_id: Option<[u8; 16]>,
}

impl Slots {
    /// Brings the list up to date with the directories. Files of other machines are not ours. True when a
    /// file that was known is gone.
    pub(crate) fn scan(&mut self, directories: &mut Directories, machine_id: &[u8; 16]) -> bool {
        let names = directories.list(self.slots.iter().map(Slot::name));
        let all = std::mem::take(&mut self.slots);
        let (remnants, mut old): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|slot| slot.is_remnant);
        self.problems.clear();
        for name in names {
            let same = |slot: &Slot| {
                slot.name.directory == name.directory && slot.name.inode == name.inode
            };
            let known = old
                .iter()
                .position(same)
                .map(|index| old.swap_remove(index));
            // A closed file under the same name is the same file: inode numbers are used again, names with a
            // number and a time in them are not.
            if let Some(slot) = known.as_ref()
                && slot.name == name
                && !name.is_active()
            {
                self.slots.extend(known);
                continue;
            }
            let active = name.is_active();
            let slots = self.slots.len();
            old.extend(self.adopt(name, known, machine_id));
            if active && self.slots.len() == slots {
                // journald makes the name before it writes the header, and that changes no directory.
                directories.unsettle();
            }
        }
        self.keep_remnants(remnants);
        self.sort();
        !old.is_empty()
    }

    /// A slot for each remnant of the files that are there.
    fn keep_remnants(&mut self, mut known: Vec<Slot>) {
        let owners = self.slots.iter().filter(|slot| slot.remnant.is_some());
        let remnants: Vec<_> = owners
            .map(|owner| {
                let same = |slot: &Slot| slot.header.file_id == owner.header.file_id;
                let header = owner.remnant.map_or(owner.header, |remnant| remnant.header);
                let slot = match known.iter().position(same) {
                    Some(index) => known.swap_remove(index),
                    None => Slot::new(owner.name.clone(), header, owner.remnant, true),
                };
                Slot {
                    name: owner.name.clone(),
                    ..slot
                }
            })
            .collect();
        self.slots.extend(remnants);
    }

    /// Gives back what was known under this inode number when that is not the same file any more.
    fn adopt(&mut self, name: Name, known: Option<Slot>, machine_id: &[u8; 16]) -> Option<Slot> {
        let file = match JournalFile::open(&name.path) {
            Ok(file) => file,
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                // Renamed or deleted since the listing. A known one is kept until the next listing decides.
                self.slots.extend(known);
                return None;
            }
            Err(error) => {
                self.problems.push((name, error));
                return known;
            }
        };
        let header = file.header;
        if header.machine_id != *machine_id {
            return known;
        }
        match known {
            Some(mut slot) if slot.header.file_id == header.file_id => {
                slot.name = name;
                slot.see(header);
                self.slots.push(slot);
                None
            }
            other => {
                let remnant = Remnant::find(file, self.boot_id);
                self.slots.push(Slot::new(name, header, remnant, false));
                other
            }
        }
    }

    /// In the order of their first numbers, which the merge relies on.
    pub(crate) fn sort(&mut self) {
        self.slots
            .sort_by_key(|slot| (slot.header.head_seqnum, slot.header.file_id));
    }

    /// Reads the headers of files that are being written.
    pub(crate) fn look_at_active(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.is_active()) {
            slot.look(&mut self.serials);
        }
        if self.slots.iter().any(|slot| slot.is_remnant) {
            let all = std::mem::take(&mut self.slots);
            let remnants;
            (remnants, self.slots) = all.into_iter().partition(|slot| slot.is_remnant);
            self.keep_remnants(remnants);
        }
        self.sort();
    }
}
