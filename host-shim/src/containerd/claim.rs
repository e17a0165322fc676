//! Who may act on an instance: its run folder, opened and locked with flock(2).
//!
//! The folder's path is only a name; a later instance of the same name has another folder there. What is held
//! open here is this very folder, so whoever was late finds out that it is gone and leaves the later one
//! alone. The lock is for the short steps in which a shim exists that no record names yet, or no more; it is
//! not held while a guest boots or powers off. The kernel gives it back when its holder dies.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::locks::{self, Held};

/// How often a lock is tried.
const PAUSE: Duration = Duration::from_millis(10);

/// An open run folder.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    dir: Held,
}

impl Claim {
    /// Opens the folder, without locking it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: Held(File::open(path)?),
            path: path.to_owned(),
        })
    }

    /// Whether the folder is still the one of this name.
    pub(super) fn is_current(&self) -> bool {
        let here = self.dir.0.metadata().map(|m| (m.dev(), m.ino()));
        let there = fs::symlink_metadata(&self.path).map(|m| (m.dev(), m.ino()));
        matches!((here, there), (Ok(here), Ok(there)) if here == there)
    }

    /// Locks it; false when somebody else has it. Locking twice is locking once.
    pub(super) fn try_lock(&self) -> io::Result<bool> {
        locks::try_exclusive(&self.dir.0)
    }

    /// Locks it, and waits for `limit` at most; false when it was somebody else's all the time.
    pub(super) async fn lock(&self, limit: Duration) -> io::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            if self.try_lock()? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(PAUSE).await;
        }
    }

    /// Lets others in.
    pub(super) fn unlock(&self) {
        self.dir.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_at_a_time_and_its_end_gives_the_lock_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = Claim::open(dir.path()).unwrap();
        let second = Claim::open(dir.path()).unwrap();
        assert!(first.try_lock().unwrap() && first.try_lock().unwrap());
        assert!(!second.lock(Duration::from_millis(30)).await.unwrap());
        first.unlock();
        assert!(second.try_lock().unwrap());
        drop(second);
        assert!(first.try_lock().unwrap());
    }

    #[test]
    fn a_later_folder_of_the_same_name_is_another() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("demo");
        fs::create_dir(&path).unwrap();
        let claim = Claim::open(&path).unwrap();
        assert!(claim.is_current());
        fs::remove_dir(&path).unwrap();
        assert!(!claim.is_current());
        fs::create_dir(&path).unwrap();
        assert!(!claim.is_current());
    }
}
