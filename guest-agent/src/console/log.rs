//! The log port of a Kata shim (`agent.log_vport`): whoever connects from the host gets the journal of this
//! boot, one JSON object a line, and then whatever comes. A later connection goes on where the last one
//! ended; there is one at a time.

use std::{future::Future, io};

use seed_protocol::ports;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    time::sleep,
};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener};
use tracing::{info, warn};

use super::Console;

/// How much is sent at a time.
const CHUNK_BYTES: usize = 32 * 1024;

/// After a failed `accept(2)`, and between two tries to listen.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// Serves the log on a vsock port until the runtime ends.
pub async fn serve(console: Console, port: u32) {
    let listener = loop {
        match VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)) {
            Ok(listener) => break listener,
            Err(error) => {
                warn!(%error, port, "the log port cannot be listened on");
                sleep(PAUSE).await;
            }
        }
    };
    info!(port, "the log is served");
    run(console, || async {
        loop {
            let (stream, peer) = listener.accept().await?;
            if peer.cid() == ports::HOST_CID {
                return Ok(stream);
            }
            warn!(cid = peer.cid(), "connection refused: not from the host");
        }
    })
    .await;
}

/// One connection after the other, until the log ends.
async fn run<A, F, S>(console: Console, mut accept: A)
where
    A: FnMut() -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncWrite + Unpin,
{
    // What was taken from the console and not written whole.
    let mut rest = Vec::new();
    loop {
        let mut stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "a connection for the log could not be taken");
                sleep(PAUSE).await;
                continue;
            }
        };
        loop {
            if rest.is_empty() {
                rest = console.read(CHUNK_BYTES).await;
                if rest.is_empty() {
                    // Nobody is left to be told.
                    let _ = stream.shutdown().await;
                    return;
                }
            }
            match stream.write(&rest).await {
                Ok(written) if written > 0 => drop(rest.drain(..written)),
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        console::{End, render},
        journal,
    };
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_connection_gets_the_end_of_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal::Service::spawn(vec![directory.path().to_owned()]);
        let end = End::default();
        let console = Console::new(journal, end.clone(), render::json_line);
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut ours = Some(ours);
        end.declare();
        run(console, || {
            let stream = ours.take().ok_or(io::ErrorKind::NotConnected.into());
            std::future::ready(stream)
        })
        .await;
        let mut text = String::new();
        theirs.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "");
    }
}
