//! Batches of journal entries for the host, by long poll. One thread owns the readers (`reader`); requests queue up for
//! it and wait there until there is something to read or their time is over. The position is the caller's; all that
//! is remembered between requests is where the last answers to each caller ended, for those that ask ahead (`turns`).
//! Who ends something waits here until the host has what was logged of it (`drain`).
//!
//! The system's journal and that of each namespace are a source each (`source`), found by `namespaces`.
//! [`seed_journal`] reads; where it meets a file in a form that it does not know, the guest's own journalctl reads all of
//! that journal (`journalctl`, `export`). The agent's own log is in the journal and therefore in the batches.

mod drain;
mod export;
mod journalctl;
mod namespaces;
mod reader;
mod settings;
mod source;
mod turns;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use seed_journal::{
    Position, Query, ReadError, ReadOutcome, Skipped, SynchronizeError, synchronize, wait_for_end,
};
use seed_protocol::JournalNamespace;
use thiserror::Error;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{timeout, timeout_at},
};
use tracing::{debug, info, warn};

use drain::Whose;
pub use journalctl::JournalctlError;
use reader::{Order, Reader, Waiting};
pub use turns::Turn;

use crate::sys::privileges;

/// The most requests that wait at the same time: a puller has two, and a host one for each namespace.
const MAX_REQUESTS: usize = 64;

/// The longest poll that `seed.v1` promises.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// How long journald may take to write out what it has before a read. Half of what the host gives a guest that it is about
/// to kill.
const SYNCHRONIZE_LIMIT: Duration = Duration::from_secs(1);

/// Of the time that a unit's end may wait for the host journald may use one part in so many.
const JOURNALDS_SHARE: u32 = 2;

/// Of the time that the machine's end may wait the reader's thread may use one part in so many to say which journals there are.
const READERS_SHARE: u32 = 2;

/// How much later than its own limit a call to journald counts as stuck.
const LATE: Duration = Duration::from_millis(500);

const MACHINE_ID: &str = "/etc/machine-id";

/// Why there is no batch.
#[derive(Debug, Error)]
pub enum JournalError {
    /// More requests wait than anybody needs.
    #[error("{MAX_REQUESTS} readers of the journal wait already")]
    Busy,
    /// The request before it is not there: the caller has to begin anew.
    #[error("this read of the journal follows one that never came")]
    OutOfTurn,
    /// Without it nobody knows which journal is this system's.
    #[error("{MACHINE_ID} has no machine id")]
    MachineId(#[source] io::Error),
    /// The files cannot be read.
    #[error("the journal cannot be read")]
    Read(#[from] ReadError),
    /// One of them is in a form that only the guest's journalctl knows, and that does not work.
    #[error(
        "the journal has a file in a form that this agent does not know, and journalctl does not help"
    )]
    Journalctl(#[from] JournalctlError),
    /// The reader's thread is not there.
    #[error("the journal's reader does not run")]
    Gone,
}

/// What a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The last entry that it has.
    pub after: Position,
    /// The batch closes when its block would be longer.
    pub max_bytes: usize,
    /// How long to wait when there is nothing new; cut to [`MAX_WAIT`].
    pub wait: Duration,
    /// journald shall write out what it has received before the first look.
    pub synchronize: bool,
    /// For callers that ask for the next batch before they have this one.
    pub turn: Option<Turn>,
    /// Only these entries; the empty query wants all.
    pub filter: Query,
    /// Whose journal; the system's without.
    pub namespace: Option<JournalNamespace>,
}

/// What it gets.
#[derive(Debug)]
pub struct Batch {
    /// Where the entries are from and what is missing before them.
    pub outcome: ReadOutcome,
    /// The entries, as [`seed_protocol::journal`] encodes them.
    pub block: Vec<u8>,
    /// With a filter: where the next one begins, behind all that was looked at.
    pub position: Option<Position>,
    /// With the system's journal: which namespaces there are.
    pub namespaces: Vec<JournalNamespace>,
}

