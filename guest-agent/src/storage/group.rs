//! `fs_group` of a pod: all files of a volume belong to a group that may read and write them, as the CSI
//! drivers of Kubernetes do it. The owner of files stays who it is.
//!
//! Every step goes by descriptor from the volume's own root and never through a symbolic link, and stays on
//! the volume: a guest's own files cannot be reached through what lies on a disk.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, chownat, fchmod, fchown, fstat, open, openat,
    statat,
};

/// Deeper trees than this are left alone below it.
const MAX_DEPTH: usize = 128;

const SET_GROUP_ID: u32 = 0o2000;
const GROUP_READ: u32 = 0o040;
const GROUP_WRITE: u32 = 0o020;
const GROUP_ENTER: u32 = 0o010;
const PERMISSIONS: u32 = 0o7777;

/// When the group is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// At every mount.
    Always,
    /// Only when the volume's root does not look like it.
    OnRootMismatch,
}

/// Which group, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsGroup {
    /// The group.
    pub gid: u32,
    /// When.
    pub policy: Policy,
}

/// Gives the tree at `root` to the group. A read-only volume is not touched.
pub fn apply(root: &Path, group: FsGroup) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = open(root, flags, Mode::empty())?;
    let stat = fstat(&top)?;
    if group.policy == Policy::OnRootMismatch && matches(&stat, group.gid) {
        return Ok(());
    }
    directory(top, &stat, group.gid, stat.st_dev, 0)
}

fn matches(stat: &Stat, gid: u32) -> bool {
    let wanted = wanted(stat.st_mode, true);
    stat.st_gid == gid && stat.st_mode & PERMISSIONS == wanted
}

/// The mode of a file or directory once the group may use it.
fn wanted(mode: u32, directory: bool) -> u32 {
    let group = if directory {
        SET_GROUP_ID | GROUP_READ | GROUP_WRITE | GROUP_ENTER
    } else {
        GROUP_READ | GROUP_WRITE
    };
    mode & PERMISSIONS | group
}

/// The root comes last in effect: its look says that all below it is done.
fn directory(folder: OwnedFd, stat: &Stat, gid: u32, device: u64, depth: usize) -> io::Result<()> {
    let group = Gid::from_raw(gid);
    if depth < MAX_DEPTH {
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let below = statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if below.st_dev != device {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match FileType::from_raw_mode(below.st_mode) {
                FileType::Directory => {
                    let next = openat(&folder, name, flags | OFlags::DIRECTORY, Mode::empty())?;
                    directory(next, &below, gid, device, depth + 1)?;
                }
                FileType::RegularFile => {
                    let file = openat(&folder, name, flags, Mode::empty())?;
                    fchown(&file, None, Some(group))?;
                    fchmod(&file, Mode::from_raw_mode(wanted(below.st_mode, false)))?;
                }
                // A link has no mode, and the mode of a socket or a device is its maker's business.
                _ => chownat(&folder, name, None, Some(group), AtFlags::SYMLINK_NOFOLLOW)?,
            }
        }
    }
    fchown(&folder, None, Some(group))?;
    let mode = Mode::from_raw_mode(wanted(stat.st_mode, true));
    Ok(fchmod(&folder, mode)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    fn look(path: &Path) -> (u32, u32) {
        let metadata = fs::symlink_metadata(path).unwrap();
        (metadata.gid(), metadata.mode() & PERMISSIONS)
    }

    #[test]
    fn the_tree_is_the_groups_and_nothing_outside_of_it_is() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED the_tree_is_the_groups: needs root");
            return;
        }
        let lab = tempfile::tempdir().unwrap();
        let (root, outside) = (lab.path().join("v"), lab.path().join("outside"));
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(&outside, "").unwrap();
        fs::write(root.join("d/f"), "").unwrap();
        symlink(&outside, root.join("d/l")).unwrap();
        for (path, mode) in [
            (&outside, 0o600),
            (&root.join("d/f"), 0o640),
            (&root.join("d"), 0o700),
        ] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let before = look(&outside);
        let group = FsGroup {
            gid: 4711,
            policy: Policy::OnRootMismatch,
        };
        apply(&root, group).unwrap();
        assert_eq!(look(&root.join("d")), (4711, 0o2770));
        assert_eq!(look(&root.join("d/f")), (4711, 0o660));
        assert_eq!(look(&root.join("d/l")).0, 4711);
        assert_eq!(look(&outside), before);
        assert_eq!(look(&root).0, 4711);

        // The root looks right now, so a new file is touched by one policy only.
        fs::write(root.join("new"), "").unwrap();
        std::os::unix::fs::chown(root.join("new"), None, Some(0)).unwrap();
        apply(&root, group).unwrap();
        assert_eq!(look(&root.join("new")).0, 0);
        let always = FsGroup {
            policy: Policy::Always,
            ..group
        };
        apply(&root, always).unwrap();
        assert_eq!(look(&root.join("new")).0, 4711);
    }
}
