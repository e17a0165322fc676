//! What journald does to its files while they are read: rotation, deletion, the flush from /run to /var, a killed VM, a
//! restored snapshot, lost state, split files. The writer in `common` plays journald.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use common::{
    MACHINE,
    machine::{
        Machine, OTHER, PERSISTENT, VOLATILE, append, expected, gaps, head, read, was_reset,
    },
    writer::Writer,
};
use seed_journal::{Gap, GapReason, Journal, Mark, Position};
use seed_protocol::journal::{BatchDecoder, BatchEncoder, EntryHead, MAX_VALUE_BYTES};

/// Far more than anything takes that shall happen.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_journal_that_comes_later_is_read_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let parent = folder.path().join("log");
    let mut journal = Journal::open(std::slice::from_ref(&parent), MACHINE);
    let mut position = Position::START;
    assert_eq!(read(&mut journal, &mut position).0, Vec::<String>::new());
    let directory = parent.join("5eed".repeat(8));
    fs::create_dir_all(&directory).unwrap();
    let mut writer = Writer::create(&directory.join("system.journal"), true, PERSISTENT, 1);
    assert_eq!(read(&mut journal, &mut position).0, Vec::<String>::new());
    append(&mut writer, 1, 1, 1);
    assert!(journal.wait_for_change(LIMIT));
    assert_eq!(read(&mut journal, &mut position).0, expected(1, [1]));
}

#[test]
fn a_file_that_is_seen_before_its_header_stands_is_read_when_it_does() {
    let mut machine = Machine::new();
    let mut writer = machine.create("run", "elsewhere", PERSISTENT);
    (1..=3).for_each(|number| append(&mut writer, number, 1, number));
    writer.sync();
    let whole = fs::read(machine.path("run", "elsewhere")).unwrap();
    fs::remove_file(machine.path("run", "elsewhere")).unwrap();

    // As journald does it: the name first, then the size, the header last. The folder does not change again.
    let path = machine.path("var", "system.journal");
    fs::write(&path, vec![0; whole.len()]).unwrap();
    let mut journal = machine.journal();
    let mut position = Position::START;
    for _ in 0..3 {
        let mut batch = BatchEncoder::new(1 << 20);
        // Refused, because no file can be read yet, or empty: both are right here.
        let _ = journal.read_after(&position, &mut batch);
        assert!(batch.is_empty());
        thread::sleep(Duration::from_millis(50));
    }
    fs::write(&path, whole).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(read(&mut journal, &mut position).0, expected(1, 1..=3));
}

#[test]
fn each_appended_entry_is_seen_once() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    let mut journal = machine.journal();
    let mut position = Position::START;
    for number in 1..200 {
        append(&mut writer, number, 1, number);
        if number % 3 == 0 {
            writer.sync();
        }
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!(got, expected(1, [number]));
        assert_eq!(outcomes[0].tail_seqnum, number);
    }
}

#[test]
fn rotation_is_not_noticed_by_the_caller() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    let mut journal = machine.journal();
    let mut position = Position::START;
    let mut all = Vec::new();
    for number in 1..=120 {
        append(&mut writer, number, 1, number);
        if number % 7 == 0 {
            writer.archive(&machine.path("var", &format!("system@{number}.journal")));
            writer = machine.create("var", "system.journal", PERSISTENT);
        }
        if number % 5 == 0 {
            let (got, outcomes) = read(&mut journal, &mut position);
            assert_eq!((gaps(&outcomes), was_reset(&outcomes)), (vec![], false));
            all.extend(got);
        }
    }
    assert_eq!(all, expected(1, 1..=120));
    let again = read(&mut machine.journal(), &mut Position::START.clone()).0;
    assert_eq!(again, all);
}

#[test]
fn a_deleted_file_is_an_exact_gap() {
    let mut machine = Machine::new();
    let mut position = Position::START;
    let mut journal = machine.journal();
    for file in 0..5 {
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        for number in file * 10 + 1..=file * 10 + 10 {
            append(&mut writer, number, 1, number);
        }
        if file == 0 {
            assert_eq!(read(&mut journal, &mut position).0.len(), 10);
        }
        writer.archive(&machine.path("var", &format!("system@{file}.journal")));
    }
    position = Position {
        seqnum: 4,
        mark: None,
        ..position
    };
    fs::remove_file(machine.path("var", "system@1.journal")).unwrap();
    fs::remove_file(machine.path("var", "system@3.journal")).unwrap();
    let (got, outcomes) = read(&mut journal, &mut position);
    assert_eq!(got, expected(1, (5..=10).chain(21..=30).chain(41..=50)));
    let gap = |from, to| Gap {
        from,
        to,
        reason: GapReason::Vacuumed,
    };
    assert_eq!(gaps(&outcomes), [gap(11, 20), gap(31, 40)]);
    assert_eq!(gaps(&outcomes)[0].count(), 10);
}

