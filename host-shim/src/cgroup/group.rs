//! One control group: made, begun in, and removed. It is written down before it is made, so that who cleans up after a shim that
//! was killed knows of it.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::io::Errno;
use thiserror::Error;

use super::{GroupName, Placement, Tree};
use crate::{paths::InstancePaths, text::chain};

/// Why there is no group, or why it does not do what is asked.
#[derive(Debug, Error)]
pub enum GroupError {
    /// There are no groups at all.
    #[error("no control groups are mounted on this host")]
    NoTree,
    /// A file or folder of the group, or the note about it.
    #[error("{} cannot be made or opened", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The processors.
    #[error("{} does not take {list:?}", path.display())]
    CpuSet {
        /// Which file.
        path: PathBuf,
        /// What was written.
        list: String,
        /// Why.
        source: io::Error,
    },
    /// Processors are not shared out here.
    #[error("this host does not share out processors by control group (controller cpuset)")]
    NoCpuSet,
    /// The machine is in no group of its own.
    #[error(
        "the instance runs in no control group of its own, so its processors cannot be chosen: see pod_cgroup in the shim's configuration"
    )]
    NoGroup,
}

/// A group in which processes of ours run. It stays until its note is [forgotten](forget).
#[derive(Debug)]
pub struct Group {
    dirs: Vec<PathBuf>,
    doors: Arc<Vec<OwnedFd>>,
}

impl Group {
    /// The group of a machine; none where its bundle names none, or, said once, where it cannot be.
    pub(crate) fn of(placement: Option<&Placement>, paths: &InstancePaths) -> Option<Arc<Self>> {
        let placement = placement?;
        let name = placement.name.as_path().display();
        let tree = Tree::of_host();
        let group = match Self::make(&tree, &placement.name, &paths.cgroups()) {
            Ok(group) => group,
            Err(error) => {
                // What could be made of it.
                forget(paths);
                let error = chain(&error);
                tracing::warn!(group = %name, error, "programs run in the shim's control group: no limit of the pod holds for them");
                return None;
            }
        };
        if let Err(error) = restrict(&tree, placement) {
            tracing::warn!(group = %name, error = chain(&error), "programs run on any processor");
        }
        Some(Arc::new(group))
    }

    /// Makes it in each hierarchy, and writes its folders down in `note`.
    pub fn make(tree: &Tree, name: &GroupName, note: &Path) -> Result<Self, GroupError> {
        if tree.0.is_empty() {
            return Err(GroupError::NoTree);
        }
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| GroupError::File { path, source }
        };
        let dirs = tree.0.iter().flat_map(|one| one.dirs(name.as_path()));
        let mut group = Self {
            dirs: dirs.collect(),
            doors: Arc::default(),
        };
        let text = serde_json::to_vec(&group.dirs).map_err(|error| file(note)(error.into()))?;
        fs::write(note, text).map_err(file(note))?;
        let mut doors = Vec::new();
        for hierarchy in &tree.0 {
            let made = hierarchy.make(name.as_path());
            let dir = made.map_err(|(path, source)| GroupError::File { path, source })?;
            let path = dir.join("cgroup.procs");
            let door = OpenOptions::new().write(true).open(&path);
            doors.push(door.map_err(file(&path))?.into());
        }
        group.doors = Arc::new(doors);
        Ok(group)
    }

    /// Whether the kernel has killed one of its processes for lack of memory: there, in a group above or on the host, which
    /// its count does not tell apart.
    pub(crate) fn has_killed(&self) -> bool {
        // The one file is of v2, the other of v1.
        let files = ["memory.events", "memory.oom_control"];
        let paths = self
            .dirs
            .iter()
            .flat_map(|dir| files.map(|file| dir.join(file)));
        let mut texts = paths.filter_map(|path| fs::read_to_string(path).ok());
        texts.any(|text| counts_kills(&text))
    }

    /// What a process enters by writing 0 to each.
    pub(crate) fn doors(&self) -> Arc<Vec<OwnedFd>> {
        Arc::clone(&self.doors)
    }
}

