//! Filtered reading against the plain meaning of each condition, applied to everything that is there.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{FORMS, Folder, Got, fixture, read_all};
use seed_journal::{Journal, Mark, Position, Query};
use seed_protocol::journal::{BatchDecoder, BatchEncoder};

/// Reads what the query wants from a position on, as a caller does.
fn matching(journal: &mut Journal, from: Position, query: &Query, max_bytes: usize) -> Vec<u64> {
    let mut position = from;
    let mut numbers = Vec::new();
    loop {
        let mut batch = BatchEncoder::new(max_bytes);
        let outcome = journal.read_matching(&position, query, &mut batch).unwrap();
        assert_eq!(outcome.gap, None);
        let mark = batch.last().as_ref().map(Mark::from);
        let block = batch.finish();
        let heads = BatchDecoder::new(&block)
            .unwrap()
            .map(|entry| entry.unwrap().head.seqnum);
        numbers.extend(heads);
        let mark = mark.filter(|_| numbers.last() == Some(&outcome.last));
        position = Position {
            seqnum_id: outcome.seqnum_id,
            seqnum: outcome.last,
            mark,
        };
        if outcome.caught_up {
            return numbers;
        }
    }
}

fn has(got: &Got, values: &[&str]) -> bool {
    values
        .iter()
        .any(|value| got.fields.iter().any(|field| field == value.as_bytes()))
}

type Meaning = Box<dyn Fn(&Got) -> bool>;

fn queries(all: &[Got]) -> Vec<(Query, Meaning)> {
    let (first, second) = (all[0].head.boot_id, all[200].head.boot_id);
    assert_ne!(first, second);
    let (since, until) = (all[50].head.realtime_us, all[190].head.realtime_us);
    let long = all.iter().find(|got| got.message().len() > 600).unwrap();
    let long_field = format!("MESSAGE={}", long.message());
    let wanted = long_field.clone();
    vec![
        (Query::new(), Box::new(|_: &Got| true)),
        (
            Query::new().units(["unit3.service"]),
            Box::new(|got| has(got, &["_SYSTEMD_UNIT=unit3.service"])),
        ),
        (
            Query::new()
                .units(["unit3.service", "unit1.service"])
                .priority(4),
            Box::new(|got| {
                has(
                    got,
                    &["_SYSTEMD_UNIT=unit3.service", "_SYSTEMD_UNIT=unit1.service"],
                ) && has(got, &["PRIORITY=3", "PRIORITY=4"])
            }),
        ),
        (
            Query::new().boot(second),
            Box::new(move |got| got.head.boot_id == second),
        ),
        (
            Query::new().boot(first).since(since).until(until),
            Box::new(move |got| {
                got.head.boot_id == first && (since..=until).contains(&got.head.realtime_us)
            }),
        ),
        (
            Query::new().any_of(["TAG=repeated2"]),
            Box::new(|got| has(got, &["TAG=repeated2"])),
        ),
        (Query::new().any_of(["TAG=repeated"]), Box::new(|_| false)),
        (
            Query::new().any_of([long_field]),
            Box::new(move |got| has(got, &[wanted.as_str()])),
        ),
        (
            Query::new().text("NUMBER 1").priority(6),
            Box::new(|_| false),
        ),
        (
            Query::new().text("number 1"),
            Box::new(|got| got.message().contains("number 1")),
        ),
        (
            Query::new().units(["unit2.service"]).text("日本"),
            Box::new(|got| {
                has(got, &["_SYSTEMD_UNIT=unit2.service"]) && got.message().contains("日本")
            }),
        ),
    ]
}

#[test]
fn each_condition_means_what_it_says_in_every_form_of_file() {
    for name in FORMS {
        let folder = Folder::new();
        folder.put("system.journal", &fixture(&format!("{name}.journal")));
        let all = read_all(&mut folder.journal());
        assert_eq!(all.len(), 240);
        let mut journal = folder.journal();
        let mut empty = 0;
        for (query, meaning) in queries(&all) {
            let expected: Vec<u64> = all
                .iter()
                .filter(|got| meaning(got))
                .map(|got| got.head.seqnum)
                .collect();
            empty += usize::from(expected.is_empty());
            for max_bytes in [1, 1 << 20] {
                let got = matching(&mut journal, Position::START, &query, max_bytes);
                assert_eq!(got, expected, "{name}: {query:?}");
            }
            for lines in [1, 2, 10, 1000] {
                let from = journal.find_last(&query, lines);
                let tail = &expected[expected.len().saturating_sub(lines)..];
                let got = matching(&mut journal, from, &query, 4000);
                assert_eq!(got, tail, "{name}: last {lines} of {query:?}");
            }
        }
        assert_eq!(empty, 2, "a query that matches nothing proves little");
    }
}

