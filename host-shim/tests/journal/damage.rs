//! The file that journald writes to is damaged where nobody has read it yet, while a flood goes on. What that cost is stated
//! number by number, and nothing is invented.

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::PathBuf,
};

use seed_shim::logs::entry::Record;

use super::{
    boot,
    container::Container,
    held::{exported, held, records},
    host::{Host, Writer, until, wait_for_more},
};

const RATE: u64 = 20_000;
/// How often, and with what, as a failing disk would.
const DAMAGES: u64 = 4;
const DAMAGE: [u8; 4096] = [0xa5; 4096];
/// What was under way when the link was cut is in the file that was written to then, or in the next one.
const UNREAD_FILES: u32 = 3;
/// How far before the last object: behind the tables that a file begins with, and where many entries are.
const BEHIND_BYTES: u64 = 640 << 10;
/// What may be lost with one damage: the objects in it, and entries whose fields reach into it.
const MOST_LOST: u64 = 100;
/// Where an object of the journal file format (systemd's `journal-def.h`) says where the last one is.
const TAIL_OBJECT_OFFSET: u64 = 136;

/// The file that is written to.
fn active(container: &Container) -> PathBuf {
    let folder = container.path("/var/log/journal");
    let machine = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    machine.path().join("system.journal")
}

/// Which file it is, and where its last object begins. While it is rotated there may be none.
fn tail(container: &Container) -> Option<(File, u64, u64)> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(active(container))
        .ok()?;
    let mut tail = [0; 8];
    file.read_exact_at(&mut tail, TAIL_OBJECT_OFFSET).ok()?;
    let inode = file.metadata().ok()?.ino();
    Some((file, inode, u64::from_le_bytes(tail)))
}

/// Damages the active file, once it is one of which nobody can have read anything.
async fn damage_unread(container: &Container) {
    let (mut known, mut begun) = (0, 0);
    until("entries that nobody has read", || {
        let Some((file, inode, tail)) = tail(container) else {
            return false;
        };
        if inode != known {
            (known, begun) = (inode, begun + 1);
        }
        let is_unread = begun >= UNREAD_FILES && tail >= 2 * BEHIND_BYTES;
        if is_unread {
            file.write_all_at(&DAMAGE, tail - BEHIND_BYTES).unwrap();
        }
        is_unread
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_before_it_was_read_is_stated_number_by_number() {
    let Some(container) = boot("4G") else { return };
    let mut host = Host::begin(&container);
    let writer = Writer::begin(&container, RATE);
    for _ in 0..DAMAGES {
        wait_for_more(&host).await;
        host.link.set_cut(true);
        damage_unread(&container).await;
        host.link.set_cut(false);
    }
    wait_for_more(&host).await;
    let sent = writer.end();
    let guest = exported(&container);
    host.drain().await;
    let logs = host.logs();
    let held = held(&logs);
    let missing = held.missing();
    eprintln!(
        "{sent} sent, {} in the guest, {} on the host, {missing} missing in {} gaps",
        guest.len(),
        held.entries.len(),
        held.gaps.len()
    );
    held.check_numbers();
    let other = held.other_contents(&guest);
    assert!(missing > 0 && missing <= DAMAGES * MOST_LOST, "{missing}");
    // A field in the damage has other bytes now, or is gone from its entry, for either reader.
    assert!(other as u64 <= DAMAGES * MOST_LOST, "{other}");
    assert_eq!(held.resets, 0);
    // The flood's own numbers. Where journald itself meets the damage while it writes an entry, it begins a new file and writes
    // that one again, under another number.
    let mut numbers: HashMap<u64, u64> = HashMap::new();
    let (mut again, mut unnumbered) = (0, 0);
    records(&logs, |record| {
        let Record::Entry(entry) = record else { return };
        let mut fields = entry.fields.iter().map(|field| field.bytes);
        if !fields
            .clone()
            .any(|field| field == b"SYSLOG_IDENTIFIER=flood")
        {
            return;
        }
        let text = fields.find_map(|field| field.strip_prefix(b"NUMBER="));
        let text = text.and_then(|text| str::from_utf8(text).ok());
        let Some(number) = text.and_then(|text| text.parse().ok()) else {
            unnumbered += 1;
            return;
        };
        assert!((1..=sent).contains(&number), "{number} of {sent}");
        let stamp = entry.head.monotonic_us;
        if let Some(other) = numbers.insert(number, stamp) {
            assert_eq!(other, stamp, "{number} comes twice");
            again += 1;
        }
    });
    assert!(again <= DAMAGES, "{again} entries come twice");
    // What journald can write nowhere has no number of its.
    let absent = sent - numbers.len() as u64;
    assert!(
        absent <= missing + unnumbered + DAMAGES,
        "{absent} absent, {missing} missing, {unnumbered} without their number"
    );
}
