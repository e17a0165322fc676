//! Puts the environment in its place: readable by root alone, or by one group, and never seen half written.

use std::path::Path;

use super::{EnvError, Environment, render};
use crate::sys::file;

/// Only root: values may be secrets, and systemd reads `EnvironmentFile=` as root.
const MODE: u32 = 0o600;

/// The same, and a group that the closure names.
const GROUP_MODE: u32 = 0o640;

/// Writes `environment` to `path`, atomically, for root and for the group of this number. The directory is
/// made when it is missing.
pub fn write(path: &Path, environment: &Environment, group: Option<u32>) -> Result<(), EnvError> {
    let mode = if group.is_some() { GROUP_MODE } else { MODE };
    let written = file::write_atomic_for(path, &render(environment), mode, group);
    written.map_err(|source| EnvError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt},
    };

    use super::*;

    #[test]
    fn the_file_is_roots_alone_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed/env");
        write(&path, &Environment::parse(&["A=1"]).unwrap(), None).unwrap();
        write(&path, &Environment::parse(&["B=2"]).unwrap(), None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "B=\"2\"\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_group_may_read_and_nobody_else_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        let ours = fs::metadata(directory.path()).unwrap().gid();
        write(&path, &Environment::default(), Some(ours)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.gid()), (0o640, ours));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = write(Path::new("/proc/seed/env"), &Environment::default(), None).unwrap_err();
        assert_eq!(error.to_string(), "/proc/seed/env cannot be written");
    }
}
