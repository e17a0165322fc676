//! Ours, `sdjournal` (another reader in Rust) and journalctl on the same files, whole and damaged. On whole files all
//! give the same. On damaged ones ours gives at least as many entries as the best of the others, and none that was not
//! there.
//!
//! The kinds of damage are those that made other readers stop: a file that was cut, a stretch of zeros, a page of garbage,
//! a broken link between entry arrays, and garbage here and there.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod common;

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    process::Command,
};

use common::{FORMS, Folder, Got, fixture, parse_export, read_from};
use seed_journal::Position;
use seed_protocol::journal::EntryHead;

/// An entry, whatever its fields are, by what every reader tells of it.
type Head = (u64, u64, u64, [u8; 16]);

fn head(head: &EntryHead) -> Head {
    (
        head.seqnum,
        head.realtime_us,
        head.monotonic_us,
        head.boot_id,
    )
}

fn ours(folder: &Folder) -> Vec<Got> {
    read_from(
        &mut folder.journal(),
        &mut Position::START.clone(),
        64 * 1024,
    )
    .0
}

/// With its fields; `None` when the file cannot be opened.
fn sdjournal(folder: &Folder) -> Option<Vec<(Head, Vec<Vec<u8>>)>> {
    let journal = sdjournal::Journal::open_dir(&folder.directory).ok()?;
    let mut found = Vec::new();
    // Errors are between the entries.
    for entry in journal.query().iter().ok()?.flatten() {
        let mut fields: Vec<_> = entry
            .iter_fields()
            .map(|(name, value)| [name.as_bytes(), b"=", value].concat())
            .collect();
        fields.sort();
        let head = (
            entry.seqnum(),
            entry.realtime_usec(),
            entry.monotonic_usec(),
            entry.boot_id(),
        );
        found.push((head, fields));
    }
    Some(found)
}

/// What this machine's journalctl prints; `None` where there is none.
fn journalctl(folder: &Folder) -> Option<Vec<Got>> {
    let output = Command::new("timeout")
        .args(["30", "journalctl", "--quiet", "--no-pager", "--all"])
        .arg("--output=export")
        .arg(format!("--directory={}", folder.directory.display()))
        .output();
    let output = output.ok()?;
    // 127: timeout found no journalctl.
    (output.status.code() != Some(127)).then(|| parse_export(&output.stdout))
}

fn no_journalctl() {
    // Past libtest's capture, and in one write: a skip must be seen.
    let test = std::thread::current();
    let name = test.name().unwrap_or_default();
    let line = format!("SKIPPED {name} (journalctl): no journalctl on this machine\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

#[test]
fn whole_files_give_the_same_to_all() {
    for name in FORMS {
        let folder = Folder::new();
        folder.put("system.journal", &fixture(&format!("{name}.journal")));
        let ours = ours(&folder);
        let theirs = sdjournal(&folder).unwrap();
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (ours, (place, fields)) in ours.iter().zip(theirs) {
            assert_eq!(head(&ours.head), place, "{name}");
            assert_eq!(ours.fields, fields, "{name}, entry {}", ours.head.seqnum);
        }
        match journalctl(&folder) {
            Some(printed) => assert_eq!(ours, printed, "{name}"),
            None => no_journalctl(),
        }
    }
}

/// xorshift64: the same damage in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}

fn le64(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

const KINDS: [&str; 5] = [
    "cut",
    "zeros",
    "a page of garbage",
    "a broken link",
    "garbage here and there",
];

fn damaged(whole: &[u8], kind: &str, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    // Behind the hash tables, up to the last object: what is used.
    let from = (le64(&bytes, 104) + le64(&bytes, 112)).max(le64(&bytes, 120) + le64(&bytes, 128));
    let to = le64(&bytes, 136);
    let place = |dice: &mut Dice, length: usize| from + dice.roll(to - from - length);
    match kind {
        "cut" => bytes.truncate(from + (to - from) * (40 + dice.roll(50)) / 100),
        "zeros" => {
            let length = 16 * 1024;
            let at = place(dice, length);
            bytes[at..at + length].fill(0);
        }
        "a page of garbage" => {
            let at = place(dice, 4096);
            for byte in &mut bytes[at..at + 4096] {
                *byte = dice.roll(256) as u8;
            }
        }
        "a broken link" => {
            // The first array's link to the second, or the header's to the first.
            let array = le64(&bytes, 176);
            let at = if dice.roll(2) == 0 { 176 } else { array + 16 };
            for byte in &mut bytes[at..at + 8] {
                *byte = dice.roll(256) as u8;
            }
        }
        _ => {
            for _ in 0..200 {
                let at = place(dice, 1);
                bytes[at] = dice.roll(256) as u8;
            }
        }
    }
    bytes
}

#[test]
fn of_damaged_files_ours_gives_most_and_invents_nothing() {
    let mut dice = Dice(0x5eed);
    let mut sums: HashMap<&str, [usize; 3]> = HashMap::new();
    let mut has_journalctl = true;
    for name in [FORMS[0], FORMS[3]] {
        let whole = fixture(&format!("{name}.journal"));
        let folder = Folder::new();
        folder.put("system@1.journal", &whole);
        // By number: a byte that changed within an entry's times is nothing that a reader could notice.
        let there: HashSet<u64> = ours(&folder).iter().map(|got| got.head.seqnum).collect();
        for kind in KINDS {
            for round in 0..5 {
                let folder = Folder::new();
                folder.put("system@1.journal", &damaged(&whole, kind, &mut dice));
                let found: HashSet<u64> = ours(&folder).iter().map(|got| got.head.seqnum).collect();
                let invented = found.difference(&there).count();
                assert_eq!(invented, 0, "{name}, {kind}, {round}");
                // What others invent does not count for them.
                let real = |numbers: Vec<u64>| -> usize {
                    let numbers: HashSet<u64> = numbers.into_iter().collect();
                    numbers.intersection(&there).count()
                };
                let heads = sdjournal(&folder).unwrap_or_default();
                let second = real(heads.into_iter().map(|(head, _)| head.0).collect());
                let printed = journalctl(&folder);
                has_journalctl &= printed.is_some();
                let printed = printed.unwrap_or_default();
                let third = real(printed.iter().map(|got| got.head.seqnum).collect());
                assert!(
                    found.len() >= second.max(third),
                    "{name}, {kind}, {round}: ours {}, sdjournal {second}, journalctl {third}",
                    found.len()
                );
                let sum = sums.entry(kind).or_default();
                for (sum, count) in sum.iter_mut().zip([found.len(), second, third]) {
                    *sum += count;
                }
            }
        }
    }
    if !has_journalctl {
        no_journalctl();
    }
    for kind in KINDS {
        let [ours, sdjournal, journalctl] = sums[kind];
        eprintln!("{kind}: ours {ours}, sdjournal {sdjournal}, journalctl {journalctl} entries");
    }
    // A walk over the objects finds what no array leads to.
    assert!(sums["cut"][0] > 0 && sums["a broken link"][0] > sums["a broken link"][1]);
}
