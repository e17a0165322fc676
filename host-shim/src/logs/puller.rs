//! Pulls the journal batch by batch and appends it. One task; it owns the store. A task of the same kind for each of the
//! guest's journal namespaces, begun when the guest first names it.
//!
//! The guest is not trusted: every batch is decoded before it is stored, numbers are checked against the
//! position, and what does not fit is cut (entries that are held already), recorded as a gap (numbers that
//! jump, blocks that do not decode) or refused.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use seed_protocol::{JournalNamespace, MAX_NAMESPACES, seed::v1::JournalBatch};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    JournalSource, SourceError,
    ahead::Ahead,
    batch::{self, Accepted},
    fifo::{self, Output, Progress},
    namespaces::{self, MAX_KEPT},
    reader::Reader,
    rejoin::{self, RejoinError},
    segment::Frame,
    store::{Limits, Store},
};
use crate::text::chain;

/// How long the guest waits when it has nothing new. Short enough that a dead connection is noticed soon.
const POLL: Duration = Duration::from_secs(10);

/// The first and the longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Figures about a log, kept current by the puller.
#[derive(Debug, Default)]
pub struct Counters {
    entries: AtomicU64,
    lag: AtomicU64,
    missing: AtomicU64,
    dropped: AtomicU64,
}

impl Counters {
    /// Entries appended since the puller began.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// How many entries the guest was ahead at the last batch.
    pub fn lag(&self) -> u64 {
        self.lag.load(Ordering::Relaxed)
    }

    /// Entries that could not be had.
    pub fn missing(&self) -> u64 {
        self.missing.load(Ordering::Relaxed)
    }

    /// Messages that the guest's rate limit dropped before they were entries, as far as journald says so:
    /// its notice comes when the same unit logs again after the limit's interval.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A running puller. Dropping it ends the pull at once; [`Handle::drain`] ends it in order.
#[derive(Debug)]
pub struct Handle {
    counters: Arc<Counters>,
    stop: watch::Sender<bool>,
    puller: JoinHandle<()>,
    output: Option<JoinHandle<()>>,
}

impl Handle {
    /// The figures.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Pulls what the guest still has, writes it, and ends; at the latest after `limit`. A guest that is
    /// gone ends it at once. What a stalled reader of stdout has not taken by then is only in the segments.
    pub async fn drain(mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.stop.send_replace(true);
        if timeout_at(deadline, &mut self.puller).await.is_err() {
            tracing::warn!("the last journal entries did not come in time");
            self.puller.abort();
        }
        if let Some(output) = &mut self.output
            && timeout_at(deadline, output).await.is_err()
        {
            tracing::warn!("container's stdout was not read to its end in time");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.puller.abort();
        if let Some(output) = &self.output {
            output.abort();
        }
    }
}

/// Begins to pull from `source` into the segments under `dir`, from where they end, and to write what
/// arrives to `out`. Must be called inside a tokio runtime. A folder that cannot be used is tried again and
/// again and logged: a log never stops an instance.
pub fn spawn(source: impl JournalSource, dir: &Path, out: Option<Output>) -> Handle {
    spawn_with(source, dir, out, Limits::default())
}

/// [`spawn`] with other limits.
pub fn spawn_with(
    source: impl JournalSource,
    dir: &Path,
    out: Option<Output>,
    limits: Limits,
) -> Handle {
    let counters = Arc::new(Counters::default());
    let (stop, stopped) = watch::channel(false);
    let (progress, follow) = watch::channel(Progress::default());
    let output = out.map(|out| {
        // Before the puller's first append, so that stdout begins with this boot.
        let reader = Reader::from_end(dir).unwrap_or_else(|_| Reader::from_start(dir));
        let dir = dir.to_owned();
        tokio::spawn(async move { fifo::write_all(&dir, reader, out, follow).await })
    });
    let puller = Puller {
        ahead: Ahead::new(source, String::new()),
        dir: dir.into(),
        limits,
        counters: Arc::clone(&counters),
        stopped,
        progress,
        namespaces: Some(Namespaces::default()),
    };
    let puller = tokio::spawn(puller.run());
    Handle {
        counters,
        stop,
        puller,
        output,
    }
}

struct Puller<S> {
    ahead: Ahead<S>,
    dir: PathBuf,
    limits: Limits,
    counters: Arc<Counters>,
    stopped: watch::Receiver<bool>,
    progress: watch::Sender<Progress>,
    /// With the system's journal those of the guest's namespaces are pulled; a namespace has none.
    namespaces: Option<Namespaces>,
}

/// The pullers of the guest's namespaces. They end with this.
#[derive(Default)]
struct Namespaces {
    known: BTreeSet<String>,
    pullers: JoinSet<()>,
}

/// Doubling pauses, and one warning per row of failures.
struct Pause {
    next: Duration,
}

impl Pause {
    fn new() -> Self {
        Self { next: PAUSES.0 }
    }

