//! What instances leave behind: TPM state, volumes and logs, each under the name that it is kept by (`crate::kept`). It is
//! listed for those that have ended, and deleted: all of one that is named, or logs and TPM state of whoever has been gone for long.
//! Volumes go by name alone.
//!
//! Who runs, wherever that may be, has locked the TPM's state: nothing is deleted without that lock. How long somebody is gone
//! is what the files' times say, since nobody writes them but who runs.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::instance::{Instance, InstanceError, instances};
use crate::{
    names::{ContainerId, Namespace},
    paths::{Paths, TPM_LOCK},
    tpm::{StateDir, StateDirError},
};

/// What stat(2) counts blocks in.
const BLOCK_BYTES: u64 = 512;

/// How deep a folder is looked into: what is kept has two levels below it at most.
const LEVELS: u32 = 4;

/// What is kept of one instance that has ended.
#[derive(Debug, Clone)]
pub struct Remains {
    /// The instance, by the name that this is kept under.
    pub instance: Instance,
    /// What its TPM state takes on the disk, in bytes; none where there is none.
    pub tpm_bytes: Option<u64>,
    /// The same for its volumes.
    pub volume_bytes: Option<u64>,
    /// The same for its logs.
    pub log_bytes: Option<u64>,
    /// When something of it was written last.
    pub changed: SystemTime,
}

/// Every namespace in which something is kept, sorted.
pub fn namespaces(paths: &Paths) -> Result<Vec<Namespace>, InstanceError> {
    let mut found = BTreeSet::new();
    for root in paths.kept_roots() {
        found.extend(names_in::<Namespace>(&root)?);
    }
    Ok(found.into_iter().collect())
}

/// What is kept in a namespace of those that have no run folder, by name.
pub fn remains(paths: &Paths, namespace: &Namespace) -> Result<Vec<Remains>, InstanceError> {
    let mut names = BTreeSet::new();
    for root in paths.kept_roots() {
        names.extend(names_in::<ContainerId>(&root.join(namespace))?);
    }
    for id in instances(paths, namespace) {
        names.remove(&id);
        let instance = Instance::named(paths, namespace.clone(), id);
        names.retain(|name| instance.paths.kept_under() != name.as_str());
    }
    let instance = |name| Instance::named(paths, namespace.clone(), name);
    let found = names.into_iter().map(|name| Remains::of(instance(name)));
    // What was deleted meanwhile is none.
    found.filter_map(Result::transpose).collect()
}

impl Remains {
    fn of(instance: Instance) -> Result<Option<Self>, InstanceError> {
        let paths = &instance.paths;
        let all = [paths.tpm_dir(), paths.volumes_dir(), paths.logs_dir()];
        let [tpm, volumes, logs] = all.map(|dir| measure(dir, LEVELS).map_err(fault(dir)));
        let (tpm, volumes, logs) = (tpm?, volumes?, logs?);
        let newest = [&tpm, &volumes, &logs].into_iter().flatten();
        let Some(changed) = newest.map(|measured| measured.changed).max() else {
            return Ok(None);
        };
        let bytes = |measured: Option<Measured>| measured.map(|measured| measured.bytes);
        Ok(Some(Self {
            tpm_bytes: bytes(tpm),
            volume_bytes: bytes(volumes),
            log_bytes: bytes(logs),
            changed,
            instance,
        }))
    }

    /// Deletes its logs, and with `identity` its TPM state, if nothing of it was written at `before` or later. What was deleted:
    /// nothing where it runs.
    pub fn prune(&self, before: SystemTime, identity: bool) -> Result<Vec<PathBuf>, InstanceError> {
        let Ok(_free) = self.instance.keep_from_starting() else {
            return Ok(Vec::new());
        };
        let paths = &self.instance.paths;
        // The lock has made a folder where there was none.
        let tpm = self.tpm_bytes.map(|_| paths.tpm_dir());
        // It may have run since it was looked at.
        for dir in [paths.volumes_dir(), paths.logs_dir()]
            .into_iter()
            .chain(tpm)
        {
            let now = measure(dir, LEVELS).map_err(fault(dir))?;
            if now.is_some_and(|now| now.changed >= before) {
                return Ok(Vec::new());
            }
        }
        let identity = tpm.filter(|_| identity);
        delete(identity.into_iter().chain([paths.logs_dir()]))
    }
}

impl Instance {
    /// What of the instance's own is there: volumes, TPM state, logs.
    pub fn belongings(&self) -> Vec<PathBuf> {
        [
            self.paths.volumes_dir(),
            self.paths.tpm_dir(),
            self.paths.logs_dir(),
        ]
        .into_iter()
        .filter(|dir| dir.exists())
        .map(Path::to_owned)
        .collect()
    }

