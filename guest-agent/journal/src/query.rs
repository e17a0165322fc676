//! What a caller wants to see of the journal, and the test of one entry against it.
//!
//! Values are tested by place, not by content: in one file a value has one DATA object, so a condition is turned
//! into offsets once for each file (by the file's own hash table), and an entry is tested by the offsets it lists.
//! A file that lacks the values of a condition is passed over whole; where they are rare in it, they say themselves which
//! entries have them, and no other entry's fields are read. What a sudden end left may lack its table of values, so that there
//! content is compared.

use std::{collections::HashSet, hash::BuildHasherDefault};

use seed_protocol::journal::EntryHead;

use crate::{cache::KeyHasher, file::JournalFile, object::EntryRef};

/// Places of shared values that are remembered while texts are searched.
const MAX_OTHERS: usize = 16 * 1024;

/// A condition is rare where at most one entry in so many meets it, and this many entries do.
const RARE_SHARE: u64 = 16;
const MAX_RARE: u64 = 4096;

/// Which entries are wanted. The empty query wants all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    groups: Vec<Vec<Vec<u8>>>,
    boot_id: Option<[u8; 16]>,
    since_us: Option<u64>,
    until_us: Option<u64>,
    text: Option<Vec<u8>>,
}

impl Query {
    /// All entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Only entries with one of these `NAME=value`. Several calls must all hold.
    #[must_use]
    pub fn any_of<T: Into<Vec<u8>>>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        self.groups
            .push(values.into_iter().map(Into::into).collect());
        self
    }

    /// Only entries of, or about, one of these units (full names), as `journalctl --unit=` takes them: what the unit's
    /// processes logged, what PID 1 says about it, what root logged on its behalf, its core dumps.
    #[must_use]
    pub fn units<'u>(self, units: impl IntoIterator<Item = &'u str>) -> Self {
        let units: Vec<&str> = units.into_iter().collect();
        let of = |name: &'static str| units.iter().map(move |unit| format!("{name}={unit}"));
        let own = || of("_SYSTEMD_UNIT");
        let by_root = || of("OBJECT_SYSTEMD_UNIT").chain(of("COREDUMP_UNIT"));
        let (manager, root) = ("_PID=1".to_owned(), "_UID=0".to_owned());
        // own, or by the manager and about it, or by root and on its behalf: multiplied out, since conditions are
        // alternatives that must all hold.
        self.any_of(own().chain(of("UNIT")).chain(by_root()))
            .any_of(own().chain(of("UNIT")).chain([root.clone()]))
            .any_of(own().chain([manager.clone()]).chain(by_root()))
            .any_of(own().chain([manager, root]))
    }

    /// Only entries with these `NAME=value`. Those of one name are alternatives, those of different names must all hold,
    /// as on journalctl's command line. What is no such pair matches nothing.
    #[must_use]
    pub fn matches<'m>(mut self, matches: impl IntoIterator<Item = &'m [u8]>) -> Self {
        let name = |value: &[u8]| value.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
        let first = self.groups.len();
        for value in matches {
            let same =
                |group: &&mut Vec<Vec<u8>>| group.first().and_then(|one| name(one)) == name(value);
            match self.groups[first..].iter_mut().find(same) {
                Some(group) => group.push(value.to_vec()),
                None => self.groups.push(vec![value.to_vec()]),
            }
        }
        self
    }

    /// Only entries of this priority or a more urgent one (a lower number).
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.any_of((0..=priority.min(7)).map(|priority| format!("PRIORITY={priority}")))
    }

    /// Only entries of this boot.
    #[must_use]
    pub fn boot(mut self, boot_id: [u8; 16]) -> Self {
        self.boot_id = Some(boot_id);
        self
    }

    /// Only entries from this CLOCK_REALTIME on, in microseconds.
    #[must_use]
    pub fn since(mut self, realtime_us: u64) -> Self {
        self.since_us = Some(realtime_us);
        self
    }

    /// Only entries up to and with this CLOCK_REALTIME, in microseconds.
    #[must_use]
    pub fn until(mut self, realtime_us: u64) -> Self {
        self.until_us = Some(realtime_us);
        self
    }

    /// Only entries whose MESSAGE contains this text. Without capitals in it, capitals are the same as small letters
    /// (ASCII).
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = Some(text.as_bytes().to_vec());
        self
    }

    /// True when every entry is wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an entry is wanted that was not read from a file: its head, and its fields as `NAME=value`.
    #[must_use]
    pub fn wants<'f>(
        &self,
        head: &EntryHead,
        fields: impl Iterator<Item = &'f [u8]> + Clone,
    ) -> bool {
        let has = |value: &Vec<u8>| fields.clone().any(|field| field == value);
        let says = |text: &Vec<u8>| {
            let message = fields
                .clone()
                .find_map(|field| field.strip_prefix(b"MESSAGE="));
            message.is_some_and(|message| contains(message, text))
        };
        self.is_of_place(head)
            && self.groups.iter().all(|group| group.iter().any(has))
            && self.text.as_ref().is_none_or(says)
    }

    /// Boot and times.
    fn is_of_place(&self, head: &EntryHead) -> bool {
        self.boot_id.is_none_or(|boot| boot == head.boot_id)
            && self.since_us.is_none_or(|since| head.realtime_us >= since)
            && self.until_us.is_none_or(|until| head.realtime_us <= until)
    }
}

