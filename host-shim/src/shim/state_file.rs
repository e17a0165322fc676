//! What `start` writes into the bundle for `serve` and `delete`: which configuration, which socket. Both run
//! without the options that `start` was given.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::Config;

/// The file's name in a bundle.
const FILE: &str = "seed-shim.json";

/// Why it cannot be used.
#[derive(Debug, Error)]
pub enum StateFileError {
    /// It cannot be read or written.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is damaged.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How.
        source: serde_json::Error,
    },
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// The configuration as it was at the start: a later change of the file is for later starts.
    pub config: Config,
    /// The socket of the Task API.
    pub socket: PathBuf,
}

impl StateFile {
    /// Writes it into `bundle`.
    pub fn write(&self, bundle: &Path) -> Result<(), StateFileError> {
        let path = bundle.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|source| StateFileError::Damaged {
            path: path.clone(),
            source,
        })?;
        fs::write(&path, bytes).map_err(|source| StateFileError::Io { path, source })
    }

    /// Reads it from `bundle`.
    pub fn read(bundle: &Path) -> Result<Self, StateFileError> {
        let path = bundle.join(FILE);
        let bytes = fs::read(&path).map_err(|source| StateFileError::Io {
            path: path.clone(),
            source,
        })?;
        serde_json::from_slice(&bytes).map_err(|source| StateFileError::Damaged { path, source })
    }
}
