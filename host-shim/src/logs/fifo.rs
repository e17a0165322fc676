//! The container's stdout and stderr: what containerd, and CRI behind it, read. The task here follows the segments, so
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
    entry::{self, Record},
    reader::{Item, Reader},
    render::{Container, container::Texts},
};

/// What is written at once: containerd's own piece of a line.
const PIECE_BYTES: usize = 16 << 10;

/// How much text is gathered before it is written. One entry more may come to it.
const GATHERED_BYTES: usize = 1 << 20;

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

/// An opened stdout, and stderr where there is one.
#[derive(Debug)]
pub struct Output {
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

#[derive(Debug)]
enum Sink {
    Fifo(pipe::Sender),
    File(std::fs::File),
}

impl Output {
    /// Opens what `CreateTaskRequest` says about `stdout` and `stderr`. `None` when it says nothing. Without a
    /// stderr of its own everything goes to stdout. Never blocks. Must be called inside a tokio runtime.
    pub fn open(stdout: &str, stderr: &str) -> Result<Option<Self>, OutputError> {
        let stderr = if stderr == stdout { "" } else { stderr };
        let output = Self {
            stdout: Sink::open(stdout)?,
            stderr: Sink::open(stderr)?,
        };
        Ok((output.stdout.is_some() || output.stderr.is_some()).then_some(output))
    }

    /// Both at a time: a reader that stalls on one of them must not hold up the other for ever, but the
    /// place in the segments is one, so the slower one sets the pace.
    async fn write(&mut self, texts: &Texts) -> io::Result<()> {
        let write = async |sink: &mut Option<Sink>, text: &[u8]| match sink {
            Some(sink) => sink.write(text).await,
            None => Ok(()),
        };
        let (stdout, stderr) = tokio::join!(
            write(&mut self.stdout, &texts.stdout),
            write(&mut self.stderr, &texts.stderr)
        );
        stdout.and(stderr)
    }
}

impl Sink {
    fn open(path: &str) -> Result<Option<Self>, OutputError> {
        if path.is_empty() {
            return Ok(None);
        }
        let fail = |path: &str, source| OutputError::Open {
            path: path.into(),
            source,
        };
        Ok(Some(if let Some(path) = path.strip_prefix("file://") {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Self::File(file.map_err(|source| fail(path, source))?)
        } else if path.contains("://") && !path.starts_with('/') {
            return Err(OutputError::Unsupported(path.into()));
        } else {
            // Linux only: read and write opens a FIFO without waiting for the other side (fifo(7)).
            let fifo = pipe::OpenOptions::new().read_write(true).open_sender(path);
            Self::Fifo(fifo.map_err(|source| fail(path, source))?)
        }))
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Fifo(fifo) => {
                for piece in bytes.chunks(PIECE_BYTES) {
                    fifo.write_all(piece).await?;
                }
                Ok(())
            }
            Self::File(file) => file.write_all(bytes),
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
    let mut container = Container::new(output.stderr.is_some());
    let mut texts = Texts::default();
    loop {
        let ended = progress.borrow_and_update().ended;
        loop {
            match reader.next() {
                Ok(Some(Item::Frame(frame))) => {
                    let mut done = Some(0);
                    while let Some(from) = done {
                        done = entry::take_up(&frame, from, |record| {
                            container.render(record, &mut texts);
                            texts.len() < GATHERED_BYTES
                        });
                        if done.is_some() && !written(&mut output, &mut texts).await {
                            return;
                        }
                    }
                }
                Ok(Some(Item::Removed)) => container.render(&Record::Removed, &mut texts),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(dir = %dir.display(), %error, "log cannot be read for stdout");
                    break;
                }
            }
            if !written(&mut output, &mut texts).await {
                return;
            }
        }
        if ended || progress.changed().await.is_err() {
            container.finish(&mut texts);
            written(&mut output, &mut texts).await;
            return;
        }
    }
}

/// Writes and forgets the texts. False when they can no longer be written.
async fn written(output: &mut Output, texts: &mut Texts) -> bool {
    let result = output.write(texts).await;
    if let Err(error) = &result {
        tracing::warn!(%error, "container's stdout is gone; the log goes on without it");
    }
    for text in [&mut texts.stdout, &mut texts.stderr] {
        text.clear();
        // One that was long stays for the instance's whole life otherwise.
        text.shrink_to(GATHERED_BYTES);
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kinds_that_are_not_done_are_refused_by_name() {
        assert!(Output::open("", "").unwrap().is_none());
        let refused = Output::open("binary:///usr/bin/logger?a=b", "").unwrap_err();
        assert!(refused.to_string().contains("binary:///usr/bin/logger"));
        assert!(matches!(
            Output::open("", "/nonexistent/fifo"),
            Err(OutputError::Open { .. })
        ));
    }
}
