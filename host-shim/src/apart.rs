//! Work on files whose server may be gone: a folder of an NFS mount that is `hard` keeps whoever looks at it for as long as
//! the server is away. It is done by a thread of its own, so that the shim, which has one, answers meanwhile; and there is a
//! limit to how long it is waited for.
//!
//! The thread has the mounts and the network of the one that starts it (clone(2)) and ends with its work. One that stands
//! still for good costs its stack and goes with the process; one that goes on after the limit takes back what it
//! made, at the next thing that it comes to.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};

/// Room for `boot.json` at its deepest. What is not used of it is no memory.
const STACK_BYTES: usize = 1 << 20;

/// Why there is no result.
#[derive(Debug, Error)]
pub enum ApartError {
    /// It stands still.
    #[error(
        "{what} did not answer within {seconds} s (limits.create_seconds): if it is on a mount whose server is gone, it will when that is back"
    )]
    Late {
        /// What was being done.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// Nobody waits for it any more.
    #[error("nobody waits for it any more")]
    GivenUp,
    /// There is no thread.
    #[error("a thread cannot be started")]
    Thread(#[source] io::Error),
    /// It ended without a result.
    #[error("the thread at {0} ended early")]
    Ended(String),
}

/// What the work is at, for whoever waits for it.
#[derive(Debug)]
pub struct Progress(Weak<Mutex<String>>);

impl Progress {
    /// From here on it is at this. An error when nobody waits any more: what was made so far is to be dropped.
    pub fn at(&self, what: impl Into<String>) -> Result<(), ApartError> {
        let at = self.0.upgrade().ok_or(ApartError::GivenUp)?;
        *lock(&at) = what.into();
        Ok(())
    }
}

/// The result of `work`, which a thread of its own does, within `limit`. What it has later is dropped there.
pub async fn run<T, E>(
    limit: Duration,
    work: impl FnOnce(&Progress) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<ApartError> + Send + 'static,
{
    // Whoever waits has it, and nobody else: a caller that goes away gives up as well.
    let at = Arc::new(Mutex::new(String::new()));
    let progress = Progress(Arc::downgrade(&at));
    let (give, take) = oneshot::channel();
    thread::Builder::new()
        .name("files".into())
        .stack_size(STACK_BYTES)
        .spawn(move || drop(give.send(work(&progress))))
        .map_err(ApartError::Thread)?;
    match timeout(limit, take).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(ApartError::Ended(lock(&at).clone()).into()),
        Err(_) => Err(ApartError::Late {
            what: lock(&at).clone(),
            seconds: limit.as_secs(),
        }
        .into()),
    }
}

/// A lock whose holder panicked holds a text that is as good as before.
fn lock(at: &Mutex<String>) -> MutexGuard<'_, String> {
    at.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Tells of its end.
    struct Made(Sender<&'static str>);

    impl Drop for Made {
        fn drop(&mut self) {
            let _ = self.0.send("taken back");
        }
    }

    #[tokio::test]
    async fn what_comes_in_time_is_the_result() {
        let limit = Duration::from_secs(3600);
        let done = run::<_, ApartError>(limit, |progress| {
            progress.at("a file")?;
            Ok(thread::current().name() == Some("files"))
        });
        assert!(done.await.unwrap());
        let failed = run::<(), _>(limit, |_| Err(ApartError::GivenUp)).await;
        assert!(matches!(failed, Err(ApartError::GivenUp)));
    }

    #[tokio::test]
    async fn others_go_on_while_it_stands_still_and_what_it_made_is_taken_back() {
        let (go_on, wait) = channel::<()>();
        let (tell, heard) = channel();
        let work = run::<(), ApartError>(Duration::from_millis(50), move |progress| {
            let _made = Made(tell.clone());
            progress.at("/srv/gone for /data")?;
            let _ = wait.recv();
            let given_up = progress.at("the next one");
            let _ = tell.send(if given_up.is_err() {
                "given up"
            } else {
                "went on"
            });
            given_up
        });
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        let late = tokio::select! {
            late = work => late.unwrap_err(),
            () = others => unreachable!("they go on for good"),
        };
        assert!(turns > 1, "nobody else had a turn");
        let text = late.to_string();
        assert!(
            text.starts_with("/srv/gone for /data did not answer within 0 s"),
            "{text}"
        );
        go_on.send(()).unwrap();
        assert_eq!(
            [heard.recv(), heard.recv()],
            [Ok("given up"), Ok("taken back")]
        );
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_gives_up_and_a_late_result_is_dropped() {
        let (go_on, wait) = channel::<()>();
        let (tell, heard) = channel();
        let limit = Duration::from_secs(3600);
        let caller = run::<_, ApartError>(limit, move |_| {
            let _ = wait.recv();
            Ok(Made(tell))
        });
        timeout(Duration::from_millis(20), caller)
            .await
            .err()
            .unwrap();
        go_on.send(()).unwrap();
        assert_eq!(heard.recv(), Ok("taken back"));
    }
}
