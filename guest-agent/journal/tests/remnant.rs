//! A machine is killed and its journal's header is older than its entries: the entries behind the header's end and those of the
//! next boot have the same numbers, and each is delivered once.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::fs;

use common::{
    Got,
    machine::{self, Machine, PERSISTENT, VOLATILE, append, expected, gaps, was_reset},
    read_from,
    writer::Writer,
};
use seed_journal::{Journal, Position, Query, ReadOutcome, entry_hash};
use seed_protocol::journal::{BatchEncoder, EntryHead};

/// Boot 1 wrote 40 entries, and the header on the disk knows 30.
fn killed(machine: &mut Machine) {
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    write(&mut writer, 1, 1, 1..=30);
    writer.lose_header();
    write(&mut writer, 31, 1, 31..=40);
}

fn write(writer: &mut Writer, mut seqnum: u64, boot: u8, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        append(writer, seqnum, boot, number);
        seqnum += 1;
    }
}

/// Everything, stream after stream.
fn read(journal: &mut Journal, position: &mut Position) -> (Vec<String>, Vec<ReadOutcome>) {
    let (mut all, mut outcomes) = machine::read(journal, position);
    loop {
        let (more, others) = read_from(journal, position, 4096);
        outcomes.extend(others);
        if more.is_empty() {
            return (all, outcomes);
        }
        all.extend(more.iter().map(Got::message));
    }
}

/// journald's next start: the file gets another name, a new one goes on from the number in its header.
fn replace(machine: &mut Machine, name: &str, seqnum: u64) -> Writer {
    let path = machine.path("var", "system.journal");
    fs::rename(path, machine.path("var", name)).unwrap();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    writer.number_from(seqnum);
    writer
}

#[test]
fn entries_that_the_header_does_not_know_come_before_those_that_have_their_numbers() {
    // The next boot writes fewer, as many, and more.
    for new in [1, 10, 25] {
        let mut machine = Machine::new();
        killed(&mut machine);
        let mut writer = replace(&mut machine, "system@1.journal~", 30);
        write(&mut writer, 31, 2, 1..=new);
        let both = [expected(1, 1..=40), expected(2, 1..=new)].concat();
        let (got, outcomes) = read(&mut machine.journal(), &mut Position::START.clone());
        assert_eq!(got, both);
        assert_eq!(gaps(&outcomes), []);
        assert!(was_reset(&outcomes));
        assert_eq!(
            one_by_one(&machine),
            both,
            "{new}: by a new reader for each entry"
        );
    }
}

/// Each read by a reader of its own, from a caller's position that moves by one entry: the agent starts again between.
fn one_by_one(machine: &Machine) -> Vec<String> {
    step_by_step(|after, batch| machine.journal().read_after(after, batch).unwrap())
}

/// One entry after the other, and no more than a thousand.
fn step_by_step(
    mut read_after: impl FnMut(&Position, &mut BatchEncoder) -> ReadOutcome,
) -> Vec<String> {
    let mut position = Position::START;
    let mut all = Vec::new();
    while all.len() < 1000 {
        let mut batch = BatchEncoder::new(1);
        let outcome = read_after(&position, &mut batch);
        if outcome.count == 0 {
            break;
        }
        let block = batch.finish();
        let mut entries = seed_protocol::journal::BatchDecoder::new(&block).unwrap();
        let entry = entries.next().unwrap().unwrap();
        let message = entry
            .fields
            .iter()
            .find_map(|field| field.bytes.strip_prefix(b"MESSAGE="));
        all.push(String::from_utf8_lossy(message.unwrap()).into_owned());
        position = Position::after(outcome.seqnum_id, &entry.head);
        assert_eq!(position.seqnum, outcome.last);
    }
    all
}

#[test]
fn a_caller_goes_on_from_wherever_it_was_when_the_machine_was_killed() {
    // It has less than the header knows, as much, some of what is behind, all of it, or more than reached the disk.
    for have in [20, 30, 35, 40, 45] {
        let mut machine = Machine::new();
        let mut writer = machine.create("var", "system.journal", PERSISTENT);
        write(&mut writer, 1, 1, 1..=have);
        let mut position = Position::START;
        read(&mut machine.journal(), &mut position);
        assert_eq!(position.seqnum, have);
        fs::remove_file(machine.path("var", "system.journal")).unwrap();
        killed(&mut machine);
        let mut writer = replace(&mut machine, "system@1.journal~", 30);
        write(&mut writer, 31, 2, 1..=3);
        let mut journal = machine.journal();
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!(
            got,
            [expected(1, have + 1..=40), expected(2, 1..=3)].concat(),
            "{have}"
        );
        assert_eq!(gaps(&outcomes), [], "{have}");
        write(&mut writer, 34, 2, 4..=20);
        assert_eq!(read(&mut journal, &mut position).0, expected(2, 4..=20));
    }
}

