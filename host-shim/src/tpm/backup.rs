//! Backup and restore of an instance's identity: the TPM's state and the machine id, as one tar archive. Whoever
//! has it is the instance, so the file is 0600, and can be passed on to age(1) without ever being one.
//!
//! The state is locked while it is copied: an instance that runs is refused. A restore makes the folder anew
//! beside its place and moves it there; what is there already is never touched.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use thiserror::Error;

use super::{
    StateDir, StateDirError,
    archive::{self, ArchiveError, Entry},
    owner,
    state_dir::machine_id,
};
use crate::paths::{InstancePaths, TPM_LOCK, TPM_MACHINE_ID};

/// swtpm's permanent state (swtpm(8)): without it there is no identity.
const PERMANENT: &str = "tpm2-00.permall";

/// Why there is no backup, or no restore.
#[derive(Debug, Error)]
pub enum BackupError {
    /// It runs, or its state cannot be used.
    #[error(transparent)]
    State(#[from] StateDirError),
    /// No TPM has ever run for it.
    #[error("there is no TPM state in {}", .0.display())]
    Nothing(PathBuf),
    /// There is one already.
    #[error("there is TPM state in {} already, and it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// The file.
    #[error("backup is not usable: {0}")]
    Archive(#[from] ArchiveError),
    /// A part is missing.
    #[error("backup is not usable: it has no {0}")]
    Incomplete(&'static str),
    /// A file operation.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

/// The archive of a stopped instance's identity.
pub fn pack(paths: &InstancePaths) -> Result<Vec<u8>, BackupError> {
    let dir = paths.tpm_dir();
    if !dir.join(PERMANENT).exists() {
        return Err(BackupError::Nothing(dir.to_owned()));
    }
    let _locked = StateDir::lock(paths)?;
    let mut entries = Vec::new();
    for found in fs::read_dir(dir).map_err(io(dir))? {
        let found = found.map_err(io(dir))?;
        let name = found.file_name().to_string_lossy().into_owned();
        if name == TPM_LOCK || !archive::is_plain(&name) {
            continue;
        }
        let path = found.path();
        let file = owner::open_plain(OpenOptions::new().read(true), &path).map_err(io(&path))?;
        let data = load(file, &path)?;
        entries.push(Entry { name, data });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(archive::write(&entries, now.unwrap_or_default().as_secs()))
}

/// Writes an archive to a file that is not there yet, 0600.
pub fn save(archive: &[u8], file: &Path) -> Result<(), BackupError> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(file);
    let mut opened = opened.map_err(io(file))?;
    let written = opened.write_all(archive).and_then(|()| opened.sync_all());
    if written.is_err() {
        // Half of one is no backup, and would be in the next one's way.
        let _ = fs::remove_file(file);
    }
    written.map_err(io(file))
}

/// Reads an archive, as much of it as one may be long.
pub fn load(from: impl Read, name: &Path) -> Result<Vec<u8>, BackupError> {
    let mut archive = Vec::new();
    let limit = u64::try_from(archive::MAX_BYTES).unwrap_or(u64::MAX);
    let read = from.take(limit).read_to_end(&mut archive);
    read.map_err(io(name))?;
    Ok(archive)
}

/// Makes an identity of an archive, for an instance that has none.
pub fn unpack(archive: &[u8], paths: &InstancePaths) -> Result<(), BackupError> {
    let dir = paths.tpm_dir();
    if dir.exists() {
        return Err(BackupError::Exists(dir.to_owned()));
    }
    let entries = archive::read(archive)?;
    for needed in [PERMANENT, TPM_MACHINE_ID] {
        if !entries.iter().any(|entry| entry.name == needed) {
            return Err(BackupError::Incomplete(needed));
        }
    }
    let mut draft = dir.as_os_str().to_owned();
    draft.push(".restored~");
    let draft = PathBuf::from(draft);
    match fs::remove_dir_all(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(&draft)(error)),
        _ => {}
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&draft);
    made.map_err(io(&draft))?;
    let result = fill(&draft, &entries).and_then(|()| {
        machine_id(&draft.join(TPM_MACHINE_ID))?;
        // Fails when somebody has made the folder meanwhile and something is in it.
        fs::rename(&draft, dir).map_err(io(dir))
    });
    if result.is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    result
}

fn fill(draft: &Path, entries: &[Entry]) -> Result<(), BackupError> {
    for entry in entries.iter().filter(|entry| entry.name != TPM_LOCK) {
        save(&entry.data, &draft.join(&entry.name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::tpm::state_dir::tests::paths;

    fn identity(paths: &InstancePaths) {
        drop(StateDir::lock(paths).unwrap());
        fs::create_dir_all(paths.tpm_dir()).unwrap();
        fs::write(paths.tpm_dir().join(PERMANENT), [9; 700]).unwrap();
        fs::write(paths.tpm_dir().join(".lock"), "").unwrap();
        drop(StateDir::lock(paths).unwrap());
    }

    #[test]
    fn a_restored_identity_is_the_one_that_was_saved() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, target) = (paths(from.path()), paths(to.path()));
        identity(&source);
        let file = from.path().join("backup.tar");
        save(&pack(&source).unwrap(), &file).unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let archive = load(fs::File::open(&file).unwrap(), &file).unwrap();
        unpack(&archive, &target).unwrap();
        let read = |paths: &InstancePaths, name: &str| fs::read(paths.tpm_dir().join(name));
        for name in [PERMANENT, TPM_MACHINE_ID] {
            assert_eq!(read(&target, name).unwrap(), read(&source, name).unwrap());
        }
        let mode = fs::metadata(target.tpm_dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(StateDir::lock(&target).is_ok());
        // What is there is not overwritten, neither state nor file.
        assert!(matches!(
            unpack(&archive, &target),
            Err(BackupError::Exists(_))
        ));
        assert!(matches!(save(&archive, &file), Err(BackupError::Io { .. })));
    }

    #[test]
    fn a_running_instance_and_one_without_identity_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        assert!(matches!(pack(&paths), Err(BackupError::Nothing(_))));
        identity(&paths);
        let _running = StateDir::lock(&paths).unwrap();
        assert!(matches!(
            pack(&paths),
            Err(BackupError::State(StateDirError::InUse(_)))
        ));
    }

    #[test]
    fn an_unusable_backup_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let entry = |name: &str, data: &str| Entry {
            name: name.into(),
            data: data.into(),
        };
        let id = "0123456789abcdef0123456789abcdef\n";
        for entries in [
            vec![entry(PERMANENT, "x")],
            vec![entry(TPM_MACHINE_ID, id)],
            vec![entry(PERMANENT, "x"), entry(TPM_MACHINE_ID, "none")],
        ] {
            assert!(unpack(&archive::write(&entries, 0), &paths).is_err());
        }
        assert!(unpack(b"no archive", &paths).is_err());
        let parent = paths.tpm_dir().parent().unwrap();
        let left = fs::read_dir(parent).map_or(0, Iterator::count);
        assert_eq!((paths.tpm_dir().exists(), left), (false, 0));
    }
}
