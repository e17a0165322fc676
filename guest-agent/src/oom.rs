//! Processes that the kernel killed for lack of memory, counted by the top-level control groups
//! (`memory.events` in `Documentation/admin-guide/cgroup-v2.rst`). Whoever asks waits for the next one.
//!
//! The groups tell of a change by inotify; groups come and go, so the list is looked through anew now and
//! then, and that is also how a kill is found where inotify is not to be had.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::fs::inotify;
use tokio::{net::unix::pipe::Receiver, time::timeout};
use tracing::debug;

/// [`Watch::look`] of an agent.
const LOOK: Duration = Duration::from_secs(5);

const EVENTS: &str = "memory.events";

/// A watch over the kernel's kills. Clones share it.
#[derive(Debug, Clone)]
pub struct Watch {
    cgroup: PathBuf,
    /// How often the groups are looked through without being told.
    look: Duration,
    /// How many kills have been told.
    told: Arc<Mutex<u64>>,
}

impl Watch {
    /// Begins with the kills that have been already: they are nobody's news.
    pub fn new(cgroup: &Path) -> Self {
        Self::looking(cgroup, LOOK)
    }

    fn looking(cgroup: &Path, look: Duration) -> Self {
        Self {
            cgroup: cgroup.to_owned(),
            look,
            told: Arc::new(Mutex::new(kills(cgroup))),
        }
    }

    /// Waits for a kill that nobody has been told of. Giving up loses none.
    pub async fn next(&self) {
        let notifier = Notifier::new()
            .inspect_err(|error| debug!(%error, "control groups cannot be watched"))
            .ok();
        loop {
            // Watched before it is read, so that nothing falls between.
            if let Some(notifier) = &notifier {
                notifier.watch(&self.cgroup);
            }
            if self.take() {
                return;
            }
            match &notifier {
                Some(notifier) => {
                    // The limit's end is a reason to look, too.
                    let _ = timeout(self.look, notifier.change()).await;
                }
                None => tokio::time::sleep(self.look).await,
            }
        }
    }

    fn take(&self) -> bool {
        let now = kills(&self.cgroup);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // A group that has gone has taken its count with it.
        *told = (*told).min(now);
        let more = now > *told;
        *told += u64::from(more);
        more
    }
}

struct Notifier {
    /// An inotify descriptor reads like a pipe: not at all, or events.
    inotify: Receiver,
}

impl Notifier {
    fn new() -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = File::from(inotify::init(flags)?);
        Ok(Self {
            inotify: Receiver::from_file_unchecked(inotify)?,
        })
    }

    /// Adds what is new; what is watched already stays so.
    fn watch(&self, cgroup: &Path) {
        for file in event_files(cgroup) {
            // A group that has just gone is no loss.
            let _ = inotify::add_watch(&self.inotify, file, inotify::WatchFlags::MODIFY);
        }
    }

    /// What has changed does not matter: everything is read anew.
    async fn change(&self) {
        if self.inotify.readable().await.is_err() {
            return std::future::pending().await;
        }
        let mut buffer = [0; 4096];
        while self
            .inotify
            .try_read(&mut buffer)
            .is_ok_and(|length| length > 0)
        {}
    }
}

/// The files of the groups right below the root: each counts for all below it.
fn event_files(cgroup: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().join(EVENTS))
        .filter(|file| file.exists())
        .collect()
}

fn kills(cgroup: &Path) -> u64 {
    event_files(cgroup)
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .filter_map(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix("oom_kill ")?.parse::<u64>().ok())
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A look that never comes in a test.
    const NO_LOOK: Duration = Duration::from_secs(3600);
    const LIMIT: Duration = Duration::from_secs(60);

    fn count(root: &Path, group: &str, kills: u64) {
        let group = root.join(group);
        fs::create_dir_all(&group).unwrap();
        let text = format!("low 0\noom {kills}\noom_kill {kills}\n");
        // In place and at once, as the kernel's counts change: nobody sees an empty file.
        let mut options = File::options();
        let file = options.create(true).truncate(false).write(true);
        let mut file = file.open(group.join(EVENTS)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn old_kills_are_no_news_and_each_new_one_is_told_once() {
        let root = tempfile::tempdir().unwrap();
        count(root.path(), "system.slice", 2);
        let watch = Watch::looking(root.path(), NO_LOOK);
        let none = timeout(Duration::from_millis(50), watch.next()).await;
        assert!(none.is_err());
        let waiter = tokio::spawn({
            let watch = watch.clone();
            async move { watch.next().await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        count(root.path(), "system.slice", 4);
        let told = timeout(LIMIT, waiter).await;
        told.expect("the change is noticed before the next look")
            .unwrap();
        watch.next().await;
        assert!(
            timeout(Duration::from_millis(50), watch.next())
                .await
                .is_err()
        );
        count(root.path(), "user.slice", 1);
        watch.next().await;
    }
}