#[test]
fn three_kills_in_a_row_lose_and_double_nothing() {
    let mut machine = Machine::new();
    killed(&mut machine);
    // Of the second boot the header knows nothing, of the third some, and the fourth goes on.
    let mut second = replace(&mut machine, "system@1.journal~", 30);
    second.lose_header();
    write(&mut second, 31, 2, 1..=50);
    let mut third = replace(&mut machine, "system@2.journal~", 30);
    write(&mut third, 31, 3, 1..=5);
    third.lose_header();
    write(&mut third, 36, 3, 6..=9);
    let mut fourth = replace(&mut machine, "system@3.journal~", 35);
    write(&mut fourth, 36, 4, 1..=30);
    let all = [
        expected(1, 1..=40),
        expected(2, 1..=50),
        expected(3, 1..=9),
        expected(4, 1..=30),
    ]
    .concat();
    let (got, outcomes) = read(&mut machine.journal(), &mut Position::START.clone());
    assert_eq!((got, gaps(&outcomes)), (all.clone(), vec![]));
    assert_eq!(one_by_one(&machine), all);
}

#[test]
fn the_reader_may_come_before_journald_and_the_flush() {
    let mut machine = Machine::new();
    killed(&mut machine);
    let mut volatile = machine.create("run", "system.journal", VOLATILE);
    write(&mut volatile, 1, 2, 1..=20);
    // journald has not opened /var yet.
    let (mut journal, mut position) = (machine.journal(), Position::START);
    let (got, outcomes) = read(&mut journal, &mut position);
    assert_eq!(got, [expected(1, 1..=40), expected(2, 1..=20)].concat());
    assert_eq!(gaps(&outcomes), []);
    // It does, copies what is in /run, and goes on in /var.
    let mut writer = replace(&mut machine, "system@1.journal~", 30);
    write(&mut writer, 31, 2, 1..=20);
    fs::remove_file(machine.path("run", "system.journal")).unwrap();
    write(&mut writer, 51, 2, 21..=25);
    for mut journal in [journal, machine.journal()] {
        let mut position = position;
        let (got, outcomes) = read(&mut journal, &mut position);
        assert_eq!(got, expected(2, 21..=25));
        assert_eq!((gaps(&outcomes), was_reset(&outcomes)), (vec![], false));
    }
}

#[test]
fn what_was_flushed_and_not_counted_is_known_by_content() {
    // The caller has ten entries of /run; the flush copied twenty into a file whose header reached the disk empty.
    let mut machine = Machine::new();
    killed(&mut machine);
    let mut volatile = machine.create("run", "system.journal", VOLATILE);
    write(&mut volatile, 1, 2, 1..=10);
    let mut position = Position::START;
    read(&mut machine.journal(), &mut position);
    fs::remove_file(machine.path("run", "system.journal")).unwrap();
    let mut second = replace(&mut machine, "system@1.journal~", 30);
    second.lose_header();
    write(&mut second, 31, 2, 1..=20);
    let mut third = replace(&mut machine, "system@2.journal~", 30);
    write(&mut third, 31, 3, 1..=4);
    let (got, outcomes) = read(&mut machine.journal(), &mut position);
    assert_eq!(got, [expected(2, 11..=20), expected(3, 1..=4)].concat());
    assert_eq!(gaps(&outcomes), []);
}

#[test]
fn half_an_entry_is_none() {
    let mut machine = Machine::new();
    killed(&mut machine);
    let path = machine.path("var", "system.journal");
    let bytes = fs::read(&path).unwrap();
    let message = b"MESSAGE=boot 1 entry 36";
    let at = bytes
        .windows(message.len())
        .position(|window| window == message)
        .unwrap();
    let mut torn = bytes.clone();
    torn[at + 20] ^= 1;
    fs::write(&path, &torn).unwrap();
    let mut writer = replace(&mut machine, "system@1.journal~", 30);
    write(&mut writer, 31, 2, 1..=2);
    let (got, outcomes) = read(&mut machine.journal(), &mut Position::START.clone());
    let missing = [
        expected(1, 1..=35),
        expected(1, 37..=40),
        expected(2, 1..=2),
    ]
    .concat();
    assert_eq!(got, missing);
    let gaps = gaps(&outcomes);
    assert_eq!((gaps.len(), gaps[0].from, gaps[0].to), (1, 36, 36));
    // And where all behind the header is zeros there is nothing.
    let mut machine = Machine::new();
    killed(&mut machine);
    let path = machine.path("var", "system.journal");
    let mut zeros = fs::read(&path).unwrap();
    let message = b"MESSAGE=boot 1 entry 31";
    let at = zeros
        .windows(message.len())
        .position(|window| window == message)
        .unwrap();
    zeros[at - 80..].fill(0);
    fs::write(&path, &zeros).unwrap();
    let (got, _) = read(&mut machine.journal(), &mut Position::START.clone());
    assert_eq!(got, expected(1, 1..=30));
}

