//! The thread that owns the readers: takes requests, answers those that can be answered, and looks for news for those that
//! cannot; and tells those who wait for it when the host has everything. It blocks on files, and on nothing else.

use std::{
    collections::HashSet,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use seed_journal::Position;
use seed_protocol::{JournalNamespace, MAX_NAMESPACES};
use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, Batch, JournalError, MAX_REQUESTS, Request,
    drain::{Drains, Whose},
    namespaces::Namespaces,
    settings,
    source::{Source, machine_id},
    turns::{Turns, When},
};

/// While somebody waits for entries, new requests are looked for this often.
const SLICE: Duration = Duration::from_millis(100);

/// While somebody waits until the host has everything.
const SHORT_SLICE: Duration = Duration::from_millis(5);

/// News show in the files' headers and in the directories; this is for what does not.
const READ_ANYWAY: Duration = Duration::from_secs(1);

/// As long as the guest boots, news are looked for this often: every look takes its time from the boot, and from one to the
/// next more than one entry comes.
const BOOT_LOOK: Duration = Duration::from_millis(100);

/// Journals that are kept open. The one that was asked for longest ago makes room; it costs its next reader some work.
const MAX_SOURCES: usize = 9;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Answer this.
    Read(Box<Waiting>),
    /// Say when the host has everything of these journals, or that it had not by then.
    Drain(Vec<Whose>, Instant, oneshot::Sender<bool>),
    /// Which journals there are.
    List(oneshot::Sender<Vec<Whose>>),
}

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

/// Says whether the guest still boots.
pub(super) type IsBooting = Box<dyn Fn() -> bool + Send>;

/// What the thread owns.
pub(super) struct Reader {
    directories: Vec<PathBuf>,
    is_booting: IsBooting,
    /// The one that was asked for last is the last.
    sources: Vec<Source>,
    namespaces: Namespaces,
    turns: Turns,
    drains: Drains,
    /// Namespaces whose settings were looked at.
    looked_at: HashSet<JournalNamespace>,
    machine_id: Option<[u8; 16]>,
}

impl Reader {
    pub(super) fn new(directories: Vec<PathBuf>, is_booting: IsBooting) -> Self {
        Self {
            directories,
            is_booting,
            sources: Vec::new(),
            namespaces: Namespaces::default(),
            turns: Turns::default(),
            drains: Drains::default(),
            looked_at: HashSet::new(),
            machine_id: None,
        }
    }

    pub(super) fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        settings::tell(None);
        let mut served = Instant::now();
        let mut has_work = false;
        loop {
            if waiting.is_empty() && self.drains.is_empty() {
                let Some(order) = orders.blocking_recv() else {
                    return;
                };
                waiting.extend(self.accept(order));
                has_work = true;
            }
            while waiting.len() < MAX_REQUESTS
                && let Ok(order) = orders.try_recv()
            {
                waiting.extend(self.accept(order));
                has_work = true;
            }
            let now = Instant::now();
            let is_due = |one: &Waiting| one.is_behind || one.until <= now;
            if has_work
                || !self.drains.is_empty()
                || waiting.iter().any(is_due)
                || now - served >= READ_ANYWAY
            {
                waiting = self.serve_all(waiting);
                served = now;
            } else {
                waiting.retain(|one| !one.answer.is_closed());
            }
            self.settle(&waiting);
            has_work = waiting.iter().any(|one| one.is_behind) || self.rest(&waiting);
        }
    }

    fn accept(&mut self, order: Order) -> Option<Waiting> {
        match order {
            Order::Read(waiting) => {
                let request = &waiting.request;
                if let Some(turn) = request.turn {
                    self.turns.arrive(turn, request.after);
                    self.drains.asked(&request.namespace, &request.after);
                }
                return Some(*waiting);
            }
            Order::Drain(journals, until, answer) => self.drains.begin(journals, until, answer),
            Order::List(answer) => {
                // Who has left needs no answer.
                let _ = answer.send(self.journals());
            }
        }
        None
    }

    /// The system's, and those of the namespaces.
    fn journals(&mut self) -> Vec<Whose> {
        let id = self.machine_id();
        let names = id.map(|id| self.namespaces.look(&self.directories, id).to_vec());
        let names = names.unwrap_or_default().into_iter().map(Some);
        std::iter::once(None).chain(names).collect()
    }

    /// What requests that wait already say of what the host holds counts too.
    fn settle(&mut self, waiting: &[Waiting]) {
        if self.drains.is_empty() {
            return;
        }
        for one in waiting.iter().filter(|one| one.request.turn.is_some()) {
            self.drains
                .asked(&one.request.namespace, &one.request.after);
        }
        self.drains.settle(Instant::now());
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
        let slice = match (waiting.is_empty(), self.drains.is_empty()) {
            (true, true) => return false,
            (false, true) => SLICE,
            (_, false) => SHORT_SLICE,
        };
        let end = Instant::now() + slice;
        let first = waiting.iter().map(|one| one.until).min();
        let end = first.map_or(end, |first| first.min(end));
        // An end is never waited for longer than it takes.
        if self.drains.is_empty() && (self.is_booting)() {
            thread::sleep(BOOT_LOOK.min(end.saturating_duration_since(Instant::now())));
            return self.have_news(waiting);
        }
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
        let unclear = self.sources.last().and_then(Source::unclear_until);
        let whose = &waiting.request.namespace;
        if turn.is_some()
            && unclear.is_none()
            && let Some(batch) = answer.as_ref().ok().filter(|one| one.outcome.caught_up)
        {
            let end = if batch.is_empty() { after } else { batch.end() };
            self.drains.answered(whose, &end);
        }
        if let Some(batch) = answer.as_ref().ok().filter(|batch| batch.is_empty()) {
            waiting.passed = batch.position;
            waiting.is_behind = batch.position.is_some() && !batch.outcome.caught_up;
            let hurries = turn.is_some() && self.drains.hurries(whose);
            if !is_over && !hurries {
                return Some(waiting);
            }
            if !waiting.settles
                && let Some(clear) = unclear
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
        let machine_id = self.machine_id()?;
        let namespace = request.namespace.as_ref();
        let mut batch = self.source(machine_id, namespace).read(request, after)?;
        if namespace.is_none() {
            let names = self.namespaces.look(&self.directories, machine_id);
            batch.namespaces = names.to_vec();
        }
        Ok(batch)
    }

    fn machine_id(&mut self) -> Result<[u8; 16], JournalError> {
        match self.machine_id {
            Some(id) => Ok(id),
            None => Ok(*self.machine_id.insert(machine_id()?)),
        }
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
                if let Some(name) = namespace
                    && self.looked_at.len() < MAX_NAMESPACES
                    && self.looked_at.insert(name.clone())
                {
                    settings::tell(namespace);
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