#[test]
fn the_last_lines_are_found_over_several_files_and_in_none() {
    let mut nobody = Folder::new().journal();
    assert_eq!(nobody.find_last(&Query::new(), 10), Position::START);

    let folder = Folder::new();
    let mut writers: Vec<_> = ["system.journal", "user-1000.journal"]
        .iter()
        .zip(1..)
        .map(|(name, id)| {
            common::writer::Writer::create(&folder.directory.join(name), true, [9; 16], id)
        })
        .collect();
    for seqnum in 1..=1000_u64 {
        let head = seed_protocol::journal::EntryHead {
            seqnum,
            realtime_us: seqnum,
            monotonic_us: seqnum,
            boot_id: [1; 16],
            xor_hash: seqnum,
        };
        let index = usize::from(seqnum % 3 == 0);
        writers[index].append(&head, &[format!("MESSAGE={seqnum}").as_bytes()]);
    }
    let mut journal = folder.journal();
    for lines in [0, 1, 5, 300, 999, 1000, 1001] {
        let from = journal.find_last(&Query::new(), lines);
        let got = matching(&mut journal, from, &Query::new(), 1 << 20);
        let first = 1001_u64.saturating_sub(lines as u64).max(1);
        assert_eq!(got, (first..=1000).collect::<Vec<_>>(), "{lines}");
    }
    // A match that is written after the search is seen by the reading.
    let query = Query::new().until(1001).text("1001");
    let from = journal.find_last(&query, 3);
    assert_eq!(
        matching(&mut journal, from, &query, 1000),
        Vec::<u64>::new()
    );
}

/// A value that few entries have leads to them by itself; what it leads to is what a look at every entry finds.
#[test]
fn every_value_of_a_file_finds_its_entries() {
    for name in FORMS {
        let folder = Folder::new();
        folder.put("system@1.journal", &fixture(&format!("{name}.journal")));
        let all = read_all(&mut folder.journal());
        let mut users: BTreeMap<&[u8], BTreeSet<u64>> = BTreeMap::new();
        for got in &all {
            for field in &got.fields {
                users.entry(field).or_default().insert(got.head.seqnum);
            }
        }
        let rare = users.values().filter(|users| users.len() * 16 <= all.len());
        assert!(rare.count() > 100, "{name}");
        for (value, users) in users {
            let query = Query::new().any_of([value]);
            let users: Vec<u64> = users.into_iter().collect();
            let mut journal = folder.journal();
            let found = matching(&mut journal, Position::START, &query, 64 * 1024);
            assert_eq!(found, users, "{name}, {}", value.escape_ascii());
            let last = journal.find_last(&query, 2);
            let found = matching(&mut journal, last, &query, 64 * 1024);
            assert_eq!(
                found,
                users[users.len().saturating_sub(2)..],
                "{name}, {}",
                value.escape_ascii()
            );
        }
    }
}

/// Of what a sudden end left nobody knows whether the values' arrays and their table are whole: every entry is looked at,
/// whatever they say.
#[test]
fn the_values_of_a_file_that_a_sudden_end_left_are_not_asked() {
    let mut bytes = fixture(&format!("{}.journal", FORMS[0]));
    let number = |bytes: &[u8], at: usize| {
        let number = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        usize::try_from(number).unwrap()
    };
    // Online, of another boot, each value knows its first entry alone, and the table none of the values.
    bytes[16] = 1;
    let table = number(&bytes, 104)..number(&bytes, 104) + number(&bytes, 112);
    bytes[table].fill(0);
    let (mut at, last) = (number(&bytes, 88), number(&bytes, 136));
    while at <= last {
        if bytes[at] == 1 {
            bytes[at + 56..at + 64].copy_from_slice(&1_u64.to_le_bytes());
        }
        at = (at + number(&bytes, at + 8)).next_multiple_of(8);
    }
    let folder = Folder::new();
    folder.put("system@1.journal", &bytes);
    let mut journal = folder.journal();
    let all = read_all(&mut journal);
    let mut users: BTreeMap<&[u8], Vec<u64>> = BTreeMap::new();
    for got in &all {
        for field in &got.fields {
            users.entry(field).or_default().push(got.head.seqnum);
        }
    }
    users.retain(|_, users| (2..=all.len() / 16).contains(&users.len()));
    assert!(users.len() > 5, "{}", users.len());
    for (value, users) in users {
        let query = Query::new().any_of([value]);
        let found = matching(&mut journal, Position::START, &query, 64 * 1024);
        assert_eq!(found, users, "{}", value.escape_ascii());
    }
}