/// Chooses the processors of a group that is there.
pub(crate) fn restrict(tree: &Tree, placement: &Placement) -> Result<(), GroupError> {
    if placement.cpuset.is_empty() {
        return Ok(());
    }
    let hierarchy = tree.0.iter().find(|one| one.has_cpuset());
    let dir = hierarchy.ok_or(GroupError::NoCpuSet)?.root();
    let dir = dir.join(placement.name.as_path());
    if !dir.exists() {
        return Err(GroupError::NoGroup);
    }
    for (file, list) in placement.cpuset.files() {
        let path = dir.join(file);
        let file = OpenOptions::new().write(true).truncate(true).open(&path);
        let mut file = match file {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(GroupError::NoCpuSet);
            }
            other => other.map_err(|source| GroupError::File {
                path: path.clone(),
                source,
            })?,
        };
        let written = file.write_all(list.as_bytes());
        written.map_err(|source| GroupError::CpuSet {
            path,
            list: list.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// Removes what a machine's note says; whether all of it is gone. Who is still in it keeps it.
pub(crate) fn forget(paths: &InstancePaths) -> bool {
    let note = fs::read(paths.cgroups()).unwrap_or_default();
    let dirs: Vec<PathBuf> = serde_json::from_slice(&note).unwrap_or_default();
    let kept = dirs.iter().filter(|dir| !remove(dir)).count();
    kept == 0
}

/// Whether a table of a group's events has kills (cgroup-v2.rst, `memory.events`).
fn counts_kills(table: &str) -> bool {
    let count = table
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "));
    count.is_some_and(|count| count.trim() != "0")
}

/// Whether it is gone, or will never be by us.
fn remove(dir: &Path) -> bool {
    let busy = |error: &io::Error| error.raw_os_error() == Some(Errno::BUSY.raw_os_error());
    !fs::remove_dir(dir).is_err_and(|error| busy(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cgroup::{CpuSet, tree::Hierarchy},
        config::Config,
        names::ContainerId,
        paths::Paths,
    };

    /// Paths of an instance in a folder, with the one for what runs made.
    fn paths(dir: &Path) -> InstancePaths {
        let config = Config {
            run_dir: dir.to_owned(),
            ..Config::default()
        };
        let id = ContainerId::try_from("demo").unwrap();
        let paths = Paths::new(&config).instance(&"default".try_into().unwrap(), &id);
        fs::create_dir_all(paths.vm_dir()).unwrap();
        paths
    }

    fn name(text: &str) -> GroupName {
        GroupName::parse(text).unwrap().unwrap()
    }

    #[test]
    fn a_tree_that_cannot_be_written_is_no_obstacle_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let (root, note) = (dir.path().join("tree"), paths.cgroups());
        let tree = Tree(vec![Hierarchy::V2(root.clone())]);
        // No folder of a file.
        fs::write(&root, "").unwrap();
        let error = Group::make(&tree, &name("/a/b"), &note).unwrap_err();
        assert!(error.to_string().contains("tree/a"), "{error}");
        let error = Group::make(&Tree::default(), &name("/a"), &note).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no control groups are mounted on this host"
        );
        assert!(forget(&paths) && forget(&paths));
    }

    #[test]
    fn a_group_is_forgotten_by_its_note_and_the_ones_above_stay() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let root = dir.path().join("tree");
        let tree = Tree(vec![Hierarchy::V2(root.clone())]);
        // What the kernel would make is not there: there is no door.
        fs::create_dir(&root).unwrap();
        let error = Group::make(&tree, &name("/a/b"), &paths.cgroups()).unwrap_err();
        assert!(error.to_string().contains("cgroup.procs"), "{error}");
        assert!(root.join("a/b/machine").is_dir());
        assert!(forget(&paths) && !root.join("a/b").exists());
        assert!(forget(&paths) && root.join("a").is_dir());
    }

    #[test]
    fn kills_are_counted_and_nothing_else_that_sounds_alike() {
        let v2 =
            |kills| format!("low 0\nhigh 3\nmax 9\noom 2\noom_kill {kills}\noom_group_kill 0\n");
        assert!(counts_kills(&v2(1)) && !counts_kills(&v2(0)));
        assert!(counts_kills(
            "oom_kill_disable 0\nunder_oom 0\noom_kill 12\n"
        ));
        assert!(!counts_kills("oom_kill_disable 1\nunder_oom 1\n"));
    }

    #[test]
    fn processors_are_chosen_in_the_group_or_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let placement = |name: &str, cpus: &str| Placement {
            name: GroupName::parse(name).unwrap().unwrap(),
            cpuset: CpuSet::parse(cpus, "").unwrap(),
        };
        let tree = Tree(vec![Hierarchy::V2(root.clone())]);
        let refused = |placement| restrict(&tree, &placement).unwrap_err().to_string();
        restrict(&tree, &placement("/a", "")).unwrap();
        assert!(refused(placement("/a", "0")).contains("in no control group of its own"));
        fs::create_dir(root.join("a")).unwrap();
        assert!(refused(placement("/a", "0")).contains("does not share out processors"));
        fs::write(root.join("a/cpuset.cpus"), "0-3").unwrap();
        restrict(&tree, &placement("/a", "1")).unwrap();
        assert_eq!(fs::read_to_string(root.join("a/cpuset.cpus")).unwrap(), "1");
    }

    /// The kernel's own trees, where this machine lets us write to them: the one that pods are in, and v2 wherever that is.
    #[tokio::test]
    async fn a_child_begins_in_the_group_and_takes_it_along_when_it_ends() {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let v2: Vec<_> = mounts
            .lines()
            .filter(|line| line.contains(" - cgroup2 "))
            .collect();
        let trees = [Tree::of_host(), Tree::parse(&v2.join("\n"))];
        for (number, tree) in trees.iter().enumerate() {
            let unique = format!("/seed-test-{}-{number}/demo", std::process::id());
            begins_in(tree, &unique).await;
        }
    }

    async fn begins_in(tree: &Tree, unique: &str) {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(dir.path());
        let cpu = own_cpu();
        let placement = Placement {
            name: name(unique),
            cpuset: CpuSet::parse(&cpu, "").unwrap(),
        };
        let group = match Group::make(tree, &placement.name, &paths.cgroups()) {
            Ok(group) => group,
            Err(error) => {
                let why = format!("control groups cannot be written: {}", chain(&error));
                let line = format!("SKIPPED control_group: {why}\n");
                return io::stderr().write_all(line.as_bytes()).unwrap();
            }
        };
        let chosen = restrict(tree, &placement);
        // The child of the child is in it as well.
        let script = "cat /proc/self/cgroup; grep Cpus_allowed_list /proc/self/status; true";
        let output = inside(&group, &["sh", "-c", script])
            .output()
            .await
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let lines = said.lines().filter(|line| line.contains(unique)).count();
        assert_eq!(lines, tree.0.len(), "{said}");
        match chosen {
            Ok(()) => assert!(
                said.contains(&format!("Cpus_allowed_list:\t{cpu}\n")),
                "{said}"
            ),
            Err(error) => assert!(matches!(error, GroupError::NoCpuSet), "{error}"),
        }
        // Somebody who is still in it keeps it.
        let mut child = inside(&group, &["sleep", "1000"]).spawn().unwrap();
        drop(group);
        let name = placement.name.as_path();
        let dirs: Vec<_> = tree.0.iter().flat_map(|one| one.dirs(name)).collect();
        assert!(!forget(&paths) && dirs.iter().all(|dir| dir.exists()));
        child.kill().await.unwrap();
        assert!(forget(&paths) && !dirs.iter().any(|dir| dir.exists()));
        for one in &tree.0 {
            fs::remove_dir(one.root().join(name).parent().unwrap()).unwrap();
        }
    }

    /// A processor that this test may run on.
    fn own_cpu() -> String {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let list = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let is_digit = |one: &char| one.is_ascii_digit();
        list.unwrap().trim().chars().take_while(is_digit).collect()
    }

    fn inside(group: &Group, line: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(line[0]);
        command.args(&line[1..]).kill_on_drop(true);
        crate::sys::enter_groups(&mut command, group.doors());
        command
    }
}
