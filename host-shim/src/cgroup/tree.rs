//! Where the host's control groups are mounted: one hierarchy (v2), or one for each set of controllers (v1).
//!
//! Where both are mounted, pods are in v1 if that has controllers of theirs. Others say nothing: a host of v2 alone may have
//! `net_cls` mounted beside it, for whoever sorts packets by it.
//!
//! In v2 a machine's programs are in a group within its group, which passes all of its controllers on to that one. systemd, where
//! it has the tree, gives the groups in a slice no more controllers than the units in it want, and looks at that again whenever
//! something of the slice changes: memory's accounts and the chosen processors of a group that is no unit would go. The
//! kernel leaves a controller where a group below passes it on (cgroup-v2.rst, "Top-down Constraint"), and systemd takes that as it is.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The table of mounts (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// The controller that a group of v1 can only be used with once it has been told something.
const CPUSET: &str = "cpuset";

/// What a group has that a pod's accounts and limits are about.
const WANTED: [&str; 5] = [CPUSET, "cpu", "io", "memory", "pids"];

/// One hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Hierarchy {
    /// All controllers.
    V2(PathBuf),
    /// `cpuset` is among its controllers, or not.
    V1 { root: PathBuf, cpuset: bool },
}

/// The group within a group of v2.
const INNER: &str = "machine";

/// The hierarchies that a pod's group is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub(super) Vec<Hierarchy>);

impl Tree {
    /// This host's; empty where none is mounted.
    pub fn of_host() -> Self {
        Self::parse(&fs::read_to_string(MOUNTS).unwrap_or_default())
    }

    /// As a table of mounts has it.
    pub(super) fn parse(table: &str) -> Self {
        let mut seen: Vec<&str> = Vec::new();
        let (mut v1, mut v2) = (Vec::new(), Vec::new());
        for line in table.lines() {
            let Some((mount, file_system)) = line.split_once(" - ") else {
                continue;
            };
            // A blank in the mount point would be escaped; no host has one there.
            let Some(root) = mount.split(' ').nth(4).map(PathBuf::from) else {
                continue;
            };
            let mut fields = file_system.split(' ');
            let (kind, options) = (fields.next(), fields.nth(1).unwrap_or_default());
            match kind {
                Some("cgroup2") => v2.push(Hierarchy::V2(root)),
                // A hierarchy may be mounted twice: what tells them apart is what they control.
                Some("cgroup") if !seen.contains(&options) => {
                    seen.push(options);
                    let cpuset = options.split(',').any(|one| one == CPUSET);
                    v1.push(Hierarchy::V1 { root, cpuset });
                }
                _ => {}
            }
        }
        let controls = |options: &&str| options.split(',').any(|one| WANTED.contains(&one));
        if seen.iter().any(controls) {
            Self(v1)
        } else {
            v2.truncate(1);
            Self(v2)
        }
    }
}

impl Hierarchy {
    pub(super) fn root(&self) -> &Path {
        match self {
            Self::V2(root) | Self::V1 { root, .. } => root,
        }
    }

    /// Where the processors of a group are said.
    pub(super) fn has_cpuset(&self) -> bool {
        match self {
            Self::V2(_) => true,
            Self::V1 { cpuset, .. } => *cpuset,
        }
    }

    /// The folders of a group, as they are to be removed: the first is the one that has processes.
    pub(super) fn dirs(&self, name: &Path) -> Vec<PathBuf> {
        let dir = self.root().join(name);
        match self {
            Self::V2(_) => vec![dir.join(INNER), dir],
            Self::V1 { .. } => vec![dir],
        }
    }

    /// Makes the folders of a group, those above it included, and makes it fit to be used; the one for processes.
    pub(super) fn make(&self, name: &Path) -> Result<PathBuf, (PathBuf, io::Error)> {
        let mut dir = self.root().to_owned();
        let inner = matches!(self, Self::V2(_)).then_some(OsStr::new(INNER));
        for part in name.iter().chain(inner) {
            if let Self::V2(_) = self {
                pass_on(&dir);
            }
            let parent = dir.clone();
            dir.push(part);
            // The shim's own files are nobody else's business; who looks after a host reads these, as those that runc makes.
            let mode = fs::Permissions::from_mode(0o755);
            match fs::create_dir(&dir).and_then(|()| fs::set_permissions(&dir, mode)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err((dir, error));
                }
                _ => {}
            }
            if let Self::V1 { cpuset: true, .. } = self {
                inherit(&parent, &dir).map_err(|error| (dir.clone(), error))?;
            }
        }
        Ok(dir)
    }
}

