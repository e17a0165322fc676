//! What each fuzz target does with its input, a journal file, and then what must hold of what came out. A target is
//! true when it gave an entry; a panic is a finding. The fuzzer runs these, and so do the crate's tests over the
//! corpus.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use seed_journal::{Journal, Position, Query, ReadOutcome};
use seed_protocol::journal::{BatchDecoder, BatchEncoder};

/// What a target does.
pub(crate) type Body = fn(&[u8]) -> bool;

/// All of them. A corpus has the name of its target.
pub(crate) const TARGETS: [(&str, Body); 2] = [("file", file), ("query", query)];

/// Runs the target of this name.
pub(crate) fn run(name: &str, input: &[u8]) -> bool {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.expect("a target that is in the table").1(input)
}

const MACHINE: [u8; 16] = [0x5e; 16];
const MACHINE_AT: usize = 40;
/// A batch, small so that a file gives several.
const BATCH_BYTES: usize = 2000;

/// A folder with this file in it. Removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn with(name: &str, input: &[u8]) -> Self {
        let parent = env::temp_dir().join(format!("seed-journal-{name}-{}", process::id()));
        let folder = parent.join("5e".repeat(16));
        fs::create_dir_all(&folder).expect("a folder among the temporary files");
        let mut bytes = input.to_vec();
        if let Some(id) = bytes.get_mut(MACHINE_AT..MACHINE_AT + 16) {
            id.copy_from_slice(&MACHINE);
        }
        fs::write(folder.join("system.journal"), bytes).expect("room for a small file");
        Self(parent)
    }

    fn journal(&self) -> Journal {
        Journal::open(&[Path::new(&self.0).to_owned()], MACHINE)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Reads to the end; every batch must be what it says it is.
fn file(input: &[u8]) -> bool {
    let folder = Folder::with("file", input);
    let all = read(&folder, None);
    // The same again from the middle: whatever can be read can be gone on after.
    if let Some(middle) = all.get(all.len() / 2) {
        let mut journal = folder.journal();
        let mut batch = BatchEncoder::new(BATCH_BYTES);
        let after = Position {
            mark: None,
            ..*middle
        };
        let _ = journal.read_after(&after, &mut batch);
        check(&batch.finish(), None);
    }
    !all.is_empty()
}

/// Filters give no entry that an unfiltered read does not give.
fn query(input: &[u8]) -> bool {
    let folder = Folder::with("query", input);
    let all = read(&folder, None);
    let queries = [
        Query::new().units(["unit1.service"]),
        Query::new().priority(4),
        Query::new().text("Entry"),
        Query::new().since(1005).until(1010),
    ];
    for query in queries {
        for found in read(&folder, Some(&query)) {
            let same = |one: &Position| one.seqnum == found.seqnum;
            assert!(
                all.iter().any(same),
                "entry {} out of nowhere",
                found.seqnum
            );
        }
        let _ = folder.journal().find_last(&query, 3);
    }
    !all.is_empty()
}

/// The place of each entry.
fn read(folder: &Folder, query: Option<&Query>) -> Vec<Position> {
    let mut journal = folder.journal();
    let mut position = Position::START;
    let mut all = Vec::new();
    // Each round gives an entry, passes over one, or is the last.
    let limit = 64
        + fs::metadata(folder.0.join("5e".repeat(16)).join("system.journal"))
            .map_or(0, |file| file.len() / 8);
    for _ in 0..limit {
        let mut batch = BatchEncoder::new(BATCH_BYTES);
        let outcome = match query {
            Some(query) => journal.read_matching(&position, query, &mut batch),
            None => journal.read_after(&position, &mut batch),
        };
        let Ok(outcome) = outcome else { return all };
        let heads = check(&batch.finish(), Some(&outcome));
        all.extend(heads.into_iter().map(|seqnum| Position {
            seqnum_id: outcome.seqnum_id,
            seqnum,
            mark: None,
        }));
        let next = Position {
            seqnum_id: outcome.seqnum_id,
            seqnum: outcome.last,
            mark: None,
        };
        if outcome.caught_up || next == position {
            return all;
        }
        position = next;
    }
    panic!("reads for ever");
}

/// The numbers of a block's entries.
fn check(block: &[u8], outcome: Option<&ReadOutcome>) -> Vec<u64> {
    let decoder = BatchDecoder::new(block).expect("a block of our own");
    let numbers: Vec<u64> = decoder
        .map(|entry| entry.expect("an entry of our own").head.seqnum)
        .collect();
    if let Some(outcome) = outcome {
        assert_eq!(
            numbers.len(),
            usize::try_from(outcome.count).expect("small")
        );
        assert_eq!(numbers.first().copied().unwrap_or(0), outcome.first);
        if let Some(last) = numbers.last() {
            assert!(*last <= outcome.last, "{last} of {}", outcome.last);
        }
        if let Some(gap) = outcome.gap {
            assert!(gap.from <= gap.to, "{gap:?}");
        }
    }
    numbers
}
