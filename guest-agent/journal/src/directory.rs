//! The directories that hold one machine's journal files: what is in them, and whether that changed.
//!
//! A directory that does not exist is an empty one; it may come later (a volume mounted late, the flush from
//! /run to /var).

use std::{
    collections::HashSet,
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Two changes within one tick of the kernel's clock have one time stamp, so a listing is done again this long
/// after one that found changes.
const SETTLE: Duration = Duration::from_millis(20);

/// A journal file by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    /// Which directory, by its place in the list given.
    pub(crate) directory: usize,
    pub(crate) inode: u64,
    pub(crate) path: PathBuf,
}

impl Name {
    /// journald writes to `system.journal` and `user-1000.journal`; with an `@`, or as `.journal~`, a file is
    /// closed for good.
    pub(crate) fn is_active(&self) -> bool {
        let name = self
            .path
            .file_name()
            .map(|name| name.as_encoded_bytes())
            .unwrap_or_default();
        name.ends_with(b".journal") && !name.contains(&b'@')
    }
}

#[derive(Debug)]
pub(crate) struct Directories {
    paths: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
    listed_at: Option<Instant>,
    /// The last listing differed from the one before, or a file was not ready.
    unsettled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        })
    }
}

impl Directories {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let stamps = vec![None; paths.len()];
        Self {
            paths,
            stamps,
            listed_at: None,
            unsettled: false,
        }
    }

    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// True when [`Self::list`] may give something new. Costs one `stat` a directory.
    pub(crate) fn may_have_changed(&self) -> bool {
        let Some(listed_at) = self.listed_at else {
            return true;
        };
        if self.unsettled && listed_at.elapsed() >= SETTLE {
            return true;
        }
        self.paths
            .iter()
            .zip(&self.stamps)
            .any(|(path, stamp)| Stamp::of(path) != *stamp)
    }

    /// The files behind these names are not what they will be: list again soon, though no name changes.
    pub(crate) fn unsettle(&mut self) {
        self.unsettled = true;
    }

    /// All journal files. A file that is being renamed can be missed by one listing, so when one of `known` is
    /// missing it is done twice.
    pub(crate) fn list<'n>(&mut self, known: impl Iterator<Item = &'n Name>) -> Vec<Name> {
        let stamps: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        self.unsettled = stamps != self.stamps;
        self.stamps = stamps;
        self.listed_at = Some(Instant::now());
        let mut names = self.list_once();
        let have: HashSet<_> = names
            .iter()
            .map(|name| (name.directory, name.inode))
            .collect();
        if known
            .into_iter()
            .any(|name| !have.contains(&(name.directory, name.inode)))
        {
            for name in self.list_once() {
                // The newer listing knows the newer name.
                names.retain(|old| (old.directory, old.inode) != (name.directory, name.inode));
                names.push(name);
            }
        }
        names
    }

    fn list_once(&self) -> Vec<Name> {
        let mut names = Vec::new();
        for (directory, path) in self.paths.iter().enumerate() {
            // Not there, or not for us: nothing to read. A file that is refused is reported by its own name.
            if let Ok(entries) = list_directory(directory, path) {
                names.extend(entries);
            }
        }
        names
    }
}

fn list_directory(directory: usize, path: &Path) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.ends_with(b".journal") || bytes.ends_with(b".journal~") {
            names.push(Name {
                directory,
                inode: entry.ino(),
                path: entry.path(),
            });
        }
    }
    Ok(names)
}
