//! Who besides root may look at instances: the group that the configuration names. It gets into the folders
//! that lead to management sockets and logs, and nowhere else: TPM state and volumes stay the owner's alone.
//!
//! New files in a log folder get its group by the folder's set-group-ID bit (inode(7)).

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::Gid;
use thiserror::Error;

use crate::paths::{InstancePaths, Paths};

/// The table of groups, group(5).
const GROUPS: &str = "/etc/group";

/// Enter and list, for owner and group; new files get the group.
const SHARED_DIR: u32 = 0o2750;

/// Enter without listing, for anybody: what leads to a shared folder.
const PASSAGE: u32 = 0o111;

/// Why the group has no access.
#[derive(Debug, Error)]
pub enum AccessError {
    /// There is no such group.
    #[error("group {0:?} is unknown")]
    Unknown(String),
    /// A file or folder.
    #[error("{} cannot be given to the group", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The number of a group, which is named by its name or its number. Reads the table of groups only: no
/// directory service is asked.
pub fn group(name: &str) -> Result<Gid, AccessError> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    let table = fs::read_to_string(GROUPS).map_err(|source| AccessError::Io {
        path: GROUPS.into(),
        source,
    })?;
    find(&table, name).ok_or_else(|| AccessError::Unknown(name.into()))
}

fn find(table: &str, name: &str) -> Option<Gid> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        fields.nth(1)?.parse().ok().map(Gid::from_raw)
    })
}

/// Gives the group its way to the management socket and the logs of an instance, and makes the log folder.
pub fn share(paths: &Paths, instance: &InstancePaths, group: Gid) -> Result<(), AccessError> {
    let logs = instance.logs_dir();
    fs::create_dir_all(logs).map_err(fault(logs))?;
    pass(paths.state_dir())?;
    for dir in ancestors(logs, paths.state_dir()) {
        give(dir, group, SHARED_DIR)?;
    }
    give(paths.run_dir(), group, SHARED_DIR | PASSAGE)?;
    for dir in ancestors(instance.run_dir(), paths.run_dir()) {
        give(dir, group, SHARED_DIR)?;
    }
    Ok(())
}

/// The folder itself and those above it, below `root`.
fn ancestors<'p>(dir: &'p Path, root: &Path) -> impl Iterator<Item = &'p Path> {
    dir.ancestors().take_while(move |dir| *dir != root)
}

fn pass(dir: &Path) -> Result<(), AccessError> {
    let mode = fs::metadata(dir).map_err(fault(dir))?.permissions().mode();
    let mode = fs::Permissions::from_mode((mode & 0o7777) | PASSAGE);
    fs::set_permissions(dir, mode).map_err(fault(dir))
}

/// Gives one file or folder to the group, with this mode.
pub fn give(path: &Path, group: Gid, mode: u32) -> Result<(), AccessError> {
    rustix::fs::chown(path, None, Some(group)).map_err(|errno| fault(path)(errno.into()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(fault(path))
}

fn fault(path: &Path) -> impl Fn(io::Error) -> AccessError {
    move |source| AccessError::Io {
        path: path.into(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        names::{ContainerId, Namespace},
    };

    #[test]
    fn a_group_is_found_by_name_and_by_number() {
        let table = "root:x:0:\nseed:x:997:a,b\nseedling:x:998:\n";
        assert_eq!(find(table, "seed").map(Gid::as_raw), Some(997));
        assert_eq!(find(table, "see"), None);
        assert_eq!(group("41").unwrap().as_raw(), 41);
        let error = group("no-such-group").unwrap_err().to_string();
        assert_eq!(error, "group \"no-such-group\" is unknown");
    }

    #[test]
    fn the_group_gets_sockets_and_logs_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_dir: dir.path().join("run"),
            state_dir: dir.path().join("state"),
            ..Config::default()
        };
        let paths = Paths::new(&config);
        let id = ContainerId::try_from("web").unwrap();
        let instance = paths.instance(&Namespace::try_from("default").unwrap(), &id);
        let private = |path: &Path| {
            fs::create_dir_all(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        };
        private(&config.state_dir);
        private(instance.tpm_dir());
        private(instance.run_dir());
        let own = rustix::process::getegid();
        // Twice, as at every start.
        share(&paths, &instance, own).unwrap();
        share(&paths, &instance, own).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(instance.logs_dir()), 0o2750);
        assert_eq!(mode(instance.run_dir()), 0o2750);
        assert_eq!(mode(instance.run_dir().parent().unwrap()), 0o2750);
        assert_eq!(mode(&config.state_dir), 0o711);
        assert_eq!(mode(instance.tpm_dir()), 0o700);
    }
}
