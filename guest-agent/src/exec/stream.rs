//! Our ends of an exec's standard streams: pipes, or one terminal for all.
//!
//! The end of an output is told only after a true drain. The stream's own end (read returns 0, or EIO on a
//! terminal) is one. A process that left the service's cgroup may hold the other end for ever; so once
//! the service has ended, silence for [`DRAIN_GRACE`] counts as the end too: everything that its
//! processes wrote is in the pipe by then, and the pipe is empty.
//!
//! Between stream and host is a [`super::spool`], of at most one pipe's content: a process that is not read is
//! held up, and a call that is given up, or an agent that is killed, takes nothing with it.

use std::{future::Future, io, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};
use tokio::{io::unix::AsyncFd, select, sync::Mutex, time::sleep};

use super::spool::{Ahead, Spool};
use crate::sys::descriptors::watched;

/// See above.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// The most bytes of one read.
const MAX_READ_BYTES: usize = 256 * 1024;

/// The reading end of standard output or error.
#[derive(Debug)]
pub(super) struct Output {
    /// `None` after the end. A terminal is read like a pipe, but for how its end looks.
    open: Mutex<Option<Reading>>,
}

#[derive(Debug)]
struct Reading {
    source: AsyncFd<OwnedFd>,
    spool: Spool,
}

/// The writing end of standard input.
#[derive(Debug)]
pub(super) struct Input {
    /// `None` when closed.
    open: Mutex<Option<Writing>>,
}

#[derive(Debug)]
struct Writing {
    sink: AsyncFd<OwnedFd>,
    ahead: Ahead,
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

fn nonblocking(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = fcntl_getfl(&file)?;
    fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
    watched(file)
}

impl Output {
    pub(super) fn new(source: OwnedFd, spool: Spool) -> io::Result<Self> {
        let source = nonblocking(source)?;
        Ok(Self {
            open: Mutex::new(Some(Reading { source, spool })),
        })
    }

    /// An output that has ended.
    pub(super) fn none() -> Self {
        Self {
            open: Mutex::new(None),
        }
    }

    /// Whether the end was told. One that is being read has not ended.
    pub(super) fn has_ended(&self) -> bool {
        self.open.try_lock().is_ok_and(|open| open.is_none())
    }

