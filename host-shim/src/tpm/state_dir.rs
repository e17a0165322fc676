//! The folder that holds an instance's TPM state: 0700, locked as long as a VM uses it. Its machine id is
//! kept beside it, because both belong to the same identity.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Instant,
};

use thiserror::Error;

use super::owner;
use crate::{
    locks::{self, Held},
    paths::{InstancePaths, TPM_LOCK as LOCK, TPM_MACHINE_ID as MACHINE_ID},
};

/// More than a machine id has: 32 digits and a line's end.
const MAX_MACHINE_ID_BYTES: u64 = 64;

/// Why the TPM's state cannot be used.
#[derive(Debug, Error)]
pub enum StateDirError {
    /// Another VM has it.
    #[error("TPM state {} is in use by another VM: one identity cannot be in two places", .0.display())]
    InUse(PathBuf),
    /// A file operation.
    #[error("TPM state {} cannot be used", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine id was changed by hand.
    #[error("machine id in {} is not 32 hexadecimal digits", .0.display())]
    MachineId(PathBuf),
}

/// A folder of TPM state, locked until this is dropped. One that was made for a VM that never ran goes
/// with it: it holds no identity.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    machine_id: String,
    is_new: bool,
    // It goes when the process is killed, too.
    _lock: Held,
}

impl StateDir {
    /// Makes the folder where it is missing, and locks it. Waits some seconds for a VM that goes.
    pub fn lock(paths: &InstancePaths) -> Result<Self, StateDirError> {
        Self::lock_by(paths, locks::gone_by())
    }

    fn lock_by(paths: &InstancePaths, until: Instant) -> Result<Self, StateDirError> {
        let path = paths.tpm_dir().to_owned();
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::Io { path, source }
        };
        let is_new = !path.exists();
        let lock_path = paths.tpm_lock();
        let open = || {
            let mut options = OpenOptions::new();
            let options = options.create(true).truncate(false).write(true).mode(0o600);
            owner::open_plain(options, &lock_path)
        };
        let lock = locks::in_its_folder(&lock_path, open, |file| locks::exclusive(file, until));
        let lock = lock.map_err(io(&lock_path))?;
        let lock = lock.ok_or_else(|| StateDirError::InUse(path.clone()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(io(&path))?;
        // A shim that was killed could not.
        owner::take_back(&path).map_err(io(&path))?;
        let machine_id = machine_id(&paths.machine_id())?;
        Ok(Self {
            path,
            machine_id,
            is_new,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it to the user of this number, as whom the TPM runs, until this is dropped.
    pub(crate) fn lend(&self, id: u32) -> io::Result<()> {
        owner::lend(&self.path, id)
    }

    /// The guest's machine id.
    pub fn machine_id(&self) -> &str {
        &self.machine_id
    }
}

impl Drop for StateDir {
    fn drop(&mut self) {
        if let Err(error) = owner::take_back(&self.path) {
            tracing::warn!(dir = %self.path.display(), %error, "TPM state was not taken back");
        }
        if !self.is_new {
            return;
        }
        let ours = [LOCK, MACHINE_ID];
        let Ok(entries) = fs::read_dir(&self.path) else {
            return;
        };
        // Anything else is swtpm's: the TPM has been there.
        let unused = entries
            .flatten()
            .all(|e| ours.iter().any(|name| e.file_name() == *name));
        if unused {
            for name in ours {
                let _ = fs::remove_file(self.path.join(name));
            }
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Takes the state of an instance back that a killed shim has lent to another user, unless it runs again. Where somebody still has
/// it at `until`, it is left to its next lock.
pub(crate) fn reclaim(paths: &InstancePaths, until: Instant) {
    if !owner::is_lent(paths.tpm_dir()) {
        return;
    }
    match StateDir::lock_by(paths, until) {
        Ok(_) | Err(StateDirError::InUse(_)) => {}
        Err(error) => tracing::warn!(%error, "TPM state was not taken back"),
    }
}

/// Reads the machine id, or makes one: machine-id(5).
pub(super) fn machine_id(path: &Path) -> Result<String, StateDirError> {
    let io = |source| StateDirError::Io {
        path: path.to_owned(),
        source,
    };
    let read = || {
        let file = owner::open_plain(OpenOptions::new().read(true), path)?;
        io::read_to_string(file.take(MAX_MACHINE_ID_BYTES))
    };
    match read() {
        Ok(text) => {
            let id = text.trim();
            let plain = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
            if plain {
                Ok(id.to_owned())
            } else {
                Err(StateDirError::MachineId(path.to_owned()))
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A version 4 UUID, which is what machine-id(5) asks for.
            let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").map_err(io)?;
            let id: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
            let draft = path.with_extension("new");
            // Whatever is there, a TPM's user may have put it there: it is neither followed nor written to.
            let _ = fs::remove_file(&draft);
            let mut options = OpenOptions::new();
            let options = options.create_new(true).write(true);
            let mut file = options.open(&draft).map_err(io)?;
            writeln!(file, "{id}")
                .and_then(|()| file.sync_all())
                .map_err(io)?;
            fs::rename(&draft, path).map_err(io)?;
            Ok(id)
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        config::Config,
        names::{ContainerId, Namespace},
        paths::Paths,
    };

    pub(in crate::tpm) fn paths(dir: &Path) -> InstancePaths {
        let config = Config {
            run_dir: dir.join("run"),
            state_dir: dir.join("state"),
            ..Config::default()
        };
        Paths::new(&config).instance(
            &Namespace::try_from("default").unwrap(),
            &ContainerId::try_from("demo").unwrap(),
        )
    }

    #[test]
    fn a_second_lock_is_refused_and_a_later_one_finds_the_same_machine() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let first = StateDir::lock(&paths).unwrap();
        fs::write(paths.tpm_dir().join("tpm2-00.permall"), "state").unwrap();
        let id = first.machine_id().to_owned();
        assert_eq!(id.len(), 32);
        let mode = fs::metadata(first.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(matches!(
            StateDir::lock(&paths),
            Err(StateDirError::InUse(_))
        ));
        drop(first);
        assert_eq!(StateDir::lock(&paths).unwrap().machine_id(), id);
    }

    #[test]
    fn a_machine_id_that_was_damaged_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        fs::create_dir_all(paths.tpm_dir()).unwrap();
        fs::write(paths.machine_id(), "uninitialized\n").unwrap();
        assert!(matches!(
            StateDir::lock(&paths),
            Err(StateDirError::MachineId(_))
        ));
        assert_eq!(
            fs::read_to_string(paths.machine_id()).unwrap(),
            "uninitialized\n"
        );
    }

    #[test]
    fn another_name_of_a_file_in_the_drafts_place_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (other, id) = (dir.path().join("other"), dir.path().join(MACHINE_ID));
        fs::write(&other, "kept").unwrap();
        fs::hard_link(&other, id.with_extension("new")).unwrap();
        assert_eq!(machine_id(&id).unwrap().len(), 32);
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
    }

    #[test]
    fn a_folder_that_goes_while_others_want_it_is_one_s_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let holders = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..30 {
                        let held = StateDir::lock(&paths).unwrap();
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                        holders.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
        });
    }

    #[test]
    fn a_folder_that_no_tpm_has_used_goes_with_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        drop(StateDir::lock(&paths).unwrap());
        assert!(!paths.tpm_dir().exists());
    }
}
