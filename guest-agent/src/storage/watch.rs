//! Copies that follow their originals. A change on the host's share makes no inotify event in the guest, so
//! programs that wait for one would never hear of a renewed secret; a copy in the guest's own memory makes
//! them. Kubernetes swaps a whole directory by one symbolic link, and so does the copy: links last.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, PermissionsExt, symlink},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use super::source::open_source;
use crate::sys::{
    mount::{self, Mounted},
    privileges,
};

/// How often the original is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// The most that is copied: a secret of Kubernetes has at most 1 MiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// The most entries, directories and links included.
const MAX_ENTRIES: usize = 256;

/// Directories below directories.
const MAX_DEPTH: usize = 8;

/// An entry as it was looked at, by its path below the root.
type Listing = BTreeMap<PathBuf, Entry>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory {
        mode: u32,
        owner: (u32, u32),
    },
    File {
        mode: u32,
        owner: (u32, u32),
        bytes: u64,
        changed: (i64, i64),
    },
    Link {
        target: PathBuf,
    },
}

/// How the kernel shows where a copy comes from, in its table of mounts: so the next agent knows.
const COPY_OF: &str = "seed-copy:";

/// The source of the mount that holds the copy of `original`.
pub fn mount_source(original: &Path) -> PathBuf {
    let mut name = OsString::from(COPY_OF);
    name.push(original);
    name.into()
}

/// What a mount is a copy of, if it is one.
fn original_of(mounted: &Mounted) -> Option<PathBuf> {
    let source = mounted.source.as_os_str().as_bytes();
    let path = source.strip_prefix(COPY_OF.as_bytes())?;
    (mounted.filesystem == "tmpfs").then(|| OsStr::from_bytes(path).into())
}

/// Follows on what an earlier agent followed. `shared` is the folder for shares.
pub fn resume(shared: &Path) {
    let mounts = mount::all().unwrap_or_else(|error| {
        warn!(%error, "copies cannot follow: the mounts cannot be listed");
        Vec::new()
    });
    for mounted in mounts {
        let Some(original) = original_of(&mounted) else {
            continue;
        };
        let copy = mounted.mount_point.as_path();
        let followed = match open_source(&original, shared) {
            Ok(open) => follow(open, copy).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = followed {
            warn!(copy = %copy.display(), %error, "copy cannot follow");
        }
    }
}

/// True while the copy's own mount is in its place. What is below it is somebody else's.
fn is_there(copy: &Path) -> bool {
    let mounted = mount::mounted_at(copy).ok().flatten();
    mounted.is_some_and(|mounted| original_of(&mounted).is_some())
}

/// True when the tree at `root` is small enough to be followed.
pub fn fits(root: &Path) -> io::Result<bool> {
    Ok(list(root)?.is_some())
}

/// Copies the tree of `original` to `copy` now, and goes on doing so for as long as both are there.
pub fn follow(original: OwnedFd, copy: &Path) -> io::Result<()> {
    // By descriptor: it is the tree that was looked at, whatever its name leads to by then.
    let root = PathBuf::from(format!("/proc/self/fd/{}", original.as_raw_fd()));
    // What an earlier agent copied, and what it left half done.
    let mut known = list(copy)?.unwrap_or_default();
    update(&root, copy, &mut known)?;
    let copy = copy.to_owned();
    privileges::spawn("watch", move || {
        let _original = original;
        loop {
            thread::sleep(LOOK);
            if !is_there(&copy) {
                break;
            }
            match update(&root, &copy, &mut known) {
                Ok(true) => info!(copy = %copy.display(), "copy follows its original"),
                Ok(false) => {}
                Err(error) => warn!(copy = %copy.display(), %error, "copy cannot follow"),
            }
        }
    })?;
    Ok(())
}

/// Brings `copy` in line with `root`; true when there was something to do.
fn update(root: &Path, copy: &Path, known: &mut Listing) -> io::Result<bool> {
    let Some(now) = list(root)? else {
        return Err(io::ErrorKind::FileTooLarge.into());
    };
    if now == *known {
        return Ok(false);
    }
    let is_link = |entry: &&Entry| matches!(entry, Entry::Link { .. });
    let changed = || {
        now.iter()
            .filter(|(path, entry)| known.get(*path) != Some(*entry))
    };
    for (path, entry) in changed().filter(|(_, entry)| !is_link(entry)) {
        let to = copy.join(path);
        match entry {
            Entry::Directory { mode, owner } => {
                if !to.is_dir() {
                    // What has changed its kind.
                    let _ = fs::remove_file(&to);
                    fs::create_dir(&to)?;
                }
                own(&to, *owner)?;
                fs::set_permissions(&to, fs::Permissions::from_mode(*mode))?;
            }
            Entry::File {
                mode,
                owner,
                changed,
                ..
            } => {
                let content = fs::read(root.join(path))?;
                replace(&to, |new| {
                    fs::write(new, content)?;
                    // Whoever lists the copy finds what it is a copy of.
                    fs::File::options()
                        .write(true)
                        .open(new)?
                        .set_modified(moment(*changed))?;
                    own(new, *owner)?;
                    fs::set_permissions(new, fs::Permissions::from_mode(*mode))
                })?;
            }
            Entry::Link { .. } => {}
        }
    }
    for (path, entry) in changed().filter(|(_, entry)| is_link(entry)) {
        if let Entry::Link { target } = entry {
            replace(&copy.join(path), |new| symlink(target, new))?;
        }
    }
    // From the leaves up, and only now: until then the old links led to the old files.
    for path in known.keys().rev().filter(|path| !now.contains_key(*path)) {
        let old = copy.join(path);
        let removed = match fs::symlink_metadata(&old) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir(&old),
            Ok(_) => fs::remove_file(&old),
            Err(_) => continue,
        };
        removed?;
    }
    *known = now;
    Ok(true)
}

