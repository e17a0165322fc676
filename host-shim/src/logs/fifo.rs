//! The container's stdout: what containerd, and CRI behind it, read. The task here follows the segments, so
//! a reader that stalls costs nothing: its place is kept, the pull from the guest goes on, and the lines
//! come when it reads again.
//!
//! Both ends of the FIFO are held, as runc's shim does it, so that a restart of containerd breaks nothing.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::{io::AsyncWriteExt, net::unix::pipe, sync::watch};

use super::{
    entry::{Record, records},
    reader::{Item, Reader},
    render::Human,
};

/// Why the container's stdout cannot be used.
#[derive(Debug, Error)]
pub enum OutputError {
    /// It cannot be opened.
    #[error("stdout {} cannot be opened", path.display())]
    Open {
        /// The FIFO or file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A kind of logging that this shim does not do.
    #[error("stdout {0:?} is not supported: use a FIFO or file:///PATH")]
    Unsupported(String),
}

/// An opened stdout.
#[derive(Debug)]
pub struct Output(Sink);

#[derive(Debug)]
enum Sink {
    Fifo(pipe::Sender),
    File(std::fs::File),
}

impl Output {
    /// Opens what `CreateTaskRequest.stdout` says. `None` when it says nothing. Never blocks. Must be called
    /// inside a tokio runtime.
    pub fn open(stdout: &str) -> Result<Option<Self>, OutputError> {
        if stdout.is_empty() {
            return Ok(None);
        }
        let fail = |path: &str, source| OutputError::Open {
            path: path.into(),
            source,
        };
        let sink = if let Some(path) = stdout.strip_prefix("file://") {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Sink::File(file.map_err(|source| fail(path, source))?)
        } else if stdout.contains("://") && !stdout.starts_with('/') {
            return Err(OutputError::Unsupported(stdout.into()));
        } else {
            // Linux only: read and write opens a FIFO without waiting for the other side (fifo(7)).
            let fifo = pipe::OpenOptions::new()
                .read_write(true)
                .open_sender(stdout);
            Sink::Fifo(fifo.map_err(|source| fail(stdout, source))?)
        };
        Ok(Some(Self(sink)))
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            Sink::Fifo(fifo) => fifo.write_all(bytes).await,
            Sink::File(file) => file.write_all(bytes),
        }
    }
}

/// What the puller tells this task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Progress {
    /// Rises with every append.
    pub(super) appended: u64,
    /// Nothing more will come.
    pub(super) ended: bool,
}

/// Writes what is appended to `dir` behind `reader`, until the puller has ended and all is written.
pub(super) async fn write_all(
    dir: &Path,
    mut reader: Reader,
    mut output: Output,
    mut progress: watch::Receiver<Progress>,
) {
    let mut human = Human::for_stdout();
    let mut lines = Vec::new();
    loop {
        let ended = progress.borrow_and_update().ended;
        loop {
            let item = match reader.next() {
                Ok(Some(item)) => item,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "log cannot be read for stdout");
                    break;
                }
            };
            let records = match item {
                Item::Frame(frame) => records(&frame),
                Item::Removed => vec![Record::Removed],
            };
            for record in &records {
                human.render(record, &mut lines);
            }
            if let Err(error) = output.write(&lines).await {
                tracing::warn!(%error, "container's stdout is gone; the log goes on without it");
                return;
            }
            lines.clear();
        }
        if ended || progress.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kinds_that_are_not_done_are_refused_by_name() {
        assert!(Output::open("").unwrap().is_none());
        let refused = Output::open("binary:///usr/bin/logger?a=b").unwrap_err();
        assert!(refused.to_string().contains("binary:///usr/bin/logger"));
        assert!(matches!(
            Output::open("/nonexistent/fifo"),
            Err(OutputError::Open { .. })
        ));
    }
}
