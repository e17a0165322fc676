//! The thread that owns the readers: takes requests, answers those that can be answered, and looks for news for those that
//! cannot. It blocks on files, on journald when it is to write out what it has, and on nothing else.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use seed_journal::{Position, synchronize, synchronize_namespace};
use seed_protocol::JournalNamespace;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::{
    Answer, Batch, JournalError, MAX_REQUESTS, Request,
    namespaces::Namespaces,
    settings,
    source::{Source, machine_id},
    turns::{Turns, When},
};

/// How long journald may take to write out what it has.
const SYNCHRONIZE_LIMIT: Duration = Duration::from_secs(10);

/// While somebody waits for entries, new requests are looked for this often.
const SLICE: Duration = Duration::from_millis(100);

/// News show in the files' headers and in the directories; this is for what does not.
const READ_ANYWAY: Duration = Duration::from_secs(1);

/// Journals that are kept open. The one that was asked for longest ago makes room; it costs its next reader some work.
const MAX_SOURCES: usize = 9;

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct Waiting {
    request: Request,
    until: Instant,
    /// It waits beyond its time for what will be clear in a moment; once.
    settles: bool,
    /// Up to here nothing was wanted.
    passed: Option<Position>,
    /// There is more to look at already.
    is_behind: bool,
    answer: oneshot::Sender<Answer>,
}

impl Waiting {
    pub(super) fn new(request: Request, until: Instant, answer: oneshot::Sender<Answer>) -> Self {
        Self {
            request,
            until,
            settles: false,
            passed: None,
            is_behind: false,
            answer,
        }
    }
}

/// What the thread owns.
pub(super) struct Reader {
    directories: Vec<PathBuf>,
    /// The one that was asked for last is the last.
    sources: Vec<Source>,
    namespaces: Namespaces,
    turns: Turns,
    machine_id: Option<[u8; 16]>,
}

impl Reader {
    pub(super) fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            sources: Vec::new(),
            namespaces: Namespaces::default(),
            turns: Turns::default(),
            machine_id: None,
        }
    }

    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Waiting>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        for problem in settings::problems(Path::new("/")) {
            warn!(
                problem,
                "journald is not set for a host that wants everything"
            );
        }
        let mut served = Instant::now();
        let mut has_work = false;
        loop {
            if waiting.is_empty() {
                let Some(request) = requests.blocking_recv() else {
                    return;
                };
                waiting.push(self.accept(request));
                has_work = true;
            }
            while waiting.len() < MAX_REQUESTS
                && let Ok(request) = requests.try_recv()
            {
                waiting.push(self.accept(request));
                has_work = true;
            }
            let now = Instant::now();
            let is_due = |one: &Waiting| one.is_behind || one.until <= now;
            if has_work || waiting.iter().any(is_due) || now - served >= READ_ANYWAY {
                waiting = self.serve_all(waiting);
                served = now;
            } else {
                waiting.retain(|one| !one.answer.is_closed());
            }
            has_work = waiting.iter().any(|one| one.is_behind) || self.rest(&waiting);
        }
    }

    fn accept(&mut self, waiting: Waiting) -> Waiting {
        let request = &waiting.request;
        if let Some(turn) = request.turn {
            self.turns.arrive(turn, request.after);
        }
        if request.synchronize {
            let done = match &request.namespace {
                None => synchronize(SYNCHRONIZE_LIMIT),
                Some(name) => synchronize_namespace(name.as_str(), SYNCHRONIZE_LIMIT),
            };
            if let Err(error) = done {
                // What is written already is worth having all the same.
                info!(%error, "journald did not write out what it has");
            }
        }
        waiting
    }

    /// Looks at each journal that somebody waits for.
    fn have_news(&mut self, waiting: &[Waiting]) -> bool {
        let mut news = false;
        for source in awaited(&mut self.sources, waiting) {
            news |= source.may_have_news();
        }
        news
    }

    /// Sleeps until there may be news (then true), or a request may have come, or the first of these has waited for long
    /// enough.
    fn rest(&mut self, waiting: &[Waiting]) -> bool {
        let Some(first) = waiting.iter().map(|one| one.until).min() else {
            return false;
        };
        let end = first.min(Instant::now() + SLICE);
        loop {
            if self.have_news(waiting) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let steps = awaited(&mut self.sources, waiting).map(|source| source.next_look());
            thread::sleep(steps.min().unwrap_or(SLICE).min(left));
        }
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
        waiting.is_behind = false;
        let turn = waiting.request.turn;
        let is_over = Instant::now() >= waiting.until;
        let mut after = waiting.request.after;
        match turn.map(|turn| self.turns.when(turn)) {
            Some(When::Now(position)) => after = position,
            Some(When::Later) if !is_over => return Some(waiting),
            Some(When::Later | When::Past) => {
                // Its caller began anew and does not wait for it, or has to: the one before it never came.
                let _ = waiting.answer.send(Err(JournalError::OutOfTurn));
                return None;
            }
            None => {}
        }
        let after = waiting.passed.unwrap_or(after);
        let answer = self.read(&waiting.request, &after);
        if let Some(batch) = answer.as_ref().ok().filter(|batch| batch.is_empty()) {
            waiting.passed = batch.position;
            waiting.is_behind = batch.position.is_some() && !batch.outcome.caught_up;
            if !is_over {
                return Some(waiting);
            }
            if !waiting.settles
                && let Some(clear) = self.sources.last().and_then(Source::unclear_until)
            {
                // "Nothing" would be believed by a host that asks for the last time.
                (waiting.settles, waiting.until) = (true, clear);
                return Some(waiting);
            }
        }
        if let Some(turn) = turn {
            let moved = |batch: &&Batch| !batch.is_empty() || batch.position.is_some();
            let moved = answer.as_ref().ok().filter(moved);
            self.turns.answered(turn, moved.map(Batch::end));
        }
        // Who has left needs no answer.
        let _ = waiting.answer.send(answer);
        None
    }

    fn read(&mut self, request: &Request, after: &Position) -> Answer {
        let machine_id = match self.machine_id {
            Some(id) => id,
            None => *self.machine_id.insert(machine_id()?),
        };
        let namespace = request.namespace.as_ref();
        let mut batch = self.source(machine_id, namespace).read(request, after)?;
        if namespace.is_none() {
            let names = self.namespaces.look(&self.directories, machine_id);
            batch.namespaces = names.to_vec();
        }
        Ok(batch)
    }

    fn source(
        &mut self,
        machine_id: [u8; 16],
        namespace: Option<&JournalNamespace>,
    ) -> &mut Source {
        let known = self
            .sources
            .iter()
            .position(|source| source.namespace() == namespace);
        let source = match known {
            Some(index) => self.sources.remove(index),
            None => {
                if self.sources.len() == MAX_SOURCES {
                    self.sources.remove(0);
                }
                Source::open(&self.directories, machine_id, namespace)
            }
        };
        let end = self.sources.len();
        self.sources.push(source);
        &mut self.sources[end]
    }
}

/// The journals that somebody waits for.
fn awaited<'s>(
    sources: &'s mut [Source],
    waiting: &'s [Waiting],
) -> impl Iterator<Item = &'s mut Source> {
    sources.iter_mut().filter(|source| {
        let namespace = source.namespace();
        let mut requests = waiting.iter().map(|one| one.request.namespace.as_ref());
        requests.any(|wanted| wanted == namespace)
    })
}
