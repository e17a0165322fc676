//! Batches of journal entries for the host, by long poll. One thread owns the reader; requests queue up for
//! it and wait there until there is something to read or their time is over. The position is the caller's; all that
//! is remembered between requests is where the last answers to each caller ended, for those that ask ahead (`turns`).
//!
//! [`seed_journal`] reads; where it meets a file in a form that it does not know, the guest's own journalctl reads all of
//! the journal (`journalctl`, `export`). This only waits and answers. The agent's own log is in the journal and
//! therefore in the batches.

mod export;
mod journalctl;
mod settings;
mod turns;

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use seed_journal::{Journal, Position, ReadError, ReadOutcome, Skipped, synchronize};
use seed_protocol::journal::BatchEncoder;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use journalctl::Journalctl;
pub use journalctl::JournalctlError;
pub use turns::Turn;
use turns::{Turns, When};

use crate::sys::privileges;

/// The most requests that wait at the same time: one puller has two.
const MAX_REQUESTS: usize = 16;

/// The longest poll that `seed.v1` promises.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// How long journald may take to write out what it has.
const SYNCHRONIZE_LIMIT: Duration = Duration::from_secs(10);

/// While somebody waits for entries, new requests are looked for this often.
const SLICE: Duration = Duration::from_millis(100);

/// Problems that are told; this many damaged files say enough.
const MAX_TOLD: usize = 64;

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
#[derive(Debug, Clone, Copy)]
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
}

/// What it gets.
#[derive(Debug)]
pub struct Batch {
    /// Where the entries are from and what is missing before them.
    pub outcome: ReadOutcome,
    /// The entries, as [`seed_protocol::journal`] encodes them.
    pub block: Vec<u8>,
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
        }
    }

    fn is_empty(&self) -> bool {
        self.outcome.count == 0
    }

    /// Where the next one begins. The reader remembers the entry's mark.
    fn end(&self) -> Position {
        Position {
            seqnum_id: self.outcome.seqnum_id,
            seqnum: self.outcome.last,
            mark: None,
        }
    }
}

type Answer = Result<Batch, JournalError>;

#[derive(Debug)]
struct Waiting {
    request: Request,
    until: Instant,
    /// It waits beyond its time for what will be clear in a moment; once.
    settles: bool,
    answer: oneshot::Sender<Answer>,
}

/// A handle to the reader's thread. Clones share it; it ends with the last of them.
#[derive(Debug, Clone)]
pub struct Service {
    requests: mpsc::Sender<Waiting>,
}

impl Service {
    /// Starts the thread. The journal is looked for in the folder of this machine's id below each of the
    /// directories, the persistent one first; none of them has to be there yet.
    pub fn spawn(directories: Vec<PathBuf>) -> Self {
        let (requests, receiver) = mpsc::channel(MAX_REQUESTS);
        let read = move || Reader::new(directories).run(receiver);
        if let Err(error) = privileges::spawn("journal", read) {
            // Every request says so.
            warn!(%error, "the journal's reader cannot be started");
        }
        Self { requests }
    }

    /// The entries after a position; none when the time was over first.
    pub async fn read(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + request.wait.min(MAX_WAIT);
        let waiting = Waiting {
            request,
            until,
            settles: false,
            answer,
        };
        self.requests
            .try_send(waiting)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => JournalError::Busy,
                mpsc::error::TrySendError::Closed(_) => JournalError::Gone,
            })?;
        answered.await.unwrap_or(Err(JournalError::Gone))
    }
}

/// What the thread owns.
struct Reader {
    directories: Vec<PathBuf>,
    journal: Option<Journal>,
    /// Reads in place of `journal`, while that does not know the form of a file.
    journalctl: Option<Journalctl>,
    turns: Turns,
    /// Files that were refused, each told once.
    told: HashSet<PathBuf>,
}

