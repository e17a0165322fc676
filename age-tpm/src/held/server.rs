//! Holding a key and lending it.
//!
//! Owns the loaded key and the listening socket. It serves one request at a time, as the TPM does,
//! and gives a client little time, so that a stuck one cannot hold up the others for long. Everything
//! blocks: run it on a thread of its own.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use p256::PublicKey;

use crate::identity::{Identity, Pin};
use crate::key::TpmKey;
use crate::recipient::Recipient;
use crate::tpm::{Tcti, Tpm, TpmError};
use crate::unwrap::{KeyAgreement, SharedX};

use super::{COMPRESSED_BYTES, GIVEN, MAGIC, REFUSED, REQUEST_BYTES};

/// How long a client may take for its whole request, and for taking the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a failed accept (out of descriptors), lest it spins.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const FOLDER_MODE: u32 = 0o700;
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;

/// An identity whose key is loaded at the first use and then stays loaded.
#[derive(Debug)]
pub struct Holder {
    identity: Identity,
    own: Recipient,
    tcti: Tcti,
    loaded: Option<TpmKey<Tpm>>,
}

impl Holder {
    /// Opens nothing yet; `None` for a key with PIN, which is nobody's to lend.
    pub fn new(identity: Identity, tcti: Tcti) -> Option<Self> {
        let own = identity.recipient();
        (identity.pin() == Pin::None).then_some(Self {
            identity,
            own,
            tcti,
            loaded: None,
        })
    }

    /// Loads the key if it is not; a failure now is a failure of each later use, too.
    ///
    /// # Errors
    ///
    /// As [`TpmKey::load`] and [`Tpm::open`].
    pub fn load(&mut self) -> Result<(), TpmError> {
        if self.loaded.is_none() {
            self.loaded = Some(self.fresh()?);
        }
        Ok(())
    }

    /// Lets the TPM have its memory back until the next use.
    pub fn unload(&mut self) {
        self.loaded = None;
    }
}

impl KeyAgreement for Holder {
    type Error = TpmError;

    fn agree(&mut self, peer: &PublicKey) -> Result<SharedX, TpmError> {
        let was_loaded = self.loaded.is_some();
        match self.agree_once(peer) {
            // The TPM may have been reset under us: once more with a fresh connection.
            Err(_) if was_loaded => self.agree_once(peer),
            other => other,
        }
    }
}

impl Holder {
    /// Loads the key if need be, and drops it after a failure.
    fn agree_once(&mut self, peer: &PublicKey) -> Result<SharedX, TpmError> {
        let mut key = match self.loaded.take() {
            Some(key) => key,
            None => self.fresh()?,
        };
        let shared = key.agree(peer)?;
        self.loaded = Some(key);
        Ok(shared)
    }

    fn fresh(&self) -> Result<TpmKey<Tpm>, TpmError> {
        TpmKey::load(Tpm::open(&self.tcti)?, &self.identity, None)
    }
}

/// A listening socket; dropped, its name is removed.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Listens at `path`, replacing a socket that a former process left there.
    ///
    /// With `group` its members may use the key, too.
    ///
    /// # Errors
    ///
    /// Whatever the kernel says about the path.
    pub fn bind(path: &Path, group: Option<u32>) -> io::Result<Self> {
        // Made in a folder of its own that nobody else may enter, so that it is never open to more
        // than it should be, whatever the process's umask.
        let mut staging = path.as_os_str().to_owned();
        staging.push(".d");
        let staging = PathBuf::from(staging);
        let staged = staging.join("s");
        match fs::remove_file(&staged) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(&staging)?;
        let listener = UnixListener::bind(&staged)?;
        let mode = if group.is_some() {
            OWNER_AND_GROUP
        } else {
            OWNER_ONLY
        };
        fs::set_permissions(&staged, fs::Permissions::from_mode(mode))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&staged, None, Some(group))?;
        }
        fs::rename(&staged, path)?;
        fs::remove_dir(&staging)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Something to end [`run`](Self::run) with, from another thread.
    ///
    /// # Errors
    ///
    /// No file descriptor is left.
    pub fn stopper(&self) -> io::Result<Stopper> {
        self.listener.try_clone().map(Stopper)
    }

    /// Lends `holder`'s key until stopped, telling `report` of each request that ended badly.
    pub fn run(&self, holder: &mut Holder, report: &mut dyn FnMut(ServeError)) {
        loop {
            match self.listener.accept() {
                Ok((client, _)) => {
                    if let Err(e) = serve(client, holder) {
                        report(e);
                    }
                }
                // What accept says of a socket that was shut down.
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    report(ServeError::Client(e));
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }
}

/// Ends a [`Server`]; calling it twice does no harm.
#[derive(Debug)]
pub struct Stopper(UnixListener);

impl Stopper {
    /// Wakes the server up and makes it return once the request at hand is answered.
    pub fn stop(&self) {
        // Fails only for a socket that was shut down already.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Best effort: a name without listener only makes clients go to the TPM.
        let _ = fs::remove_file(&self.path);
    }
}

/// Why one request was not answered with a coordinate.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client broke off, or was too slow.
    #[error("a client of the key socket broke off")]
    Client(#[source] io::Error),
    /// The request is malformed.
    #[error("a client of the key socket sent a malformed request")]
    Malformed,
    /// The key could not be used.
    #[error("the held key could not be used")]
    Key(#[source] TpmError),
}

fn serve(mut client: UnixStream, holder: &mut Holder) -> Result<(), ServeError> {
    let request = read_request(&mut client).map_err(ServeError::Client)?;
    let answer = answer(&request, holder);
    let written = match &answer {
        Ok(Some(shared)) => client
            .write_all(&[GIVEN])
            .and_then(|()| client.write_all(shared.expose())),
        Ok(None) | Err(_) => client.write_all(&[REFUSED]),
    };
    answer?;
    written.map_err(ServeError::Client)
}

/// `None` for a key that is not the held one: an ordinary case, for a user may have several.
fn answer(
    request: &[u8; REQUEST_BYTES],
    holder: &mut Holder,
) -> Result<Option<SharedX>, ServeError> {
    let body = request.strip_prefix(MAGIC).ok_or(ServeError::Malformed)?;
    let (key, peer) = body.split_at(COMPRESSED_BYTES);
    if key != holder.own.compressed() {
        return Ok(None);
    }
    let peer = PublicKey::from_sec1_bytes(peer).map_err(|_| ServeError::Malformed)?;
    holder.agree(&peer).map(Some).map_err(ServeError::Key)
}

/// Reads a whole request within the time limit, however slowly its bytes drip in.
fn read_request(client: &mut UnixStream) -> io::Result<[u8; REQUEST_BYTES]> {
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut request = [0; REQUEST_BYTES];
    let mut filled = 0;
    while filled < request.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut request[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => filled += got,
            // With a time limit the kernel starts no read again that a signal woke (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(request)
}
