//! The FIFO that an exec's output goes into, and whether somebody still reads it.
//!
//! A reader may be late, and one may come back: containerd and its clients are started again. What is written while there
//! is none waits. But a reader that stays away for good would leave its command in the guest for ever, so an exec
//! whose every outlet has had no reader for the configured time ([`unread`]) is hung up on, as a terminal does.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe,
    time::{Instant, sleep},
};

/// The pause before bytes are offered again that nobody was there to read, and between two looks for a reader.
const LOOK: Duration = Duration::from_millis(200);

/// The writing end of a FIFO.
#[derive(Debug)]
pub(super) struct Outlet(pipe::Sender);

impl Outlet {
    /// Opens a FIFO that may have no reader yet. An empty path is none.
    pub(super) fn open(path: &str) -> io::Result<Option<Self>> {
        if path.is_empty() {
            return Ok(None);
        }
        // Without a reader the writing end alone is not to be had (fifo(7)).
        let both = pipe::OpenOptions::new()
            .read_write(true)
            .open_sender(path)?;
        let fifo = pipe::OpenOptions::new().open_sender(path)?;
        drop(both);
        Ok(Some(Self(fifo)))
    }

    /// A second descriptor of it, to look for readers.
    pub(super) fn probe(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Writes all, also to a reader that comes late; nothing more once it is given up.
    pub(super) async fn write(&mut self, mut data: &[u8], given_up: &AtomicBool) -> io::Result<()> {
        while !data.is_empty() && !given_up.load(Ordering::Relaxed) {
            match self.0.write(data).await {
                Ok(count) => data = &data[count..],
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => sleep(LOOK).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Whether a process has the reading end open: where none has, poll(2) says so of the writing end.
fn has_reader(fifo: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fifo, PollFlags::empty())];
    match poll(&mut polled, Some(&Timespec::default())) {
        Ok(_) => !polled[0].revents().contains(PollFlags::ERR),
        // It cannot fail on a descriptor that is open; who knows nothing ends nothing.
        Err(_) => true,
    }
}

/// Waits until none of these has had a reader for `limit`. For ever where there are none.
pub(super) async fn unread(probes: &[OwnedFd], limit: Duration) {
    if probes.is_empty() {
        std::future::pending::<()>().await;
    }
    let mut since = None;
    loop {
        if probes.iter().any(has_reader) {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() >= limit {
            return;
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, path::Path};

    use rustix::fs::{CWD, Mode, mkfifoat};
    use tokio::time::timeout;

    use super::*;

    fn outlet(path: &Path) -> Outlet {
        mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
        Outlet::open(path.to_str().unwrap()).unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_late_reader_gets_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut outlet = outlet(&path);
        let given_up = AtomicBool::new(false);
        let reader = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(300));
            let mut bytes = [0; 5];
            File::open(path).unwrap().read_exact(&mut bytes).unwrap();
            bytes
        });
        outlet.write(b"first", &given_up).await.unwrap();
        assert_eq!(&reader.await.unwrap(), b"first");
    }

    #[tokio::test]
    async fn a_reader_that_stays_away_is_noticed_and_one_that_reads_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut outlet = outlet(&path);
        let probes = [outlet.probe().unwrap()];
        let limit = Duration::from_millis(300);
        let reader = File::open(&path).unwrap();
        timeout(4 * limit, unread(&probes, limit))
            .await
            .unwrap_err();
        drop(reader);
        unread(&probes, limit).await;
        // And what would wait for it no longer does.
        outlet.write(b"lost", &AtomicBool::new(true)).await.unwrap();
        timeout(limit, unread(&[], limit)).await.unwrap_err();
    }
}
