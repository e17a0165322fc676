//! Our ends of an exec's standard streams: pipes, or one terminal for all.
//!
//! The end of an output is told only after a true drain. The stream's own end (read returns 0, or EIO on a
//! terminal) is one. A process that left the service's cgroup may hold the other end for ever; so once
//! the service has ended, silence for [`DRAIN_GRACE`] counts as the end too: everything that its
//! processes wrote is in the pipe by then, and the pipe is empty.

use std::{future::Future, io, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};
use tokio::{
    net::unix::pipe::{Receiver, Sender},
    select,
    sync::Mutex,
    time::sleep,
};

/// See above.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The most bytes of one read.
const MAX_READ_BYTES: usize = 256 * 1024;

/// The reading end of standard output or error.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` after the end. A terminal is read like a pipe, but for how its end looks.
    file: Mutex<Option<Receiver>>,
}

/// The writing end of standard input.
#[derive(Debug)]
pub(super) struct Input {
    /// `None` when closed.
    file: Mutex<Option<Sender>>,
}

/// Why input was not taken.
#[derive(Debug)]
pub(super) enum WriteError {
    /// It was closed, by us or by the process.
    Closed,
    /// The service ended before it took all.
    Ended,
    /// The write failed.
    Failed(io::Error),
}

fn nonblocking(file: OwnedFd) -> io::Result<OwnedFd> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
    Ok(file)
}

impl Output {
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let file = Receiver::from_owned_fd_unchecked(nonblocking(file)?)?;
        Ok(Self {
            file: Mutex::new(Some(file)),
        })
    }

    /// An output that has ended.
    pub(super) fn none() -> Self {
        Self {
            file: Mutex::new(None),
        }
    }

    /// Whether the end was told. One that is being read has not ended.
    pub(super) fn has_ended(&self) -> bool {
        self.file.try_lock().is_ok_and(|file| file.is_none())
    }

    /// The next bytes, at most `max`; none at the end, also when asked again. Waits as long as there are
    /// none. `ended` resolves when the service has ended.
    pub(super) async fn read(
        &self,
        max: usize,
        ended: impl Future<Output = ()>,
    ) -> io::Result<Vec<u8>> {
        let mut slot = self.file.lock().await;
        let Some(file) = slot.as_ref() else {
            return Ok(Vec::new());
        };
        let mut buffer = vec![0; max.clamp(1, MAX_READ_BYTES)];
        let silence = async {
            ended.await;
            sleep(DRAIN_GRACE).await;
        };
        tokio::pin!(silence);
        loop {
            select! {
                biased;
                ready = file.readable() => ready?,
                () = &mut silence => break,
            }
            match file.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(error) if is_hangup(&error) => break,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        *slot = None;
        Ok(Vec::new())
    }
}

/// Not ready after all, or interrupted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// A terminal whose other end is closed.
fn is_hangup(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

impl Input {
    pub(super) fn new(file: OwnedFd) -> io::Result<Self> {
        let file = Sender::from_owned_fd_unchecked(nonblocking(file)?)?;
        Ok(Self {
            file: Mutex::new(Some(file)),
        })
    }

    /// Writes everything, as fast as the process takes it.
    pub(super) async fn write(
        &self,
        mut data: &[u8],
        ended: impl Future<Output = ()>,
    ) -> Result<(), WriteError> {
        let mut slot = self.file.lock().await;
        let Some(file) = slot.as_ref() else {
            return Err(WriteError::Closed);
        };
        tokio::pin!(ended);
        while !data.is_empty() {
            select! {
                biased;
                () = &mut ended => return Err(WriteError::Ended),
                ready = file.writable() => ready.map_err(WriteError::Failed)?,
            }
            match file.try_write(data) {
                Ok(length) => data = &data[length..],
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    *slot = None;
                    return Err(WriteError::Closed);
                }
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(WriteError::Failed(error)),
            }
        }
        Ok(())
    }

    /// Closes it, after what is being written. Closed already is fine.
    pub(super) async fn close(&self) {
        *self.file.lock().await = None;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use rustix::{
        io::write,
        pipe::{PipeFlags, pipe_with},
    };

    use super::*;
    use crate::exec::terminal::{Size, Terminal};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    #[tokio::test]
    async fn an_output_ends_when_its_writers_are_gone_and_stays_ended() {
        let (reader, writer) = pipe();
        let output = Output::new(reader).unwrap();
        write(&writer, b"last").unwrap();
        drop(writer);
        assert_eq!(output.read(100, pending()).await.unwrap(), b"last");
        assert!(!output.has_ended());
        assert_eq!(output.read(100, pending()).await.unwrap(), b"");
        assert!(output.has_ended());
        assert_eq!(output.read(100, pending()).await.unwrap(), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_outlives_the_service_does_not_hold_the_end_back() {
        let (reader, writer) = pipe();
        let output = Output::new(reader).unwrap();
        write(&writer, b"last").unwrap();
        assert_eq!(output.read(100, ready(())).await.unwrap(), b"last");
        assert_eq!(output.read(100, ready(())).await.unwrap(), b"");
        drop(writer);
    }

    #[tokio::test]
    async fn an_abandoned_read_takes_nothing_with_it() {
        let (reader, writer) = pipe();
        let output = Output::new(reader).unwrap();
        let abandoned = tokio::time::timeout(Duration::from_millis(10), output.read(9, pending()));
        assert!(abandoned.await.is_err());
        write(&writer, b"kept").unwrap();
        assert_eq!(output.read(2, pending()).await.unwrap(), b"ke");
        assert_eq!(output.read(9, pending()).await.unwrap(), b"pt");
    }

    #[tokio::test]
    async fn a_terminal_ends_when_its_far_end_is_closed_with_everything_read() {
        let terminal = Terminal::open(Size::default()).unwrap();
        let output = Output::new(terminal.master).unwrap();
        let line = "x".repeat(1000);
        write(&terminal.far_end, line.as_bytes()).unwrap();
        drop(terminal.far_end);
        let mut seen = Vec::new();
        loop {
            let part = output.read(100, pending()).await.unwrap();
            if part.is_empty() {
                break;
            }
            seen.extend(part);
        }
        assert_eq!(seen, line.as_bytes());
    }

    #[tokio::test]
    async fn input_waits_for_the_reader_and_ends_with_the_service() {
        let (reader, writer) = pipe();
        let input = Input::new(writer).unwrap();
        let much = vec![7; 1024 * 1024];
        let result = input.write(&much, sleep(Duration::from_millis(20))).await;
        assert!(matches!(result, Err(WriteError::Ended)));
        drop(reader);
        assert!(matches!(
            input.write(b"x", pending()).await,
            Err(WriteError::Closed)
        ));
        input.close().await;
        assert!(matches!(
            input.write(b"x", pending()).await,
            Err(WriteError::Closed)
        ));
    }
}
