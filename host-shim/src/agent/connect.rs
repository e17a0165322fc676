//! Connections to a port in the guest through the Unix socket of a user-space vsock device: the client
//! writes `CONNECT <port>\n` and reads `OK <number>\n` (Firecracker's `docs/vsock.md`, which
//! [`crate::vsock`] follows). A port that nobody listens on yet closes the connection without a word.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

/// The longest answer: `OK ` and a 32-bit number.
const MAX_ANSWER_BYTES: usize = 16;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The socket.
    #[error("vsock socket {} cannot be used", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It answered with something else.
    #[error("vsock port {port} answered {answer:?} instead of OK")]
    Answer {
        /// The port.
        port: u32,
        /// What came.
        answer: String,
    },
    /// Nobody listens in the guest.
    #[error("nobody listens on vsock port {0} in the guest")]
    Refused(u32),
    /// No answer.
    #[error("vsock port {0} gave no answer")]
    Silent(u32),
}

/// Connects to `port`, again and again until `limit` is over.
pub async fn dial(socket: &Path, port: u32, limit: Duration) -> Result<UnixStream, ConnectError> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(PAUSE);
        let attempt = timeout(left.min(ATTEMPT), once(socket, port)).await;
        match attempt.unwrap_or(Err(ConnectError::Silent(port))) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() + PAUSE >= until => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn once(path: &Path, port: u32) -> Result<UnixStream, ConnectError> {
    let wrap = |source| ConnectError::Socket {
        path: path.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(path).await.map_err(wrap)?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await
        .map_err(wrap)?;
    // Byte by byte: what follows the line belongs to the caller.
    let mut answer = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.map_err(wrap)? == 0 {
            return Err(ConnectError::Refused(port));
        }
        if byte[0] == b'\n' {
            break;
        }
        answer.push(byte[0]);
        if answer.len() > MAX_ANSWER_BYTES {
            break;
        }
    }
    if answer.starts_with(b"OK ") && answer.len() <= MAX_ANSWER_BYTES {
        return Ok(stream);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Err(ConnectError::Answer { port, answer })
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    async fn answering(answer: &'static [u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut line = [0; 13];
                stream.read_exact(&mut line).await.unwrap();
                assert_eq!(&line, b"CONNECT 1024\n");
                let _ = stream.write_all(answer).await;
            }
        });
        (dir, path)
    }

    #[tokio::test]
    async fn what_follows_the_answer_is_left_for_the_caller() {
        let (_dir, path) = answering(b"OK 1073741824\nrest").await;
        let mut stream = once(&path, 1024).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rest");
    }

    #[tokio::test]
    async fn other_answers_are_no_connection() {
        let (_dir, path) = answering(b"").await;
        let result = once(&path, 1024).await;
        assert!(
            matches!(result, Err(ConnectError::Refused(1024))),
            "{result:?}"
        );
        for answer in [&b"NO 1\n"[..], b"OKOKOKOKOKOKOKOKOKOKOKOKOK"] {
            let (_dir, path) = answering(answer).await;
            let result = once(&path, 1024).await;
            assert!(
                matches!(result, Err(ConnectError::Answer { .. })),
                "{result:?}"
            );
        }
        let limit = Duration::from_millis(1);
        let result = dial(Path::new("/nonexistent"), 1024, limit).await;
        assert!(matches!(result, Err(ConnectError::Socket { .. })));
    }

    #[tokio::test]
    async fn whoever_listens_a_moment_later_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let late = async {
            sleep(2 * PAUSE).await;
            let (mut stream, _) = UnixListener::bind(&path).unwrap().accept().await.unwrap();
            stream.write_all(b"OK 1\n").await.unwrap();
            stream
        };
        let (reached, _stream) = tokio::join!(dial(&path, 1024, Duration::from_secs(60)), late);
        reached.unwrap();
    }
}
