//! What the tests share: reading everything through the public API, the export format, fixtures, and a writer of
//! journal files that appends like journald does.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "a module of several test crates")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

pub mod machine;
pub mod writer;

use std::{collections::BTreeMap, fs, io::Read, path::PathBuf};

use ruzstd::decoding::StreamingDecoder;
use seed_journal::{Journal, Mark, Position, ReadOutcome};
use seed_protocol::journal::{BatchDecoder, BatchEncoder, EntryHead};

pub const MACHINE: [u8; 16] = [
    0x5e, 0xed, 0x5e, 0xed, 0x5e, 0xed, 0x5e, 0xed, 0x5e, 0xed, 0x5e, 0xed, 0x5e, 0xed, 0x5e, 0xed,
];

/// One entry, comparable whoever read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub stream: [u8; 16],
    pub head: EntryHead,
    /// `NAME=value`, sorted.
    pub fields: Vec<Vec<u8>>,
}

impl Got {
    pub fn message(&self) -> String {
        let message = self
            .fields
            .iter()
            .find_map(|field| field.strip_prefix(b"MESSAGE="));
        String::from_utf8_lossy(message.unwrap_or_default()).into_owned()
    }
}

/// Reads from a position until there is nothing more. Checks what every outcome promises.
pub fn read_from(
    journal: &mut Journal,
    position: &mut Position,
    max_bytes: usize,
) -> (Vec<Got>, Vec<ReadOutcome>) {
    let mut all = Vec::new();
    let mut outcomes = Vec::new();
    loop {
        let mut batch = BatchEncoder::new(max_bytes);
        let outcome = journal.read_after(position, &mut batch).unwrap();
        let block = batch.finish();
        assert!(
            block.len() <= max_bytes || outcome.count == 1,
            "{} bytes",
            block.len()
        );
        let got: Vec<Got> = BatchDecoder::new(&block)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let mut fields: Vec<_> = entry
                    .fields
                    .iter()
                    .map(|field| field.bytes.to_vec())
                    .collect();
                fields.sort();
                Got {
                    stream: outcome.seqnum_id,
                    head: entry.head,
                    fields,
                }
            })
            .collect();
        assert_eq!(got.len() as u32, outcome.count);
        if outcome.count > 0 {
            assert_eq!(got[0].head.seqnum, outcome.first);
            assert_eq!(got[got.len() - 1].head.seqnum, outcome.last);
            let from = outcome.gap.map_or(outcome.first, |gap| gap.from);
            if !position.is_start() && outcome.seqnum_id == position.seqnum_id && !outcome.reset {
                assert_eq!(from, position.seqnum + 1, "an unannounced gap: {outcome:?}");
            }
            for pair in got.windows(2) {
                assert_eq!(
                    pair[0].head.seqnum + 1,
                    pair[1].head.seqnum,
                    "a gap inside a batch"
                );
            }
            let mark = got.last().map(|got| Mark::from(&got.head));
            *position = Position {
                seqnum_id: outcome.seqnum_id,
                seqnum: outcome.last,
                mark,
            };
        }
        all.extend(got);
        outcomes.push(outcome);
        if outcome.caught_up {
            return (all, outcomes);
        }
    }
}

pub fn read_all(journal: &mut Journal) -> Vec<Got> {
    read_from(journal, &mut Position::START.clone(), 16 * 1024).0
}

/// A folder that is the parent of one machine's journal directory.
pub struct Folder {
    pub parent: tempfile::TempDir,
    pub directory: PathBuf,
}

impl Folder {
    pub fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("5eed".repeat(8));
        fs::create_dir(&directory).unwrap();
        Self { parent, directory }
    }

    pub fn journal(&self) -> Journal {
        Journal::open(&[self.parent.path().to_owned()], MACHINE)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// Fixtures of each form that this build reads; without LZ4 another one stands in its place.
pub const FORMS: [&str; 4] = [
    "compact-zstd",
    "regular-zstd",
    "regular-unkeyed",
    if cfg!(feature = "lz4") {
        "regular-lz4"
    } else {
        "regular-zstd"
    },
];

pub fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    let packed = fs::read(path.with_added_extension("zst")).unwrap();
    let mut bytes = Vec::new();
    StreamingDecoder::new(packed.as_slice())
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

/// Reads the journal export format, as systemd documents it.
pub fn parse_export(mut text: &[u8]) -> Vec<Got> {
    let mut all = Vec::new();
    let mut fields: Vec<Vec<u8>> = Vec::new();
    while !text.is_empty() {
        let end = text.iter().position(|byte| *byte == b'\n').unwrap();
        let line = &text[..end];
        text = &text[end + 1..];
        if line.is_empty() {
            all.extend(from_export(std::mem::take(&mut fields)));
        } else if line.contains(&b'=') {
            fields.push(line.to_vec());
        } else {
            let (length, rest) = text.split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            fields.push([line, b"=", &rest[..length]].concat());
            assert_eq!(rest[length], b'\n');
            text = &rest[length + 1..];
        }
    }
    all.extend(from_export(fields));
    all
}

fn from_export(mut fields: Vec<Vec<u8>>) -> Option<Got> {
    let cursor = fields
        .iter()
        .find_map(|field| field.strip_prefix(b"__CURSOR="))?;
    let parts: BTreeMap<&str, &str> = std::str::from_utf8(cursor)
        .unwrap()
        .split(';')
        .filter_map(|part| part.split_once('='))
        .collect();
    let number = |key: &str| u64::from_str_radix(parts[key], 16).unwrap();
    let id = |key: &str| u128::from_str_radix(parts[key], 16).unwrap().to_be_bytes();
    let head = EntryHead {
        seqnum: number("i"),
        realtime_us: number("t"),
        monotonic_us: number("m"),
        boot_id: id("b"),
        xor_hash: number("x"),
    };
    let stream = id("s");
    fields.retain(|field| !field.starts_with(b"__"));
    fields.sort();
    Some(Got {
        stream,
        head,
        fields,
    })
}
