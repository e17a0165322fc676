//! An identity made usable: its key loaded into the TPM, with its PIN.
//!
//! Owns the joining of [`Identity`], [`LoadedKey`] and PIN into a [`KeyAgreement`]. It asks nobody
//! for a PIN; whoever builds it did.

use std::borrow::BorrowMut;

use age_core::secrecy::{ExposeSecret, SecretString};
use p256::PublicKey;

use crate::identity::Identity;
use crate::tpm::{LoadedKey, Tpm, TpmError};
use crate::unwrap::{KeyAgreement, SharedX};

/// A loaded key; dropping it unloads it. `T` is `Tpm` or `&mut Tpm`.
#[derive(Debug)]
pub struct TpmKey<T: BorrowMut<Tpm>> {
    loaded: LoadedKey<T>,
    pin: Option<SecretString>,
}

impl<T: BorrowMut<Tpm>> TpmKey<T> {
    /// Loads the identity's key. The PIN is not tried before the first use.
    ///
    /// # Errors
    ///
    /// As [`LoadedKey::load`].
    pub fn load(tpm: T, identity: &Identity, pin: Option<SecretString>) -> Result<Self, TpmError> {
        let loaded = LoadedKey::load(
            tpm,
            identity.public(),
            identity.private(),
            identity.parent(),
        )?;
        Ok(Self { loaded, pin })
    }
}

impl<T: BorrowMut<Tpm>> KeyAgreement for TpmKey<T> {
    type Error = TpmError;

    fn agree(&mut self, peer: &PublicKey) -> Result<SharedX, TpmError> {
        let pin = self.pin.as_ref().map(|pin| pin.expose_secret().as_bytes());
        self.loaded.ecdh(peer, pin)
    }
}