    /// Deletes volumes, TPM state and logs of an instance that does not run.
    pub fn remove(&self) -> Result<Vec<PathBuf>, InstanceError> {
        if self.paths.run_dir().exists() {
            return Err(InstanceError::StillRunning(self.id.clone()));
        }
        let belongings = self.belongings();
        if belongings.is_empty() {
            return Err(self.unknown());
        }
        // A pod's container runs under another name than it keeps these under.
        let _free = self.keep_from_starting()?;
        delete(belongings.iter().map(PathBuf::as_path))
    }

    /// Takes the lock that who runs has, until the answer is dropped. Whatever else is wrong with the state is no reason not to
    /// delete it.
    fn keep_from_starting(&self) -> Result<Option<StateDir>, InstanceError> {
        match StateDir::lock(&self.paths) {
            Err(StateDirError::InUse(_)) => Err(InstanceError::StillRunning(self.id.clone())),
            locked => Ok(locked.ok()),
        }
    }
}

/// Deletes those of the folders that are there, and those of their namespace where they were the last ones in it.
fn delete<'p>(dirs: impl Iterator<Item = &'p Path>) -> Result<Vec<PathBuf>, InstanceError> {
    let mut deleted = Vec::new();
    for dir in dirs {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            removed => removed.map_err(fault(dir))?,
        }
        if let Some(namespace) = dir.parent() {
            let _ = fs::remove_dir(namespace);
        }
        deleted.push(dir.to_owned());
    }
    Ok(deleted)
}

/// The entries of a folder that are names of this kind. A folder that does not exist has none.
fn names_in<T: for<'n> TryFrom<&'n str>>(dir: &Path) -> Result<Vec<T>, InstanceError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(fault(dir))?,
    };
    let names: io::Result<Vec<OsString>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let names = names.map_err(fault(dir))?;
    let named = |name: OsString| T::try_from(name.to_str()?).ok();
    Ok(names.into_iter().filter_map(named).collect())
}

/// A folder or file.
#[derive(Debug)]
struct Measured {
    bytes: u64,
    /// When one of its files was written last; its own time where it has none. Who locks it does not write.
    changed: SystemTime,
}

/// Measures it with all in it, so many levels deep. None where it is not there. A TPM's user may have put anything into its folder: no
/// link is followed.
fn measure(path: &Path, levels: u32) -> io::Result<Option<Measured>> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    // A volume's image has holes.
    let own = found.len().min(found.blocks() * BLOCK_BYTES);
    let mut whole = Measured {
        bytes: if found.is_dir() { 0 } else { own },
        changed: found.modified()?,
    };
    if !found.is_dir() || levels == 0 {
        return Ok(Some(whole));
    }
    let mut newest = None;
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if let Some(part) = measure(&entry.path(), levels - 1)? {
            whole.bytes += part.bytes;
            if entry.file_name() != TPM_LOCK {
                newest = newest.max(Some(part.changed));
            }
        }
    }
    whole.changed = newest.unwrap_or(whole.changed);
    Ok(Some(whole))
}

