//! Finds the programs that a machine needs, and says which package has a missing one.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use super::VmmKind;
use crate::config::Programs;

/// Folders that are looked at after `PATH`. Not `/usr/lib/qemu`: Debian 12 has another, older virtiofsd
/// there, with other options.
const EXTRA_DIRS: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/usr/libexec"];

/// A program that is not there.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{} is not installed: {remedy}", program.display())]
pub struct ProgramError {
    program: PathBuf,
    remedy: &'static str,
}

/// Programs that are known to be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The VMM.
    pub vmm: PathBuf,
    /// The virtio-fs daemon.
    pub virtiofsd: PathBuf,
    /// The software TPM.
    pub swtpm: PathBuf,
    /// The vsock device, where the VMM has none of its own.
    pub vsock: Option<PathBuf>,
}

impl Found {
    /// Looks for all that this VMM needs.
    pub fn look(programs: &Programs, vmm: VmmKind) -> Result<Self, ProgramError> {
        let found = |(_, program, remedy): Wanted<'_>| {
            let missing = || ProgramError {
                program: program.to_owned(),
                remedy,
            };
            find(program).ok_or_else(missing)
        };
        Ok(Self {
            vmm: found(monitor(programs, vmm))?,
            virtiofsd: found(virtiofsd(programs))?,
            swtpm: found(swtpm(programs))?,
            vsock: match vmm {
                VmmKind::Qemu => Some(found(vsock(programs))?),
                VmmKind::CloudHypervisor => None,
            },
        })
    }
}

/// A program: its name, where the configuration says that it is, and what installs it.
pub type Wanted<'a> = (&'static str, &'a Path, &'static str);

/// All that has to be installed for this VMM, itself the first.
pub fn wanted(programs: &Programs, vmm: VmmKind) -> [Wanted<'_>; 3] {
    [monitor(programs, vmm), virtiofsd(programs), swtpm(programs)]
}

fn monitor(programs: &Programs, vmm: VmmKind) -> Wanted<'_> {
    match vmm {
        VmmKind::Qemu => ("qemu", &programs.qemu, "apt install qemu-system-x86"),
        VmmKind::CloudHypervisor => (
            "cloud-hypervisor",
            &programs.cloud_hypervisor,
            "install version 52 or later, from github.com/cloud-hypervisor/cloud-hypervisor/releases",
        ),
    }
}

/// What brings a virtiofsd that will do.
/// Cargo's own folder is in no service's `PATH`.
pub const VIRTIOFSD_REMEDY: &str = "apt install virtiofsd (Debian 13), or as root: cargo install --locked --root /usr/local virtiofsd --version 1.13.2";

fn virtiofsd(programs: &Programs) -> Wanted<'_> {
    ("virtiofsd", &programs.virtiofsd, VIRTIOFSD_REMEDY)
}

fn swtpm(programs: &Programs) -> Wanted<'_> {
    ("swtpm", &programs.swtpm, "apt install swtpm")
}

fn vsock(programs: &Programs) -> Wanted<'_> {
    let remedy = "leave programs.vsock out, the shim is its own";
    ("vsock", &programs.vsock, remedy)
}

/// As the shim looks for a program: a path is taken as it is, a name is looked up in `PATH` and where Debian puts
/// daemons.
pub fn find(program: &Path) -> Option<PathBuf> {
    find_by(program, path())
}

/// The same of a shim whose `PATH` has these folders.
pub fn find_by(program: &Path, path: Vec<PathBuf>) -> Option<PathBuf> {
    let extra = EXTRA_DIRS.iter().map(PathBuf::from);
    find_in(program, path.into_iter().chain(extra))
}

/// The folders of `PATH`.
pub fn path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).collect()
}

/// The same, where `dirs` are all folders in which it may be. One that is no absolute path is left out.
pub fn find_in(program: &Path, dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return executable(program).then(|| program.to_owned());
    }
    dirs.filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(program))
        .find(|path| executable(path))
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
        let dirs = || {
            ["/nonexistent", "bin", "/bin"]
                .map(PathBuf::from)
                .into_iter()
        };
        let shell = Some(PathBuf::from("/bin/sh"));
        assert_eq!(find_in(Path::new("sh"), dirs()), shell);
        assert_eq!(find_in(Path::new("/bin/sh"), [].into_iter()), shell);
        for program in ["swtpm-of-nowhere", "/nonexistent/swtpm", "/etc/passwd"] {
            assert_eq!(find_in(Path::new(program), dirs()), None);
        }
    }

    #[test]
    fn what_is_missing_comes_with_its_package() {
        let programs = Programs {
            swtpm: "/nonexistent/swtpm".into(),
            qemu: "/bin/sh".into(),
            virtiofsd: "/bin/sh".into(),
            cloud_hypervisor: "/bin/sh".into(),
            vsock: "/nonexistent/vsock".into(),
        };
        for vmm in VmmKind::ALL {
            let error = Found::look(&programs, vmm).unwrap_err().to_string();
            let said = "/nonexistent/swtpm is not installed: apt install swtpm";
            assert_eq!(error, said);
        }
        let whole = Programs {
            swtpm: "/bin/sh".into(),
            ..programs
        };
        assert!(Found::look(&whole, VmmKind::Qemu).is_err());
        let found = Found::look(&whole, VmmKind::CloudHypervisor).unwrap();
        assert_eq!(found.vsock, None);
    }
}
