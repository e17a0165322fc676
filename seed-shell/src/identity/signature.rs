//! Signatures to plant, over a [`super::statement`] or an invite code alone, in the format of `ssh-keygen -Y sign` (openssh-portable, `PROTOCOL.sshsig`), with
//! a namespace of their own, so that one made for anything else does not plant a repository and the other way
//! round.
//!
//! On a command line a signature is the armour's base64 on one line.

use std::path::PathBuf;

use russh::keys::{
    Algorithm, HashAlg, PrivateKey,
    agent::client::AgentClient,
    ssh_key::{self, LineEnding, SshSig},
};
use thiserror::Error;

use super::{Cid, CidError, keyfile::KeyFile};

/// The namespace of the signature format.
pub const NAMESPACE: &str = "plant@seed";

/// The longest signature that is looked at.
const MAX_BYTES: usize = 4096;

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";

/// `SSH_SK_USER_PRESENCE_REQD`, openssh-portable `PROTOCOL.u2f`: somebody touched the hardware.
const TOUCHED: u8 = 1;

/// Flags and counter behind a hardware key's signature.
const SK_TRAILER: usize = 5;

/// Why a signature is not taken.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// Not in the format.
    #[error("the signature is not one that seed-sign or ssh-keygen -Y sign makes")]
    Form,
    /// Made for something else.
    #[error("the signature was made for {0:?}, not for {NAMESPACE:?}")]
    Namespace(String),
    /// Not by that key, or not over that.
    #[error("the signature does not fit this invite code, source, keys and instances")]
    Wrong,
    /// A hardware key that nobody touched.
    #[error("the signature was made by a hardware key that nobody touched")]
    Untouched,
    /// Not an identity's kind of key.
    #[error(transparent)]
    Key(#[from] CidError),
}

/// Why nothing was signed.
#[derive(Debug, Error)]
pub enum SignError {
    /// The key's file is encrypted.
    #[error("key {} is encrypted and the SSH agent does not have it: add it with ssh-add", path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// Only the public half, or a hardware key: the agent has to sign, and there is none.
    #[error("key {} can be used through an SSH agent only, and there is none (SSH_AUTH_SOCK)", path.display())]
    NoAgent {
        /// The file.
        path: PathBuf,
    },
    /// The agent refused.
    #[error("the SSH agent did not sign with key {}", path.display())]
    Agent {
        /// The file.
        path: PathBuf,
        /// Why.
        source: russh::keys::Error,
    },
    /// The key is of another kind.
    #[error(transparent)]
    Kind(#[from] CidError),
    /// The format.
    #[error("the signature cannot be written")]
    Format(#[source] ssh_key::Error),
}

/// Checks a signature over a text; who made it.
pub fn verify(text: &str, signature: &str) -> Result<Cid, VerifyError> {
    let signature = parse(signature).ok_or(VerifyError::Form)?;
    if signature.namespace() != NAMESPACE {
        return Err(VerifyError::Namespace(signature.namespace().to_owned()));
    }
    let cid = Cid::of_data(signature.public_key())?;
    let key = ssh_key::PublicKey::from(signature.public_key().clone());
    key.verify(NAMESPACE, text.as_bytes(), &signature)
        .map_err(|_| VerifyError::Wrong)?;
    if signature.algorithm() == Algorithm::SkEd25519 && !was_touched(signature.signature_bytes()) {
        return Err(VerifyError::Untouched);
    }
    Ok(cid)
}

fn was_touched(signature: &[u8]) -> bool {
    let flags = signature.len().checked_sub(SK_TRAILER);
    flags.is_some_and(|at| signature[at] & TOUCHED != 0)
}

fn parse(text: &str) -> Option<SshSig> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let body = text.trim();
    let body = body.strip_prefix(BEGIN).unwrap_or(body);
    let body = body.strip_suffix(END).unwrap_or(body);
    let body: String = body.split_whitespace().collect();
    // The armour has lines of 70 letters.
    let lines: Vec<&str> = body
        .as_bytes()
        .chunks(70)
        .map(|line| std::str::from_utf8(line).ok())
        .collect::<Option<_>>()?;
    SshSig::from_pem(format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))).ok()
}

/// Signs a text: with the key of the file, or through the SSH agent where the file does not hold it
/// (hardware, a passphrase). One line of base64.
pub async fn sign(text: &str, path: &std::path::Path, key: &KeyFile) -> Result<String, SignError> {
    Cid::of(key.public())?;
    let signature = match key {
        KeyFile::Private(private) if can_sign(private) => {
            SshSig::sign(&**private, NAMESPACE, HashAlg::Sha512, text.as_bytes())
                .map_err(SignError::Format)?
        }
        key => by_agent(text, path, key).await?,
    };
    let pem = signature
        .to_pem(LineEnding::LF)
        .map_err(SignError::Format)?;
    Ok(pem.lines().filter(|line| !line.starts_with('-')).collect())
}

fn can_sign(key: &PrivateKey) -> bool {
    !key.is_encrypted() && key.algorithm() == Algorithm::Ed25519
}

async fn by_agent(text: &str, path: &std::path::Path, key: &KeyFile) -> Result<SshSig, SignError> {
    let mut agent = AgentClient::connect_env().await.map_err(|_| match key {
        KeyFile::Private(private) if private.is_encrypted() => {
            SignError::Encrypted { path: path.into() }
        }
        _ => SignError::NoAgent { path: path.into() },
    })?;
    let data = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, text.as_bytes())
        .map_err(SignError::Format)?;
    let signature = agent
        .sign_request_signature(key.public(), None, &data)
        .await
        .map_err(|source| SignError::Agent {
            path: path.into(),
            source,
        })?;
    SshSig::new(
        key.public().key_data().clone(),
        NAMESPACE,
        HashAlg::Sha512,
        signature,
    )
    .map_err(SignError::Format)
}