/// Makes something beside its place and renames it: nobody sees it half made.
fn replace(to: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".seed-new-");
    name.push(to.file_name().unwrap_or_default());
    let new = to.with_file_name(name);
    let _ = fs::remove_file(&new);
    make(&new)?;
    if to.is_dir() && !to.is_symlink() {
        fs::remove_dir_all(to)?;
    }
    fs::rename(new, to)
}

/// A time before 1970 is taken for 1970.
fn moment((seconds, nanoseconds): (i64, i64)) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds)
}

fn own(path: &Path, (uid, gid): (u32, u32)) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(uid), Some(gid))
}

/// What is there; `None` when it is too much. Sockets and the like are left out.
fn list(root: &Path) -> io::Result<Option<Listing>> {
    let mut found = Listing::new();
    let mut bytes = 0_u64;
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder))? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let metadata = entry.metadata()?;
            let (mode, owner) = (metadata.mode() & 0o7777, (metadata.uid(), metadata.gid()));
            let entry = if metadata.is_symlink() {
                let target = fs::read_link(entry.path())?;
                Entry::Link { target }
            } else if metadata.is_dir() {
                if depth >= MAX_DEPTH {
                    return Ok(None);
                }
                folders.push((path.clone(), depth + 1));
                Entry::Directory { mode, owner }
            } else if metadata.is_file() {
                bytes = bytes.saturating_add(metadata.len());
                Entry::File {
                    mode,
                    owner,
                    bytes: metadata.len(),
                    changed: (metadata.mtime(), metadata.mtime_nsec()),
                }
            } else {
                continue;
            };
            found.insert(path, entry);
            if found.len() > MAX_ENTRIES || bytes > MAX_BYTES {
                return Ok(None);
            }
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_its_original_has_through_a_swap_of_kubernetes() {
        let lab = tempfile::tempdir().unwrap();
        let (root, copy) = (lab.path().join("o"), lab.path().join("c"));
        fs::create_dir_all(root.join("..1")).unwrap();
        fs::create_dir(&copy).unwrap();
        fs::write(root.join("..1/key"), "old").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/key", root.join("key")).unwrap();
        let mut known = Listing::new();
        assert!(update(&root, &copy, &mut known).unwrap());
        assert_eq!(fs::read_to_string(copy.join("key")).unwrap(), "old");
        assert!(!update(&root, &copy, &mut known).unwrap());
        // The next agent finds in the copy what there is to know, and removes what was left half made.
        fs::write(copy.join(".seed-new-key"), "ha").unwrap();
        let mut known = list(&copy).unwrap().unwrap();
        assert!(update(&root, &copy, &mut known).unwrap());
        assert_eq!(list(&copy).unwrap(), list(&root).unwrap());

        fs::create_dir(root.join("..2")).unwrap();
        fs::write(root.join("..2/key"), "new").unwrap();
        symlink("..2", root.join("..tmp")).unwrap();
        fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
        fs::remove_dir_all(root.join("..1")).unwrap();
        assert!(update(&root, &copy, &mut known).unwrap());
        assert_eq!(fs::read_to_string(copy.join("key")).unwrap(), "new");
        let mut names: Vec<_> = fs::read_dir(&copy)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["..2", "..data", "key"]);
    }

    #[test]
    fn too_much_is_not_followed() {
        let lab = tempfile::tempdir().unwrap();
        assert!(fits(lab.path()).unwrap());
        let large = fs::File::create(lab.path().join("large")).unwrap();
        large.set_len(MAX_BYTES + 1).unwrap();
        assert!(!fits(lab.path()).unwrap());
    }
}
