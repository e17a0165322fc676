//! Who waits for which job. systemd answers `StartUnit` with the path of a job and says by the signal
//! `JobRemoved` how the job ended; the signal may be handled before the caller has looked at the answer.
//! So a caller says first that it is about to ask ([`Jobs::intend`]); as long as anybody is, the ends of
//! all jobs are kept.
//!
//! No D-Bus here, and no I/O.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The most ends that are kept for callers who have not named their job yet. A boot has some hundreds
/// of jobs; an intent lasts for one D-Bus call.
const MAX_EARLY: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Jobs {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    closed: bool,
    intents: usize,
    early: HashMap<String, String>,
    waiting: HashMap<String, oneshot::Sender<String>>,
}

/// Somebody is about to ask systemd for a job.
#[derive(Debug)]
pub(super) struct Intent {
    jobs: Arc<Jobs>,
}

impl Jobs {
    /// Says that a job is about to be asked for.
    pub(super) fn intend(self: &Arc<Self>) -> Intent {
        self.lock().intents += 1;
        Intent {
            jobs: Arc::clone(self),
        }
    }

    /// Takes the end of a job.
    pub(super) fn ended(&self, job: &str, result: &str) {
        let mut table = self.lock();
        if let Some(waiter) = table.waiting.remove(job) {
            // Nobody listens any more when the caller's time was over.
            let _ = waiter.send(result.to_owned());
        } else if table.intents > 0 && table.early.len() < MAX_EARLY {
            table.early.insert(job.to_owned(), result.to_owned());
        }
    }

    /// The connection is gone: nobody will hear of any job any more.
    pub(super) fn close(&self) {
        let mut table = self.lock();
        table.closed = true;
        table.waiting.clear();
        table.early.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intent {
    /// Names the job. The receiver fails when the connection is lost.
    pub(super) fn claim(self, job: &str) -> oneshot::Receiver<String> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.jobs.lock();
        if let Some(result) = table.early.remove(job) {
            // The receiver is in our hands, so this cannot fail.
            let _ = sender.send(result);
        } else if !table.closed {
            table.waiting.insert(job.to_owned(), sender);
        }
        drop(table);
        receiver
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let mut table = self.jobs.lock();
        table.intents -= 1;
        if table.intents == 0 {
            table.early.clear();
        }
        table.waiting.retain(|_, waiter| !waiter.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_comes_before_the_claim_is_kept() {
        let jobs = Arc::new(Jobs::default());
        let intent = jobs.intend();
        jobs.ended("/job/1", "done");
        jobs.ended("/job/2", "failed");
        assert_eq!(intent.claim("/job/2").try_recv().unwrap(), "failed");
        assert!(
            jobs.lock().early.is_empty(),
            "nothing is kept when nobody is about to ask"
        );
    }

    #[test]
    fn an_end_that_comes_after_the_claim_wakes_its_waiter_alone() {
        let jobs = Arc::new(Jobs::default());
        let mut first = jobs.intend().claim("/job/1");
        let mut second = jobs.intend().claim("/job/2");
        jobs.ended("/job/2", "timeout");
        assert_eq!(second.try_recv().unwrap(), "timeout");
        assert_eq!(first.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let jobs = Arc::new(Jobs::default());
        jobs.ended("/job/1", "done");
        let mut waiter = jobs.intend().claim("/job/1");
        assert_eq!(waiter.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    }

    #[test]
    fn a_lost_connection_fails_every_waiter_also_later_ones() {
        let jobs = Arc::new(Jobs::default());
        let mut before = jobs.intend().claim("/job/1");
        jobs.close();
        let mut after = jobs.intend().claim("/job/2");
        assert_eq!(before.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(after.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }

    #[test]
    fn waiters_who_left_are_forgotten() {
        let jobs = Arc::new(Jobs::default());
        drop(jobs.intend().claim("/job/1"));
        drop(jobs.intend());
        assert!(jobs.lock().waiting.is_empty());
    }
}
