//! The whole way of the journal, from a real journald over the real agent and the real puller to segments,
//! while everything on that way is killed. What must hold in the end: the set of entries on the host equals
//! what `journalctl -o export` prints in the guest, minus what gap records state; none comes twice.
//!
//! Runs as root where `SEED_TEST_GUEST` names a guest's root. The clock cannot be stepped here, since a
//! container has the machine's: a VM case does that.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod container;
mod link;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use container::Container;
use link::Link;
use seed_container::guest_root;
use seed_shim::{
    agent::{Agent, Journal},
    logs::{
        Handle,
        entry::{Record, for_each},
        puller::spawn,
        reader::{Item, Reader},
        segment::Gap,
    },
};
use tokio::{sync::watch, time::sleep};

/// What tells one entry from every other one, wherever it was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Identity {
    stream: String,
    seqnum: u64,
    realtime: u64,
    monotonic: u64,
    fields: u64,
}

fn digest(mut fields: Vec<&[u8]>) -> u64 {
    fields.sort_unstable();
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

/// What the guest's journalctl prints.
fn exported(container: &Container) -> Vec<Identity> {
    container.run(&["journalctl", "--sync"]);
    let text = container.output(&["journalctl", "--quiet", "--no-pager", "-o", "export"]);
    let mut found = Vec::new();
    let mut rest = text.as_slice();
    let mut entry: Vec<Vec<u8>> = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() {
            found.push(identity(&std::mem::take(&mut entry)));
        } else if line.contains(&b'=') {
            entry.push(line.to_vec());
        } else {
            let (length, value) = rest.split_first_chunk::<8>().unwrap();
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
            entry.push([line, b"=", &value[..length]].concat());
            rest = &value[length + 1..];
        }
    }
    found
}

fn identity(entry: &[Vec<u8>]) -> Identity {
    let value = |name: &str| {
        let of = |field: &Vec<u8>| Some(field.strip_prefix(name.as_bytes())?.to_vec());
        String::from_utf8(entry.iter().find_map(of).unwrap()).unwrap()
    };
    let own = |field: &&Vec<u8>| !field.starts_with(b"__");
    Identity {
        stream: value("__SEQNUM_ID="),
        seqnum: value("__SEQNUM=").parse().unwrap(),
        realtime: value("__REALTIME_TIMESTAMP=").parse().unwrap(),
        monotonic: value("__MONOTONIC_TIMESTAMP=").parse().unwrap(),
        fields: digest(entry.iter().filter(own).map(Vec::as_slice).collect()),
    }
}

/// What the host holds.
#[derive(Default)]
struct Held {
    entries: Vec<Identity>,
    gaps: Vec<(String, Gap)>,
    resets: usize,
}

fn held(dir: &Path) -> Held {
    let hex = |id: [u8; 16]| format!("{:032x}", u128::from_be_bytes(id));
    let mut reader = Reader::from_start(dir);
    let mut held = Held::default();
    while let Some(item) = reader.next().unwrap() {
        let Item::Frame(frame) = item else {
            panic!("segments are missing")
        };
        let Ok(()) = for_each(&frame, |record| {
            match record {
                Record::Entry(entry) => held.entries.push(Identity {
                    stream: hex(entry.seqnum_id),
                    seqnum: entry.head.seqnum,
                    realtime: entry.head.realtime_us,
                    monotonic: entry.head.monotonic_us,
                    fields: digest(entry.fields.iter().map(|field| field.bytes).collect()),
                }),
                Record::Gap { seqnum_id, gap } => held.gaps.push((hex(*seqnum_id), *gap)),
                Record::Reset => held.resets += 1,
                other => panic!("{other:?}"),
            }
            Ok::<(), Infallible>(())
        });
    }
    held
}

impl Held {
    fn missing(&self) -> u64 {
        self.gaps.iter().map(|(_, gap)| gap.count()).sum()
    }