    /// The next bytes, at most `max`; none at the end, also when asked again. Waits as long as there are
    /// none. With `position` the next bytes are those after so many. `ended` resolves when the service has
    /// ended.
    pub(super) async fn read(
        &self,
        max: usize,
        position: Option<u64>,
        ended: impl Future<Output = ()>,
    ) -> io::Result<Vec<u8>> {
        let mut slot = self.open.lock().await;
        let Some(Reading { source, spool }) = slot.as_ref() else {
            return Ok(Vec::new());
        };
        if let Some(position) = position {
            spool.had(position)?;
        }
        spool.release()?;
        let silence = async {
            ended.await;
            sleep(DRAIN_GRACE).await;
        };
        tokio::pin!(silence);
        loop {
            let bytes = spool.take(max.clamp(1, MAX_READ_BYTES))?;
            if !bytes.is_empty() {
                return Ok(bytes);
            }
            let mut ready = select! {
                biased;
                ready = source.readable() => ready?,
                () = &mut silence => break,
            };
            match ready.try_io(|source| spool.fill(source.get_ref())) {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_hangup(&error) => break,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                // Not ready after all.
                Err(_) => {}
            }
        }
        *slot = None;
        Ok(Vec::new())
    }
}

/// A terminal whose other end is closed.
fn is_hangup(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

impl Input {
    pub(super) fn new(sink: OwnedFd, ahead: Ahead) -> io::Result<Self> {
        let sink = nonblocking(sink)?;
        Ok(Self {
            open: Mutex::new(Some(Writing { sink, ahead })),
        })
    }

    /// An input that is closed.
    pub(super) fn none() -> Self {
        Self {
            open: Mutex::new(None),
        }
    }

    /// Writes everything, as fast as the process takes it. With `position`, `data` begins after so many bytes,
    /// and what the process has taken of it already is left out.
    pub(super) async fn write(
        &self,
        data: &[u8],
        position: Option<u64>,
        ended: impl Future<Output = ()>,
    ) -> Result<(), WriteError> {
        let mut slot = self.open.lock().await;
        let Some(writing) = slot.as_ref() else {
            return Err(WriteError::Closed);
        };
        let written = writing.write(data, position, ended).await;
        if matches!(written, Err(WriteError::Closed)) {
            *slot = None;
        }
        written
    }

    /// Closes it, after what is being written. Closed already is fine.
    pub(super) async fn close(&self) {
        *self.open.lock().await = None;
    }
}

impl Writing {
    async fn write(
        &self,
        data: &[u8],
        position: Option<u64>,
        ended: impl Future<Output = ()>,
    ) -> Result<(), WriteError> {
        let ahead = &self.ahead;
        let mut taken = ahead.taken().map_err(WriteError::Failed)?;
        let known = position.unwrap_or(taken);
        let skipped = taken.checked_sub(known);
        let skipped = skipped.ok_or_else(|| {
            let text = "the process has not taken as much input";
            WriteError::Failed(io::Error::new(io::ErrorKind::InvalidInput, text))
        })?;
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let rest = data.get(skipped..).unwrap_or_default();
        let until = ahead.put(rest).map_err(WriteError::Failed)?;
        tokio::pin!(ended);
        while taken < until {
            let mut ready = select! {
                biased;
                () = &mut ended => return Err(WriteError::Ended),
                ready = self.sink.writable() => ready.map_err(WriteError::Failed)?,
            };
            match ready.try_io(|sink| ahead.pass(sink.get_ref(), until)) {
                Ok(Ok(bytes)) => taken += bytes,
                Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Err(WriteError::Closed);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(WriteError::Failed(error)),
                Err(_) => {}
            }
        }
        ahead.release().map_err(WriteError::Failed)
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
        let output = Output::new(reader, Spool::new().unwrap()).unwrap();
        write(&writer, b"last").unwrap();
        drop(writer);
        assert_eq!(output.read(100, None, pending()).await.unwrap(), b"last");
        assert!(!output.has_ended());
        assert_eq!(output.read(100, None, pending()).await.unwrap(), b"");
        assert!(output.has_ended());
        assert_eq!(output.read(100, None, pending()).await.unwrap(), b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_that_outlives_the_service_does_not_hold_the_end_back() {
        let (reader, writer) = pipe();
        let output = Output::new(reader, Spool::new().unwrap()).unwrap();
        write(&writer, b"last").unwrap();
        assert_eq!(output.read(100, None, ready(())).await.unwrap(), b"last");
        assert_eq!(output.read(100, None, ready(())).await.unwrap(), b"");
        drop(writer);
    }

    #[tokio::test]
    async fn an_abandoned_read_takes_nothing_with_it() {
        let (reader, writer) = pipe();
        let output = Output::new(reader, Spool::new().unwrap()).unwrap();
        let abandoned =
            tokio::time::timeout(Duration::from_millis(10), output.read(9, None, pending()));
        assert!(abandoned.await.is_err());
        write(&writer, b"kept").unwrap();
        assert_eq!(output.read(2, None, pending()).await.unwrap(), b"ke");
        assert_eq!(output.read(9, None, pending()).await.unwrap(), b"pt");
    }

    #[tokio::test]
    async fn a_terminal_ends_when_its_far_end_is_closed_with_everything_read() {
        let terminal = Terminal::open(Size::default()).unwrap();
        let output = Output::new(terminal.master, Spool::new().unwrap()).unwrap();
        let line = "x".repeat(1000);
        write(&terminal.far_end, line.as_bytes()).unwrap();
        drop(terminal.far_end);
        let mut seen = Vec::new();
        loop {
            let part = output.read(100, None, pending()).await.unwrap();
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
        let input = Input::new(writer, Ahead::new().unwrap()).unwrap();
        let much = vec![7; 1024 * 1024];
        let result = input
            .write(&much, None, sleep(Duration::from_millis(20)))
            .await;
        assert!(matches!(result, Err(WriteError::Ended)));
        drop(reader);
        assert!(matches!(
            input.write(b"x", None, pending()).await,
            Err(WriteError::Closed)
        ));
        input.close().await;
        assert!(matches!(
            input.write(b"x", None, pending()).await,
            Err(WriteError::Closed)
        ));
    }

    #[tokio::test]
    async fn what_the_host_did_not_get_is_given_again_also_by_the_next_agent() {
        let (reader, writer) = pipe();
        let spool = Spool::new().unwrap();
        let next = Spool {
            tail: spool.tail.try_clone().unwrap(),
            head: spool.head.try_clone().unwrap(),
        };
        let again = reader.try_clone().unwrap();
        let output = Output::new(reader, spool).unwrap();
        write(&writer, b"one two").unwrap();
        assert_eq!(output.read(3, Some(0), pending()).await.unwrap(), b"one");
        assert_eq!(output.read(3, Some(0), pending()).await.unwrap(), b"one");
        // Read, and the answer is lost with the agent.
        assert_eq!(output.read(9, Some(3), pending()).await.unwrap(), b" two");
        drop(output);
        write(&writer, b" three").unwrap();
        drop(writer);
        let output = Output::new(again, next).unwrap();
        assert_eq!(output.read(9, Some(3), pending()).await.unwrap(), b" two");
        assert_eq!(output.read(9, Some(7), pending()).await.unwrap(), b" three");
        assert!(output.read(9, Some(14), pending()).await.is_err());
        assert_eq!(output.read(9, Some(13), pending()).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn input_that_was_taken_is_not_taken_again_also_by_the_next_agent() {
        let (reader, writer) = pipe();
        let ahead = Ahead::new().unwrap();
        let next = Ahead {
            file: ahead.file.try_clone().unwrap(),
        };
        let again = writer.try_clone().unwrap();
        let much: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let input = Input::new(writer, ahead).unwrap();
        // The pipe takes a part, and the agent is gone.
        let result = input
            .write(&much, Some(0), sleep(Duration::from_millis(20)))
            .await;
        assert!(matches!(result, Err(WriteError::Ended)));
        drop(input);
        let input = Input::new(again, next).unwrap();
        let collect = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            std::io::Read::read_to_end(&mut std::fs::File::from(reader), &mut all).unwrap();
            all
        });
        input.write(&much, Some(0), pending()).await.unwrap();
        // Once more, as by a host that did not hear of it.
        input.write(&much, Some(0), pending()).await.unwrap();
        input.write(b"end", Some(200_000), pending()).await.unwrap();
        let beyond = input.write(b"x", Some(300_000), pending()).await;
        assert!(matches!(beyond, Err(WriteError::Failed(_))));
        input.close().await;
        drop(input);
        let all = collect.await.unwrap();
        assert_eq!((all.len(), &all[200_000..]), (200_003, &b"end"[..]));
        assert!(all[..200_000] == much);
    }

    #[tokio::test]
    async fn much_more_than_a_page_goes_through_unchanged_both_ways() {
        let (from_input, to_process) = pipe();
        let input = Input::new(to_process, Ahead::new().unwrap()).unwrap();
        let output = Output::new(from_input, Spool::new().unwrap()).unwrap();
        let much: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 253) as u8).collect();
        let feed = async {
            for (index, part) in much.chunks(10_001).enumerate() {
                let position = Some(index as u64 * 10_001);
                input.write(part, position, pending()).await.unwrap();
            }
            input.close().await;
        };
        let drain = async {
            let mut all: Vec<u8> = Vec::new();
            loop {
                let position = Some(all.len() as u64);
                let part = output.read(7777, position, pending()).await.unwrap();
                if part.is_empty() {
                    return all;
                }
                all.extend(part);
            }
        };
        let ((), all) = tokio::join!(feed, drain);
        assert!(all == much, "{} bytes", all.len());
    }
}
