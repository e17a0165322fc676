//! What a container engine takes for the output of the container: the journal of this boot, one line an
//! entry. The end comes when systemd has stopped everything and ends its last processes; what is in the
//! journal by then is given out first.
//!
//! It reads like everybody else, by position from [`crate::journal`], and keeps only what has been read
//! and not yet been taken.

pub mod log;
pub mod render;

use std::{
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
use tracing::debug;

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
    /// Somebody has read here.
    used: Arc<AtomicBool>,
    /// Somebody has been told of the end.
    finished: Arc<watch::Sender<bool>>,
}

#[derive(Debug, Default)]
struct State {
    position: Position,
    /// Lines that have not been taken yet.
    pending: Vec<u8>,
    /// How much of them has been.
    taken: usize,
}

impl Console {
    /// Begins at the boot's first entry.
    pub fn new(journal: journal::Service, end: End, render: Render) -> Self {
        Self {
            journal,
            end,
            render,
            state: Arc::default(),
            used: Arc::default(),
            finished: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The next bytes, at most `most` of them, as soon as there are some. None at all is the end. Giving
    /// up loses nothing: nothing is awaited between taking bytes and answering.
    pub async fn read(&self, most: usize) -> Vec<u8> {
        self.used.store(true, Ordering::Relaxed);
        let mut state = self.state.lock().await;
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
            synchronize: false,
            turn: None,
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
            last = Some(head);
        }
        match last {
            Some(head) => state.position = Position::after(batch.outcome.seqnum_id, &head),
            None => return false,
        }
        true
    }
}

impl State {
    fn take(&mut self, most: usize) -> Vec<u8> {
        let left = self.pending.get(self.taken..).unwrap_or_default();
        let bytes = left.get(..most).unwrap_or(left).to_vec();
        self.taken += bytes.len();
        if self.taken >= self.pending.len() {
            // The room goes, too: a burst is no reason to keep it.
            self.pending = Vec::new();
            self.taken = 0;
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
