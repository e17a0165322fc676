//! What a caller wants to see of the journal, and the test of one entry against it.
//!
//! Values are tested by place, not by content: in one file a value has one DATA object, so a condition is turned
//! into offsets once for each file (by the file's own hash table), and an entry is tested by the offsets it lists.
//! A file that lacks the values of a condition is passed over whole.

use std::{collections::HashSet, hash::BuildHasherDefault};

use crate::{cache::KeyHasher, file::JournalFile, object::EntryRef};

/// Places of shared values that are remembered while texts are searched.
const MAX_OTHERS: usize = 16 * 1024;

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

    /// Only entries of, or about, one of these units (full names): what the unit's processes logged, what systemd
    /// says about it, what was logged on its behalf, its core dumps.
    #[must_use]
    pub fn units<'u>(self, units: impl IntoIterator<Item = &'u str>) -> Self {
        const NAMES: [&str; 4] = [
            "_SYSTEMD_UNIT",
            "UNIT",
            "OBJECT_SYSTEMD_UNIT",
            "COREDUMP_UNIT",
        ];
        let units = units.into_iter();
        self.any_of(units.flat_map(|unit| NAMES.map(|name| format!("{name}={unit}"))))
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
}

/// A query in terms of one file.
#[derive(Debug)]
pub(crate) struct Filter<'q> {
    query: &'q Query,
    /// For each group the offsets of its values, sorted. Values may still be written to an active file.
    groups: Vec<Vec<u64>>,
    /// Entries that the file had when the offsets were looked up.
    as_of: u64,
    /// Shared values that are no messages.
    others: HashSet<u64, BuildHasherDefault<KeyHasher>>,
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
        let groups = query
            .groups
            .iter()
            .map(|values| find(values, file))
            .collect();
        Self {
            query,
            groups,
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

    /// Whether the entry is wanted. A damaged one is not.
    pub(crate) fn wants(&mut self, entry: &EntryRef, file: &mut JournalFile) -> bool {
        let head = &entry.head;
        let query = self.query;
        if query.boot_id.is_some_and(|boot| boot != head.boot_id)
            || query.since_us.is_some_and(|since| head.realtime_us < since)
            || query.until_us.is_some_and(|until| head.realtime_us > until)
            || self.excludes_all()
        {
            return false;
        }
        if self.groups.is_empty() && query.text.is_none() {
            return true;
        }
        let Some(count) = file.load_items(entry) else {
            return false;
        };
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
    fn text_ignores_capitals_unless_it_has_some() {
        assert!(contains(b"Connection Refused", b"refused"));
        assert!(!contains(b"connection refused", b"Refused"));
        assert!(contains(b"", b"") && !contains(b"", b"x"));
        assert!(contains(b"aab", b"AB") == contains(b"aab", b"B"));
        assert!(contains(b"aaB", b"ab") && contains(b"x\xffEnd", b"\xffe"));
    }
}