fn fault(path: &Path) -> impl FnOnce(io::Error) -> InstanceError + use<> {
    let path = path.to_owned();
    move |source| InstanceError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct Lab {
        dir: tempfile::TempDir,
        paths: Paths,
        namespace: Namespace,
    }

    impl Lab {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::new(&Config {
                run_dir: dir.path().join("run"),
                state_dir: dir.path().join("state"),
                ..Config::default()
            });
            Self {
                dir,
                paths,
                namespace: Namespace::try_from("k8s.io").unwrap(),
            }
        }

        fn instance(&self, name: &str) -> Instance {
            let name = ContainerId::try_from(name).unwrap();
            Instance::named(&self.paths, self.namespace.clone(), name)
        }

        /// TPM state, a volume with a hole and two logs, which were written so many days ago.
        fn leave(&self, name: &str, days: u32) -> Instance {
            let instance = self.instance(name);
            let paths = &instance.paths;
            drop(StateDir::lock(paths).unwrap());
            let web = paths.logs_dir().join("namespaces/web");
            for dir in [paths.tpm_dir(), paths.volumes_dir(), &web] {
                fs::create_dir_all(dir).unwrap();
            }
            fs::write(paths.tpm_dir().join("tpm2-00.permall"), [1; 300]).unwrap();
            drop(StateDir::lock(paths).unwrap());
            fs::write(paths.logs_dir().join("00000001.seg"), [2; 500]).unwrap();
            fs::write(web.join("00000001.seg"), [2; 50]).unwrap();
            let image = fs::File::create(paths.volumes_dir().join("data.img")).unwrap();
            image.set_len(1 << 30).unwrap();
            let then = SystemTime::now() - DAY * days;
            for file in [
                paths.machine_id(),
                paths.tpm_dir().join("tpm2-00.permall"),
                paths.logs_dir().join("00000001.seg"),
                web.join("00000001.seg"),
                paths.volumes_dir().join("data.img"),
            ] {
                let file = fs::File::options().write(true).open(file).unwrap();
                file.set_modified(then).unwrap();
            }
            instance
        }

        fn names(&self) -> Vec<String> {
            let all = remains(&self.paths, &self.namespace).unwrap();
            let name = |one: &Remains| one.instance.id().to_string();
            all.iter().map(name).collect()
        }

        fn one(&self, name: &str) -> Remains {
            let all = remains(&self.paths, &self.namespace).unwrap();
            let found = all
                .into_iter()
                .find(|one| one.instance.id().as_str() == name);
            found.unwrap()
        }
    }

    #[test]
    fn those_that_have_ended_are_listed_with_what_they_keep() {
        let lab = Lab::new();
        assert!(lab.names().is_empty());
        assert!(namespaces(&lab.paths).unwrap().is_empty());
        for name in ["test_web-0_app", "test_db-0_app", "plain"] {
            lab.leave(name, 3);
        }
        // What a restore that was killed leaves is nobody's.
        fs::create_dir(lab.dir.path().join("state/tpm/k8s.io/x.restored~")).unwrap();
        assert_eq!(lab.names(), ["plain", "test_db-0_app", "test_web-0_app"]);
        assert_eq!(
            namespaces(&lab.paths).unwrap(),
            [lab.namespace.clone()].as_slice()
        );
        let web = lab.one("test_web-0_app");
        let machine_id = 33;
        assert_eq!(web.tpm_bytes, Some(300 + machine_id));
        assert_eq!(web.log_bytes, Some(550));
        assert!(web.volume_bytes.unwrap() < 1 << 20, "{web:?}");
        let age = web.changed.elapsed().unwrap();
        assert!(age >= DAY * 3 && age < DAY * 4, "{age:?}");
        // They run: one under an id, one under its own name.
        let id = lab.instance(&"f".repeat(64));
        for running in [&id, &lab.instance("plain")] {
            fs::create_dir_all(running.paths.run_dir()).unwrap();
        }
        fs::write(id.paths.kept_name(), "test_web-0_app").unwrap();
        assert_eq!(lab.names(), ["test_db-0_app"]);
    }

    #[test]
    fn logs_of_those_that_are_gone_for_long_go_and_the_identity_only_when_asked() {
        let lab = Lab::new();
        let (old, young) = (lab.leave("old", 40), lab.leave("young", 20));
        let before = SystemTime::now() - DAY * 30;
        assert!(lab.one("young").prune(before, true).unwrap().is_empty());
        assert_eq!(young.belongings().len(), 3);
        let logs = old.paths.logs_dir().to_owned();
        let tpm = old.paths.tpm_dir().to_owned();
        assert_eq!(lab.one("old").prune(before, false).unwrap(), [&*logs]);
        assert!(!logs.exists() && tpm.join("tpm2-00.permall").exists());
        // Twice is harmless, and the lock has made it no younger.
        assert!(lab.one("old").prune(before, false).unwrap().is_empty());
        assert_eq!(lab.one("old").prune(before, true).unwrap(), [&*tpm]);
        assert!(!tpm.exists() && old.paths.volumes_dir().join("data.img").exists());
    }

    #[test]
    fn logs_without_an_identity_go_and_the_lock_leaves_none() {
        let lab = Lab::new();
        let instance = lab.leave("bare", 40);
        fs::remove_dir_all(instance.paths.tpm_dir()).unwrap();
        let before = SystemTime::now() - DAY * 30;
        let logs = instance.paths.logs_dir();
        assert_eq!(lab.one("bare").prune(before, true).unwrap(), [logs]);
        assert!(!instance.paths.tpm_dir().exists());
        // A volume is nothing that is pruned.
        assert!(lab.one("bare").prune(before, true).unwrap().is_empty());
    }

    #[test]
    fn one_that_runs_or_has_run_since_keeps_everything() {
        let lab = Lab::new();
        let instance = lab.leave("old", 40);
        let (seen, before) = (lab.one("old"), SystemTime::now() - DAY * 30);
        let running = StateDir::lock(&instance.paths).unwrap();
        assert!(seen.prune(before, true).unwrap().is_empty());
        drop(running);
        fs::write(instance.paths.logs_dir().join("00000002.seg"), "new").unwrap();
        assert!(seen.prune(before, true).unwrap().is_empty());
        assert_eq!(instance.belongings().len(), 3);
    }

    #[test]
    fn a_link_in_a_tpms_folder_leads_nowhere() {
        let lab = Lab::new();
        let instance = lab.leave("odd", 40);
        let outside = lab.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), [3; 4000]).unwrap();
        std::os::unix::fs::symlink(&outside, instance.paths.tpm_dir().join("link")).unwrap();
        let counted = lab.one("odd").tpm_bytes.unwrap();
        assert!(counted < 4000, "{counted}");
        let far = SystemTime::now() + DAY;
        assert_eq!(lab.one("odd").prune(far, true).unwrap().len(), 2);
        assert!(outside.join("file").exists());
    }
}
