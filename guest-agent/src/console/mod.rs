//! What a container engine takes for the output of the container: the journal of this boot, one line an
//! entry. The end comes when systemd has stopped everything and ends its last processes; what is in the
//! journal by then is given out first.
//!
//! It reads like everybody else, by position from [`crate::journal`], and keeps only what has been read
//! and not yet been taken. A reader of the next agent goes on where the last one was ([`place`]).

pub mod log;
mod place;
pub mod render;

use std::{
    collections::VecDeque,
    mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use seed_journal::Position;
use seed_protocol::journal::BatchDecoder;
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};
use tracing::{debug, warn};

use self::place::Place;
use crate::{
    journal::{self, Request},
    sys::machine,
};

/// How much is read at a time.
const BATCH_BYTES: usize = 256 * 1024;

/// How long to wait before a journal that could not be read is looked at again.
const PAUSE: Duration = Duration::from_millis(500);

/// The end of the instance. Clones share it.
#[derive(Debug, Clone)]
pub struct End {
    ended: Arc<watch::Sender<bool>>,
}

impl Default for End {
    fn default() -> Self {
        Self {
            ended: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl End {
    /// The instance has ended: nothing runs any more but this agent.
    pub fn declare(&self) {
        self.ended.send_replace(true);
    }

    /// True from then on.
    pub fn is_declared(&self) -> bool {
        *self.ended.borrow()
    }

    /// Waits for it. Any number may wait, before and after it.
    pub async fn wait(&self) {
        // The sender is `self`'s own, so the wait ends with a true value only.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }
}

/// How an entry becomes a line.
pub type Render = fn(&render::Line<'_>, &mut Vec<u8>);

/// One reader's way through the journal of this boot. Clones share it.
#[derive(Debug, Clone)]
pub struct Console {
    journal: journal::Service,
    end: End,
    render: Render,
    state: Arc<Mutex<State>>,
    /// Where its place is written down.
    memory: Option<Arc<PathBuf>>,
    /// Somebody has read here.
    used: Arc<AtomicBool>,
    /// Somebody has been told of the end.
    finished: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct State {
    /// After everything that is pending.
    position: Position,
    /// Lines that have not been taken yet.
    pending: Vec<u8>,
    /// How much of them has been.
    taken: usize,
    /// Where each entry's text ends in it, and the position after the entry.
    ends: VecDeque<(usize, Position)>,
    /// Where the text begins that has been taken in part.
    begin: usize,
    /// After the last entry that has been taken whole.
    after: Position,
    /// What an earlier agent gave out of the next entry's text.
    skip: usize,
    /// What is written down.
    known: Place,
}

impl Console {
    /// Begins at the boot's first entry.
    pub fn new(journal: journal::Service, end: End, render: Render) -> Self {
        Self {
            journal,
            end,
            render,
            state: Arc::default(),
            memory: None,
            used: Arc::default(),
            finished: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Goes on where the file says that an earlier agent was, and keeps it up to date.
    #[must_use]
    pub fn remembering(self, path: PathBuf) -> Self {
        let known = Place::read(&path).unwrap_or_else(|error| {
            warn!(path = %path.display(), %error, "where a reader of the console was is lost");
            None
        });
        let state = known.map(State::at).unwrap_or_default();
        Self {
            state: Arc::new(Mutex::new(state)),
            memory: Some(Arc::new(path)),
            ..self
        }
    }

    /// The next bytes, at most `most` of them, as soon as there are some. None at all is the end. Giving
    /// up loses nothing: nothing is awaited between taking bytes and answering.
    pub async fn read(&self, most: usize) -> Vec<u8> {
        self.used.store(true, Ordering::Relaxed);
        let mut state = self.state.lock().await;
        self.remember(&mut state);
        loop {
            let bytes = state.take(most.max(1));
            if !bytes.is_empty() {
                return bytes;
            }
            let ended = self.end.is_declared();
            let more = tokio::select! {
                more = self.more(&mut state, ended) => more,
                // Once more, without waiting.
                () = self.end.wait(), if !ended => true,
            };
            if ended && !more {
                self.finished.send_replace(true);
                return Vec::new();
            }
        }
    }

    /// Whoever comes for more has what was given out before.
    fn remember(&self, state: &mut State) {
        let place = state.place();
        let Some(path) = self.memory.as_ref().filter(|_| place != state.known) else {
            return;
        };
        match place.write(path) {
            Ok(()) => state.known = place,
            // Quietly: a line in the journal is output, which would be the next one's cause.
            Err(error) => debug!(%error, "where a reader of the console is cannot be written down"),
        }
    }

    /// Waits until whoever reads here has been told of the end; at once when nobody does.
    pub async fn finished(&self) {
        if self.used.load(Ordering::Relaxed) {
            // The sender is `self`'s own.
            let _ = self.finished.subscribe().wait_for(|done| *done).await;
        }
    }

    /// Reads a batch; false when there was nothing more.
    async fn more(&self, state: &mut State, ended: bool) -> bool {
        let request = Request {
            after: state.position,
            max_bytes: BATCH_BYTES,
            wait: if ended {
                Duration::ZERO
            } else {
                journal::MAX_WAIT
            },
            ..Request::default()
        };
        let batch = match self.journal.read(request).await {
            Ok(batch) => batch,
            Err(error) => {
                debug!(%error, "no output of the container");
                if !ended {
                    sleep(PAUSE).await;
                }
                return false;
            }
        };
        // No wait from here on.
        if let Some(gap) = &batch.outcome.gap {
            let line = format!("-- {} entries are missing --\n", gap.count());
            state.pending.extend_from_slice(line.as_bytes());
        }
        let boot = machine::boot_id_bytes();
        let mut last = None;
        let mut fields = Vec::new();
        // Our own encoder made it, so it can be read; what cannot ends the batch.
        let Ok(mut decoder) = BatchDecoder::new(&batch.block) else {
            return false;
        };
        while let Ok(Some(head)) = decoder.read_into(&mut fields) {
            if boot.is_none_or(|boot| boot == head.boot_id) {
                let line = render::Line {
                    head: &head,
                    fields: &fields,
                };
                (self.render)(&line, &mut state.pending);
            }
            let end = state.pending.len();
            let after = Position::after(batch.outcome.seqnum_id, &head);
            state.ends.push_back((end, after));
            last = Some(after);
        }
        let Some(last) = last else {
            return false;
        };
        state.position = last;
        state.skip_what_was_given(batch.outcome.reset);
        true
    }
}

impl State {
    /// Of a reader that was at this place.
    fn at(place: Place) -> Self {
        Self {
            position: place.after,
            after: place.after,
            skip: place.within,
            known: place,
            ..Self::default()
        }
    }

    /// Where the reader is.
    fn place(&self) -> Place {
        Place {
            after: self.after,
            within: self.taken - self.begin + self.skip,
        }
    }

    /// Passes over what an earlier agent gave out of the first entry. Numbers that began anew are other entries.
    fn skip_what_was_given(&mut self, reset: bool) {
        let skip = mem::take(&mut self.skip);
        if let Some((end, _)) = self.ends.front().filter(|_| !reset) {
            let within = self.pending.get(..skip.min(*end)).map_or(0, <[u8]>::len);
            self.take(within);
        }
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        let left = self.pending.get(self.taken..).unwrap_or_default();
        let bytes = left.get(..most).unwrap_or(left).to_vec();
        self.taken += bytes.len();
        while let Some((end, after)) = self.ends.front().copied() {
            if end > self.taken {
                break;
            }
            self.ends.pop_front();
            (self.begin, self.after) = (end, after);
        }
        if self.taken >= self.pending.len() {
            // The room goes, too: a burst is no reason to keep it.
            self.pending = Vec::new();
            self.ends = VecDeque::new();
            (self.taken, self.begin) = (0, 0);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_out_once_and_in_order() {
        let mut state = State {
            pending: b"one\ntwo\n".to_vec(),
            ..State::default()
        };
        assert_eq!(state.take(3), b"one");
        assert_eq!(state.take(100), b"\ntwo\n");
        assert_eq!(state.take(1), b"");
    }

    #[test]
    fn the_next_agent_goes_on_in_the_middle_of_a_line() {
        let position = |seqnum| Position {
            seqnum,
            ..Position::default()
        };
        let text = [("one\n", 1), ("two\n", 2), ("three\n", 3)];
        let whole: String = text.iter().map(|(line, _)| *line).collect();
        for cut in 0..=whole.len() {
            let fill = |state: &mut State| {
                let from = state.position.seqnum;
                for (line, seqnum) in text.iter().filter(|(_, seqnum)| *seqnum > from) {
                    state.pending.extend_from_slice(line.as_bytes());
                    let end = state.pending.len();
                    state.ends.push_back((end, position(*seqnum)));
                }
                state.skip_what_was_given(false);
            };
            let mut first = State::default();
            fill(&mut first);
            let mut all = first.take(cut);
            let mut next = State::at(first.place());
            // Nothing was given out between two starts.
            next = State::at(next.place());
            fill(&mut next);
            all.extend(next.take(100));
            assert_eq!(String::from_utf8(all).unwrap(), whole, "{cut}");
        }
    }

    #[tokio::test]
    async fn without_a_journal_the_end_is_the_end_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal::Service::spawn(vec![directory.path().to_owned()]);
        let end = End::default();
        let console = Console::new(journal, end.clone(), render::human);
        console.finished().await;
        let read = console.read(10);
        tokio::pin!(read);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut read).await;
        assert!(early.is_err());
        end.declare();
        assert!(read.await.is_empty());
        assert!(console.read(10).await.is_empty());
        console.finished().await;
    }
}
