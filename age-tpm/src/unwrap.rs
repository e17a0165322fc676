//! Unwrapping: from a stanza and one Diffie-Hellman operation to the file key.
//!
//! Owns the trait behind which the private key sits, so that a TPM, an agent that holds a loaded
//! key, or a test's software key can stand there. It never opens a TPM. Follows c2sp.org/age
//! (`p256tag`) and the Go plugin v0.x (`tpm-ecc`).

use age_core::format::{FILE_KEY_BYTES, FileKey};
use age_core::primitives::{aead_decrypt, hkdf};
use p256::PublicKey;
use zeroize::Zeroizing;

use crate::hpke::Context;
use crate::recipient::Recipient;
use crate::stanza::{Kind, P256TAG_INFO, Stanza};

/// HKDF info of `tpm-ecc`.
const TPM_ECC_INFO: &[u8] = b"age-encryption.org/v1/tpm-p256";

/// The X coordinate that both sides of a Diffie-Hellman exchange find. Wiped on drop.
pub struct SharedX(Zeroizing<[u8; SharedX::BYTES]>);

impl SharedX {
    /// Length of a P-256 coordinate.
    pub const BYTES: usize = 32;

    /// Takes over the coordinate.
    pub fn new(bytes: Zeroizing<[u8; Self::BYTES]>) -> Self {
        Self(bytes)
    }

    /// The secret itself.
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for SharedX {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedX(..)")
    }
}

/// Something that can multiply a point with a private key that it guards.
pub trait KeyAgreement {
    /// Why it could not.
    type Error;

    /// The X coordinate of the private key times `peer`. May block for the TPM or for a person.
    ///
    /// # Errors
    ///
    /// The key could not be used.
    fn agree(&mut self, peer: &PublicKey) -> Result<SharedX, Self::Error>;
}

/// Why a stanza that is ours could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum UnwrapError<E> {
    /// The private key could not be used.
    #[error(transparent)]
    Key(E),
    /// The wrapped file key is damaged, or the hint matched by chance.
    #[error("the wrapped file key does not open with this identity")]
    Body,
}

/// Opens `stanza`, which [`is for`](Stanza::is_for) the owner of `key`, whose public half is `own`.
///
/// # Errors
///
/// The key could not be used, or the body does not open.
pub fn unwrap_file_key<K: KeyAgreement>(
    stanza: &Stanza,
    own: &Recipient,
    key: &mut K,
) -> Result<FileKey, UnwrapError<K::Error>> {
    let shared = key.agree(stanza.ephemeral()).map_err(UnwrapError::Key)?;
    let plain = match stanza.kind() {
        Kind::P256Tag => {
            let enc = stanza.encoded_ephemeral();
            Context::new(&shared, enc, &own.uncompressed(), P256TAG_INFO).open(stanza.body())
        }
        Kind::TpmEcc => {
            let ephemeral = Recipient::new(*stanza.ephemeral());
            let salt = [ephemeral.uncompressed(), own.uncompressed()].concat();
            let key = Zeroizing::new(hkdf(&salt, TPM_ECC_INFO, shared.expose()));
            aead_decrypt(&key, FILE_KEY_BYTES, stanza.body())
                .ok()
                .map(Zeroizing::new)
        }
    };
    let plain = plain
        .filter(|p| p.len() == FILE_KEY_BYTES)
        .ok_or(UnwrapError::Body)?;
    Ok(FileKey::init_with_mut(|file_key| {
        file_key.copy_from_slice(&plain)
    }))
}
