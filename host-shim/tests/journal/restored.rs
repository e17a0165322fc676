//! The guest's disk goes back to an earlier state, as with a VM that is restored from a snapshot: numbers that the host
//! has are given to other entries.

use std::{collections::HashSet, time::Duration};

use tokio::time::sleep;

use super::{
    boot,
    container::Container,
    held::{Identity, exported},
    host::{Host, Writer, wait_for_entries},
};

/// Sends so many entries, and waits until journald has written them.
fn write(container: &Container, text: &str, count: u64) {
    let socket = container.journal_socket();
    for number in 0..count {
        let entry = format!("MESSAGE={text} {number}\nSYSLOG_IDENTIFIER={text}\n");
        socket.send(entry.as_bytes()).unwrap();
    }
    container.run(&["journalctl", "--sync"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_went_back_is_seen_and_both_its_futures_are_held() {
    let Some(container) = boot("1G") else { return };
    let host = Host::begin(&container);
    let writer = Writer::begin(&container, 2000);
    sleep(Duration::from_secs(1)).await;
    writer.end();
    write(&container, "before", 500);
    container.run(&["cp", "-a", "/var/log/journal", "/var/saved"]);
    write(&container, "lost", 700);
    let first = exported(&container);
    wait_for_entries(&host, first.len() as u64).await;

    host.link.set_cut(true);
    let units = [
        "systemd-journald-dev-log.socket",
        "systemd-journald.socket",
        "systemd-journald.service",
    ];
    container.run(&[&["systemctl", "stop"], &units[..]].concat());
    // Its own note of the last number, which a snapshot's memory would hold.
    container.run(&[
        "rm",
        "-rf",
        "/var/log/journal",
        "/run/systemd/journal/seqnum",
    ]);
    container.run(&["cp", "-a", "/var/saved", "/var/log/journal"]);
    container.run(&[&["systemctl", "start"], &units[..]].concat());
    write(&container, "anew", 900);
    host.link.set_cut(false);
    write(&container, "after", 100);

    let second = exported(&container);
    let held = host.end().await;
    let here: HashSet<&Identity> = held.entries.iter().collect();
    assert_eq!(here.len(), held.entries.len(), "entries that came twice");
    for (name, guest) in [("first", &first), ("second", &second)] {
        let absent = guest.iter().filter(|entry| !here.contains(entry)).count();
        assert_eq!(absent, 0, "{name}: of {} entries", guest.len());
    }
    let numbers: HashSet<_> = held.entries.iter().map(|e| (&e.stream, e.seqnum)).collect();
    let twice = held.entries.len() - numbers.len();
    eprintln!(
        "{} and {} in the guest, {} on the host, {twice} numbers given twice, {} resets",
        first.len(),
        second.len(),
        held.entries.len(),
        held.resets
    );
    assert!(twice >= 700, "{twice}");
    assert_eq!((held.resets, held.missing()), (1, 0));
}
