//! The host's end of the beacon: a listener that stays open for the VM's whole life, because a guest that
//! connects to a port without a listener waits two seconds for nothing.

use std::{io, path::Path, time::Duration};

use seed_protocol::{
    beacon::{PREFIX_BYTES, decode, message_length},
    seed::v1::Beacon,
};
use tokio::{
    io::AsyncReadExt,
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// How long a guest may take over one message.
const MESSAGE_LIMIT: Duration = Duration::from_secs(5);

/// The pause after each connection, so that a guest cannot keep the shim busy with them.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens until it is dropped.
#[derive(Debug)]
pub struct BeaconListener(JoinHandle<()>);

impl Drop for BeaconListener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens at `socket`. Beacons come one at a time; what is no beacon is dropped.
pub fn listen(socket: &Path) -> io::Result<(BeaconListener, mpsc::Receiver<Beacon>)> {
    let listener = UnixListener::bind(socket)?;
    let (beacons, received) = mpsc::channel(4);
    let task = tokio::spawn(async move {
        while !beacons.is_closed() {
            let accepted = listener.accept().await;
            if let Ok((mut stream, _)) = accepted {
                match timeout(MESSAGE_LIMIT, read(&mut stream)).await {
                    Ok(Ok(beacon)) => drop(beacons.send(beacon).await),
                    Ok(Err(error)) => tracing::warn!(%error, "beacon was not understood"),
                    Err(_) => tracing::warn!("beacon was not sent in time"),
                }
            }
            sleep(PAUSE).await;
        }
    });
    Ok((BeaconListener(task), received))
}

async fn read(stream: &mut UnixStream) -> io::Result<Beacon> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; message_length(prefix).map_err(io::Error::other)?];
    stream.read_exact(&mut body).await?;
    decode(&body).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use seed_protocol::{beacon::encode, seed::v1::Stage};
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_beacon_arrives_after_one_that_was_nonsense() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock_1030");
        let (_listener, mut beacons) = listen(&path).unwrap();
        let mut bad = UnixStream::connect(&path).await.unwrap();
        bad.write_all(&[0xff; 8]).await.unwrap();
        let beacon = Beacon {
            stage: Stage::STAGE_HELLO.into(),
            ..Default::default()
        };
        let mut good = UnixStream::connect(&path).await.unwrap();
        good.write_all(&encode(&beacon).unwrap()).await.unwrap();
        assert_eq!(beacons.recv().await, Some(beacon));
    }
}