    fn is_first(&self) -> bool {
        self.next == PAUSES.0
    }

    fn take(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(PAUSES.1);
        now
    }
}

impl<S: JournalSource> Puller<S> {
    async fn run(mut self) {
        if let Some(store) = self.open().await {
            self.pull(store).await;
        }
        if let Some(namespaces) = &mut self.namespaces {
            // They have the same order to stop.
            while namespaces.pullers.join_next().await.is_some() {}
        }
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Begins to pull the journals of these namespaces, where that is not done yet.
    fn pull_beside(&mut self, names: &[String]) {
        let Some(namespaces) = &mut self.namespaces else {
            return;
        };
        for name in names.iter().take(MAX_NAMESPACES) {
            if namespaces.known.len() >= MAX_NAMESPACES || !namespaces.known.insert(name.clone()) {
                continue;
            }
            let namespace = match JournalNamespace::try_from(name.as_str()) {
                Ok(namespace) => namespace,
                Err(error) => {
                    tracing::warn!(%error, "a journal namespace is not kept");
                    continue;
                }
            };
            let dir = match namespaces::make_dir(&self.dir, &namespace) {
                Ok(Some(dir)) => dir,
                Ok(None) => {
                    tracing::warn!(%namespace, kept = MAX_KEPT, "a journal namespace is not kept: there are too many");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%namespace, %error, "a journal namespace is not kept for now");
                    // The next batch names it again.
                    namespaces.known.remove(name);
                    continue;
                }
            };
            let puller = Self {
                ahead: self.ahead.beside(&namespace),
                dir,
                limits: namespaces::share_of(self.limits),
                counters: Arc::clone(&self.counters),
                stopped: self.stopped.clone(),
                progress: watch::Sender::default(),
                namespaces: None,
            };
            let run: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(puller.run());
            namespaces.pullers.spawn(run);
        }
    }

    /// The store; `None` when told to stop and a last try fails too.
    async fn open(&mut self) -> Option<Store> {
        let mut pause = Pause::new();
        let mut is_last = false;
        loop {
            match Store::open(&self.dir, self.limits) {
                Ok(store) => return Some(store),
                Err(_) if is_last => return None,
                Err(error) if pause.is_first() => {
                    tracing::warn!(error = %chain(&error), "journal is not kept for now");
                }
                Err(_) => {}
            }
            is_last = self.rest(&mut pause).await;
        }
    }

    /// Waits for the pause or for the order to stop; true for the order.
    async fn rest(&mut self, pause: &mut Pause) -> bool {
        let mut stopped = self.stopped.clone();
        timeout(pause.take(), stopped.wait_for(|stop| *stop))
            .await
            .is_ok()
    }