/// A query in terms of one file.
#[derive(Debug)]
pub(crate) struct Filter<'q> {
    query: &'q Query,
    /// For each group the offsets of its values, sorted. Values may still be written to an active file.
    groups: Vec<Vec<u64>>,
    /// Instead of them: the file's table of values may not be whole.
    by_content: bool,
    /// Entries that the file had when the offsets were looked up.
    as_of: u64,
    rare: Option<Rare>,
    /// Shared values that are no messages.
    others: HashSet<u64, BuildHasherDefault<KeyHasher>>,
}

/// The entries that meet the rarest condition.
#[derive(Debug)]
struct Rare {
    /// Their places, which rise.
    places: Vec<u64>,
    /// The file's last entry: there and behind it others may meet the condition.
    last: u64,
}

impl Rare {
    /// None where no condition is rare, or damage hides who meets it.
    fn find(groups: &[Vec<u64>], file: &mut JournalFile) -> Option<Self> {
        let last = file.last_place()?;
        let mut most = MAX_RARE.min(file.header.n_entries / RARE_SHARE);
        let mut best = None;
        for values in groups {
            let mut places = Vec::new();
            let is_rare = values.iter().all(|value| {
                let left = most.saturating_sub(places.len() as u64);
                file.users(*value, left)
                    .map(|users| places.extend(users))
                    .is_some()
            });
            if is_rare {
                places.sort_unstable();
                places.dedup();
                most = places.len() as u64;
                best = Some(Self { places, last });
            }
        }
        best
    }

    fn excludes(&self, entry: &EntryRef) -> bool {
        entry.offset < self.last && self.places.binary_search(&entry.offset).is_err()
    }
}

impl<'q> Filter<'q> {
    pub(crate) fn new(query: &'q Query, file: &mut JournalFile) -> Self {
        let find = |values: &Vec<Vec<u8>>, file: &mut JournalFile| {
            let mut offsets: Vec<u64> = values
                .iter()
                .filter_map(|value| file.find_value(value))
                .collect();
            offsets.sort_unstable();
            offsets
        };
        let by_content = !query.groups.is_empty() && !file.knows_its_values();
        let groups: Vec<_> = if by_content {
            Vec::new()
        } else {
            let groups = query.groups.iter();
            groups.map(|values| find(values, file)).collect()
        };
        Self {
            query,
            rare: Rare::find(&groups, file),
            groups,
            by_content,
            as_of: file.header.n_entries,
            others: HashSet::default(),
        }
    }

    /// The file has grown since.
    pub(crate) fn is_stale(&self, file: &JournalFile) -> bool {
        self.as_of != file.header.n_entries && !self.groups.is_empty()
    }

    /// No entry of the file can be wanted.
    pub(crate) fn excludes_all(&self) -> bool {
        self.groups.iter().any(Vec::is_empty)
    }

    /// The places of all entries that can be wanted, the last first, where a condition is rare. Some of them may be no
    /// entries.
    pub(crate) fn candidates(&self) -> Option<Vec<u64>> {
        let Rare { places, last } = self.rare.as_ref()?;
        let below = places.iter().rev().filter(|place| *place < last);
        Some(std::iter::once(last).chain(below).copied().collect())
    }

