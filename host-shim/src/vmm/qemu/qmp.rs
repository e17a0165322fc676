//! A client of QEMU's machine protocol (docs/interop/qmp-spec.rst): JSON lines on a Unix socket. Commands
//! are few and answered in order; events arrive in between.

use std::{io, path::Path, time::Duration};

use serde_json::{Value, json};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};

/// The longest line that is taken.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// How long QEMU may take to greet and to answer the first command.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// Why the monitor does not talk.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket.
    #[error("QMP connection failed")]
    Io(#[from] io::Error),
    /// It said nothing in time.
    #[error("QMP gave no greeting within {} s", GREETING_LIMIT.as_secs())]
    Silent,
    /// It said something else.
    #[error("QMP said {0} instead of its greeting")]
    Greeting(String),
    /// It closed the connection.
    #[error("QMP connection was closed")]
    Closed,
}

/// What QEMU tells by itself, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QmpEvent {
    /// The machine is about to end.
    Shutdown {
        /// `guest-shutdown`, `guest-reset`, `guest-panic`, `host-signal`, `host-qmp-quit`...
        reason: String,
    },
    /// The guest's kernel panicked.
    Panicked,
    /// The processors stopped.
    Stopped,
    /// The processors run on.
    Resumed,
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    write: OwnedWriteHalf,
}

impl Qmp {
    /// Connects and leaves negotiation mode. Events come on the channel, which ends with the connection.
    pub async fn connect(
        socket: &Path,
    ) -> Result<(Self, mpsc::UnboundedReceiver<QmpEvent>), QmpError> {
        Self::over(UnixStream::connect(socket).await?).await
    }

    /// As [`Qmp::connect`], over a stream that is open already.
    pub async fn over(
        stream: UnixStream,
    ) -> Result<(Self, mpsc::UnboundedReceiver<QmpEvent>), QmpError> {
        let (read, write) = stream.into_split();
        let mut read = BufReader::new(read);
        let mut qmp = Self { write };
        let greeting = timeout(GREETING_LIMIT, next(&mut read)).await;
        let greeting = greeting
            .map_err(|_| QmpError::Silent)??
            .ok_or(QmpError::Closed)?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Greeting(greeting.to_string()));
        }
        qmp.send("qmp_capabilities").await?;
        let (events, received) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(message)) = next(&mut read).await {
                if let Some(event) = event(&message) {
                    let _ = events.send(event);
                } else if let Some(error) = message.get("error") {
                    tracing::warn!(%error, "QEMU refused a command");
                }
            }
        });
        Ok((qmp, received))
    }

    /// Sends a command without arguments. A refusal is logged when it arrives.
    pub async fn send(&mut self, command: &'static str) -> Result<(), QmpError> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.write.write_all(line.as_bytes()).await?;
        Ok(())
    }
}

async fn next(read: &mut BufReader<OwnedReadHalf>) -> Result<Option<Value>, QmpError> {
    let mut line = String::new();
    read.take(MAX_LINE_BYTES).read_line(&mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&line)
        .map(Some)
        .map_err(|_| QmpError::Greeting(line))
}

fn event(message: &Value) -> Option<QmpEvent> {
    let name = message.get("event")?.as_str()?;
    match name {
        "SHUTDOWN" => {
            let reason = message.pointer("/data/reason").and_then(Value::as_str);
            Some(QmpEvent::Shutdown {
                reason: reason.unwrap_or("unknown").to_owned(),
            })
        }
        "GUEST_PANICKED" => Some(QmpEvent::Panicked),
        "STOP" => Some(QmpEvent::Stopped),
        "RESUME" => Some(QmpEvent::Resumed),
        _ => None,
    }
}