    fn has_gap_at(&self, entry: &Identity) -> bool {
        self.gaps.iter().any(|(stream, gap)| {
            *stream == entry.stream && (gap.first..=gap.last).contains(&entry.seqnum)
        })
    }

    /// No entry twice; what the guest has is here or in a gap; numbers between first and last are all
    /// accounted for. Returns what is here and no longer in the guest.
    fn check(&self, guest: &[Identity]) -> usize {
        let here: HashSet<&Identity> = self.entries.iter().collect();
        assert_eq!(here.len(), self.entries.len(), "entries that came twice");
        let absent: Vec<_> = guest
            .iter()
            .filter(|entry| !here.contains(entry) && !self.has_gap_at(entry))
            .collect();
        assert!(
            absent.is_empty(),
            "{} of {} entries are not on the host, the first {:?}",
            absent.len(),
            guest.len(),
            absent.first()
        );
        let mut streams: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
        for entry in &self.entries {
            let numbers = streams.entry(&entry.stream).or_default();
            assert!(numbers.insert(entry.seqnum), "a number twice: {entry:?}");
        }
        for (stream, numbers) in streams {
            let span = numbers.last().unwrap() - numbers.first().unwrap() + 1;
            let gaps = self.gaps.iter().filter(|(of, gap)| {
                of == stream
                    && gap.first > *numbers.first().unwrap()
                    && gap.last < *numbers.last().unwrap()
            });
            let missing: u64 = gaps.map(|(_, gap)| gap.count()).sum();
            assert_eq!(span, numbers.len() as u64 + missing, "stream {stream}");
        }
        let there: HashSet<&Identity> = guest.iter().collect();
        self.entries
            .iter()
            .filter(|entry| !there.contains(entry))
            .count()
    }
}

/// Writes native entries at about `rate` a second on a thread of its own, until told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    fn begin(container: &Container, rate: u64) -> Self {
        let socket = container.journal_socket();
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let begin = Instant::now();
            while !stopped.load(Ordering::SeqCst) {
                for _ in 0..rate / 100 {
                    let number = count.load(Ordering::SeqCst) + 1;
                    let filler = "x".repeat(usize::try_from(number % 300).unwrap());
                    let text = format!(
                        "MESSAGE=flood {number} {filler}\nPRIORITY=6\nSYSLOG_IDENTIFIER=flood\nNUMBER={number}\n"
                    );
                    // Blocks while journald is away; the socket is systemd's and stays.
                    socket.send(text.as_bytes()).unwrap();
                    count.store(number, Ordering::SeqCst);
                }
                let due = Duration::from_secs(count.load(Ordering::SeqCst))
                    / u32::try_from(rate).unwrap();
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        });
        Self { stop, sent, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.sent.load(Ordering::SeqCst)
    }
}

/// The host's side: a link that can be cut, and a puller that can be killed.
struct Host {
    link: Link,
    alive: watch::Sender<bool>,
    dir: tempfile::TempDir,
    puller: Option<Handle>,
}

impl Host {
    fn begin(container: &Container) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let link = Link::new(dir.path().join("vsock.sock"), container.agent_socket());
        let mut host = Self {
            link,
            alive: watch::Sender::new(true),
            dir,
            puller: None,
        };
        host.pull();
        host
    }

    /// Begins to pull, as a shim that was started again would.
    fn pull(&mut self) {
        let agent = Agent::new(self.link.socket());
        let source = Journal::new(&agent, self.alive.subscribe());
        self.puller = Some(spawn(source, &self.logs(), None));
    }

    fn logs(&self) -> std::path::PathBuf {
        self.dir.path().join("logs")
    }

    /// Pulls what is left, and reads what is there.
    async fn end(mut self) -> Held {
        self.puller
            .take()
            .unwrap()
            .drain(Duration::from_secs(60))
            .await;
        held(&self.logs())
    }
}

