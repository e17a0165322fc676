//! The journals of the guest's namespaces (`LogNamespace=` of systemd.exec(5)) beside the system's own: each is another
//! journald's, with numbers of its own, and so a log of its own, in a folder below the system's.
//!
//! ```text
//! <logs>/00000001.seg                      the system's
//! <logs>/namespaces/<name>/00000001.seg    a namespace's: its own position, its own lock
//! ```
//!
//! Which there are the guest says, so their number and their size are bounded here. What they hold is not written to the
//! container's stdout, just as journald does not mix them either.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use seed_protocol::JournalNamespace;

use super::store::Limits;

/// Namespaces that are kept; all of them together may take what the system's journal may.
pub const MAX_KEPT: usize = 8;

const FOLDER: &str = "namespaces";

/// The folder of a namespace's log, below that of the system's.
pub fn dir_of(log: &Path, namespace: &JournalNamespace) -> PathBuf {
    log.join(FOLDER).join(namespace.as_str())
}

/// The namespaces that there is a log of, by name.
pub fn kept(log: &Path) -> io::Result<Vec<JournalNamespace>> {
    let entries = match fs::read_dir(log.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|name| name.try_into().ok()));
    }
    names.sort_unstable();
    Ok(names)
}

/// Makes the folder, for whoever may read the system's log; `None` when there are enough.
pub(super) fn make_dir(log: &Path, namespace: &JournalNamespace) -> io::Result<Option<PathBuf>> {
    let dir = dir_of(log, namespace);
    let kept = kept(log)?;
    if !kept.contains(namespace) && kept.len() >= MAX_KEPT {
        return Ok(None);
    }
    let mode = fs::metadata(log)?.permissions().mode() & 0o7777;
    for dir in [log.join(FOLDER).as_path(), &dir] {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
    }
    Ok(Some(dir))
}

/// What one namespace may take of what the system's journal may.
pub(super) fn share_of(limits: Limits) -> Limits {
    let share = |bytes: u64| (bytes / MAX_KEPT as u64).max(1);
    Limits {
        segment_bytes: share(limits.segment_bytes),
        total_bytes: share(limits.total_bytes),
        ..limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_as_open_as_the_log_and_there_are_only_so_many() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path();
        fs::set_permissions(log, fs::Permissions::from_mode(0o2750)).unwrap();
        assert!(kept(log).unwrap().is_empty());
        let name = |n: usize| JournalNamespace::try_from(format!("n{n}").as_str()).unwrap();
        for n in 0..MAX_KEPT {
            let made = make_dir(log, &name(n)).unwrap().unwrap();
            assert_eq!(made, log.join(format!("namespaces/n{n}")));
            let mode = fs::metadata(&made).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, 0o2750);
        }
        assert_eq!(make_dir(log, &name(99)).unwrap(), None);
        assert!(make_dir(log, &name(0)).unwrap().is_some());
        let names: Vec<_> = (0..MAX_KEPT).map(name).collect();
        assert_eq!(kept(log).unwrap(), names);
    }
}
