//! What the host holds against what the guest's journalctl prints.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
};

use seed_protocol::journal::MAX_VALUE_BYTES;
use seed_shim::logs::{
    entry::{Record, for_each},
    reader::{Item, Reader},
    segment::Gap,
};

use super::container::Container;

/// What tells one entry from every other one, wherever it was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) stream: String,
    pub(crate) seqnum: u64,
    pub(crate) realtime: u64,
    pub(crate) monotonic: u64,
    pub(crate) fields: u64,
}

pub(crate) fn digest(mut fields: Vec<&[u8]>) -> u64 {
    fields.sort_unstable();
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

/// What the guest's journalctl prints.
pub(crate) fn exported(container: &Container) -> Vec<Identity> {
    container.run(&["journalctl", "--sync"]);
    exported_of(container, &[])
}

/// [`exported`] with more words for journalctl, and without asking journald to write out what it has. Of a value it has
/// what a block holds.
pub(crate) fn exported_of(container: &Container, words: &[&str]) -> Vec<Identity> {
    let export = ["journalctl", "--quiet", "--no-pager", "-o", "export"];
    parse(&container.output(&[&export[..], words].concat()))
}

/// The entries of an export.
pub(crate) fn parse(mut rest: &[u8]) -> Vec<Identity> {
    let mut found = Vec::new();
    let mut entry: Vec<Vec<u8>> = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            found.push(identity(&std::mem::take(&mut entry)));
        } else if line.contains(&b'=') {
            entry.push(line.to_vec());
        } else {
            let (length, value) = rest.split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            let mut field = [line, b"=", &value[..length]].concat();
            field.truncate(MAX_VALUE_BYTES);
            entry.push(field);
            rest = &value[length + 1..];
        }
    }
    found
}

pub(crate) fn identity(entry: &[Vec<u8>]) -> Identity {
    let value = |name: &str| {
        let of = |field: &Vec<u8>| Some(field.strip_prefix(name.as_bytes())?.to_vec());
        String::from_utf8(entry.iter().find_map(of).unwrap()).unwrap()
    };
    let own = |field: &&Vec<u8>| !field.starts_with(b"__");
    Identity {
        stream: value("__SEQNUM_ID="),
        seqnum: value("__SEQNUM=").parse().unwrap(),
        realtime: value("__REALTIME_TIMESTAMP=").parse().unwrap(),
        monotonic: value("__MONOTONIC_TIMESTAMP=").parse().unwrap(),
        fields: digest(entry.iter().filter(own).map(Vec::as_slice).collect()),
    }
}

/// What the host holds.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) entries: Vec<Identity>,
    pub(crate) gaps: Vec<(String, Gap)>,
    pub(crate) resets: usize,
}

/// Every record of these segments, from the first.
pub(crate) fn records(dir: &Path, mut each: impl FnMut(&Record<'_>)) {
    let mut reader = Reader::from_start(dir);
    while let Some(item) = reader.next().unwrap() {
        let Item::Frame(frame) = item else {
            panic!("segments are missing")
        };
        let Ok(()) = for_each(&frame, |record| {
            each(record);
            Ok::<(), Infallible>(())
        });
    }
}

pub(crate) fn held(dir: &Path) -> Held {
    let hex = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
    let mut held = Held::default();
    records(dir, |record| match record {
        Record::Entry(entry) => held.entries.push(Identity {
            stream: hex(entry.seqnum_id),
            seqnum: entry.head.seqnum,
            realtime: entry.head.realtime_us,
            monotonic: entry.head.monotonic_us,
            fields: digest(entry.fields.iter().map(|field| field.bytes).collect()),
        }),
        Record::Gap { seqnum_id, gap } => held.gaps.push((hex(*seqnum_id), *gap)),
        Record::Reset => held.resets += 1,
        other => panic!("{other:?}"),
    });
    held
}

impl Held {
    pub(crate) fn missing(&self) -> u64 {
        self.gaps.iter().map(|(_, gap)| gap.count()).sum()
    }

    fn has_gap_at(&self, entry: &Identity) -> bool {
        self.gaps.iter().any(|(stream, gap)| {
            *stream == entry.stream && (gap.first..=gap.last).contains(&entry.seqnum)
        })
    }

    /// No entry twice; what the guest has is here or in a gap; numbers between first and last are all
    /// accounted for. Returns what is here and no longer in the guest.
    pub(crate) fn check(&self, guest: &[Identity]) -> usize {
        let here: HashSet<&Identity> = self.entries.iter().collect();
        assert_eq!(here.len(), self.entries.len(), "entries that came twice");
        let absent: Vec<_> = guest
            .iter()
            .filter(|entry| !here.contains(entry) && !self.has_gap_at(entry))
            .collect();
        assert!(
            absent.is_empty(),
            "{} of {} entries are not on the host, the first {:?}",
            absent.len(),
            guest.len(),
            absent.first()
        );
        let mut streams: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for entry in &self.entries {
            let numbers = streams.entry(&entry.stream).or_default();
            assert!(numbers.insert(entry.seqnum), "a number twice: {entry:?}");
        }
        for (stream, numbers) in streams {
            let span = numbers.last().unwrap() - numbers.first().unwrap() + 1;
            let gaps = self.gaps.iter().filter(|(of, gap)| {
                of == stream
                    && gap.first > *numbers.first().unwrap()
                    && gap.last < *numbers.last().unwrap()
            });
            let missing: u64 = gaps.map(|(_, gap)| gap.count()).sum();
            assert_eq!(span, numbers.len() as u64 + missing, "stream {stream}");
        }
        let there: HashSet<&Identity> = guest.iter().collect();
        self.entries
            .iter()
            .filter(|entry| !there.contains(entry))
            .count()
    }
}
