//! The identity's key, kept loaded and lent to `age-plugin-tpm`, so that a secret costs two TPM commands in place
//! of seven.
//!
//! Owns the thread on which [`age_tpm::held`] serves. Nothing depends on it: a plugin that gets no answer uses
//! the TPM itself, so whatever goes wrong here is a line in the log. A key with PIN is never lent.

use std::{
    io,
    path::PathBuf,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use age_tpm::{
    held::{Holder, ServeError, Server, Stopper},
    tpm::Tcti,
};
use tracing::{debug, info, warn};

use crate::{
    agent::sentence,
    storage::owner::{self, OwnerNames},
    sys::privileges,
};

/// Whoever may open the socket can make a request fail: one line in the log for so long says enough.
const QUIET: Duration = Duration::from_secs(10);

/// Where the key is lent, and to whom.
#[derive(Debug, Clone)]
pub struct Socket {
    /// The socket; `age-plugin-tpm` looks at [`age_tpm::held::DEFAULT_SOCKET`].
    pub path: PathBuf,
    /// The group whose members may use the key; root alone without.
    pub group: Option<String>,
    /// Where `group` is looked up.
    pub etc: PathBuf,
}

/// A key that is being lent. Dropped, it stops, unloads the key and takes the socket away: within the time
/// that one client may take.
#[derive(Debug)]
pub(super) struct Lending {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Lending {
    /// Starts the thread; `None` where the key cannot be lent, and the log says why.
    pub(super) fn start(key: age_tpm::Identity, tcti: Tcti, socket: &Socket) -> Option<Self> {
        let Some(holder) = Holder::new(key, tcti) else {
            info!("the key has a PIN, so it is lent to nobody");
            return None;
        };
        let path = socket.path.display();
        match Self::serve(holder, socket) {
            Ok(lending) => {
                info!(socket = %path, group = socket.group, "lending the key");
                Some(lending)
            }
            Err(error) => {
                warn!(socket = %path, %error, "the key cannot be lent; the plugin goes to the TPM itself");
                None
            }
        }
    }

    fn serve(mut holder: Holder, socket: &Socket) -> io::Result<Self> {
        let server = Server::bind(&socket.path, group(socket))?;
        let stopper = server.stopper()?;
        let work = move || {
            if let Err(error) = holder.load() {
                warn!(error = error.explain(), "the key cannot be loaded yet");
            }
            let mut reports = Reports::default();
            server.run(&mut holder, &mut |error| reports.take(&error));
        };
        // The socket has its owner; nothing is left to do that needs more than an open TPM.
        let thread = privileges::spawn("key", work)?;
        Ok(Self {
            stopper,
            thread: Some(thread),
        })
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // Only a panic makes this fail, and that has been reported.
            let _ = thread.join();
        }
    }
}

/// The group's number. With a group that does not exist the key is root's alone.
fn group(socket: &Socket) -> Option<u32> {
    let names = OwnerNames {
        user: None,
        group: Some(socket.group.clone()?),
    };
    match owner::resolve(&names, &socket.etc) {
        Ok(owner) => Some(owner.gid),
        Err(_) => {
            warn!(
                group = socket.group,
                "this group does not exist, so the key is lent to root only"
            );
            None
        }
    }
}

/// Requests that failed: the first one is told at once, then how many there were meanwhile.
#[derive(Debug, Default)]
struct Reports {
    told: Option<Instant>,
    untold: u64,
}

impl Reports {
    fn take(&mut self, error: &ServeError) {
        let quiet = self.told.is_some_and(|told| told.elapsed() < QUIET);
        if quiet {
            self.untold += 1;
            debug!(error = sentence(error), "a request for the key failed");
            return;
        }
        let untold = std::mem::take(&mut self.untold);
        self.told = Some(Instant::now());
        warn!(
            error = sentence(error),
            untold, "a request for the key failed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_floods_the_socket_does_not_flood_the_log() {
        let mut reports = Reports::default();
        for untold in [0, 1, 2] {
            reports.take(&ServeError::Malformed);
            assert_eq!(reports.untold, untold);
        }
        reports.told = Instant::now().checked_sub(QUIET);
        reports.take(&ServeError::Malformed);
        assert_eq!(reports.untold, 0);
    }
}
