//! Recipients and identities for the `age` crate, so that Rust programs need no plugin.
//!
//! Owns the implementations of `age::Recipient` and `age::Identity`; compiled with the feature
//! `age`, for that crate brings many others. Decrypting opens the TPM at the first stanza that is
//! for the key, and keeps the key loaded until the value is dropped. Blocking.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};

use age::{DecryptError, EncryptError};
use age_core::format::{FileKey, Stanza as AgeStanza};
use age_core::secrecy::SecretString;

use crate::identity::Identity;
use crate::key::TpmKey;
use crate::recipient::Recipient;
use crate::stanza::Stanza;
use crate::tpm::{Tcti, Tpm, TpmError};
use crate::unwrap::{UnwrapError, unwrap_file_key};
use crate::wrap::wrap_file_key;

impl age::Recipient for Recipient {
    fn wrap_file_key(
        &self,
        file_key: &FileKey,
    ) -> Result<(Vec<AgeStanza>, HashSet<String>), EncryptError> {
        Ok((vec![wrap_file_key(self, file_key)?], HashSet::new()))
    }
}

/// An [`Identity`] together with the TPM that can use it.
#[derive(Debug)]
pub struct TpmIdentity {
    identity: Identity,
    tcti: Tcti,
    pin: Option<SecretString>,
    loaded: Mutex<Option<TpmKey<Tpm>>>,
}

impl TpmIdentity {
    /// Opens nothing yet. A key with PIN needs `pin`.
    pub fn new(identity: Identity, tcti: Tcti, pin: Option<SecretString>) -> Self {
        Self {
            identity,
            tcti,
            pin,
            loaded: Mutex::new(None),
        }
    }

    fn open(&self, stanza: &Stanza, own: &Recipient) -> Result<FileKey, DecryptError> {
        let failed = |e: &TpmError| DecryptError::Io(io::Error::other(e.explain()));
        // A panic elsewhere while the key was in use leaves the TPM's side of it intact.
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = match loaded.take() {
            Some(key) => key,
            None => {
                let tpm = Tpm::open(&self.tcti).map_err(|e| failed(&e))?;
                TpmKey::load(tpm, &self.identity, self.pin.clone()).map_err(|e| failed(&e))?
            }
        };
        match unwrap_file_key(stanza, own, &mut key) {
            Err(UnwrapError::Key(e)) => Err(failed(&e)), // the connection may be broken: drop it
            other => {
                *loaded = Some(key);
                other.map_err(|_| DecryptError::DecryptionFailed)
            }
        }
    }
}

impl age::Identity for TpmIdentity {
    fn unwrap_stanza(&self, stanza: &AgeStanza) -> Option<Result<FileKey, DecryptError>> {
        let own = self.identity.recipient();
        match Stanza::parse(stanza)? {
            Ok(stanza) => stanza.is_for(&own).then(|| self.open(&stanza, &own)),
            Err(_) => Some(Err(DecryptError::InvalidHeader)),
        }
    }

    fn unwrap_stanzas(&self, stanzas: &[AgeStanza]) -> Option<Result<FileKey, DecryptError>> {
        // A malformed stanza of ours condemns the whole header, also behind a good one.
        if stanzas
            .iter()
            .filter_map(Stanza::parse)
            .any(|parsed| parsed.is_err())
        {
            return Some(Err(DecryptError::InvalidHeader));
        }
        stanzas.iter().find_map(|stanza| self.unwrap_stanza(stanza))
    }
}
