//! Asks journald to write out all that it has received, and waits for journald's own end.
//!
//! A unit's end does not mean that its last lines are in the journal. `io.systemd.Journal.Synchronize` answers
//! when everything sent before the call is. One varlink call by hand: a JSON object and a zero byte each way.
//!
//! At the machine's end journald writes out what it has received, "Journal stopped", and ends (`dispatch_sigterm` in systemd's
//! `journald-manager.c`); whoever is connected sees it go.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

const SOCKET: &str = "/run/systemd/journal/io.systemd.journal";
/// A namespace has a journald of its own, which its socket starts when it sleeps.
const NAMESPACE_SOCKET: &str = "/run/systemd/journal.NAMESPACE/io.systemd.journal";
const CALL: &[u8] = b"{\"method\":\"io.systemd.Journal.Synchronize\",\"parameters\":{}}\0";
const MAX_REPLY_BYTES: u64 = 64 * 1024;

/// Why journald was not heard to have written everything.
#[derive(Debug, Error)]
pub enum SynchronizeError {
    /// journald is not there, or did not answer in time.
    #[error("cannot ask journald to synchronise")]
    Io(#[from] io::Error),
    /// The answer is no varlink reply.
    #[error("journald gave no proper answer to a request to synchronise")]
    Reply,
    /// journald said no.
    #[error("journald refused to synchronise: {0}")]
    Refused(String),
}

/// Blocks until the journald of the system, or of this `LogNamespace=`, has written what it received before; at most
/// `timeout`.
///
/// # Errors
/// When journald cannot be reached, refuses, or takes longer.
pub fn synchronize(namespace: Option<&str>, timeout: Duration) -> Result<(), SynchronizeError> {
    synchronize_at(&socket(namespace), timeout)
}

/// Blocks until that journald has ended, which it does last of all when the machine ends; at most `timeout`. One that is not
/// there has.
///
/// # Errors
/// When it still runs then.
pub fn wait_for_end(namespace: Option<&str>, timeout: Duration) -> Result<(), SynchronizeError> {
    wait_for_end_at(&socket(namespace), timeout)
}

fn socket(namespace: Option<&str>) -> PathBuf {
    namespace.map_or_else(
        || SOCKET.into(),
        |name| NAMESPACE_SOCKET.replace("NAMESPACE", name).into(),
    )
}

fn wait_for_end_at(socket: &Path, timeout: Duration) -> Result<(), SynchronizeError> {
    let Ok(mut stream) = UnixStream::connect(socket) else {
        return Ok(());
    };
    stream.set_read_timeout(Some(timeout))?;
    // journald says nothing that it was not asked for: what comes is the end, by a reset where it never took the call. A signal, or
    // a stop, is none: with a time limit the kernel starts no read again (signal(7)), and this one is made again.
    match stream.read_exact(&mut [0]) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(error.into())
        }
        Ok(()) => Err(SynchronizeError::Reply),
        Err(_) => Ok(()),
    }
}

fn synchronize_at(socket: &Path, timeout: Duration) -> Result<(), SynchronizeError> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(CALL)?;
    let mut reply = Vec::new();
    BufReader::new(stream.take(MAX_REPLY_BYTES)).read_until(0, &mut reply)?;
    let Some((0, reply)) = reply.split_last() else {
        return Err(SynchronizeError::Reply);
    };
    let value: serde_json::Value =
        serde_json::from_slice(reply).map_err(|_| SynchronizeError::Reply)?;
    match value
        .as_object()
        .ok_or(SynchronizeError::Reply)?
        .get("error")
    {
        None | Some(serde_json::Value::Null) => Ok(()),
        Some(error) => Err(SynchronizeError::Refused(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    fn with_answer(answer: &'static [u8]) -> Result<(), SynchronizeError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("io.systemd.journal");
        let listener = UnixListener::bind(&path).unwrap();
        let journald = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut call = vec![0; CALL.len()];
            stream.read_exact(&mut call).unwrap();
            stream.write_all(answer).unwrap();
            // A silent journald holds it until the caller is done.
            (call, answer.is_empty().then_some(stream))
        });
        // Only a silent one is waited for in vain.
        let limit = Duration::from_millis(if answer.is_empty() { 100 } else { 60_000 });
        let result = synchronize_at(&path, limit);
        assert_eq!(journald.join().unwrap().0, CALL);
        result
    }

    #[test]
    fn an_empty_reply_is_success() {
        with_answer(b"{\"parameters\":{}}\0").unwrap();
        with_answer(b"{}\0").unwrap();
    }

    #[test]
    fn journalds_end_is_seen_and_one_that_goes_on_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("io.systemd.journal");
        let limit = Duration::from_millis(100);
        wait_for_end_at(&path, limit).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let error = wait_for_end_at(&path, limit).unwrap_err();
        assert!(matches!(error, SynchronizeError::Io(_)), "{error}");
        // With a caller that it took, one that it did not take, and nobody.
        let limit = Duration::from_secs(60);
        let took = thread::spawn({
            let path = path.clone();
            move || wait_for_end_at(&path, limit)
        });
        // The first is the caller from above, who has left.
        let taken = [listener.accept().unwrap(), listener.accept().unwrap()];
        let not_taken = UnixStream::connect(&path).unwrap();
        drop((taken, listener));
        took.join().unwrap().unwrap();
        drop(not_taken);
        wait_for_end_at(&path, limit).unwrap();
    }

    #[test]
    fn a_refusal_is_told_by_its_name() {
        let error = with_answer(b"{\"error\":\"io.systemd.Journal.NotSupportedByNamespaces\"}\0");
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("NotSupportedByNamespaces")
        );
    }

    #[test]
    fn silence_and_nonsense_are_errors() {
        assert!(matches!(
            with_answer(b"").unwrap_err(),
            SynchronizeError::Io(_)
        ));
        assert!(matches!(
            with_answer(b"[1]\0").unwrap_err(),
            SynchronizeError::Reply
        ));
        assert!(matches!(
            with_answer(b"no json\0").unwrap_err(),
            SynchronizeError::Reply
        ));
        assert!(matches!(
            with_answer(b"{}").unwrap_err(),
            SynchronizeError::Reply
        ));
    }
}
