//! The age identity that the TPM holds: made or found once at boot, then kept for whoever asks.
//!
//! [`age_tpm::provision`] does the work; this decides when, on which thread, and what is said when there
//! is no TPM. The private part never leaves the TPM, so there is nothing secret here.
//!
//! While the agent runs, [`lend`] keeps the key loaded for `age-plugin-tpm`.

mod device;
mod lend;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

pub use age_tpm::provision::Origin;
use age_tpm::{
    provision,
    tpm::{Tcti, Tpm},
};
use thiserror::Error;
use tokio::{sync::watch, task};
use tracing::{info, warn};

use self::lend::Lending;
pub use self::lend::Socket;

/// Why there is no identity.
#[derive(Debug, Clone, Error)]
pub enum IdentityError {
    /// The boot has not come as far.
    #[error("not yet: the identity is not provisioned")]
    NotYet,
    /// The guest has no TPM.
    #[error(
        "there is no TPM: {} does not exist; let the host give the instance one (swtpm), and see that the \
         kernel has its driver (tpm_crb or tpm_tis)",
        .0.display()
    )]
    NoDevice(PathBuf),
    /// The TPM or the identity file are not usable; says why and what helps.
    #[error("{0}")]
    Failed(String),
}

/// An identity that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `age1tpm1q...`
    pub recipient: String,
    /// The same key as `age1tag1q...`.
    pub tag_recipient: String,
    /// Where it came from at this boot.
    pub origin: Origin,
    /// The identity file.
    pub path: PathBuf,
}

/// Holds the identity. Clones share it.
#[derive(Debug, Clone)]
pub struct Holder {
    file: Arc<Path>,
    /// Where the TPM is; the environment or the default says so for `None`.
    tpm: Option<Tcti>,
    outcome: Arc<watch::Sender<Result<Identity, IdentityError>>>,
    /// Where the key is lent; nowhere for `None`.
    socket: Option<Arc<Socket>>,
    lending: Arc<Mutex<Option<Lending>>>,
}

impl Holder {
    /// A holder with nothing in it; the identity is going to be in `file`.
    pub fn new(file: PathBuf) -> Self {
        let outcome = watch::Sender::new(Err(IdentityError::NotYet));
        Self {
            file: file.into(),
            tpm: None,
            outcome: Arc::new(outcome),
            socket: None,
            lending: Arc::default(),
        }
    }

    /// The same with the TPM at this address, whatever the environment says.
    pub fn with_tpm(file: PathBuf, tpm: Tcti) -> Self {
        Self {
            tpm: Some(tpm),
            ..Self::new(file)
        }
    }

    /// The same, and from [`provision`](Self::provision) on the key is lent at `socket`. The last clone takes
    /// the socket away when it is dropped.
    pub fn lending(self, socket: Socket) -> Self {
        Self {
            socket: Some(Arc::new(socket)),
            ..self
        }
    }

    /// Makes or finds the identity, on a thread that may block: some milliseconds, and some seconds where
    /// the TPM's driver is still being loaded. May be called again.
    pub async fn provision(&self) -> Result<(), IdentityError> {
        let (file, tpm) = (Arc::clone(&self.file), self.tpm.clone());
        let (socket, lending) = (self.socket.clone(), Arc::clone(&self.lending));
        let work = move || {
            // What a panic left there is whole: a lending, or none.
            let mut lending = lending.lock().unwrap_or_else(PoisonError::into_inner);
            // First of all: there are TPMs that serve one connection only.
            *lending = None;
            let (identity, key, tcti) = ensure(&file, tpm)?;
            *lending = socket.and_then(|socket| Lending::start(key, tcti, &socket));
            Ok(identity)
        };
        let outcome = match task::spawn_blocking(work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(IdentityError::Failed(
                "provisioning the identity broke off".to_owned(),
            )),
        };
        let result = outcome.as_ref().map(|_| ()).map_err(Clone::clone);
        // What was there before is only ever an older answer to the same question.
        drop(self.outcome.send_replace(outcome));
        result
    }

    /// The identity, or why there is none.
    pub fn get(&self) -> Result<Identity, IdentityError> {
        self.outcome.borrow().clone()
    }
}

/// The identity for whoever asks, its key for the plugin, and where the TPM is.
fn ensure(
    file: &Path,
    tpm: Option<Tcti>,
) -> Result<(Identity, age_tpm::Identity, Tcti), IdentityError> {
    let tcti = match tpm {
        Some(tcti) => tcti,
        None => Tcti::from_env().map_err(|error| IdentityError::Failed(error.to_string()))?,
    };
    if let Tcti::Device(device) = &tcti
        && !device::appears(device)
    {
        return Err(IdentityError::NoDevice(device.clone()));
    }
    let mut tpm = Tpm::open(&tcti).map_err(|error| IdentityError::Failed(error.explain()))?;
    let done = provision::ensure(&mut tpm, file)
        .map_err(|error| IdentityError::Failed(error.explain()))?;
    for note in &done.notes {
        if note.is_warning() {
            warn!(note = %note, "about the identity");
        } else {
            info!(note = %note, "about the identity");
        }
    }
    let recipient = done.identity.recipient();
    let identity = Identity {
        recipient: recipient.to_tpm_text(),
        tag_recipient: recipient.to_tag_text(),
        origin: done.origin,
        path: file.to_owned(),
    };
    info!(recipient = identity.recipient, origin = ?identity.origin, "identity in place");
    Ok((identity, done.identity, tcti))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_it_is_provisioned_there_is_none() {
        let holder = Holder::new("/seed/tpm/age-identity".into());
        assert!(matches!(holder.get(), Err(IdentityError::NotYet)));
    }

    #[test]
    fn a_missing_device_is_named_with_what_to_do() {
        let text = IdentityError::NoDevice("/dev/tpmrm0".into()).to_string();
        assert!(text.starts_with("there is no TPM: /dev/tpmrm0 does not exist; let the host"));
    }
}
