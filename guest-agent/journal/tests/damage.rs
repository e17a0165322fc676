//! Damaged journals: everything that is still there comes, nothing is invented, every walk ends.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test code"
)]

mod common;

use std::sync::LazyLock;

use common::{Folder, Got, fixture, read_from, writer::Writer};
use proptest::{collection::vec, prelude::*, sample::Index, test_runner::RngSeed};
use seed_journal::{Journal, Position, ReadOutcome};
use seed_protocol::journal::{BatchEncoder, EntryHead};

const ENTRIES: u64 = 400;

#[derive(Clone)]
struct Sample {
    bytes: Vec<u8>,
    /// Where each entry object is.
    offsets: Vec<u64>,
}

fn sample(compact: bool) -> Sample {
    static SAMPLES: LazyLock<[Sample; 2]> = LazyLock::new(|| [false, true].map(write_sample));
    SAMPLES[usize::from(compact)].clone()
}

fn write_sample(compact: bool) -> Sample {
    let folder = Folder::new();
    let path = folder.directory.join("system.journal");
    let mut writer = Writer::create(&path, compact, [7; 16], 1);
    let mut offsets = Vec::new();
    for number in 1..=ENTRIES {
        let head = EntryHead {
            seqnum: number,
            realtime_us: 1000 + number,
            monotonic_us: number,
            boot_id: [1; 16],
            xor_hash: number,
        };
        let message = format!(
            "MESSAGE=entry {number} {}",
            "x".repeat((number % 50) as usize)
        );
        let unit = format!("_SYSTEMD_UNIT=unit{}.service", number % 5);
        offsets.push(writer.append(&head, &[message.as_bytes(), unit.as_bytes(), b"PRIORITY=6"]));
    }
    let closed = folder.directory.join("system@1.journal");
    writer.archive(&closed);
    Sample {
        bytes: std::fs::read(closed).unwrap(),
        offsets,
    }
}