    async fn pull(&mut self, mut store: Store) {
        let mut pause = Pause::new();
        let mut drains = false;
        let mut synchronized = false;
        loop {
            let draining = *self.stopped.borrow_and_update();
            if draining && !drains {
                // What is under way waits for news; the last pull does not.
                self.ahead.clear();
            }
            drains = draining;
            let wait = if draining { Duration::ZERO } else { POLL };
            let position = store.position();
            self.ahead.ask(position, wait, draining && !synchronized);
            let answer = tokio::select! {
                answer = self.ahead.next() => answer,
                // Whether the order came, or whoever gives it is gone: look at it.
                order = self.stopped.changed(), if !draining => match order {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let failure = match answer {
                Ok(batch) => {
                    synchronized |= draining;
                    self.pull_beside(&batch.namespaces);
                    // The guest reads on while this is decoded and written.
                    self.ahead.ask_on(position, wait);
                    match self.take(&mut store, batch).await {
                        Took::Something => {
                            pause = Pause::new();
                            continue;
                        }
                        Took::Nothing if draining => return,
                        Took::Nothing => {
                            pause = Pause::new();
                            // A guest that does not wait as asked must not make a busy loop.
                            sleep(Duration::from_millis(5)).await;
                            continue;
                        }
                        Took::Refused(why) => {
                            self.ahead.clear();
                            why
                        }
                        Took::Stopped => return,
                    }
                }
                Err(SourceError::Ended) => return,
                Err(error) => error.to_string(),
            };
            if pause.is_first() {
                tracing::warn!(error = failure, "journal is not read for now");
            }
            if draining {
                return;
            }
            self.rest(&mut pause).await;
        }
    }

    async fn take(&mut self, store: &mut Store, mut batch: JournalBatch) -> Took {
        let mut held = store.position();
        let parts = rejoin::is_wanted(&held, &batch);
        if parts {
            match rejoin::find(&self.dir, &held, &mut self.ahead).await {
                Ok(Some(found)) => (held, batch) = found,
                Ok(None) => {}
                Err(RejoinError::Source(error)) => return Took::Refused(error.to_string()),
                // It must not hold up what comes.
                Err(RejoinError::Read(error)) => {
                    tracing::warn!(error = %chain(&error), "the log is not compared with a guest that went back");
                }
            }
        }
        let tail = batch.tail_seqnum;
        let (frame, dropped) = match batch::accept(held, batch) {
            Accepted::Frame(mut frame, dropped) => {
                frame.reset |= parts;
                (frame, dropped)
            }
            // It says other numbers than its entries have; asking again at once would find the same.
            Accepted::Nothing if parts => {
                return Took::Refused("what begins anew has nothing new".to_owned());
            }
            Accepted::Nothing => {
                self.note_lag(0);
                return Took::Nothing;
            }
            Accepted::Refused(why) => return Took::Refused(why),
        };
        let mut pause = Pause::new();
        while let Err(error) = store.append(&frame) {
            if pause.is_first() {
                tracing::warn!(error = %chain(&error), "journal is not written for now");
            }
            if self.rest(&mut pause).await {
                return Took::Stopped;
            }
        }
        self.count(&frame, tail, dropped);
        self.progress.send_modify(|progress| progress.appended += 1);
        Took::Something
    }

    fn count(&self, frame: &Frame, tail: u64, dropped: u64) {
        if dropped > 0 {
            tracing::warn!(dropped, "the guest's rate limit dropped messages");
        }
        self.counters.dropped.fetch_add(dropped, Ordering::Relaxed);
        let missing = frame.gap.map_or(0, |gap| gap.count());
        if let Some(gap) = frame.gap {
            tracing::warn!(
                missing,
                reason = gap.reason.text(),
                "journal entries are missing"
            );
        }
        self.counters
            .entries
            .fetch_add(frame.count.into(), Ordering::Relaxed);
        self.counters.missing.fetch_add(missing, Ordering::Relaxed);
        self.note_lag(tail.saturating_sub(frame.last));
    }

    /// How far behind the log is, is told of the system's journal.
    fn note_lag(&self, entries: u64) {
        if self.namespaces.is_some() {
            self.counters.lag.store(entries, Ordering::Relaxed);
        }
    }
}

enum Took {
    Something,
    Nothing,
    Refused(String),
    Stopped,
}
