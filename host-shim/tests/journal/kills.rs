//! Everything on the way is killed; files are rotated and deleted meanwhile.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    boot,
    container::Container,
    held::{exported, exported_of},
    host::{Dice, Host, LIMIT, Writer, wait_for_more},
};

/// What journald must have taken, however busy the machine is.
const ENOUGH: u64 = 20_000;
/// Rotations while the writer writes.
const ROTATIONS: usize = 60;
/// A line for each rotation: the machine's uptime in seconds, and the newest file that is no longer written to.
const ROTATED: &str = "/run/rotated";
/// Rotates and deletes every 100 ms, or as often as journald does where that takes longer. While journald is away it fails.
const ROTATE: &str = "while :; do sleep 0.1 & journalctl --quiet --rotate --vacuum-files=2 \
    && read -r now _ < /proc/uptime && set -- /var/log/journal/*/system@*.journal \
    && shift $(($# - 1)) && echo $now $1; wait; done";

fn kill(container: &Container, unit: &str) {
    container.run(&["systemctl", "kill", "-s", "KILL", unit]);
}

/// How many entries journald has taken so far: it numbers them, and here it deletes none.
fn taken(container: &Container) -> u64 {
    let last = exported_of(container, &["--lines=1"]);
    last.first().map_or(0, |entry| entry.seqnum)
}

fn rotate_all_the_time(container: &Container) {
    let output = format!("--property=StandardOutput=append:{ROTATED}");
    let begin = ["systemd-run", "--quiet", "--unit=rotate", &output];
    let rest = ["--property=StandardError=null", "sh", "-c", ROTATE];
    container.run(&[&begin[..], &rest].concat());
}

/// When there was a new file, in milliseconds.
fn rotated(container: &Container) -> Vec<u64> {
    let text = container.text(ROTATED);
    let mut lines: Vec<_> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    lines.dedup_by_key(|(_, file)| *file);
    let digits = lines.iter().map(|(time, _)| time.replace('.', ""));
    digits
        .map(|time| time.parse::<u64>().unwrap() * 10)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_at_random_loses_nothing_and_doubles_nothing() {
    let Some(container) = boot("4G") else { return };
    let mut host = Host::begin(&container);
    let writer = Writer::begin(&container, 20_000);
    let begin = Instant::now();
    let mut dice = Dice(0x5eed);
    let mut kills = [0; 4];
    // Long enough, and on a busy machine as long as it takes until everything was killed and enough was written.
    while begin.elapsed() < Duration::from_secs(12)
        || kills.contains(&0)
        || writer.sent() < 2 * ENOUGH
        || taken(&container) <= ENOUGH
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
    // A drain goes without a guest that is away.
    wait_for_more(&host).await;
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
    assert!(guest.len() as u64 > ENOUGH, "{} entries", guest.len());
    assert!(kills.iter().all(|count| *count > 0), "{kills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_deletion_and_kills_while_the_link_is_cut_are_stated_exactly() {
    let Some(container) = boot("16M") else { return };
    let mut host = Host::begin(&container);
    let mut dice = Dice(0x5eed);
    let writer = Writer::begin(&container, 20_000);
    rotate_all_the_time(&container);
    let begin = Instant::now();
    let mut kills = 0;
    while writer.sent() < 200_000 || rotated(&container).len() < ROTATIONS || kills <= 3 {
        assert!(begin.elapsed() < LIMIT, "{} sent", writer.sent());
        // Long enough that more is written than the guest keeps.
        host.link
            .set_cut((40_000..160_000).contains(&writer.sent()));
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
    host.link.set_cut(false);
    wait_for_more(&host).await;
    let sent = writer.end();
    container.run(&["systemctl", "stop", "rotate.service"]);
    container.run(&["systemctl", "start", "systemd-journald.service"]);
    let guest = exported(&container);
    let held = host.end().await;
    let only_here = held.check(&guest);
    let times = rotated(&container);
    let mut between: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
    between.sort_unstable();
    eprintln!(
        "{sent} sent, {} in the guest, {} on the host ({only_here} only there), {} missing in {} gaps, {kills} kills, {} rotations, between two {} ms at least, {} ms in the middle, {} ms at most",
        guest.len(),
        held.entries.len(),
        held.missing(),
        held.gaps.len(),
        times.len(),
        between[0],
        between[between.len() / 2],
        between[between.len() - 1]
    );
    assert!(times.len() >= ROTATIONS && kills > 3 && only_here > 0 && held.missing() > 0);
    assert_eq!(held.resets, 0);
}