/// Numbers that come the same in each run (xorshift64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn boot(max_use: &str) -> Option<Container> {
    match guest_root() {
        Ok(root) => Some(Container::boot(&root, max_use)),
        Err(reason) => {
            // Past libtest's capture, and in one write: a skip must be seen.
            let test = thread::current();
            let line = format!("SKIPPED {}: {reason}\n", test.name().unwrap_or_default());
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_at_random_loses_nothing_and_doubles_nothing() {
    let Some(container) = boot("4G") else { return };
    let mut host = Host::begin(&container);
    let writer = Writer::begin(&container, 20_000);
    let begin = Instant::now();
    let mut dice = Dice(0x5eed);
    let mut kills = [0; 4];
    while begin.elapsed() < Duration::from_secs(12) {
        let what = usize::try_from(dice.roll(4)).unwrap();
        kills[what] += 1;
        match what {
            0 => container.run(&["systemctl", "kill", "-s", "KILL", "shipper.service"]),
            1 => container.run(&[
                "systemctl",
                "kill",
                "-s",
                "KILL",
                "systemd-journald.service",
            ]),
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
    assert!(guest.len() > 20_000, "only {} entries", guest.len());
    assert!(kills.iter().all(|count| *count > 0), "{kills:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_and_deletion_while_the_link_is_cut_are_stated_exactly() {
    let Some(container) = boot("16M") else { return };
    let host = Host::begin(&container);
    let writer = Writer::begin(&container, 20_000);
    let begin = Instant::now();
    let mut rotations = 0;
    while begin.elapsed() < Duration::from_secs(10) {
        // Long enough that more is written than the guest keeps.
        host.link
            .set_cut((3..7).contains(&begin.elapsed().as_secs()));
        container.run(&["journalctl", "--rotate"]);
        container.run(&["journalctl", "--vacuum-files=2"]);
        rotations += 1;
        sleep(Duration::from_millis(100)).await;
    }
    let sent = writer.end();
    let guest = exported(&container);
    let held = host.end().await;
    let only_here = held.check(&guest);
    eprintln!(
        "{sent} sent, {} in the guest, {} on the host ({only_here} only there), {} missing in {} gaps, {rotations} rotations",
        guest.len(),
        held.entries.len(),
        held.missing(),
        held.gaps.len()
    );
    assert!(rotations > 10 && only_here > 0 && held.missing() > 0);
    assert_eq!(held.resets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stalls_for_twelve_seconds_delays_nobody_and_the_loss_is_counted() {
    let Some(container) = boot("32M") else { return };
    let host = Host::begin(&container);
    sleep(Duration::from_secs(1)).await;
    host.link.set_cut(true);
    let begin = Instant::now();
    let writer = Writer::begin(&container, 20_000);
    let mut longest = Duration::ZERO;
    while begin.elapsed() < Duration::from_secs(12) {
        // Another unit's line, which journald takes between those of the flood.
        let line = Instant::now();
        container.run(&["logger", "-t", "other", "a line beside the flood"]);
        longest = longest.max(line.elapsed());
        sleep(Duration::from_millis(200)).await;
    }
    let sent = writer.end();
    host.link.set_cut(false);
    let guest = exported(&container);
    let held = host.end().await;
    let only_here = held.check(&guest);
    eprintln!(
        "{sent} sent in 12 s, longest line beside it {longest:?}; {} in the guest, {} on the host, {} missing in {} gaps",
        guest.len(),
        held.entries.len(),
        held.missing(),
        held.gaps.len()
    );
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    assert!(held.missing() > 0, "the guest's limit was not reached");
    // Before the stall everything was pulled, and the gap ends where the guest's journal begins.
    assert_eq!(held.gaps.len(), 1, "{:?}", held.gaps);
    let first = guest.iter().map(|entry| entry.seqnum).min().unwrap();
    assert!(held.gaps[0].1.last < first + 1, "{:?} {first}", held.gaps);
    assert_eq!(held.resets, 0);
    assert!(only_here > 0);
}
