//! Reads SSH keys from files, public or private, as ssh-keygen(1) writes them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use russh::keys::{PrivateKey, PublicKey};
use thiserror::Error;

/// Key files are small.
const MAX_BYTES: u64 = 64 << 10;

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a key.
    #[error("{} is not an SSH key, public or private", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
}

/// What was in a key file.
#[derive(Debug, Clone)]
pub enum KeyFile {
    /// The public half alone.
    Public(PublicKey),
    /// Both halves; the private one may be encrypted or a handle of hardware.
    Private(Box<PrivateKey>),
}

impl KeyFile {
    /// Reads one. The file's name does not matter.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let fault = |source| KeyFileError::Read {
            path: path.into(),
            source,
        };
        if fs::metadata(path).map_err(fault)?.len() > MAX_BYTES {
            return Err(KeyFileError::NoKey { path: path.into() });
        }
        let bytes = fs::read(path).map_err(fault)?;
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(key) = PrivateKey::from_openssh(text.as_bytes()) {
            return Ok(Self::Private(Box::new(key)));
        }
        PublicKey::from_openssh(text.trim())
            .map(Self::Public)
            .map_err(|_| KeyFileError::NoKey { path: path.into() })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        match self {
            Self::Public(key) => key,
            Self::Private(key) => key.public_key(),
        }
    }
}
