//! The link between host and guest, played: it answers as the vsock device does (`CONNECT port`, `OK`),
//! passes bytes on to the agent's socket, and can be cut in the middle of whatever it carries.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::broadcast,
    task::JoinHandle,
};

/// Lives until it is dropped.
pub(crate) struct Link {
    socket: PathBuf,
    is_cut: Arc<AtomicBool>,
    cut: broadcast::Sender<()>,
    accept: JoinHandle<()>,
}

impl Link {
    /// From `socket`, which is made, to `agent`.
    pub(crate) fn new(socket: PathBuf, agent: PathBuf) -> Self {
        let listener = UnixListener::bind(&socket).unwrap();
        let (cut, _) = broadcast::channel(1);
        let is_cut = Arc::new(AtomicBool::new(false));
        let (cuts, refuses) = (cut.clone(), Arc::clone(&is_cut));
        let accept = tokio::spawn(async move {
            while let Ok((host, _)) = listener.accept().await {
                if refuses.load(Ordering::SeqCst) {
                    continue;
                }
                let (agent, mut cut) = (agent.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = carry(host, &agent) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        Self {
            socket,
            is_cut,
            cut,
            accept,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Ends every connection, and refuses new ones until it is whole again.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.is_cut.store(cut, Ordering::SeqCst);
        if cut {
            // Nobody may be connected.
            let _ = self.cut.send(());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn carry(mut host: UnixStream, agent: &Path) -> std::io::Result<()> {
    while host.read_u8().await? != b'\n' {}
    let mut agent = UnixStream::connect(agent).await?;
    host.write_all(b"OK 1\n").await?;
    copy_bidirectional(&mut host, &mut agent).await?;
    Ok(())
}
