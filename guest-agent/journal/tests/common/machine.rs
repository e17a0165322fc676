//! A machine whose journald the writer plays: its two directories, entries that are told apart by boot and number, and a
//! caller that reads them.

use std::{fs, path::PathBuf, time::Duration};

use seed_journal::{Gap, Journal, Position, ReadOutcome, entry_hash};
use seed_protocol::journal::EntryHead;

use super::{Got, MACHINE, read_from, writer::Writer};

pub const PERSISTENT: [u8; 16] = [0xaa; 16];
pub const VOLATILE: [u8; 16] = [0xbb; 16];
pub const OTHER: [u8; 16] = [0xcc; 16];

/// Two parents, as /var/log/journal and /run/log/journal.
pub struct Machine {
    pub folder: tempfile::TempDir,
    pub files: u8,
}

impl Machine {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for parent in ["var", "run"] {
            fs::create_dir_all(folder.path().join(parent).join("5eed".repeat(8))).unwrap();
        }
        Self { folder, files: 0 }
    }

    pub fn path(&self, parent: &str, name: &str) -> PathBuf {
        self.folder
            .path()
            .join(parent)
            .join("5eed".repeat(8))
            .join(name)
    }

    pub fn create(&mut self, parent: &str, name: &str, seqnum_id: [u8; 16]) -> Writer {
        self.files += 1;
        Writer::create(
            &self.path(parent, name),
            self.files.is_multiple_of(2),
            seqnum_id,
            self.files,
        )
    }

    pub fn journal(&self) -> Journal {
        let parents = ["var", "run"].map(|parent| self.folder.path().join(parent));
        Journal::open(&parents, MACHINE)
    }
}

/// Entry `number` of boot `boot`; the same arguments are the same entry, whatever its seqnum.
pub fn head(seqnum: u64, boot: u8, number: u64) -> EntryHead {
    EntryHead {
        seqnum,
        realtime_us: 1_000_000 * u64::from(boot) + number,
        monotonic_us: number,
        boot_id: [boot; 16],
        xor_hash: number.wrapping_mul(77) ^ u64::from(boot),
    }
}

pub fn append(writer: &mut Writer, seqnum: u64, boot: u8, number: u64) {
    let message = format!("MESSAGE=boot {boot} entry {number}");
    let unit = format!("_SYSTEMD_UNIT=unit{}.service", number % 3);
    let fields: [&[u8]; 3] = [message.as_bytes(), unit.as_bytes(), b"_UID=0"];
    writer.append(&whole(seqnum, boot, number, &fields), &fields);
}

/// An entry as journald writes it: with the hash of its fields.
fn whole(seqnum: u64, boot: u8, number: u64, fields: &[&[u8]]) -> EntryHead {
    EntryHead {
        xor_hash: fields.iter().fold(0, |sum, field| sum ^ entry_hash(field)),
        ..head(seqnum, boot, number)
    }
}

pub fn messages(got: &[Got]) -> Vec<String> {
    got.iter().map(Got::message).collect()
}

pub fn expected(boot: u8, numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| format!("boot {boot} entry {number}"))
        .collect()
}

/// Reads all there is, as a caller does: waits and asks again while nothing comes.
pub fn read(journal: &mut Journal, position: &mut Position) -> (Vec<String>, Vec<ReadOutcome>) {
    let (mut got, mut outcomes) = read_from(journal, position, 4096);
    while got.is_empty() && journal.wait_for_change(Duration::from_millis(400)) {
        (got, outcomes) = read_from(journal, position, 4096);
    }
    (messages(&got), outcomes)
}

pub fn gaps(outcomes: &[ReadOutcome]) -> Vec<Gap> {
    outcomes.iter().filter_map(|outcome| outcome.gap).collect()
}

pub fn was_reset(outcomes: &[ReadOutcome]) -> bool {
    outcomes.iter().any(|outcome| outcome.reset)
}
