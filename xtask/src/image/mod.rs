//! `cargo xtask image`: the guest root for demo and tests, Debian in place of a NixOS closure.
//!
//! Two layers in the cache, each named by a fingerprint of what it is made from: `base-<hash>/`
//! (packages, kernel, modules, initrd: [`base`]) and `guest-<hash>/root` (the base and our own files:
//! [`layer`]). So a rebuilt agent costs a copy, not a bootstrap. A finished folder is never written again:
//! running guests have it as the lower side of an overlay.

mod base;
mod layer;

pub(crate) use base::mirror;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context, Result};

use crate::util::{self, Places, print};

/// Roots that stay in the cache beside the newest: other checkouts may be running them.
const KEPT_ROOTS: usize = 4;

/// `cargo xtask image`: builds what is missing and prints the root.
pub(crate) fn run(places: &Places) -> Result<()> {
    let root = build(places)?;
    print(&root.display().to_string())
}

/// The guest's root, built when it is not there. Needs our programs to be built.
pub(crate) fn build(places: &Places) -> Result<PathBuf> {
    let name = format!("guest-{}", layer::fingerprint(places)?);
    let root = places.cache.join(&name).join("root");
    if !root.is_dir() {
        // As root, since the files in it belong to the guest's users.
        let ended = util::status(&mut util::again_as_root(places, "assemble-image")?)?;
        anyhow::ensure!(ended.success(), "the guest image was not built ({ended})");
    }
    Ok(root)
}

/// The part of [`build`] that runs as root.
pub(crate) fn assemble(places: &Places) -> Result<()> {
    let base = places.cache.join(format!("base-{}", base::fingerprint()));
    if !base.is_dir() {
        util::twice(util::NETWORK_PAUSE, || {
            fresh(&base, |folder| base::build(places, folder))
        })?;
    }
    let guest = places
        .cache
        .join(format!("guest-{}", layer::fingerprint(places)?));
    if !guest.is_dir() {
        fresh(&guest, |folder| layer::build(places, &base, folder))?;
    }
    prune(&places.cache, "guest-", KEPT_ROOTS, &guest)?;
    prune(&places.cache, "base-", 1, &base)
}

/// Makes a folder under another name first, so that a half-made one is never taken for whole.
fn fresh(folder: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let unfinished = folder.with_extension(format!("making-{}", std::process::id()));
    remove(&unfinished)?;
    fs::create_dir_all(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
    let made = make(&unfinished);
    if made.is_err() || folder.is_dir() {
        remove(&unfinished)?;
        return made;
    }
    fs::rename(&unfinished, folder).with_context(|| format!("name {}", folder.display()))
}

/// Removes all but `keep`, the newest `others` folders with this prefix, and those that a running instance has mounted.
fn prune(cache: &Path, prefix: &str, others: usize, keep: &Path) -> Result<()> {
    let mut old: Vec<(SystemTime, PathBuf)> = fs::read_dir(cache)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .filter(|path| path != keep)
        .filter_map(|path| Some((fs::metadata(&path).ok()?.modified().ok()?, path)))
        .collect();
    old.sort();
    old.reverse();
    let mounts = mounts();
    old.iter()
        .skip(others)
        .filter(|(_, path)| !is_mounted(&mounts, path))
        .try_for_each(|(_, path)| remove(path))
}

/// The mounts of every mount namespace of this machine (proc_pid_mountinfo(5)): a shim mounts its root in one of its own.
fn mounts() -> String {
    let mut seen = BTreeSet::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let tables = processes.filter_map(|entry| {
        let namespace = fs::read_link(entry.path().join("ns/mnt")).ok()?;
        // A process that has just ended must not hide the others of its namespace.
        let table = fs::read_to_string(entry.path().join("mountinfo")).ok()?;
        seen.insert(namespace).then_some(table)
    });
    tables.collect()
}

/// Whether an overlay in this table has something in `folder` as a layer.
fn is_mounted(mounts: &str, folder: &Path) -> bool {
    let inside = format!("{}/", folder.display());
    mounts.lines().any(|line| {
        let options = line.rsplit(' ').next().unwrap_or_default();
        let layers = options
            .split(',')
            .filter_map(|option| option.strip_prefix("lowerdir="));
        layers
            .flat_map(|list| list.split(':'))
            .any(|layer| layer.starts_with(&inside))
    })
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_that_is_mounted_is_known_in_whatever_namespace() {
        let table = "\
36 35 98:0 / /mnt rw,noatime shared:1 - ext4 /dev/root rw,errors=continue
99 36 0:45 / /run/seed/default/demo/bundle/rootfs rw,nosuid - overlay overlay rw,lowerdir=/c/guest-1/root,upperdir=/l/upper
";
        assert!(is_mounted(table, Path::new("/c/guest-1")));
        assert!(!is_mounted(table, Path::new("/c/guest-10")));
        assert!(!is_mounted(table, Path::new("/l")));
        assert!(!mounts().is_empty());
    }

    #[test]
    fn a_failed_build_leaves_no_folder() {
        let scratch = std::env::temp_dir().join(format!("xtask-image-{}", std::process::id()));
        let folder = scratch.join("guest-1");
        assert!(fresh(&folder, |_| anyhow::bail!("no")).is_err());
        assert!(!folder.exists());
        fresh(&folder, |new| Ok(fs::write(new.join("file"), "x")?)).expect("makes it");
        assert!(folder.join("file").is_file());
        assert_eq!(fs::read_dir(&scratch).expect("listed").count(), 1);
        remove(&scratch).expect("removed");
        remove(&scratch).expect("and once more");
    }
}
