//! Tells those who follow a log that it has grown. However many follow one log, one task looks at it, by the length
//! of its newest segment; each follower then reads by itself, from where it stands, so that none misses anything.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::watch, time::interval};

/// How often a followed log is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A log may be removed and begun anew without a change of its length: now and then all look.
const ANYWAY: u32 = 20;

/// The logs that are followed now.
#[derive(Debug, Clone, Default)]
pub struct Bells {
    map: Arc<Mutex<HashMap<PathBuf, Weak<watch::Sender<u64>>>>>,
}

/// Rings when a log has grown.
#[derive(Debug)]
pub struct Bell {
    // Keeps the task alive; it ends with the last of them.
    _sender: Arc<watch::Sender<u64>>,
    receiver: watch::Receiver<u64>,
}

impl Bell {
    /// Waits until the log has perhaps grown since the last call. What came before the bell was made counts as seen.
    pub async fn ring(&mut self) {
        // The sender is ours too, so it is there.
        let _ = self.receiver.changed().await;
    }
}

impl Bells {
    /// The bell of the log in this folder. Must be called inside a runtime.
    pub fn of(&self, dir: &Path) -> Bell {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = map.get(dir).and_then(Weak::upgrade) {
            return Bell {
                receiver: sender.subscribe(),
                _sender: sender,
            };
        }
        map.retain(|_, sender| sender.strong_count() > 0);
        let (sender, receiver) = watch::channel(0);
        let sender = Arc::new(sender);
        let weak = Arc::downgrade(&sender);
        map.insert(dir.into(), weak.clone());
        tokio::spawn(look(dir.into(), weak));
        Bell {
            _sender: sender,
            receiver,
        }
    }
}

async fn look(dir: PathBuf, bell: Weak<watch::Sender<u64>>) {
    let mut ticks = interval(LOOK);
    let mut last = newest(&dir);
    let mut looks = 0;
    loop {
        ticks.tick().await;
        let Some(sender) = bell.upgrade() else {
            return;
        };
        looks += 1;
        let now = newest(&dir);
        if now != last || looks % ANYWAY == 0 {
            last = now;
            sender.send_modify(|count| *count += 1);
        }
    }
}

/// Name and length of the newest segment. Names sort by their number.
fn newest(dir: &Path) -> Option<(std::ffi::OsString, u64)> {
    let entries = fs::read_dir(dir).ok()?;
    let name = entries
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "seg"))
        .max()?;
    let length = fs::metadata(dir.join(&name)).ok()?.len();
    Some((name, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_followers_hear_that_a_log_has_grown() {
        let dir = tempfile::tempdir().unwrap();
        let bells = Bells::default();
        let mut several: Vec<Bell> = (0..5).map(|_| bells.of(dir.path())).collect();
        assert_eq!(bells.map.lock().unwrap().len(), 1);
        fs::write(dir.path().join("00000001.seg"), "x").unwrap();
        for bell in &mut several {
            bell.ring().await;
        }
        drop(several);
        let other = tempfile::tempdir().unwrap();
        let _bell = bells.of(other.path());
        assert_eq!(
            bells.map.lock().unwrap().len(),
            1,
            "the old one is forgotten"
        );
    }
}
