//! Everything on the way is killed; files are rotated and deleted meanwhile.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    boot,
    container::Container,
    held::exported,
    host::{Dice, Host, LIMIT, Writer},
};

fn kill(container: &Container, unit: &str) {
    container.run(&["systemctl", "kill", "-s", "KILL", unit]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_at_random_loses_nothing_and_doubles_nothing() {
    let Some(container) = boot("4G") else { return };
    let mut host = Host::begin(&container);
    let writer = Writer::begin(&container, 20_000);
    let begin = Instant::now();
    let mut dice = Dice(0x5eed);
    let mut kills = [0; 4];
    // Long enough, and on a busy machine as long as it takes until everything was killed.
    while begin.elapsed() < Duration::from_secs(12) || kills.contains(&0) || writer.sent() < 40_000
    {
        assert!(begin.elapsed() < LIMIT, "{kills:?}, {} sent", writer.sent());
        let what = usize::try_from(dice.roll(4)).unwrap();
        kills[what] += 1;
        match what {
            0 => kill(&container, "shipper.service"),
            1 => kill(&container, "systemd-journald.service"),
            2 => {
                drop(host.puller.take());
                sleep(Duration::from_millis(dice.roll(50))).await;
                host.pull();
            }
            _ => {
                host.link.set_cut(true);
                sleep(Duration::from_millis(dice.roll(500))).await;
                host.link.set_cut(false);
            }
        }
        sleep(Duration::from_millis(100 + dice.roll(300))).await;
    }
    let sent = writer.end();
    container.run(&["systemctl", "start", "systemd-journald.service"]);
    let guest = exported(&container);
    let held = host.end().await;
    let only_here = held.check(&guest);
    eprintln!(
        "{sent} sent, {} in the guest, {} on the host, {} missing; killed: agent {}, journald {}, puller {}, link {}",
        guest.len(),
        held.entries.len(),
        held.missing(),
        kills[0],
        kills[1],
        kills[2],
        kills[3]
    );
    // Nothing was deleted in the guest, so nothing may be missing; what journald logged after the export
    // is only here.
    assert_eq!((held.missing(), held.resets), (0, 0));
    assert!(only_here < 100, "{only_here} entries are only on the host");
    // On a busy machine journald, killed again and again, takes no more.
    assert!(guest.len() > 2_000, "only {} entries", guest.len());
    assert!(kills.iter().all(|count| *count > 0), "{kills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_deletion_and_kills_while_the_link_is_cut_are_stated_exactly() {
    let Some(container) = boot("16M") else { return };
    let mut host = Host::begin(&container);
    let mut dice = Dice(0x5eed);
    let writer = Writer::begin(&container, 20_000);
    let begin = Instant::now();
    let (mut rotations, mut kills) = (0, 0);
    while writer.sent() < 200_000 || rotations <= 10 || kills <= 3 {
        assert!(begin.elapsed() < LIMIT, "{} sent", writer.sent());
        // Long enough that more is written than the guest keeps.
        host.link
            .set_cut((40_000..160_000).contains(&writer.sent()));
        // While journald is away these fail.
        if container.try_run(&["journalctl", "--rotate"]) {
            rotations += 1;
        }
        container.try_run(&["journalctl", "--vacuum-files=2"]);
        sleep(Duration::from_millis(100)).await;
        match dice.roll(8) {
            0 => kill(&container, "shipper.service"),
            1 => kill(&container, "systemd-journald.service"),
            2 => {
                drop(host.puller.take());
                host.pull();
            }
            _ => continue,
        }
        kills += 1;
    }
    let sent = writer.end();
    container.run(&["systemctl", "start", "systemd-journald.service"]);
    let guest = exported(&container);
    let held = host.end().await;
    let only_here = held.check(&guest);
    eprintln!(
        "{sent} sent, {} in the guest, {} on the host ({only_here} only there), {} missing in {} gaps, {rotations} rotations, {kills} kills",
        guest.len(),
        held.entries.len(),
        held.missing(),
        held.gaps.len()
    );
    assert!(rotations > 10 && kills > 3 && only_here > 0 && held.missing() > 0);
    assert_eq!(held.resets, 0);
}
