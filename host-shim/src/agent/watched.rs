//! A stream that remembers its end. ttrpc's client does not tell whether its connection still stands: it fails
//! the next call instead. That call may be the one that asks the guest to power off.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// True from the moment when the stream's end was read, or when it failed.
pub(super) type HasEnded = Arc<AtomicBool>;

/// The stream.
#[derive(Debug)]
pub(super) struct Watched {
    stream: UnixStream,
    ended: HasEnded,
}

impl Watched {
    pub(super) fn new(stream: UnixStream) -> (Self, HasEnded) {
        let ended = HasEnded::default();
        let watched = Self {
            stream,
            ended: Arc::clone(&ended),
        };
        (watched, ended)
    }

    fn seen<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &result {
            self.ended.store(true, Ordering::Release);
        }
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) && room > 0 && buf.filled().len() == before {
            self.ended.store(true, Ordering::Release);
        }
        self.seen(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, data);
        self.seen(result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.seen(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.seen(result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_end_is_seen_when_it_is_read_and_not_before() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (mut watched, ended) = Watched::new(ours);
        theirs.write_all(b"x").await.unwrap();
        drop(theirs);
        let mut byte = [0];
        assert_eq!(watched.read(&mut byte).await.unwrap(), 1);
        assert!(!ended.load(Ordering::Acquire));
        assert_eq!(watched.read(&mut byte).await.unwrap(), 0);
        assert!(ended.load(Ordering::Acquire));
    }
}
