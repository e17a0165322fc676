//! How an instance was started: `instance.json` in its run folder (0600: it holds the environment). From it
//! alone the instance is started again, also when its shim or its VMM was killed.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{shim::Address, volumes::Volume};
use crate::config::Accel;

/// The version of the form.
pub const VERSION: u32 = 1;

/// Why there is no record.
#[derive(Debug, Error)]
pub enum RecordError {
    /// There is none.
    #[error("{} does not exist", .0.display())]
    Absent(PathBuf),
    /// It cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not understood.
    #[error("{} is no record of an instance: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A later release wrote it.
    #[error("{} was written by a later release (version {version})", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// How an instance was started.
#[derive(Clone, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// The root file system on the host, which is only read.
    pub root: PathBuf,
    /// The toplevel inside the root.
    pub toplevel: PathBuf,
    /// The named size, where the closure's own is not to be taken.
    pub size: Option<String>,
    /// `auto`, `kvm` or `tcg`, where the configuration's is not to be taken.
    pub accel: Option<Accel>,
    /// `none`, `user` or the absolute path of a network namespace, where the shim's default is not to be taken.
    pub network: Option<String>,
    /// Published ports.
    #[serde(default)]
    pub publish: Vec<String>,
    /// More kernel parameters.
    pub kernel_params: Vec<String>,
    /// `NAME=value`. Secret.
    pub env: Vec<String>,
    /// Volumes.
    pub volumes: Vec<Volume>,
    /// The shim's configuration file, where it is not the default one.
    pub config: Option<PathBuf>,
    /// The shim's binary.
    pub shim: PathBuf,
    /// Where the shim listens, once it does.
    pub address: Option<Address>,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("root", &self.root)
            .field("volumes", &self.volumes)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Record {
    /// Reads it.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let text = fs::read(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => RecordError::Absent(path.into()),
            _ => RecordError::Io {
                path: path.into(),
                source,
            },
        })?;
        let parse = |source| RecordError::Parse {
            path: path.into(),
            source,
        };
        let Version { version } = serde_json::from_slice(&text).map_err(parse)?;
        if version != VERSION {
            return Err(RecordError::Version {
                path: path.into(),
                version,
            });
        }
        serde_json::from_slice(&text).map_err(parse)
    }

    /// Writes it, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), RecordError> {
        let fault = |source| RecordError::Io {
            path: path.into(),
            source,
        };
        let text = serde_json::to_vec_pretty(self).map_err(|error| fault(error.into()))?;
        let hidden = path.with_extension("json~");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&hidden)
            .map_err(fault)?;
        file.write_all(&text).map_err(fault)?;
        fs::rename(&hidden, path).map_err(fault)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    pub(in crate::containerd) fn sample() -> Record {
        Record {
            version: VERSION,
            root: "/guest".into(),
            toplevel: "/seed-system".into(),
            size: Some("xs".into()),
            accel: Some(Accel::Tcg),
            network: None,
            publish: Vec::new(),
            kernel_params: vec!["quiet".into(), "loglevel=3".into()],
            env: vec!["SECRET=hush".into()],
            volumes: Vec::new(),
            config: None,
            shim: "/usr/bin/containerd-shim-seed-v2".into(),
            address: None,
        }
    }

    #[test]
    fn a_record_comes_back_private_and_does_not_tell_its_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instance.json");
        assert!(matches!(Record::read(&path), Err(RecordError::Absent(_))));
        let record = sample();
        record.write(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = Record::read(&path).unwrap();
        assert_eq!(again.env, record.env);
        assert!(!format!("{again:?}").contains("hush"));
    }

    #[test]
    fn a_later_form_and_a_damaged_one_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("instance.json");
        fs::write(&path, r#"{"version": 2, "new": true}"#).unwrap();
        assert!(matches!(
            Record::read(&path),
            Err(RecordError::Version { version: 2, .. })
        ));
        fs::write(&path, "{").unwrap();
        assert!(matches!(
            Record::read(&path),
            Err(RecordError::Parse { .. })
        ));
    }
}
