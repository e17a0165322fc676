//! What the host holds against what the guest's journalctl prints.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    io::BufRead,
    mem,
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
    container.piped(&[&export[..], words].concat(), parse)
}

/// The entries of an export.
pub(crate) fn parse(mut export: impl BufRead) -> Vec<Identity> {
    let mut found = Vec::new();
    let mut entry: Vec<Vec<u8>> = Vec::new();
    let mut line = Vec::new();
    while export.read_until(b'\n', &mut line).unwrap() > 0 {
        assert_eq!(line.pop(), Some(b'\n'));
        if line.is_empty() {
            found.push(identity(&mem::take(&mut entry)));
            continue;
        }
        if !line.contains(&b'=') {
            let mut length = [0; 8];
            export.read_exact(&mut length).unwrap();
            let length = usize::try_from(u64::from_le_bytes(length)).unwrap();
            line.push(b'=');
            let begin = line.len();
            line.resize(begin + length + 1, 0);
            export.read_exact(&mut line[begin..]).unwrap();
            line.pop();
            line.truncate(MAX_VALUE_BYTES);
        }
        entry.push(mem::take(&mut line));
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

    /// No entry twice; what the guest has is here or in a gap; [`Self::check_numbers`]. Returns what is here and no longer in the guest.
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
        self.check_numbers();
        let there: HashSet<&Identity> = guest.iter().collect();
        self.entries
            .iter()
            .filter(|entry| !there.contains(entry))
            .count()
    }

    /// Each number between a stream's first and last is here once, or in a gap.
    pub(crate) fn check_numbers(&self) {
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
    }

    /// That the host has, or states as missing, each number that the guest has; how many have another content there.
    pub(crate) fn other_contents(&self, guest: &[Identity]) -> usize {
        let place = |entry: &Identity| (entry.stream.clone(), entry.seqnum);
        let here: HashSet<&Identity> = self.entries.iter().collect();
        let places: HashSet<_> = self.entries.iter().map(place).collect();
        let other = guest
            .iter()
            .filter(|entry| !here.contains(entry) && !self.has_gap_at(entry));
        other
            .inspect(|entry| assert!(places.contains(&place(entry)), "{entry:?}"))
            .count()
    }
}
