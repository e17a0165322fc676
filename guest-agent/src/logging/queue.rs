//! The queue between whoever says something and the thread that tells it. Bounded: when it is full, and until all that is in it has
//! been told, what comes is counted and dropped, so that what is missing is missing in one place and said in one line.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::record::Record;

/// More than an agent says from its start to a guest that is up, debug lines left out.
const MAX_RECORDS: usize = 1024;
const MAX_BYTES: usize = 256 * 1024;

/// What is to be told next.
#[derive(Debug)]
pub(super) enum Next {
    Record(Record),
    /// So many are missing here.
    Missing(u64),
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Record>,
    bytes: usize,
    /// Dropped behind the last of the records.
    missing: u64,
    /// One that was taken is being told.
    is_telling: bool,
    is_closed: bool,
}

impl State {
    fn has_room(&self, bytes: usize) -> bool {
        // One that is longer than all of the room must come through some time.
        self.records.is_empty()
            || (self.records.len() < MAX_RECORDS && self.bytes + bytes <= MAX_BYTES)
    }

    fn take(&mut self) -> Option<Next> {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.bytes();
            return Some(Next::Record(record));
        }
        let missing = std::mem::take(&mut self.missing);
        (missing > 0).then_some(Next::Missing(missing))
    }

    fn is_told(&self) -> bool {
        self.records.is_empty() && self.missing == 0 && !self.is_telling
    }
}

impl Queue {
    /// Never waits for who tells it.
    pub(super) fn push(&self, record: Record) {
        let mut state = self.lock();
        if state.missing > 0 || !state.has_room(record.bytes()) {
            state.missing += 1;
            return;
        }
        state.bytes += record.bytes();
        state.records.push_back(record);
        self.changed.notify_all();
    }

    /// Waits for the next one; the one before has been told. `None`: there will be no more.
    pub(super) fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        state.is_telling = false;
        self.changed.notify_all();
        loop {
            let next = state.take();
            if next.is_some() || state.is_closed {
                state.is_telling = next.is_some();
                return next;
            }
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until everything has been told. False when the limit was over first.
    pub(super) fn wait_until_told(&self, limit: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| !state.is_told());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_told()
    }

    /// Ends the thread that tells, when it has told what is in here.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