impl Reader {
    fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            journal: None,
            journalctl: None,
            turns: Turns::default(),
            told: HashSet::new(),
        }
    }

    fn run(mut self, mut requests: mpsc::Receiver<Waiting>) {
        let mut waiting = Vec::new();
        for problem in settings::problems(Path::new("/")) {
            warn!(
                problem,
                "journald is not set for a host that wants everything"
            );
        }
        loop {
            if waiting.is_empty() {
                let Some(request) = requests.blocking_recv() else {
                    return;
                };
                waiting.push(self.accept(request));
            }
            while waiting.len() < MAX_REQUESTS
                && let Ok(request) = requests.try_recv()
            {
                waiting.push(self.accept(request));
            }
            waiting = self.serve_all(waiting);
            if let Some(first) = waiting.iter().map(|one| one.until).min() {
                let left = first.saturating_duration_since(Instant::now());
                match &mut self.journal {
                    Some(journal) => {
                        journal.wait_for_change(left.min(SLICE));
                    }
                    None => thread::sleep(left.min(SLICE)),
                }
            }
        }
    }

    fn accept(&mut self, waiting: Waiting) -> Waiting {
        if let Some(turn) = waiting.request.turn {
            self.turns.arrive(turn, waiting.request.after);
        }
        if waiting.request.synchronize
            && let Err(error) = synchronize(SYNCHRONIZE_LIMIT)
        {
            // What is written already is worth having all the same.
            info!(%error, "journald did not write out what it has");
        }
        waiting
    }

    /// Answers what can be answered; gives back what has to wait on.
    fn serve_all(&mut self, mut waiting: Vec<Waiting>) -> Vec<Waiting> {
        // Requests come in order but for rare cases. Then one pass answers what the next one waits for.
        waiting.sort_by_key(|one| one.request.turn.map(|turn| turn.number));
        waiting
            .into_iter()
            .filter_map(|one| self.serve(one))
            .collect()
    }

    /// Answers, or gives back what has to wait on.
    fn serve(&mut self, mut waiting: Waiting) -> Option<Waiting> {
        if waiting.answer.is_closed() {
            return None;
        }
        let turn = waiting.request.turn;
        let is_over = Instant::now() >= waiting.until;
        match turn.map(|turn| self.turns.when(turn)) {
            Some(When::Now(after)) => waiting.request.after = after,
            Some(When::Later) if !is_over => return Some(waiting),
            Some(When::Later | When::Past) => {
                // Its caller began anew and does not wait for it, or has to: the one before it never came.
                let _ = waiting.answer.send(Err(JournalError::OutOfTurn));
                return None;
            }
            None => {}
        }
        let answer = self.read(&waiting.request);
        let is_empty = answer.as_ref().is_ok_and(Batch::is_empty);
        if is_empty && !is_over {
            return Some(waiting);
        }
        if is_empty
            && !waiting.settles
            && let Some(clear) = self.journal.as_ref().and_then(Journal::unclear_until)
        {
            // "Nothing" would be believed by a host that asks for the last time.
            (waiting.settles, waiting.until) = (true, clear);
            return Some(waiting);
        }
        if let Some(turn) = turn {
            let moved = answer.as_ref().ok().filter(|batch| !batch.is_empty());
            self.turns.answered(turn, moved.map(Batch::end));
        }
        // Who has left needs no answer.
        let _ = waiting.answer.send(answer);
        None
    }

    fn read(&mut self, request: &Request) -> Answer {
        if self.journalctl.is_some() {
            let journal = self.journal()?;
            journal.look_for_files();
            if journal.unknown_form().is_some() {
                return self.read_by_journalctl(request);
            }
            // journald deleted what we do not know.
            info!("all journal files are in a known form again");
            self.journalctl = None;
        }
        let mut block = BatchEncoder::new(request.max_bytes);
        let journal = self.journal()?;
        let outcome = journal.read_after(&request.after, &mut block);
        let is_unknown = journal.unknown_form().is_some();
        self.tell_problems();
        if is_unknown {
            return self.read_by_journalctl(request);
        }
        Ok(Batch {
            outcome: outcome?,
            block: block.finish(),
        })
    }

    fn read_by_journalctl(&mut self, request: &Request) -> Answer {
        let journalctl = match self.journalctl.take() {
            Some(journalctl) => journalctl,
            None => {
                // Which file and why was just told.
                warn!(
                    "the journal is read by the guest's own journalctl, since this agent does not know the form of all files"
                );
                let folders = self.journal()?.folders().to_vec();
                Journalctl::new("journalctl".into(), folders)
            }
        };
        let journalctl = self.journalctl.insert(journalctl);
        Ok(journalctl.read(&request.after, request.max_bytes)?)
    }

    fn journal(&mut self) -> Result<&mut Journal, JournalError> {
        let journal = match self.journal.take() {
            Some(journal) => journal,
            None => Journal::open(
                &self.directories,
                machine_id().map_err(JournalError::MachineId)?,
            ),
        };
        Ok(self.journal.insert(journal))
    }

    fn tell_problems(&mut self) {
        for problem in self.journal.iter().flat_map(Journal::problems) {
            if self.told.len() < MAX_TOLD && self.told.insert(problem.path.clone()) {
                warn!(path = %problem.path.display(), error = %problem.error, "journal file not read");
            }
        }
    }
}

/// `machine-id(5)`: 32 hexadecimal digits.
fn machine_id() -> io::Result<[u8; 16]> {
    let text = fs::read_to_string(MACHINE_ID)?;
    parse_machine_id(text.trim()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_machine_id(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok()?;
    (digits && id != 0).then(|| id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(wait: Duration) -> Request {
        Request {
            after: Position::START,
            max_bytes: 1024,
            wait,
            synchronize: false,
            turn: None,
        }
    }

    #[test]
    fn a_machine_id_has_32_digits_and_is_not_zero() {
        let id = parse_machine_id("00112233445566778899aabbccddeeff").unwrap();
        assert_eq!(id[..3], [0x00, 0x11, 0x22]);
        let bad = [
            "",
            "uninitialized",
            "+0112233445566778899aabbccddeeff",
            &"0".repeat(32),
        ];
        assert!(bad.iter().all(|text| parse_machine_id(text).is_none()));
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
    async fn readers_wait_side_by_side_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::spawn(vec![dir.path().to_owned()]);
        let begin = Instant::now();
        let polls = (0..8).map(|_| service.read(request(Duration::from_secs(1))));
        futures_util::future::join_all(polls).await;
        // One after the other they would take 8 s.
        assert!(begin.elapsed() < Duration::from_secs(8));
    }
}