fn read(bytes: &[u8]) -> (Vec<Got>, Vec<ReadOutcome>) {
    let folder = Folder::new();
    folder.put("system@1.journal", bytes);
    let (got, outcomes) = read_from(&mut folder.journal(), &mut Position::START.clone(), 4096);
    let said: u64 = outcomes
        .iter()
        .filter_map(|outcome| outcome.gap)
        .map(|gap| gap.count())
        .sum();
    if let (Some(first), Some(last)) = (got.first(), got.last()) {
        // Whatever is missing between the first and the last is stated.
        assert_eq!(
            last.head.seqnum - first.head.seqnum + 1 - got.len() as u64,
            said
        );
    }
    (got, outcomes)
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn seqnums(got: &[Got]) -> Vec<u64> {
    got.iter().map(|got| got.head.seqnum).collect()
}

#[test]
fn a_lost_entry_array_costs_nothing() {
    for compact in [false, true] {
        let Sample { mut bytes, .. } = sample(compact);
        let array = le64(&bytes, 176);
        for damage in [0, 1, array + 8, bytes.len() as u64 * 2, u64::MAX - 7] {
            bytes[176..184].copy_from_slice(&damage.to_le_bytes());
            assert_eq!(seqnums(&read(&bytes).0), (1..=ENTRIES).collect::<Vec<_>>());
        }
        // The second array's link is gone.
        bytes[176..184].copy_from_slice(&array.to_le_bytes());
        let at = array as usize + 16;
        bytes[at..at + 8].fill(0xff);
        assert_eq!(seqnums(&read(&bytes).0), (1..=ENTRIES).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_was_cut_gives_every_entry_before_the_cut() {
    for compact in [false, true] {
        let Sample { bytes, offsets } = sample(compact);
        for percent in [30, 60, 90] {
            let cut = bytes.len() * percent / 100;
            let there = offsets
                .iter()
                .filter(|offset| **offset as usize + 200 < cut)
                .count() as u64;
            let got = seqnums(&read(&bytes[..cut]).0);
            assert!(
                got.len() as u64 >= there,
                "{percent}: {} of {there}",
                got.len()
            );
            assert_eq!(got[..there as usize], (1..=there).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_zeroed_stretch_costs_only_what_was_in_it() {
    for compact in [false, true] {
        let Sample { mut bytes, offsets } = sample(compact);
        let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 8192);
        bytes[from..to].fill(0);
        let untouched = |offset: &u64| (*offset as usize) + 200 < from || *offset as usize >= to;
        let expected: Vec<u64> = (1..=ENTRIES)
            .filter(|number| untouched(&offsets[*number as usize - 1]))
            .collect();
        let (got, outcomes) = read(&bytes);
        let got = seqnums(&got);
        assert!(expected.iter().all(|number| got.contains(number)));
        assert!(got.len() < ENTRIES as usize);
        assert!(
            outcomes
                .iter()
                .any(|outcome| outcome.skipped.bad_objects > 0)
        );
    }
}

#[test]
fn one_wrong_array_item_hides_nothing() {
    let Sample { bytes, offsets } = sample(false);
    let first_array = le64(&bytes, 176) as usize;
    // Item 2 of the first array: pointing back, at a later entry, nowhere, at no object.
    for wrong in [offsets[0], offsets[300], u64::MAX - 7, offsets[200] + 8] {
        let mut damaged = bytes.clone();
        let at = first_array + 24 + 2 * 8;
        damaged[at..at + 8].copy_from_slice(&wrong.to_le_bytes());
        assert_eq!(
            seqnums(&read(&damaged).0),
            (1..=ENTRIES).collect::<Vec<_>>(),
            "{wrong}"
        );
    }
}

#[test]
fn one_wrong_number_hides_only_its_own_entry() {
    let Sample { bytes, offsets } = sample(true);
    for (wrong, index) in [(399, 100), (5, 100), (u64::MAX, 100), (0, 100), (399, 1)] {
        let mut damaged = bytes.clone();
        let at = offsets[index] as usize + 16;
        damaged[at..at + 8].copy_from_slice(&u64::to_le_bytes(wrong));
        let expected: Vec<u64> = (1..=ENTRIES).filter(|n| *n != index as u64 + 1).collect();
        assert_eq!(seqnums(&read(&damaged).0), expected, "{wrong}");
    }
}

#[test]
fn what_a_program_logs_cannot_pose_as_an_entry() {
    let folder = Folder::new();
    let path = folder.directory.join("system.journal");
    let mut writer = Writer::create(&path, true, [7; 16], 1);
    let head = |seqnum| EntryHead {
        seqnum,
        realtime_us: 1,
        monotonic_us: 1,
        boot_id: [1; 16],
        xor_hash: 1,
    };
    let mut object = vec![3, 0, 0, 0, 0, 0, 0, 0];
    for number in [68_u64, 2, 1, 1] {
        object.extend_from_slice(&number.to_le_bytes());
    }
    object.extend_from_slice(&[0; 36]);
    for number in 1..=6 {
        // Whatever the alignment is, one of the copies lies on a multiple of eight.
        let mut message = format!("MESSAGE=\0\0\0\0\0\0\0{number}").into_bytes();
        for shift in 0..8 {
            message.resize(message.len().next_multiple_of(8) + shift, 0);
            message.extend_from_slice(&object);
        }
        writer.append(&head(number * 10), &[&message]);
    }
    writer.archive(&path);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[176..184].fill(0);
    assert_eq!(seqnums(&read(&bytes).0), [10, 20, 30, 40, 50, 60]);
    // Also where the walk has to begin again behind damage.
    let second = bytes
        .windows(8)
        .position(|window| window == b"MESSAGE=")
        .unwrap();
    bytes[second - 72..second].fill(0xee);
    let got = seqnums(&read(&bytes).0);
    assert!(got.iter().all(|number| number % 10 == 0), "{got:?}");
    assert!(got.len() >= 4);
}

#[test]
fn chains_that_turn_back_end() {
    let Sample { mut bytes, .. } = sample(true);
    let array = le64(&bytes, 176);
    let at = array as usize + 16;
    bytes[at..at + 8].copy_from_slice(&array.to_le_bytes());
    bytes[152..160].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(seqnums(&read(&bytes).0).len(), ENTRIES as usize);
}

/// Only that it ends, in bounds, without a panic.
fn survives(bytes: &[u8]) {
    let folder = Folder::new();
    folder.put("system.journal", bytes);
    let mut journal: Journal = folder.journal();
    let mut position = Position::START;
    for _ in 0..3 * ENTRIES {
        let mut batch = BatchEncoder::new(2000);
        let Ok(outcome) = journal.read_after(&position, &mut batch) else {
            return;
        };
        if outcome.caught_up {
            return;
        }
        assert!(outcome.count > 0);
        position = Position {
            seqnum_id: outcome.seqnum_id,
            seqnum: outcome.last,
            mark: None,
        };
    }
    panic!("reads for ever");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_damage_is_survived(
        compact: bool,
        places in vec((any::<Index>(), any::<u8>()), 1..200),
        in_header in vec((0_usize..272, any::<u8>()), 0..3),
    ) {
        let Sample { mut bytes, .. } = sample(compact);
        for (place, byte) in places {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, byte) in in_header {
            bytes[at] = byte;
        }
        survives(&bytes);
    }

    #[test]
    fn arbitrary_bytes_with_a_header_are_survived(
        body in vec(any::<u8>(), 0..4000),
        numbers in vec(0_u64..5000, 12),
        compact: bool,
    ) {
        let Sample { bytes, .. } = sample(compact);
        let mut file = bytes[..272].to_vec();
        for (index, number) in numbers.iter().enumerate() {
            let at = 104 + index * 8;
            file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        file.extend_from_slice(&body);
        survives(&file);
    }
}

proptest! {
    // Always the same cases, because how much is lost is measured here, not only that nothing is invented.
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn random_damage_behind_the_header_invents_no_number(
        compact: bool,
        places in vec((any::<Index>(), any::<u8>()), 1..60),
    ) {
        let Sample { mut bytes, .. } = sample(compact);
        let length = bytes.len();
        for (place, byte) in &places {
            bytes[272 + place.index(length - 272)] = *byte;
        }
        let numbers = seqnums(&read(&bytes).0);
        prop_assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert!(numbers.iter().all(|number| (1..=ENTRIES).contains(number)));
        // A byte mostly costs the entry that it lies in, and a few more where it hides the way to the next ones. That is
        // no law: one that breaks the last entry array in a file with a small hash table costs what is behind it.
        let missing: Vec<_> = (1..=ENTRIES).filter(|number| !numbers.contains(number)).collect();
        prop_assert!(missing.len() <= 5 * places.len(), "{} bytes cost {:?}", places.len(), missing);
    }
}

#[test]
fn a_real_file_with_damage_everywhere_is_survived() {
    let bytes = fixture("compact-zstd.journal");
    for step in [97, 1009, 10_007] {
        let mut damaged = bytes.clone();
        for at in (272..damaged.len()).step_by(step) {
            damaged[at] ^= 0x55;
        }
        survives(&damaged);
    }
}