#[test]
fn files_that_share_numbers_are_merged() {
    let mut machine = Machine::new();
    let mut system = machine.create("var", "system.journal", PERSISTENT);
    let mut user = machine.create("var", "user-1000.journal", PERSISTENT);
    let mut journal = machine.journal();
    let mut position = Position::START;
    let mut all = Vec::new();
    for number in 1..=300 {
        let writer = if number * number % 7 < 3 {
            &mut system
        } else {
            &mut user
        };
        append(writer, number, 1, number);
        if number % 11 == 0 {
            let (got, outcomes) = read(&mut journal, &mut position);
            assert_eq!(gaps(&outcomes), vec![]);
            all.extend(got);
        }
    }
    all.extend(read(&mut journal, &mut position).0);
    assert_eq!(all, expected(1, 1..=300));
}

#[test]
fn the_flush_from_run_to_var_loses_and_doubles_nothing() {
    // With and without an older journal in /var, and with a reader that was restarted meanwhile.
    for (history, restart) in [(0, false), (25, false), (25, true)] {
        let mut machine = Machine::new();
        let mut persistent = machine.create("var", "system.journal", PERSISTENT);
        for number in 1..=history {
            append(&mut persistent, number, 1, number);
        }
        let mut journal = machine.journal();
        let mut position = Position::START;
        assert_eq!(
            read(&mut journal, &mut position).0,
            expected(1, 1..=history)
        );

        let mut volatile = machine.create("run", "system.journal", VOLATILE);
        for number in 1..=30 {
            append(&mut volatile, number, 2, number);
        }
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!(got, expected(2, 1..=30));
        assert!(!was_reset(&outcomes));
        assert_eq!(position.seqnum_id, VOLATILE);
        for number in 31..=34 {
            append(&mut volatile, number, 2, number);
        }
        // journald copies, deletes /run's file, and goes on in /var.
        for number in 1..=34 {
            append(&mut persistent, history + number, 2, number);
        }
        drop(volatile);
        fs::remove_dir_all(machine.folder.path().join("run")).unwrap();
        append(&mut persistent, history + 35, 2, 35);
        if restart {
            journal = machine.journal();
        }
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!(got, expected(2, 31..=35));
        assert_eq!((was_reset(&outcomes), gaps(&outcomes)), (false, vec![]));
        assert_eq!(
            (position.seqnum_id, position.seqnum),
            (PERSISTENT, history + 35)
        );
    }
}

#[test]
fn a_read_in_the_middle_of_the_flush_doubles_nothing() {
    let mut machine = Machine::new();
    let mut persistent = machine.create("var", "system.journal", PERSISTENT);
    append(&mut persistent, 1, 1, 1);
    let mut journal = machine.journal();
    let mut position = Position::START;
    assert_eq!(read(&mut journal, &mut position).0, expected(1, [1]));
    // The reader comes when half of /run's entries are in /var already.
    let mut volatile = machine.create("run", "system.journal", VOLATILE);
    for number in 1..=20 {
        append(&mut volatile, number, 2, number);
    }
    for number in 1..=10 {
        append(&mut persistent, 1 + number, 2, number);
    }
    assert_eq!(read(&mut journal, &mut position).0, expected(2, 1..=10));
    assert_eq!(read(&mut journal, &mut position).0, expected(2, 11..=20));
    for number in 11..=20 {
        append(&mut persistent, 1 + number, 2, number);
    }
    fs::remove_dir_all(machine.folder.path().join("run")).unwrap();
    assert_eq!(read(&mut journal, &mut position).0, Vec::<String>::new());
    append(&mut persistent, 22, 2, 21);
    assert_eq!(read(&mut journal, &mut position).0, expected(2, [21]));
}

