//! How many files a reader holds open: each costs a descriptor and its windows, and a journal has a hundred.

#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use std::{fs, path::Path};

use common::{
    machine::{Machine, PERSISTENT, VOLATILE, append},
    read_from,
};
use seed_journal::Position;

const FILES: u64 = 40;
const ENTRIES_OF_EACH: u64 = 10;

/// Descriptors of this process whose file is below the folder.
fn open_below(folder: &Path) -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let targets = descriptors.filter_map(|one| fs::read_link(one.unwrap().path()).ok());
    targets.filter(|target| target.starts_with(folder)).count()
}

#[test]
fn files_that_were_read_are_closed_wherever_the_batches_end() {
    let mut machine = Machine::new();
    let mut number = 0;
    // A stream that was given up, then one that goes on.
    for (parent, stream) in [("var", PERSISTENT), ("run", VOLATILE)] {
        for file in 0..FILES {
            let mut writer = machine.create(parent, "system.journal", stream);
            for _ in 0..ENTRIES_OF_EACH {
                number += 1;
                append(&mut writer, number, 1, number);
            }
            writer.archive(&machine.path(parent, &format!("system@{file}.journal")));
        }
    }
    let mut active = machine.create("run", "system.journal", VOLATILE);
    append(&mut active, number + 1, 1, number + 1);
    active.sync();
    drop(active);
    // Many batches for a file; some that end where a file does; all in one.
    for max_bytes in [100, 400, 1 << 20] {
        let mut journal = machine.journal();
        // From the beginning; then as another caller, which is somewhere else.
        for after in [0, 5] {
            let mut position = Position {
                seqnum_id: if after == 0 { [0; 16] } else { PERSISTENT },
                seqnum: after,
                mark: None,
            };
            let mut got = 0;
            while got < number + 1 - after {
                let more = read_from(&mut journal, &mut position, max_bytes).0.len();
                assert_ne!(more, 0, "{got} entries after {after}");
                got += more as u64;
            }
            let open = open_below(machine.folder.path());
            assert_eq!(open, 1, "the file that is written to, and no other");
        }
    }
}
