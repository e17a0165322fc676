//! A client of QEMU's machine protocol (docs/interop/qmp-spec.rst): JSON lines on a Unix socket. Commands whose
//! answer matters carry a number; events arrive in between.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

/// The longest line that is taken.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// How long QEMU may take to start, and to make its machine: then it greets.
const GREETING_LIMIT: Duration = Duration::from_secs(30);

/// How long QEMU may take to answer a command.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Who waits for the answer to which command.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

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
    /// It refused a command, in its own words.
    #[error("QEMU refused {command}: {said}")]
    Refused {
        /// Which.
        command: &'static str,
        /// Why.
        said: String,
    },
    /// It did not answer a command in time.
    #[error("QEMU did not answer {command} within {} s", ANSWER_LIMIT.as_secs())]
    NoAnswer {
        /// Which.
        command: &'static str,
    },
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
    /// A write of the guest did not fit on the host, and the machine stops until it is tried again.
    NoRoom,
}

/// A connection to a monitor. Clones share it.
#[derive(Debug, Clone)]
pub struct Qmp {
    write: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
    waiting: Waiting,
    /// The number of the next command that is answered.
    next: Arc<AtomicU64>,
}

impl Qmp {
    /// Leaves negotiation mode on a connection. Events come on the channel, which ends with the connection.
    pub async fn over(
        stream: UnixStream,
    ) -> Result<(Self, mpsc::UnboundedReceiver<QmpEvent>), QmpError> {
        let (read, write) = stream.into_split();
        let mut read = BufReader::new(read);
        let qmp = Self {
            write: Arc::new(tokio::sync::Mutex::new(write)),
            waiting: Waiting::default(),
            next: Arc::default(),
        };
        let waiting = Arc::clone(&qmp.waiting);
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
                let waits = message.get("id").and_then(Value::as_u64);
                let waits = waits.and_then(|id| lock(&waiting).remove(&id));
                if let Some(waits) = waits {
                    let _ = waits.send(message);
                } else if let Some(event) = event(&message) {
                    let _ = events.send(event);
                } else if let Some(error) = message.get("error") {
                    tracing::warn!(%error, "QEMU refused a command");
                }
            }
            // Nobody will be answered any more.
            lock(&waiting).clear();
        });
        Ok((qmp, received))
    }

    /// Sends a command without arguments. A refusal is logged when it arrives.
    pub async fn send(&self, command: &'static str) -> Result<(), QmpError> {
        self.write(&json!({ "execute": command })).await
    }

    /// Sends a command and waits for what it returns.
    pub async fn call(&self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.waiting).insert(id, answer);
        let line = json!({ "execute": command, "arguments": arguments, "id": id });
        self.write(&line).await?;
        let Ok(answer) = timeout(ANSWER_LIMIT, answered).await else {
            lock(&self.waiting).remove(&id);
            return Err(QmpError::NoAnswer { command });
        };
        let mut answer = answer.map_err(|_| QmpError::Closed)?;
        match answer.pointer("/error/desc").and_then(Value::as_str) {
            Some(said) => Err(QmpError::Refused {
                command,
                said: said.to_owned(),
            }),
            None => Ok(answer["return"].take()),
        }
    }

    async fn write(&self, message: &Value) -> Result<(), QmpError> {
        let mut line = message.to_string();
        line.push('\n');
        self.write.lock().await.write_all(line.as_bytes()).await?;
        Ok(())
    }
}

/// Nothing behind this lock can be half-done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        "BLOCK_IO_ERROR" => {
            let is_full = message.pointer("/data/nospace") == Some(&Value::Bool(true));
            let stops = message.pointer("/data/action") == Some(&Value::from("stop"));
            (is_full && stops).then_some(QmpEvent::NoRoom)
        }
        _ => None,
    }
}
