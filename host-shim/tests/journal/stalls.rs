//! The host stalls, or the link is cut.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    boot, boot_with,
    held::exported,
    host::{Host, Writer, until, wait_for_entries},
};

/// The flood, and how long the host does not read.
const FLOOD: u64 = 200_000;
const STALL: Duration = Duration::from_secs(12);

/// Entries a second, how long a link is cut, and what must have been written by then on a machine that is too busy for the rate.
const RATE: u64 = 20_000;
const CUT: Duration = Duration::from_secs(30);
const UNREAD: u64 = 300_000;

/// How long the flood may take on a busy machine.
const FLOOD_LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stalls_for_twelve_seconds_delays_nobody_and_the_loss_is_counted() {
    let Some(container) = boot("32M") else { return };
    let host = Host::begin(&container);
    wait_for_entries(&host, exported(&container).len() as u64).await;
    host.link.set_cut(true);
    let counters = host.puller.as_ref().unwrap().counters();
    // What was on its way arrives.
    let mut pulled = 0;
    while pulled != counters.entries() {
        pulled = counters.entries();
        sleep(Duration::from_secs(1)).await;
    }
    let begin = Instant::now();
    let writer = Writer::begin(&container, RATE);
    let mut lines = 0;
    while begin.elapsed() < STALL || writer.sent() < FLOOD {
        assert!(begin.elapsed() < FLOOD_LIMIT, "{} sent", writer.sent());
        // Another unit's line is in the journal when journald says that it has written what it got, whatever the host
        // does not do meanwhile.
        lines += 1;
        let line = format!("line {lines} beside the flood");
        container.run(&["logger", "-t", "other", &line]);
        container.run(&["journalctl", "--sync"]);
        // A journalctl that listed the folder before a rotation misses the file that was renamed; the next one has it.
        let last = ["journalctl", "-q", "-t", "other", "-n", "1", "-o", "cat"];
        until(&line, || {
            container.output(&last).trim_ascii() == line.as_bytes()
        })
        .await;
        assert_eq!(counters.entries(), pulled, "the host reads");
    }
    let sent = writer.end();
    // What journald has not taken yet would make it rotate and delete once more while the host reads: a second gap.
    let guest = exported(&container);
    host.link.set_cut(false);
    // A try that the cut has ended is not the last one.
    wait_for_entries(&host, pulled + 1).await;
    let held = host.end().await;
    let only_here = held.check(&guest);
    eprintln!(
        "{sent} sent and {lines} lines beside them; {} in the guest, {} on the host, {} missing in {} gaps",
        guest.len(),
        held.entries.len(),
        held.missing(),
        held.gaps.len()
    );
    assert!(held.missing() > 0, "the guest's limit was not reached");
    // Before the stall everything was pulled, and the gap ends where the guest's journal begins.
    assert_eq!(held.gaps.len(), 1, "{:?}", held.gaps);
    let first = guest.iter().map(|entry| entry.seqnum).min().unwrap();
    assert!(held.gaps[0].1.last < first + 1, "{:?} {first}", held.gaps);
    assert_eq!(held.resets, 0);
    assert!(only_here > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_is_cut_for_thirty_seconds_costs_nothing() {
    let Some(container) = boot_with("4G", "SystemMaxFiles=10000") else {
        return;
    };
    let host = Host::begin(&container);
    let writer = Writer::begin(&container, RATE);
    until("some entries", || writer.sent() > RATE).await;
    host.link.set_cut(true);
    sleep(CUT).await;
    until("many entries", || writer.sent() > UNREAD).await;
    host.link.set_cut(false);
    sleep(Duration::from_secs(1)).await;
    let sent = writer.end();
    let guest = exported(&container);
    let held = host.end().await;
    held.check(&guest);
    eprintln!(
        "{sent} sent, {} in the guest, {} on the host",
        guest.len(),
        held.entries.len()
    );
    assert!(guest.len() as u64 >= sent);
    assert_eq!((held.missing(), held.resets), (0, 0));
}
