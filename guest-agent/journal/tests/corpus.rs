//! What the fuzz targets do (`fuzz/bodies.rs`), over the files that are kept in `fuzz/corpus`, and how those are made.
//! A target takes a file that gives an entry.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../fuzz/bodies.rs"]
mod bodies;
mod common;

use std::fs;

use common::{
    Folder,
    machine::{Machine, PERSISTENT, append},
    writer::Writer,
};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use seed_protocol::journal::EntryHead;

#[test]
fn every_file_gives_entries_or_none_as_it_is_known_to() {
    let targets = bodies::TARGETS.map(|(name, _)| name);
    seed_corpus::check(env!("CARGO_MANIFEST_DIR"), &targets, bodies::run);
}

#[test]
fn the_corpus_is_what_the_writer_writes() {
    let plain = written(false);
    let compact = written(true);
    let mut no_array = compact.clone();
    no_array[176..184].fill(0xff);
    let mut unknown_flag = plain.clone();
    unknown_flag[13] = 0x80;
    let remnant = killed();
    let files: [(&str, &[u8]); 7] = [
        ("good-plain", &plain),
        ("good-compact", &compact),
        ("good-no-array", &no_array),
        ("good-cut", &plain[..plain.len() * 9 / 10]),
        ("good-remnant", &remnant),
        ("bad-unknown-flag", &unknown_flag),
        ("bad-short", &plain[..200]),
    ];
    for (target, _) in bodies::TARGETS {
        for (name, bytes) in files {
            let input = format!("{target}/{name}");
            seed_corpus::keep(env!("CARGO_MANIFEST_DIR"), &input, bytes);
        }
    }
}

/// Ten entries, of which the header knows six.
fn killed() -> Vec<u8> {
    let mut machine = Machine::new();
    let mut writer = machine.create("var", "system.journal", PERSISTENT);
    for number in 1..=10 {
        if number == 7 {
            writer.lose_header();
        }
        append(&mut writer, number, 1, number);
    }
    fs::read(machine.path("var", "system.journal")).unwrap()
}

/// A dozen entries, one value packed.
fn written(compact: bool) -> Vec<u8> {
    let folder = Folder::new();
    let path = folder.directory.join("system.journal");
    let mut writer = Writer::create(&path, compact, [7; 16], 1);
    let packed = compress_to_vec(
        "MESSAGE=Entry, packed ".repeat(40).as_bytes(),
        CompressionLevel::Fastest,
    );
    for number in 1..=12_u64 {
        let head = EntryHead {
            seqnum: number + number / 9,
            realtime_us: 1000 + number,
            monotonic_us: number,
            boot_id: [u8::try_from(number / 6).unwrap(); 16],
            xor_hash: number,
        };
        let message = format!("MESSAGE=entry {number}");
        let unit = format!("_SYSTEMD_UNIT=unit{}.service", number % 3);
        let priority = format!("PRIORITY={}", number % 8);
        let message = if number == 5 {
            &packed
        } else {
            message.as_bytes()
        };
        writer.append(&head, &[message, unit.as_bytes(), priority.as_bytes()]);
    }
    writer.archive(&path);
    let mut bytes = fs::read(&path).unwrap();
    // The flag of the object whose payload was packed.
    let payload = bytes
        .windows(packed.len())
        .position(|window| window == packed)
        .unwrap();
    bytes[payload - if compact { 71 } else { 63 }] = 4;
    bytes
}