#[test]
fn the_last_lines_are_counted_across_the_kill() {
    let mut machine = Machine::new();
    killed(&mut machine);
    let mut writer = replace(&mut machine, "system@1.journal~", 30);
    write(&mut writer, 31, 2, 1..=3);
    let all = [expected(1, 1..=40), expected(2, 1..=3)].concat();
    for lines in [0, 1, 2, 3, 4, 7, 13, 14, 20, 43, 50] {
        let mut journal = machine.journal();
        let mut position = journal.find_last(&Query::default(), lines);
        let (got, _) = read_from(&mut journal, &mut position, 4096);
        let got: Vec<_> = got.iter().map(Got::message).collect();
        assert_eq!(got, all[all.len().saturating_sub(lines)..], "{lines}");
    }
}

#[test]
fn damage_behind_the_header_invents_and_doubles_nothing() {
    let mut machine = Machine::new();
    killed(&mut machine);
    let path = machine.path("var", "system.journal");
    let whole = fs::read(&path).unwrap();
    let message = b"MESSAGE=boot 1 entry 31";
    let behind = whole
        .windows(message.len())
        .position(|window| window == message)
        .unwrap();
    let known = expected(1, 1..=40);
    // SplitMix64, as in `cargo xtask chaos`.
    let mut state = 5_u64;
    let mut random = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from(mixed >> 32).unwrap() % below
    };
    let mut most = 0;
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..=random(4) {
            let at = behind + random(whole.len() - behind);
            let length = (1 + random(200)).min(whole.len() - at);
            let value = [0, 0xff, u8::try_from(random(256)).unwrap()][random(3)];
            bytes[at..at + length].fill(value);
        }
        fs::write(&path, &bytes).unwrap();
        let (got, _) = read(&mut machine.journal(), &mut Position::START.clone());
        assert_eq!(got[..30], known[..30]);
        let mut of_remnant = got[30..].to_vec();
        assert!(
            of_remnant
                .iter()
                .all(|message| known[30..].contains(message))
        );
        of_remnant.sort();
        of_remnant.dedup();
        assert_eq!(of_remnant.len(), got.len() - 30, "{got:?}");
        most = most.max(got.len());
    }
    assert!(most >= 37, "{most} of 40 at best");
}

#[test]
fn a_copy_of_a_file_beside_it_doubles_nothing_and_reading_ends() {
    for copies in [1, 3] {
        let mut machine = Machine::new();
        killed(&mut machine);
        let mut writer = replace(&mut machine, "system@1.journal~", 30);
        for copy in 0..copies {
            let name = format!("system@copy{copy}.journal~");
            fs::copy(
                machine.path("var", "system@1.journal~"),
                machine.path("var", &name),
            )
            .unwrap();
        }
        write(&mut writer, 31, 2, 1..=5);
        let both = [expected(1, 1..=40), expected(2, 1..=5)].concat();
        assert_eq!(one_by_one(&machine), both, "{copies}: by readers");
        let mut journal = machine.journal();
        let got = step_by_step(|after, batch| journal.read_after(after, batch).unwrap());
        assert_eq!(got, both, "{copies}: by one reader");
    }
}

#[test]
fn a_damaged_number_behind_the_header_is_not_taken_for_a_gap() {
    for damaged in [31_u64, 36, 40] {
        let mut machine = Machine::new();
        killed(&mut machine);
        let path = machine.path("var", "system.journal");
        let mut bytes = fs::read(&path).unwrap();
        // Where an entry has its number, and its times behind that.
        let head: Vec<u8> = [damaged, 1_000_000 + damaged, damaged]
            .iter()
            .flat_map(|number: &u64| number.to_le_bytes())
            .collect();
        let at = bytes
            .windows(head.len())
            .position(|window| window == head)
            .unwrap();
        bytes[at + 6] = 0x7f;
        fs::write(&path, &bytes).unwrap();
        let mut writer = replace(&mut machine, "system@1.journal~", 30);
        write(&mut writer, 31, 2, 1..=2);
        let (got, outcomes) = read(&mut machine.journal(), &mut Position::START.clone());
        let missing = [
            expected(1, (1..=40).filter(|number| *number != damaged)),
            expected(2, 1..=2),
        ]
        .concat();
        assert_eq!(got, missing, "{damaged}");
        assert!(
            gaps(&outcomes).iter().all(|gap| gap.count() == 1),
            "{damaged}: {:?}",
            gaps(&outcomes)
        );
    }
}

