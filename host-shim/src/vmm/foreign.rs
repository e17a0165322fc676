//! A TPM that somebody else serves: no child of ours, so its end is seen where the connection to it ends. QEMU tells nobody
//! that a TPM has gone, and whatever its guest asks of it from then on fails.
//!
//! Nothing is read or written here: what passes is between QEMU and the TPM.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};

use super::process::Ended;
use crate::sys;

/// The watch over one connection. It holds the connection open, also when QEMU has let go of it.
#[derive(Debug)]
pub(super) struct Foreign(JoinHandle<()>);

impl Foreign {
    /// Watches a connection to the socket at `path`. Its end goes to `ends`, as one that may be QEMU's: a swtpm ends when its
    /// machine does.
    pub(super) fn watch(
        name: &'static str,
        connection: &UnixStream,
        path: &Path,
        ends: &mpsc::UnboundedSender<Ended>,
    ) -> io::Result<Self> {
        let ours = sys::watched(connection.as_fd().try_clone_to_owned()?)?;
        let how = format!("whoever served {} has hung up", path.display());
        let ends = ends.clone();
        Ok(Self(tokio::spawn(async move {
            hung_up(ours).await;
            let _ = ends.send(Ended {
                name,
                how,
                success: true,
            });
        })))
    }

    /// Lets go of the connection.
    pub(super) async fn end(mut self) {
        self.0.abort();
        // It was told to end: that is all there is to hear.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns when the other side is gone.
async fn hung_up(connection: AsyncFd<OwnedFd>) {
    // An error is that of a runtime which is going.
    while let Ok(mut ready) = connection.readable().await {
        if ready.ready().is_read_closed() {
            return;
        }
        // What came is QEMU's to read.
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_end_of_a_tpm_is_told_once_and_what_it_says_is_left_alone() {
        let (mut qemus, mut tpms) = UnixStream::pair().unwrap();
        let (ends, mut ended) = mpsc::unbounded_channel();
        let path = Path::new("/run/tpm/a.sock");
        let _watch = Foreign::watch("swtpm", &qemus, path, &ends).unwrap();
        drop(ends);
        for word in [b"one", b"two"] {
            tpms.write_all(word).unwrap();
            tokio::task::yield_now().await;
            let mut read = [0; 3];
            qemus.read_exact(&mut read).unwrap();
            assert_eq!(&read, word);
        }
        tokio::task::yield_now().await;
        assert!(ended.try_recv().is_err());
        tpms.write_all(b"unread").unwrap();
        drop(tpms);
        let end = timeout(LIMIT, ended.recv()).await.unwrap().unwrap();
        assert_eq!(
            end,
            Ended {
                name: "swtpm",
                how: "whoever served /run/tpm/a.sock has hung up".into(),
                success: true,
            }
        );
        assert_eq!(timeout(LIMIT, ended.recv()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_watch_that_ends_lets_go_of_the_connection() {
        let (qemus, mut tpms) = UnixStream::pair().unwrap();
        let (ends, mut ended) = mpsc::unbounded_channel();
        let watch = Foreign::watch("swtpm", &qemus, Path::new("/x"), &ends).unwrap();
        drop((qemus, ends));
        watch.end().await;
        assert_eq!(tpms.read(&mut [0]).unwrap(), 0);
        assert_eq!(ended.recv().await, None);
    }
}
