//! TPM-held identities for [age](https://age-encryption.org).
//!
//! An identity here is a P-256 key that one TPM made, wrapped, and alone can unwrap. Its text form
//! (`AGE-PLUGIN-TPM-1..`) may lie about: without that TPM it opens nothing. Its public half is
//! written in two ways, `age1tag1..` (age 1.3 and rage encrypt to it natively) and `age1tpm1..`
//! (through `age-plugin-tpm`); both name the same key.
//!
//! The layers, from the outside in:
//!
//! - [`plugin`]: the state machines behind `age-plugin-tpm`.
//! - [`provision`]: one identity for a machine, kept in a file and in the TPM's NV memory.
//! - [`identity`], [`recipient`], [`stanza`]: the formats.
//! - [`wrap`], [`unwrap`]: file keys; [`key`] joins an identity with a TPM.
//! - [`held`]: a key that a service keeps loaded and lends to the plugin.
//! - [`tpm`]: the TPM commands.
//! - `in_process` (feature `age`): identities and recipients for the `age` crate.
//!
//! # Threat model
//!
//! - **The identity text is public.** It holds the public key and a blob that only the TPM's
//!   storage root can open. Whoever may *use* the TPM (with a PIN-less key) can decrypt.
//! - **The TPM's state is the secret.** For an emulated TPM that is a folder on the host: whoever
//!   reads it has every key inside. For a chip it does not leave the chip.
//! - **The bus is not trusted with secrets.** Each decryption runs in a session salted to the key
//!   itself, whose public half is in the identity: the shared secret comes back encrypted, a PIN
//!   never crosses, and nobody can take the TPM's place. A new key is made in a session salted to
//!   the storage root, so whoever can *alter* the bus at that moment can substitute a root of their
//!   own; its name, which is computed and never believed, is pinned in the identity from then on.
//! - **A backup needs a second recipient.** A key that cannot leave its TPM dies with it.
//!
//! # Example
//!
//! ```no_run
//! use std::path::Path;
//!
//! use age_tpm::provision;
//! use age_tpm::tpm::{Tcti, Tpm};
//!
//! let mut tpm = Tpm::open(&Tcti::from_env()?)?;
//! let done = provision::ensure(&mut tpm, Path::new("/seed/tpm/age-identity"))?;
//! println!("{}", done.identity.recipient().to_tpm_text());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod bech32_long;
pub mod held;
mod hpke;
pub mod identity;
#[cfg(feature = "age")]
pub mod in_process;
pub mod key;
pub mod plugin;
pub mod provision;
mod random;
pub mod recipient;
pub mod stanza;
#[cfg(test)]
mod testing;
pub mod tpm;
mod unix_time;
pub mod unwrap;
pub mod wrap;

pub use self::identity::{Identity, Pin};
pub use self::recipient::{Recipient, Spelling};
pub use self::unix_time::UtcTime;

/// An error and its causes in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
