//! What `start` writes into the bundle for `serve` and `delete`: which configuration, which socket. Both run
//! without the options that `start` was given.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
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
    /// The container that is to be cleaned up after with this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

impl StateFile {
    /// Writes it into `bundle`, whole or not at all.
    pub fn write(&self, bundle: &Path) -> Result<(), StateFileError> {
        let path = bundle.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|source| StateFileError::Damaged {
            path: path.clone(),
            source,
        })?;
        // Another `start` may be writing it, too.
        let draft = bundle.join(format!("{FILE}.{}", process::id()));
        fs::write(&draft, bytes)
            .and_then(|()| fs::rename(&draft, &path))
            .map_err(|source| StateFileError::Io { path, source })
    }

    /// A container joins a sandbox, each with its bundle. Before containerd 2.3 it has a `start` of its own, which has written
    /// its file, and a `delete` of its own. Since then it has neither: when the shim dies `delete` is called for the sandbox
    /// alone, and for both when containerd finds it dead after a restart.
    pub fn join(sandbox: &Path, member: &Path, id: &str) -> Result<(), StateFileError> {
        // A sandbox without one is none that `start` was called for.
        if member.join(FILE).exists() || !sandbox.join(FILE).exists() {
            return Ok(());
        }
        let mut state = Self::read(sandbox)?;
        state.member = None;
        state.write(member)?;
        state.member = Some(id.to_owned());
        state.write(sandbox)
    }

    /// Reads it from `bundle`.
    pub fn read(bundle: &Path) -> Result<Self, StateFileError> {
        read(bundle)
    }
}

/// What a clean-up needs of it. A shim of another release may have written it, whose configuration had other keys: those are
/// passed over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Left {
    /// Where the instance is.
    pub config: Folders,
    /// The socket of the Task API.
    pub socket: PathBuf,
    /// Who is to be cleaned up after with it.
    #[serde(default)]
    pub member: Option<String>,
}

/// The folders of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Folders {
    run_dir: PathBuf,
    state_dir: PathBuf,
}

impl Left {
    /// Reads it from `bundle`.
    pub fn read(bundle: &Path) -> Result<Self, StateFileError> {
        read(bundle)
    }
}

impl From<Folders> for Config {
    /// With the defaults in place of all else.
    fn from(folders: Folders) -> Self {
        let Folders { run_dir, state_dir } = folders;
        Self {
            run_dir,
            state_dir,
            ..Self::default()
        }
    }
}

fn read<T: DeserializeOwned>(bundle: &Path) -> Result<T, StateFileError> {
    let path = bundle.join(FILE);
    let bytes = fs::read(&path).map_err(|source| StateFileError::Io {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&bytes).map_err(|source| StateFileError::Damaged { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shim_of_another_release_wrote_is_enough_for_a_clean_up() {
        let bundle = tempfile::tempdir().unwrap();
        let config = Config {
            run_dir: "/elsewhere/run".into(),
            state_dir: "/elsewhere/state".into(),
            ..Config::default()
        };
        let written = StateFile {
            config: config.clone(),
            socket: "/elsewhere/socket".into(),
            member: None,
        };
        written.write(bundle.path()).unwrap();
        assert_eq!(StateFile::read(bundle.path()).unwrap(), written);

        let mut other = serde_json::to_value(&written).unwrap();
        other["config"]["programs"]["of_another_release"] = "program".into();
        other["config"]["of_another_release"] = 1.into();
        fs::write(bundle.path().join(FILE), other.to_string()).unwrap();
        let refused = StateFile::read(bundle.path()).unwrap_err();
        assert!(matches!(refused, StateFileError::Damaged { .. }));
        let left = Left::read(bundle.path()).unwrap();
        assert_eq!(left.socket, written.socket);
        assert_eq!(Config::from(left.config), config);
    }

    #[test]
    fn a_container_without_a_start_of_its_own_is_found_by_its_sandboxs_file_and_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let [sandbox, first, second, started] = ["pod", "first", "second", "started"].map(|name| {
            let bundle = dir.path().join(name);
            fs::create_dir(&bundle).unwrap();
            bundle
        });
        // Nobody has started this one.
        StateFile::join(&sandbox, &first, "first").unwrap();
        assert!(Left::read(&first).is_err());

        let written = StateFile {
            config: Config::default(),
            socket: "/socket".into(),
            member: None,
        };
        written.write(&sandbox).unwrap();
        for (bundle, name) in [(&first, "first"), (&second, "second")] {
            StateFile::join(&sandbox, bundle, name).unwrap();
            assert_eq!(StateFile::read(bundle).unwrap(), written);
            let left = Left::read(&sandbox).unwrap();
            assert_eq!(left.member.as_deref(), Some(name));
        }
        let own = StateFile {
            socket: "/other".into(),
            ..written
        };
        own.write(&started).unwrap();
        StateFile::join(&sandbox, &started, "started").unwrap();
        assert_eq!(StateFile::read(&started).unwrap(), own);
        let left = Left::read(&sandbox).unwrap();
        assert_eq!(left.member.as_deref(), Some("second"));
    }
}
