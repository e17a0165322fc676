//! Who writes in the guest, and who pulls on the host.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use seed_shim::{
    agent::{Agent, Journal},
    logs::{Handle, puller::spawn},
};
use tokio::{sync::watch, time::sleep};

use super::{
    container::Container,
    held::{Held, held},
    link::Link,
};

/// How long the slowest of all may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// More entries than are ever under way.
const MORE: u64 = 10_000;

/// Writes native entries at about `rate` a second on a thread of its own, until told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    pub(crate) fn begin(container: &Container, rate: u64) -> Self {
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

    /// How many were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    pub(crate) fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.sent.load(Ordering::SeqCst)
    }
}

/// The host's side: a link that can be cut, and a puller that can be killed.
pub(crate) struct Host {
    pub(crate) link: Link,
    alive: watch::Sender<bool>,
    dir: tempfile::TempDir,
    pub(crate) puller: Option<Handle>,
}

impl Host {
    pub(crate) fn begin(container: &Container) -> Self {
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
    pub(crate) fn pull(&mut self) {
        let agent = Agent::new(self.link.socket());
        let source = Journal::new(&agent, self.alive.subscribe());
        self.puller = Some(spawn(source, &self.logs(), None));
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    /// Pulls what is left, and reads what is there.
    pub(crate) async fn end(mut self) -> Held {
        self.drain().await;
        held(&self.logs())
    }

    /// Pulls what is left.
    pub(crate) async fn drain(&mut self) {
        let puller = self.puller.take().unwrap();
        puller.drain(LIMIT).await;
    }
}

/// Numbers that come the same in each run (xorshift64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Waits until the host has at least so many entries, as its counters say.
pub(crate) async fn wait_for_entries(host: &Host, entries: u64) {
    let counters = host.puller.as_ref().unwrap().counters();
    let what = format!("{entries} entries on the host");
    until(&what, || counters.entries() >= entries).await;
}

/// Waits until so much has come that it was asked for after this began: whoever was killed is back. Somebody has to write.
pub(crate) async fn wait_for_more(host: &Host) {
    let counters = host.puller.as_ref().unwrap().counters();
    wait_for_entries(host, counters.entries() + MORE).await;
}

/// Waits until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LIMIT, "waited in vain for {what}");
        sleep(Duration::from_millis(20)).await;
    }
}
