//! Finds the programs that a machine needs, and says which package has a missing one.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::config::Programs;

/// Folders that are looked at after `PATH`. Not `/usr/lib/qemu`: Debian 12 has another, older virtiofsd
/// there, with other options.
const EXTRA_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/libexec"];

/// A program that is not there.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{} is not installed: {hint}", program.display())]
pub struct ProgramError {
    program: PathBuf,
    hint: &'static str,
}

/// Programs that are known to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// QEMU's system emulator.
    pub qemu: PathBuf,
    /// The virtio-fs daemon.
    pub virtiofsd: PathBuf,
    /// The software TPM.
    pub swtpm: PathBuf,
    /// The vsock daemon.
    pub vhost_device_vsock: PathBuf,
}

impl Found {
    /// Looks for all of them.
    pub fn look(programs: &Programs) -> Result<Self, ProgramError> {
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs: Vec<PathBuf> = env::split_paths(&path)
            .chain(EXTRA_DIRS.iter().map(PathBuf::from))
            .collect();
        let Programs {
            qemu,
            virtiofsd,
            swtpm,
            vhost_device_vsock,
        } = programs;
        Ok(Self {
            qemu: find(qemu, &dirs, "Debian has it in the package qemu-system-x86")?,
            virtiofsd: find(
                virtiofsd,
                &dirs,
                "Debian 13 has it in the package virtiofsd; for Debian 12 build it with \
                 'cargo install --locked virtiofsd --version 1.13.2'",
            )?,
            swtpm: find(swtpm, &dirs, "Debian has it in the package swtpm")?,
            vhost_device_vsock: find(
                vhost_device_vsock,
                &dirs,
                "build it with 'cargo install --locked vhost-device-vsock --version 0.3.0'",
            )?,
        })
    }
}

fn find(program: &Path, dirs: &[PathBuf], hint: &'static str) -> Result<PathBuf, ProgramError> {
    let missing = || ProgramError {
        program: program.to_owned(),
        hint,
    };
    if program.components().count() > 1 {
        return if executable(program) {
            Ok(program.to_owned())
        } else {
            Err(missing())
        };
    }
    dirs.iter()
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|path| executable(path))
        .ok_or_else(missing)
}

fn executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_taken_as_it_is() {
        let dirs = [PathBuf::from("/nonexistent"), PathBuf::from("/bin")];
        assert_eq!(
            find(Path::new("sh"), &dirs, ""),
            Ok(PathBuf::from("/bin/sh"))
        );
        assert_eq!(
            find(Path::new("/bin/sh"), &[], ""),
            Ok(PathBuf::from("/bin/sh"))
        );
    }

    #[test]
    fn what_is_missing_comes_with_its_package() {
        for program in ["swtpm-of-nowhere", "/nonexistent/swtpm", "/etc/passwd"] {
            let error = find(Path::new(program), &[], "install swtpm")
                .unwrap_err()
                .to_string();
            assert_eq!(error, format!("{program} is not installed: install swtpm"));
        }
    }
}
