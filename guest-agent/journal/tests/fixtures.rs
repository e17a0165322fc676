//! Real journal files of every form that systemd writes, against what journalctl says is in them.

mod common;

use common::{Folder, Got, fixture, parse_export, read_all, read_from};
use seed_journal::{HeaderError, Position, Skipped};

fn expected() -> Vec<Got> {
    parse_export(&fixture("expected.export"))
}

/// Each file has a writer's id of its own, and journalctl prints `_BOOT_ID` from the entry's head.
fn assert_same(got: &[Got], expected: &[Got]) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.head, expected.head);
        assert_eq!(got.fields, expected.fields, "entry {}", got.head.seqnum);
    }
}

#[test]
fn every_form_that_can_be_unpacked_gives_what_journalctl_prints() {
    for name in ["compact-zstd", "regular-zstd"] {
        let folder = Folder::new();
        folder.put("system.journal", &fixture(&format!("{name}.journal")));
        assert_same(&read_all(&mut folder.journal()), &expected());
    }
}

#[test]
fn batches_of_any_size_hold_the_same_entries() {
    let folder = Folder::new();
    folder.put("system.journal", &fixture("compact-zstd.journal"));
    for max_bytes in [1, 300, 5000, 1 << 20] {
        let mut position = Position::START;
        let (got, _) = read_from(&mut folder.journal(), &mut position, max_bytes);
        assert_same(&got, &expected());
    }
}

#[test]
fn any_entry_can_be_resumed_after() {
    let folder = Folder::new();
    folder.put("system.journal", &fixture("compact-zstd.journal"));
    let all = read_all(&mut folder.journal());
    for (index, entry) in all.iter().enumerate() {
        let mut position = Position::after(entry.stream, &entry.head);
        let (rest, outcomes) = read_from(&mut folder.journal(), &mut position, 1 << 20);
        assert_eq!(rest, all[index + 1..]);
        assert!(
            outcomes
                .iter()
                .all(|outcome| outcome.gap.is_none() && !outcome.reset)
        );
    }
}

/// A file with values in a form that is a feature's: read with it; refused, and named as what somebody else has to read,
/// without it.
fn needs_feature(name: &str, has: bool, flag: u32) {
    let folder = Folder::new();
    let path = folder.put("system.journal", &fixture(&format!("{name}.journal")));
    let mut journal = folder.journal();
    if has {
        assert_same(&read_all(&mut journal), &expected());
        assert!(journal.unknown_form().is_none());
    } else {
        journal.look_for_files();
        let unknown = HeaderError::Incompatible { flags: flag };
        assert_eq!(journal.unknown_form(), Some((path.as_path(), unknown)));
    }
}

#[test]
fn values_in_lz4_are_read_or_the_file_is_left_to_journalctl() {
    needs_feature("regular-lz4", cfg!(feature = "lz4"), 2);
}

#[test]
fn values_in_xz_are_read_or_the_file_is_left_to_journalctl() {
    needs_feature("compact-xz", cfg!(feature = "xz"), 1);
}

#[test]
fn an_unknown_incompatible_flag_is_refused_by_name() {
    let folder = Folder::new();
    let mut bytes = fixture("compact-zstd.journal");
    bytes[13] = 0x80;
    let path = folder.put("system.journal", &bytes);
    let mut journal = folder.journal();
    let mut batch = seed_protocol::journal::BatchEncoder::new(1000);
    let error = journal
        .read_after(&Position::START, &mut batch)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("0x8000") && error.contains("system.journal"),
        "{error}"
    );
    assert_eq!(journal.problems()[0].path, &path);
    let unknown = HeaderError::Incompatible { flags: 0x8000 };
    assert_eq!(journal.unknown_form(), Some((path.as_path(), unknown)));

    // Another file beside it is still read.
    folder.put("user-1000.journal", &fixture("regular-zstd.journal"));
    let mut journal = folder.journal();
    assert_same(&read_all(&mut journal), &expected());
    assert_eq!(journal.problems().len(), 1);
    // journald deleted it.
    std::fs::remove_file(&path).unwrap();
    journal.look_for_files();
    assert_eq!(journal.unknown_form(), None);
}

#[test]
fn files_of_other_machines_and_things_that_are_no_journals_are_not_read() {
    let folder = Folder::new();
    let mut other = fixture("compact-zstd.journal");
    other[40] ^= 1;
    folder.put("other.journal", &other);
    folder.put("empty.journal", b"");
    folder.put("notes.txt", b"hello");
    folder.put("system.journal", &fixture("compact-zstd.journal"));
    let (got, outcomes) = read_from(&mut folder.journal(), &mut Position::START.clone(), 1 << 20);
    assert_same(&got, &expected());
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome.skipped == Skipped::default())
    );
}