#[test]
fn numbers_that_a_killed_machine_gives_out_again_are_told_by_content() {
    // 40 entries were delivered, 30 of them survived on the disk; the next boot writes 5 or 25 of its own.
    for (new, restart) in [(5, false), (5, true), (25, false), (25, true)] {
        let mut machine = Machine::new();
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        for number in 1..=40 {
            append(&mut writer, number, 1, number);
        }
        let mut journal = machine.journal();
        let mut position = Position::START;
        assert_eq!(read(&mut journal, &mut position).0.len(), 40);
        drop(writer);
        fs::remove_file(machine.path("var", "system.journal")).unwrap();
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        for number in 1..=30 {
            append(&mut writer, number, 1, number);
        }
        for number in 1..=new {
            append(&mut writer, 30 + number, 2, number);
        }
        if restart {
            journal = machine.journal();
        }
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!(got, expected(2, 1..=new));
        assert!(was_reset(&outcomes));
        append(&mut writer, 31 + new, 2, new + 1);
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!((got, was_reset(&outcomes)), (expected(2, [new + 1]), false));
    }
}

#[test]
fn a_restored_snapshot_goes_on_with_what_was_logged_since() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    for number in 1..=40 {
        append(&mut writer, number, 1, number);
    }
    let mut position = Position::START;
    assert_eq!(read(&mut machine.journal(), &mut position).0.len(), 40);
    drop(writer);
    fs::remove_file(machine.path("var", "system.journal")).unwrap();
    // Back to entry 30 of the same boot; the clock was set since.
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    for number in 1..=30 {
        append(&mut writer, number, 1, number);
    }
    for number in 31..=45 {
        let since = EntryHead {
            realtime_us: 5_000_000 + number,
            xor_hash: 1,
            ..head(number, 1, number)
        };
        writer.append(&since, &[format!("MESSAGE=since {number}").as_bytes()]);
    }
    let mut journal = machine.journal().in_boot([1; 16]);
    let (got, outcomes) = read(&mut journal, &mut position);
    assert_eq!(
        got,
        (31..=45)
            .map(|number| format!("since {number}"))
            .collect::<Vec<_>>()
    );
    assert!(was_reset(&outcomes));
}

#[test]
fn a_restored_snapshot_with_an_old_clock_still_knows_what_it_had() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    let now = |number: u64| match number {
        1..=30 => head(number, 1, number),
        // Entries 31 to 40 are others than the caller has, and look as old.
        31..=45 => EntryHead {
            xor_hash: 1,
            ..head(number, 1, number - 5)
        },
        _ => EntryHead {
            realtime_us: 5_000_000,
            ..head(number, 1, number)
        },
    };
    for number in 1..=46 {
        writer.append(&now(number), &[format!("MESSAGE={number}").as_bytes()]);
    }
    for number in 1..=40 {
        let held = head(number, 1, number);
        let mut position = Position {
            seqnum_id: PERSISTENT,
            seqnum: number,
            mark: Some((&held).into()),
        };
        let mut journal = machine.journal().in_boot([1; 16]);
        let (got, outcomes) = read(&mut journal, &mut position);
        // What is not known any more is told from what is: who asks with older positions finds where they part.
        assert_eq!(was_reset(&outcomes), number > 30, "after {number}");
        if number <= 30 {
            let all: Vec<_> = (number + 1..=46).map(|number| number.to_string()).collect();
            assert_eq!((got, gaps(&outcomes)), (all, vec![]), "after {number}");
        } else {
            assert_eq!(got.last().map(String::as_str), Some("46"));
        }
    }
}

#[test]
fn a_killed_machine_whose_clock_was_set_back_doubles_nothing() {
    // The clock goes back behind entry 20, and no later entry reaches the disk.
    let write = |writer: &mut Writer, numbers: std::ops::RangeInclusive<u64>| {
        for number in numbers {
            let seconds = if number <= 20 { 5 } else { 1 };
            let entry = EntryHead {
                realtime_us: 1_000_000 * seconds + number,
                ..head(number, 1, number)
            };
            writer.append(
                &entry,
                &[format!("MESSAGE=boot 1 entry {number}").as_bytes()],
            );
        }
    };
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    write(&mut writer, 1..=40);
    let mut position = Position::START;
    assert_eq!(
        read(&mut machine.journal(), &mut position).0,
        expected(1, 1..=40)
    );
    drop(writer);
    fs::remove_file(machine.path("var", "system.journal")).unwrap();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    write(&mut writer, 1..=20);
    // The next boot has not come to its flush.
    let mut volatile = machine.create("run", "system.journal", VOLATILE);
    for number in 1..=5 {
        append(&mut volatile, number, 2, number);
    }
    let (got, outcomes) = read(&mut machine.journal(), &mut position);
    assert_eq!((got, gaps(&outcomes)), (expected(2, 1..=5), vec![]));
    assert!(was_reset(&outcomes));
}