impl Batch {
    fn empty(after: Position) -> Self {
        let Position {
            seqnum_id, seqnum, ..
        } = after;
        Self {
            outcome: ReadOutcome {
                seqnum_id,
                first: 0,
                last: seqnum,
                count: 0,
                gap: None,
                reset: false,
                tail_seqnum: seqnum,
                caught_up: true,
                skipped: Skipped::default(),
            },
            block: Vec::new(),
            position: None,
            namespaces: Vec::new(),
        }
    }

    /// Nothing to tell. (A filter leaves gaps and resets in, whether an entry follows or not.)
    fn is_empty(&self) -> bool {
        let ReadOutcome { gap, reset, .. } = self.outcome;
        self.outcome.count == 0 && (self.position.is_none() || (gap.is_none() && !reset))
    }

    /// Where the next one begins. The reader remembers the entry's mark.
    fn end(&self) -> Position {
        self.position.unwrap_or(Position {
            seqnum_id: self.outcome.seqnum_id,
            seqnum: self.outcome.last,
            mark: None,
        })
    }
}

type Answer = Result<Batch, JournalError>;

/// A handle to the reader's thread. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Service {
    orders: mpsc::Sender<Order>,
}

impl Service {
    /// Starts the thread. The journal is looked for in the folder of this machine's id below each of the
    /// directories, the persistent one first; none of them has to be there yet.
    pub fn spawn(directories: Vec<PathBuf>) -> Self {
        Self::spawn_in_boot(directories, || false)
    }

    /// The same, which looks for news less often as long as the guest boots.
    pub fn spawn_in_boot(
        directories: Vec<PathBuf>,
        is_booting: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let is_booting = Box::new(is_booting);
        let (orders, receiver) = mpsc::channel(MAX_REQUESTS);
        let read = move || Reader::new(directories, is_booting).run(receiver);
        if let Err(error) = privileges::spawn("journal", read) {
            // Every request says so.
            warn!(%error, "the journal's reader cannot be started");
        }
        Self { orders }
    }

    /// The entries after a position; none when the time was over first.
    pub async fn read(&self, request: Request) -> Answer {
        if request.synchronize {
            let journal = vec![request.namespace.clone()];
            ask_all(journal, synchronize, SYNCHRONIZE_LIMIT).await;
        }
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + request.wait.min(MAX_WAIT);
        let waiting = Waiting::new(request, until, answer);
        self.orders
            .try_send(Order::Read(Box::new(waiting)))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => JournalError::Busy,
                mpsc::error::TrySendError::Closed(_) => JournalError::Gone,
            })?;
        answered.await.unwrap_or(Err(JournalError::Gone))
    }

    /// At the end of a unit: has journald write out what it received, and waits until the host that pulls has all of it;
    /// where nobody pulls, for journald alone. It is the system's journal, and that of a namespace. False when the limit
    /// was over first.
    pub async fn drain(&self, namespace: Option<JournalNamespace>, limit: Duration) -> bool {
        let mut journals = vec![None];
        journals.extend(namespace.map(Some));
        let until = Instant::now() + limit;
        ask_all(journals.clone(), synchronize, limit / JOURNALDS_SHARE).await;
        self.held(journals, until).await
    }

    /// At the end of the machine: waits until every journald has written all that it received and has ended.
    pub async fn finished(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let journals = self.list(limit / READERS_SHARE).await;
        let left = until.saturating_duration_since(Instant::now());
        ask_all(journals, wait_for_end, left).await;
    }

    /// Then: waits until the host that pulls has all of every journal. False when the limit was over first.
    pub async fn drain_all(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let journals = self.list(limit / READERS_SHARE).await;
        self.held(journals, until).await
    }

    /// Which journals there are; the system's alone where the reader's thread does not say.
    async fn list(&self, limit: Duration) -> Vec<Whose> {
        let (answer, answered) = oneshot::channel();
        let list = async {
            self.orders.send(Order::List(answer)).await.ok()?;
            answered.await.ok()
        };
        let listed = timeout(limit, list).await;
        listed.ok().flatten().unwrap_or_else(|| vec![None])
    }

    async fn held(&self, journals: Vec<Whose>, until: Instant) -> bool {
        let (answer, answered) = oneshot::channel();
        let drain = Order::Drain(journals, until, answer);
        let held =
            async { self.orders.send(drain).await.is_ok() && answered.await.unwrap_or(false) };
        // The thread keeps to the limit between two reads, each of which may take longer.
        timeout_at(until.into(), held).await.unwrap_or(false)
    }
}

