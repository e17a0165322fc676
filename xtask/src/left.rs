//! What is left of instances on the host: processes, mounts, files, control groups. Only looks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Relative paths of everything below a folder.
pub(crate) fn below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path.clone());
            }
            let path = path.strip_prefix(root).unwrap_or(&path);
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// Mount points below a folder, in any namespace that a process of this machine has.
pub(crate) fn mounts_below(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for process in processes()? {
        // Processes come and go meanwhile.
        let text = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
        found.extend(points_below(&text, folder));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Mount points below a folder in this process's own namespace, each as often as something is mounted there.
pub(crate) fn own_mounts_below(folder: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let mut found: Vec<_> = points_below(&text, folder).collect();
    found.sort();
    Ok(found)
}

/// Control groups with this path, in every tree of this host.
pub(crate) fn groups(path: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    let groups = trees(&text).map(|tree| tree.join(path));
    Ok(groups.filter(|group| group.exists()).collect())
}

/// Where trees of control groups are mounted, both versions.
fn trees(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    mountinfo.lines().filter_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let kind = kind.split(' ').next()?;
        let point = place.split(' ').nth(4)?;
        ["cgroup", "cgroup2"]
            .contains(&kind)
            .then(|| PathBuf::from(point))
    })
}

/// The fifth field of a line of `mountinfo` (proc_pid_mountinfo(5)).
fn points_below(mountinfo: &str, folder: &Path) -> impl Iterator<Item = String> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    points
        .filter(move |point| Path::new(point).starts_with(folder))
        .map(str::to_owned)
}

/// Processes whose command line names something in this folder, or that work there, also when it has been removed since: pid
/// and command line, by pid. A zombie has neither.
pub(crate) fn processes_in(folder: &Path) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    // Not what is beside it and begins with its name.
    let inside = format!("{}/", folder.display());
    for process in processes()? {
        let words = fs::read(process.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let pid = process.file_name().and_then(|name| name.to_str());
        let works = fs::read_link(process.join("cwd")).unwrap_or_default();
        let works = works.to_string_lossy();
        // As the kernel marks it, proc_pid_cwd(5).
        let works = works.strip_suffix(" (deleted)").unwrap_or(&works);
        let names = words.contains(&inside) || format!("{works}/").contains(&inside);
        if let Some(pid) = pid.and_then(|name| name.parse().ok())
            && names
        {
            found.push((pid, words.trim_end().to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

/// What a process's descriptors are.
pub(crate) fn descriptors(pid: u32) -> Result<Vec<String>> {
    let folder = PathBuf::from(format!("/proc/{pid}/fd"));
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let mut found: Vec<_> = links
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    found.sort();
    Ok(found)
}

/// Folders of processes.
fn processes() -> Result<impl Iterator<Item = PathBuf>> {
    let entries = fs::read_dir("/proc").context("read /proc")?.flatten();
    let is_pid = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    Ok(entries
        .filter(move |entry| entry.file_name().to_str().is_some_and(is_pid))
        .map(|entry| entry.path()))
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_found_by_what_it_names_and_where_it_works() {
        let folder = std::env::temp_dir().join(format!("seed-left-{}", process::id()));
        let beside = folder.with_extension("1");
        fs::create_dir(&folder).expect("a folder");
        let sleep = |arguments: &[PathBuf], works: &Path| {
            let mut sh = Command::new("sh");
            sh.args(["-c", "read -r word", "sh"]).args(arguments);
            sh.current_dir(works).stdin(Stdio::piped());
            // It says that its folder is gone.
            sh.stderr(Stdio::null());
            sh.spawn().expect("started")
        };
        let root = Path::new("/");
        let works = sleep(&[], &folder);
        let names = sleep(&[folder.join("socket")], root);
        let others = [
            sleep(std::slice::from_ref(&folder), root),
            sleep(&[beside.join("a")], root),
        ];
        fs::remove_dir(&folder).expect("removed");
        let found = processes_in(&folder).expect("procfs");
        let found: Vec<_> = found.into_iter().map(|(pid, _)| pid).collect();
        let mut expected = [works.id(), names.id()];
        expected.sort_unstable();
        assert_eq!(found, expected);
        for mut child in [works, names].into_iter().chain(others) {
            // Its input ends.
            drop(child.stdin.take());
            child.wait().expect("ended");
        }
        assert!(processes_in(&folder).expect("procfs").is_empty());
    }

    #[test]
    fn a_descriptor_is_found_while_it_is_open() {
        let file = fs::File::open("/proc/self/status").expect("procfs");
        let is_there = |found: &[String]| found.iter().any(|link| link.ends_with("/status"));
        assert!(is_there(&descriptors(process::id()).expect("procfs")));
        drop(file);
        assert!(descriptors(0).is_err());
    }

    #[test]
    fn control_groups_are_looked_for_in_every_tree() {
        let text = "1 2 0:3 / /g/memory rw - cgroup memory rw\n4 1 0:5 / /g/unified rw shared:1 - cgroup2 cgroup2 rw\n6 4 0:7 / /g rw - tmpfs x rw\n";
        let found: Vec<_> = trees(text).collect();
        assert_eq!(found, ["/g/memory", "/g/unified"].map(PathBuf::from));
        let none = groups(Path::new("no/group/has/this/path")).expect("procfs");
        assert!(none.is_empty(), "{none:?}");
        // Their roots, where any is mounted.
        let text = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let roots = groups(Path::new("")).expect("procfs");
        assert_eq!(roots.is_empty(), trees(&text).next().is_none());
    }

    #[test]
    fn mounts_are_found_below_a_folder_only() {
        assert!(
            mounts_below(Path::new("/proc"))
                .expect("procfs")
                .contains(&"/proc".to_owned())
        );
        assert!(mounts_below(Path::new("/pro")).expect("procfs").is_empty());
        let own = own_mounts_below(Path::new("/proc")).expect("procfs");
        assert!(own.contains(&"/proc".to_owned()), "{own:?}");
        let text =
            "1 2 0:3 / /a rw - x x rw\n4 1 0:5 / /a/b rw - x x rw\n6 4 0:7 / /a/b rw - x x rw\n";
        let twice: Vec<_> = points_below(text, Path::new("/a/b")).collect();
        assert_eq!(twice, ["/a/b", "/a/b"]);
    }
}