#[test]
fn a_boot_under_a_wrong_clock_that_is_deleted_doubles_and_hides_nothing() {
    // What its clock said was earlier or later than all that is there, and so its file was the first to be deleted.
    for off in [2, 9] {
        let mut machine = Machine::new();
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        (1..=30).for_each(|number| append(&mut writer, number, 5, number));
        writer.archive(&machine.path("var", "system@1.journal"));
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        (1..=30).for_each(|number| append(&mut writer, 30 + number, off, number));
        let mut position = Position::START;
        let all = [expected(5, 1..=30), expected(off, 1..=30)].concat();
        assert_eq!(read(&mut machine.journal(), &mut position).0, all);
        // The machine is killed: its last numbers are issued again. The next boot's first entries are in /run.
        drop(writer);
        fs::remove_file(machine.path("var", "system.journal")).unwrap();
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        writer.number_from(55);
        let mut volatile = machine.create("run", "system.journal", VOLATILE);
        (1..=5).for_each(|number| append(&mut volatile, number, 6, number));
        let mut early = position;
        let mut journal = machine.journal().in_boot([6; 16]);
        let (got, outcomes) = read(&mut journal, &mut early);
        assert_eq!((got, gaps(&outcomes)), (expected(6, 1..=5), vec![]));
        assert!(was_reset(&outcomes));
        fs::remove_file(machine.path("run", "system.journal")).unwrap();
        (1..=20).for_each(|number| append(&mut writer, 55 + number, 6, number));
        let (got, outcomes) = read(&mut journal, &mut early);
        assert_eq!((got, gaps(&outcomes)), (expected(6, 6..=20), vec![]));
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!((got, gaps(&outcomes)), (expected(6, 1..=20), vec![]));
        assert!(was_reset(&outcomes));
    }
}

#[test]
fn callers_whose_journal_went_back_do_not_hold_up_each_other() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    (1..=40).for_each(|number| append(&mut writer, number, 1, number));
    let mut position = Position::START;
    assert_eq!(read(&mut machine.journal(), &mut position).0.len(), 40);
    drop(writer);
    fs::remove_file(machine.path("var", "system.journal")).unwrap();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    (1..=30).for_each(|number| append(&mut writer, number, 1, number));
    (1..=5).for_each(|number| append(&mut writer, 30 + number, 2, number));

    let mut journal = machine.journal();
    let mut last = Position::START;
    assert_eq!(read(&mut journal, &mut last).0.len(), 35);
    let known = position.mark.unwrap();
    let earlier = Position {
        seqnum: 38,
        mark: Some(Mark {
            realtime_us: known.realtime_us - 2,
            monotonic_us: known.monotonic_us - 2,
            ..known
        }),
        ..position
    };
    // Two of them, and one that has all.
    let mut counts = [0; 3];
    let begin = Instant::now();
    while counts != [5, 5, 0] && begin.elapsed() < LIMIT {
        for (count, after) in counts.iter_mut().zip([position, earlier, last]) {
            let mut batch = BatchEncoder::new(4096);
            let outcome = journal.read_after(&after, &mut batch).unwrap();
            *count = outcome.count.max(*count);
        }
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(counts, [5, 5, 0]);
    // Nothing is left that would have anybody look again and again.
    assert_eq!(journal.unclear_until(), None);
}

#[test]
fn a_new_writer_is_a_reset_and_read_from_its_beginning() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    append(&mut writer, 1, 1, 1);
    append(&mut writer, 2, 1, 2);
    let mut journal = machine.journal();
    let mut position = Position::START;
    assert_eq!(read(&mut journal, &mut position).0, expected(1, 1..=2));
    append(&mut writer, 3, 1, 3);
    writer.archive(&machine.path("var", "system@old.journal"));
    let mut writer = machine.create("var", "system.journal", OTHER);
    append(&mut writer, 7, 2, 1);
    let (got, outcomes) = read(&mut journal, &mut position);
    // What is left of the old writer comes first.
    assert_eq!((got, was_reset(&outcomes)), (expected(1, [3]), false));
    let (got, outcomes) = read(&mut journal, &mut position);
    assert_eq!((got, was_reset(&outcomes)), (expected(2, [1]), true));
    // All state lost, nothing of the known boots is left, no mark is known.
    fs::remove_file(machine.path("var", "system@old.journal")).unwrap();
    let mut unknown = Position {
        seqnum_id: [1; 16],
        seqnum: 99,
        mark: None,
    };
    let (got, outcomes) = read(&mut journal, &mut unknown);
    assert_eq!((got, was_reset(&outcomes)), (expected(2, [1]), true));
}