#[test]
fn whoever_wants_only_some_entries_gets_past_numbers_that_are_given_out_again() {
    let mut machine = Machine::new();
    killed(&mut machine);
    let mut writer = replace(&mut machine, "system@1.journal~", 30);
    // Up to the very number that the remnant ends with.
    write(&mut writer, 31, 2, 1..=10);
    let query = Query::new().text("boot 1 entry 3");
    let mut journal = machine.journal();
    let mut position = Position::START;
    let mut got = 0;
    let mut reads = 0;
    loop {
        let mut batch = BatchEncoder::new(4096);
        let outcome = journal
            .read_matching(&position, &query, &mut batch)
            .unwrap();
        got += outcome.count;
        reads += 1;
        assert!(reads < 20, "{outcome:?}");
        if !outcome.is_moved() {
            break;
        }
        position = journal.end().unwrap();
    }
    // 3, and 30 to 39.
    assert_eq!(got, 11);
    write(&mut writer, 41, 2, 11..=12);
    let (more, _) = read(&mut journal, &mut position);
    assert_eq!(more, expected(2, 11..=12));
}

#[test]
fn an_entry_that_was_given_a_value_twice_is_whole() {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    write(&mut writer, 1, 1, 1..=30);
    writer.lose_header();
    let fields: [&[u8]; 3] = [b"MESSAGE=boot 1 entry 31", b"TWICE=x", b"_UID=0"];
    // journald hashes what it is given, and then keeps one of two.
    let given = [&fields[..], &[b"TWICE=x"]].concat();
    let head = EntryHead {
        xor_hash: given.iter().fold(0, |sum, field| sum ^ entry_hash(field)),
        ..machine::head(31, 1, 31)
    };
    writer.append(&head, &fields);
    write(&mut writer, 32, 1, 32..=40);
    let mut writer = replace(&mut machine, "system@1.journal~", 30);
    write(&mut writer, 31, 2, 1..=2);
    let (got, outcomes) = read(&mut machine.journal(), &mut Position::START.clone());
    let both = [expected(1, 1..=40), expected(2, 1..=2)].concat();
    assert_eq!((got, gaps(&outcomes)), (both, vec![]));
}

#[test]
fn files_of_several_users_lose_and_double_nothing_behind_their_ends() {
    // With `SplitMode=uid`: the numbers of one journald go to two files, and neither header knows its last entries.
    let mut machine = Machine::new();
    let mut system = machine.create("var", "system.journal", PERSISTENT);
    let mut user = machine.create("var", "user-1000.journal", PERSISTENT);
    let of_user = |number: u64| [10, 33, 36, 37].contains(&number);
    for number in 1..=40 {
        if number == 31 {
            system.lose_header();
            user.lose_header();
        }
        let writer = if of_user(number) {
            &mut user
        } else {
            &mut system
        };
        append(writer, number, 1, number);
    }
    let closed = machine.path("var", "user-1000@1.journal~");
    fs::rename(machine.path("var", "user-1000.journal"), closed).unwrap();
    let mut writer = replace(&mut machine, "system@1.journal~", 30);
    write(&mut writer, 31, 2, 1..=5);
    let (got, outcomes) = read(&mut machine.journal(), &mut Position::START.clone());
    for mut got in [got, one_by_one(&machine)] {
        // Each file's last ones are in order; those of the two come one after the other.
        for is_user in [true, false] {
            let wanted = expected(1, (1..=40).filter(|number| of_user(*number) == is_user));
            let in_file = got.iter().filter(|message| wanted.contains(message));
            assert!(in_file.eq(&wanted), "{got:?}");
        }
        assert_eq!(got[got.len() - 5..], expected(2, 1..=5));
        got.sort();
        let mut all = [expected(1, 1..=40), expected(2, 1..=5)].concat();
        all.sort();
        assert_eq!(got, all);
    }
    // The limit that the README names: too much is stated as missing, but only above the lowest end, and so that it is told
    // that the numbers begin anew.
    assert!(was_reset(&outcomes));
    let stated = gaps(&outcomes);
    assert!(
        stated.iter().all(|gap| gap.from > 10 && gap.to <= 40),
        "{stated:?}"
    );
}
