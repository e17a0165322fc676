//! Puts the environment in its place: readable by root alone, and never seen half written.

use std::path::Path;

use super::{EnvError, Environment, render};
use crate::sys::file;

/// Only root: values may be secrets, and systemd reads `EnvironmentFile=` as root.
const MODE: u32 = 0o600;

/// Writes `environment` to `path`, atomically. The directory is made when it is missing.
pub fn write(path: &Path, environment: &Environment) -> Result<(), EnvError> {
    file::write_atomic(path, &render(environment), MODE).map_err(|source| EnvError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn the_file_is_roots_alone_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed/env");
        write(&path, &Environment::parse(&["A=1"]).unwrap()).unwrap();
        write(&path, &Environment::parse(&["B=2"]).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "B=\"2\"\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o600
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let error = write(Path::new("/proc/seed/env"), &Environment::default()).unwrap_err();
        assert_eq!(error.to_string(), "/proc/seed/env cannot be written");
    }
}