#[test]
fn the_same_position_asked_twice_gives_the_same_answer() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    for number in 1..=50 {
        append(&mut writer, number, 1, number);
    }
    let mut journal = machine.journal();
    let mut position = Position::START;
    let first = read(&mut journal, &mut position).0;
    for after in [0, 49, 20, 50, 21] {
        let mut again = Position {
            seqnum: after,
            mark: None,
            ..position
        };
        assert_eq!(
            read(&mut journal, &mut again).0,
            first[usize::try_from(after).unwrap()..]
        );
    }
}

#[test]
fn waiting_ends_with_the_change_and_not_without() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    append(&mut writer, 1, 1, 1);
    let mut journal = machine.journal();
    let mut position = Position::START;
    read(&mut journal, &mut position);
    // The listing is done once more when the directory had just changed, and directories are looked at every 40 ms.
    while journal.wait_for_change(Duration::from_millis(200)) {
        read(&mut journal, &mut position);
    }
    assert!(!journal.wait_for_change(Duration::from_millis(60)));
    let late = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        append(&mut writer, 2, 1, 2);
    });
    // It is false when the time is over.
    assert!(journal.wait_for_change(LIMIT));
    late.join().unwrap();
    assert_eq!(read(&mut journal, &mut position).0, expected(1, [2]));
}

#[test]
fn a_file_that_is_renamed_before_it_was_opened_is_found_again() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    append(&mut writer, 1, 1, 1);
    let mut journal = machine.journal();
    // Listed, not read: the position asks for a stream that is not there.
    let mut nowhere = Position {
        seqnum_id: OTHER,
        seqnum: 1,
        mark: None,
    };
    read(&mut journal, &mut nowhere);
    append(&mut writer, 2, 1, 2);
    writer.archive(&machine.path("var", "system@1.journal"));
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    append(&mut writer, 3, 1, 3);
    let mut position = Position {
        seqnum_id: PERSISTENT,
        seqnum: 1,
        mark: None,
    };
    let (got, outcomes) = read(&mut journal, &mut position);
    assert_eq!((got, gaps(&outcomes)), (expected(1, 2..=3), vec![]));
}

#[test]
fn a_value_of_ten_mebibytes_is_cut_and_its_true_length_told() {
    let mut machine = Machine::new();
    for _ in 0..2 {
        // Once in each form of file.
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        let large = [b"MESSAGE=".as_slice(), &vec![b'x'; 10 << 20]].concat();
        append(&mut writer, 1, 1, 1);
        writer.append(&head(2, 1, 2), &[&large, b"PRIORITY=3"]);
        append(&mut writer, 3, 1, 3);
        let mut batch = BatchEncoder::new(1000);
        let after = Position {
            seqnum_id: PERSISTENT,
            seqnum: 1,
            mark: None,
        };
        let outcome = machine.journal().read_after(&after, &mut batch).unwrap();
        assert_eq!((outcome.count, outcome.last), (1, 2));
        let block = batch.finish();
        assert!(block.len() < 2 << 20);
        let entry = BatchDecoder::new(&block).unwrap().next().unwrap().unwrap();
        assert_eq!(entry.fields[0].true_length, large.len() as u64);
        assert_eq!(entry.fields[0].bytes, &large[..MAX_VALUE_BYTES]);
        assert_eq!(entry.get("PRIORITY"), Some(b"3".as_slice()));
        drop(writer);
        fs::remove_file(machine.path("var", "system.journal")).unwrap();
    }
}

#[test]
fn a_namespace_is_a_journal_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let parent = folder.path().to_owned();
    for (name, id) in [("", PERSISTENT), (".app", OTHER)] {
        let directory = parent.join("5eed".repeat(8) + name);
        fs::create_dir(&directory).unwrap();
        let mut writer = Writer::create(&directory.join("system.journal"), true, id, 1);
        append(&mut writer, 1, 1, u64::from(id[0]));
    }
    let parents = [parent];
    let mut namespace = Journal::open_namespace(&parents, MACHINE, "app");
    assert_eq!(
        read(&mut namespace, &mut Position::START.clone()).0,
        expected(1, [0xcc])
    );
    let mut own = Journal::open(&parents, MACHINE);
    assert_eq!(
        read(&mut own, &mut Position::START.clone()).0,
        expected(1, [0xaa])
    );
}