/// Asks each journal's journald at the same time, so that a slow one costs the others nothing. What is written already is
/// worth having whatever comes of it.
async fn ask_all(
    journals: Vec<Whose>,
    ask: fn(Option<&str>, Duration) -> Result<(), SynchronizeError>,
    limit: Duration,
) {
    let ask = |whose: Whose| {
        let asked =
            spawn_blocking(move || ask(whose.as_ref().map(JournalNamespace::as_str), limit));
        // It keeps to the limit but where it cannot even connect: one that is stuck takes nobody, and its queue may be full.
        timeout(limit + LATE, asked)
    };
    for done in join_all(journals.into_iter().map(ask)).await {
        match done {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => info!(%error, "journald did not write out what it has"),
            Ok(Err(error)) => debug!(%error, "nobody asked journald to write out what it has"),
            Err(_) => info!("journald is stuck and takes no more calls"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(wait: Duration) -> Request {
        Request {
            max_bytes: 1024,
            wait,
            ..Request::default()
        }
    }

    #[tokio::test]
    async fn without_a_journal_the_batch_is_empty_when_the_time_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::spawn(vec![dir.path().to_owned()]);
        let begin = Instant::now();
        match service.read(request(Duration::from_millis(150))).await {
            Ok(batch) => {
                assert_eq!((batch.outcome.count, batch.outcome.seqnum_id), (0, [0; 16]));
                assert!(begin.elapsed() >= Duration::from_millis(150));
            }
            // A container may have no machine id.
            Err(error) => assert!(matches!(error, JournalError::MachineId(_)), "{error}"),
        }
    }

    #[tokio::test]
    async fn a_request_that_follows_one_that_never_came_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::spawn(vec![dir.path().to_owned()]);
        let ask = |number, follows| Request {
            turn: Some(Turn {
                caller: 1,
                number,
                follows,
            }),
            ..request(Duration::from_millis(100))
        };
        // A container may have no machine id, and then each answer is an error, in its turn.
        let _ = service.read(ask(1, false)).await;
        let error = service.read(ask(3, true)).await.unwrap_err();
        assert!(matches!(error, JournalError::OutOfTurn), "{error}");
        let first = service.read(ask(4, false));
        let second = service.read(ask(5, true));
        for answer in [first.await, second.await] {
            let is_fine = match &answer {
                Ok(batch) => batch.is_empty(),
                Err(error) => matches!(error, JournalError::MachineId(_)),
            };
            assert!(is_fine, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn an_end_is_not_held_up_by_the_readers_thread() {
        let (orders, receiver) = mpsc::channel(1);
        let service = Service { orders };
        let limit = Duration::from_millis(50);
        // Nobody takes orders; then the queue is full as well.
        for _ in 0..2 {
            assert!(!service.drain_all(limit).await);
            assert_eq!(service.list(limit).await, [Whose::None]);
        }
        drop(receiver);
        assert!(!service.drain_all(limit).await);
    }

    #[tokio::test]
    async fn readers_wait_side_by_side_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::spawn(vec![dir.path().to_owned()]);
        if service.read(request(Duration::ZERO)).await.is_err() {
            // A container may have no machine id, and then nobody waits.
            return;
        }
        let mut long: Vec<_> = (0..MAX_REQUESTS - 1)
            .map(|_| Box::pin(service.read(request(MAX_WAIT))))
            .collect();
        let mut others = futures_util::future::select_all(&mut long);
        // One that came last and does not want to wait is answered first.
        tokio::select! {
            biased;
            _ = &mut others => panic!("an answer before its time"),
            answer = service.read(request(Duration::ZERO)) => assert!(answer.unwrap().is_empty()),
        }
        // The thread holds what it can, the queue as many again; then no more.
        let mut more: Vec<_> = (0..2 * MAX_REQUESTS)
            .map(|_| Box::pin(service.read(request(MAX_WAIT))))
            .collect();
        let (answer, ..) = futures_util::future::select_all(&mut more).await;
        assert!(matches!(answer.unwrap_err(), JournalError::Busy));
    }
}