/// Gives the groups in a group of v2 the controllers that it has. It cannot where it has processes of its own, or where they are
/// threads: limits hold all the same, only the accounts of each group are not kept.
fn pass_on(dir: &Path) {
    let has = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let gives = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let among = |list: &str, one: &str| list.split_whitespace().any(|word| word == one);
    for one in WANTED {
        if among(&has, one) && !among(&gives, one) {
            let file = dir.join("cgroup.subtree_control");
            if let Err(error) = fs::write(&file, format!("+{one}")) {
                tracing::debug!(path = %file.display(), controller = one, %error, "controller is not passed on");
            }
        }
    }
}

/// A group of v1's `cpuset` begins with no processors, and takes no process before it has some (cgroup-v1/cpusets.rst).
fn inherit(parent: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(dir.join(file))?.trim().is_empty() {
            fs::write(
                dir.join(file),
                fs::read_to_string(parent.join(file))?.trim(),
            )?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn a_host_with_one_hierarchy_has_that_one() {
        let other = "24 1 0:22 / /sys rw shared:7 - sysfs sysfs rw\nbroken line\n";
        let tree = Tree::parse(&format!("{other}{V2}"));
        assert_eq!(tree.0, [Hierarchy::V2("/sys/fs/cgroup".into())]);
        assert_eq!(Tree::parse(other), Tree::default());
    }

    #[test]
    fn where_both_are_mounted_pods_are_where_the_controllers_are() {
        let v1 = "32 31 0:29 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                  34 31 0:31 / /c/cpuset rw - cgroup cgroup rw,cpuset\n\
                  35 31 0:31 / /again rw - cgroup cgroup rw,cpuset\n";
        let systemd = "40 31 0:37 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let of = |root: &str, cpuset| Hierarchy::V1 {
            root: root.into(),
            cpuset,
        };
        let hybrid = Tree::parse(&format!("{V2}{v1}{systemd}"));
        let all = [
            of("/c/cpu", false),
            of("/c/cpuset", true),
            of("/c/systemd", false),
        ];
        assert_eq!(hybrid.0, all);
        // systemd alone is no controller.
        let unified = Tree::parse(&format!("{systemd}{V2}"));
        assert_eq!(unified.0, [Hierarchy::V2("/sys/fs/cgroup".into())]);
        // Neither is one that no pod is limited by.
        let packets = "41 31 0:38 / /c/net_cls rw - cgroup net_cls rw,net_cls\n";
        let unified = Tree::parse(&format!("{packets}{V2}"));
        assert_eq!(unified.0, [Hierarchy::V2("/sys/fs/cgroup".into())]);
    }

    #[test]
    fn a_group_gets_what_the_one_above_has() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        // A folder stands in for a tree: what the kernel makes in a group is made before.
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("cgroup.controllers"), "cpuset cpu hugetlb").unwrap();
        fs::write(root.join("cgroup.subtree_control"), "cpu").unwrap();
        fs::write(root.join("a/b/cgroup.controllers"), "memory").unwrap();
        let made = Hierarchy::V2(root.into()).make(Path::new("a/b")).unwrap();
        assert_eq!(made, root.join("a/b/machine"));
        let told = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap();
        assert_eq!(told, "+cpuset");
        // The group itself passes on what it has, so that nobody can take it.
        let told = fs::read_to_string(root.join("a/b/cgroup.subtree_control")).unwrap();
        assert_eq!(told, "+memory");
        for at in ["", "a", "a/b"] {
            let text = if at.is_empty() { "0-3\n" } else { "\n" };
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(root.join(at).join(file), text).unwrap();
            }
        }
        let v1 = Hierarchy::V1 {
            root: root.into(),
            cpuset: true,
        };
        v1.make(Path::new("a/b")).unwrap();
        let cpus = fs::read_to_string(root.join("a/b/cpuset.cpus")).unwrap();
        assert_eq!(cpus, "0-3");
    }
}
