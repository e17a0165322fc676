//! The host's key: made on the first start, 0600, and never again. Ed25519.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rand::RngCore;
use russh::keys::{PrivateKey, ssh_key, ssh_key::LineEnding, ssh_key::private::Ed25519Keypair};
use thiserror::Error;

/// Why there is no host key.
#[derive(Debug, Error)]
pub enum HostKeyError {
    /// The file.
    #[error("host key {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a key.
    #[error("host key {} is not a private key without a passphrase", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("host key {} can be read by others (mode {mode:o}): chmod 600 it, or remove it for a new one", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It cannot be written down.
    #[error("host key cannot be written")]
    Format(#[source] ssh_key::Error),
}

/// Reads the key, or makes it.
pub fn load(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let fault = |source| HostKeyError::Io {
        path: path.into(),
        source,
    };
    match fs::read(path) {
        Ok(text) => {
            let mode = fs::metadata(path).map_err(fault)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(HostKeyError::Open {
                    path: path.into(),
                    mode,
                });
            }
            PrivateKey::from_openssh(&text)
                .ok()
                .filter(|key| !key.is_encrypted())
                .ok_or_else(|| HostKeyError::NoKey { path: path.into() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(fault(error)),
    }
}

fn make(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let fault = |source| HostKeyError::Io {
        path: path.into(),
        source,
    };
    let mut seed = [0; 32];
    rand::rng().fill_bytes(&mut seed);
    let key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    let text = key
        .to_openssh(LineEnding::LF)
        .map_err(HostKeyError::Format)?;
    // Whole or not at all; and where two start at once, the first one's stays.
    let hidden = path.with_extension("new");
    let _ = fs::remove_file(&hidden);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&hidden)
        .map_err(fault)?;
    file.write_all(text.as_bytes()).map_err(fault)?;
    file.sync_all().map_err(fault)?;
    match fs::hard_link(&hidden, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fault(error)),
        _ => fs::remove_file(&hidden).map_err(fault)?,
    }
    load(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let first = load(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(load(&path).unwrap().public_key(), first.public_key());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            load(&path),
            Err(HostKeyError::Open { mode: 0o640, .. })
        ));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key").unwrap();
        assert!(matches!(load(&path), Err(HostKeyError::NoKey { .. })));
    }
}