    /// Whether the entry is wanted. A damaged one is not.
    pub(crate) fn wants(&mut self, entry: &EntryRef, file: &mut JournalFile) -> bool {
        let query = self.query;
        if !query.is_of_place(&entry.head) || self.excludes_all() {
            return false;
        }
        if self.rare.as_ref().is_some_and(|rare| rare.excludes(entry)) {
            return false;
        }
        if self.groups.is_empty() && query.text.is_none() && !self.by_content {
            return true;
        }
        let Some(count) = file.load_items(entry) else {
            return false;
        };
        if self.by_content {
            let mut fields = Vec::with_capacity(count);
            for index in 0..count {
                let offset = file.item_offset(index);
                fields.extend(file.value(offset).map(|value| value.bytes.to_vec()));
            }
            return query.wants(&entry.head, fields.iter().map(Vec::as_slice));
        }
        let has = |offsets: &Vec<u64>, file: &JournalFile| {
            (0..count).any(|index| offsets.binary_search(&file.item_offset(index)).is_ok())
        };
        if !self.groups.iter().all(|offsets| has(offsets, file)) {
            return false;
        }
        query
            .text
            .as_ref()
            .is_none_or(|text| self.message_contains(text, count, file))
    }

    /// Values that many entries share are mostly no messages: those are remembered by place and not fetched again.
    fn message_contains(&mut self, text: &[u8], items: usize, file: &mut JournalFile) -> bool {
        for index in 0..items {
            let offset = file.item_offset(index);
            if self.others.contains(&offset) {
                continue;
            }
            let Some(value) = file.value(offset) else {
                continue;
            };
            if let Some(message) = value.bytes.strip_prefix(b"MESSAGE=") {
                return contains(message, text);
            }
            if value.is_shared && self.others.len() < MAX_OTHERS {
                self.others.insert(offset);
            }
        }
        false
    }
}

fn contains(message: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return true;
    }
    let exact = text.iter().any(u8::is_ascii_uppercase);
    let (small, capital) = (
        text[0],
        if exact {
            text[0]
        } else {
            text[0].to_ascii_uppercase()
        },
    );
    let Some(last) = message.len().checked_sub(text.len()) else {
        return false;
    };
    message[..=last].iter().enumerate().any(|(at, byte)| {
        let here = &message[at..at + text.len()];
        (*byte == small || *byte == capital)
            && if exact {
                here == text
            } else {
                here.eq_ignore_ascii_case(text)
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_entries_are_those_that_journalctl_takes() {
        let query = Query::new().units(["a.service", "b.service"]);
        let wants = |text: &str| {
            let fields: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
            query.wants(&EntryHead::default(), fields.into_iter())
        };
        for wanted in [
            "_SYSTEMD_UNIT=b.service _UID=7 _PID=9",
            "UNIT=a.service _PID=1 _UID=0",
            "OBJECT_SYSTEMD_UNIT=b.service _UID=0 _PID=8",
            "COREDUMP_UNIT=a.service _UID=0 _PID=8",
        ] {
            assert!(wants(wanted), "{wanted}");
        }
        for forged in [
            "UNIT=a.service _PID=77 _UID=0",
            "OBJECT_SYSTEMD_UNIT=b.service _UID=7 _PID=1",
            "COREDUMP_UNIT=a.service _UID=7",
            "_PID=1 _UID=0 MESSAGE=a.service",
            "_SYSTEMD_UNIT=c.service _PID=1 _UID=0",
        ] {
            assert!(!wants(forged), "{forged}");
        }
    }

    #[test]
    fn matches_of_one_name_are_alternatives() {
        let matches: [&[u8]; 3] = [b"A=1", b"B=x", b"A=2"];
        let query = Query::new().matches(matches);
        let wants =
            |fields: &[&'static [u8]]| query.wants(&EntryHead::default(), fields.iter().copied());
        assert!(wants(&[b"A=2", b"B=x"]) && wants(&[b"B=x", b"C=1", b"A=1"]));
        assert!(!wants(&[b"A=1", b"A=2"]) && !wants(&[b"B=x"]) && !wants(&[b"A=3", b"B=x"]));
    }

    #[test]
    fn text_ignores_capitals_unless_it_has_some() {
        assert!(contains(b"Connection Refused", b"refused"));
        assert!(!contains(b"connection refused", b"Refused"));
        assert!(contains(b"", b"") && !contains(b"", b"x"));
        assert!(contains(b"aab", b"AB") == contains(b"aab", b"B"));
        assert!(contains(b"aaB", b"ab") && contains(b"x\xffEnd", b"\xffe"));
    }
}
