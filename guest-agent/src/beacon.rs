//! Tells the host that the agent listens: one [`Beacon`] on a connection of its own to the beacon port
//! (`protocol/src/beacon.rs`). The host dials only then, so that it never has to guess.
//!
//! The host's vsock device passes no half-close, and others than ours let a connection to a port that nobody listens on
//! time out: the frame says its own length, and trying again is the rule.

use std::{io, time::Duration};

use seed_protocol::{
    beacon::{self, BeaconError},
    ports,
    seed::v1::{Beacon, Stage},
    version,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout},
};
use tokio_vsock::{VsockAddr, VsockStream};

use crate::sys::{clock, machine};

/// How long the host is tried. The transport's module is loaded by udev, a little after the agent.
const HELLO_LIMIT: Duration = Duration::from_secs(120);

/// How long one try may take.
const TRY_LIMIT: Duration = Duration::from_secs(5);

/// How long to wait between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the host was not told.
#[derive(Debug, Error)]
pub enum HelloError {
    /// The message could not be put into a frame.
    #[error("the beacon cannot be encoded")]
    Encode(#[from] BeaconError),
    /// Every try failed; this is the last one's reason.
    #[error("port {port} of the host cannot be reached within {} s", HELLO_LIMIT.as_secs())]
    Unreachable {
        /// The beacon port.
        port: u32,
        /// Why the last try failed.
        source: io::Error,
    },
}

/// Sends `hello` to the host's `port`, again and again until it is taken or the limit is over.
pub async fn hello(port: u32) -> Result<(), HelloError> {
    let deadline = Instant::now() + HELLO_LIMIT;
    loop {
        let frame = beacon::encode(&message(Stage::STAGE_HELLO))?;
        let sent = timeout(TRY_LIMIT, send(port, &frame)).await;
        let source = match sent {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(elapsed) => elapsed.into(),
        };
        if Instant::now() >= deadline {
            return Err(HelloError::Unreachable { port, source });
        }
        sleep(PAUSE).await;
    }
}

fn message(stage: Stage) -> Beacon {
    Beacon {
        version: version::BEACON,
        stage: stage.into(),
        boot_id: machine::boot_id().unwrap_or_default(),
        boottime_us: clock::boottime_us(),
        ..Beacon::default()
    }
}

async fn send(port: u32, frame: &[u8]) -> io::Result<()> {
    let mut stream = VsockStream::connect(VsockAddr::new(ports::HOST_CID, port)).await?;
    stream.write_all(frame).await?;
    // The host closes when it has read the frame; closing first could overtake the data.
    let mut rest = [0; 1];
    match stream.read(&mut rest).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_says_which_boot_and_when() {
        let beacon = message(Stage::STAGE_HELLO);
        assert_eq!(beacon.version, version::BEACON);
        assert_eq!(beacon.boot_id.len(), 32);
        assert!(beacon.boottime_us > 0);
        assert!(beacon.error.is_empty());
    }
}
