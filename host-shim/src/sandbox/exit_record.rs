//! The end of a VM, written into its bundle, so that `delete` can tell a true status after the shim is gone.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::view::Ended;

/// The file's name in a bundle.
const FILE: &str = "seed-exit.json";

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The VMM's pid.
    pub pid: u32,
    /// As containerd sees it.
    pub status: u32,
    /// One sentence.
    pub reason: String,
    /// Since the epoch.
    pub at_unix_ns: u64,
}

impl ExitRecord {
    /// The record of an end.
    pub fn new(pid: u32, ended: &Ended) -> Self {
        Self {
            pid,
            status: ended.exit.status,
            reason: ended.exit.reason.clone(),
            at_unix_ns: unix_ns(ended.at),
        }
    }

    /// When.
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.at_unix_ns)
    }

    /// Writes it into `bundle`, whole or not at all.
    pub fn write(&self, bundle: &Path) -> io::Result<()> {
        let draft = bundle.join(format!("{FILE}.new"));
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, bundle.join(FILE))
    }

    /// The record in `bundle`, if there is one that can be read.
    pub fn read(bundle: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(bundle.join(FILE)).ok()?).ok()
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn unix_ns(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let record = ExitRecord {
            pid: 7,
            status: 137,
            reason: "killed".into(),
            at_unix_ns: 17_000_000_005,
        };
        record.write(dir.path()).unwrap();
        assert_eq!(ExitRecord::read(dir.path()), Some(record));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(ExitRecord::read(dir.path()), None);
    }
}
