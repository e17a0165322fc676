//! The shim's own log: text lines into the bundle's `log`, a FIFO that containerd copies into its own log,
//! or a plain file without containerd. A reader that is gone or slow loses lines and blocks nobody.
//!
//! Some lines are about what a guest does, which can do it as fast as it likes: of each level so many are written and no more, and
//! a plain file, which lies in memory as a rule, is begun anew when it is long.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::fs::OFlags;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
};

/// The file's name in a bundle.
const FILE: &str = "log";

/// Lines of one level that are written at once, and in each second after them.
const BURST: u32 = 5000;
const EACH_SECOND: u32 = 5;

/// A plain file of this many bytes becomes `log.old`, so that at most twice as much is kept.
const FILE_BYTES: u64 = 2 << 20;

/// A log that never blocks and never fails.
#[derive(Debug, Clone)]
pub struct Log(Arc<Mutex<Out>>);

#[derive(Debug)]
struct Out {
    to: File,
    /// How long it is, and its name; of a FIFO nothing.
    plain: Option<(u64, PathBuf)>,
    /// For errors, warnings and what is told.
    allowances: [Allowance; 3],
}

/// How many lines of a level may still be written.
#[derive(Debug)]
struct Allowance {
    left: u32,
    /// When it was last added to.
    since: Instant,
    /// Lines that were not written.
    kept_back: u64,
}

impl Allowance {
    fn whole(now: Instant) -> Self {
        Self {
            left: BURST,
            since: now,
            kept_back: 0,
        }
    }

    /// Whether a line may be written now, and how many before it were not.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        self.since += Duration::from_secs(seconds);
        let more = u32::try_from(seconds).unwrap_or(u32::MAX);
        let left = self.left.saturating_add(more.saturating_mul(EACH_SECOND));
        self.left = left.min(BURST);
        if self.left == 0 {
            self.kept_back += 1;
            return None;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

impl Log {
    /// Opens the log of `bundle`.
    pub fn open(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join(FILE);
        let now = Instant::now();
        let fifo = path.metadata().is_ok_and(|m| m.file_type().is_fifo());
        let to = open(&path, fifo)?;
        let plain = if fifo {
            None
        } else {
            Some((to.metadata()?.len(), path))
        };
        Ok(Self(Arc::new(Mutex::new(Out {
            to,
            plain,
            allowances: [(); 3].map(|()| Allowance::whole(now)),
        }))))
    }
}

fn open(path: &Path, fifo: bool) -> io::Result<File> {
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.custom_flags(nonblock);
    // Both ends of a FIFO, so that a reader which comes back finds it open.
    if fifo {
        options.read(true).write(true)
    } else {
        options.create(true).append(true)
    };
    options.open(path)
}

impl Out {
    fn put(&mut self, line: &[u8]) {
        if let Some((bytes, path)) = &mut self.plain {
            if *bytes >= FILE_BYTES
                && fs::rename(&*path, path.with_extension("old")).is_ok()
                && let Ok(anew) = open(path, false)
            {
                (self.to, *bytes) = (anew, 0);
            }
            *bytes += line.len() as u64;
        }
        // A full FIFO: the line is dropped rather than the VM's life delayed.
        let _ = self.to.write(line);
    }
}

/// The log for one line.
#[derive(Debug)]
pub struct Line {
    log: Log,
    /// Which allowance it is of; what is only written where somebody looks for a fault has none.
    level: Option<usize>,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut out = self.log.0.lock().unwrap_or_else(PoisonError::into_inner);
        let allowance = self.level.and_then(|level| out.allowances.get_mut(level));
        let before = match allowance.map(|allowance| allowance.take(Instant::now())) {
            Some(None) => return Ok(line.len()),
            Some(Some(before)) => before,
            None => 0,
        };
        if before > 0 {
            let text =
                format!("{before} lines were not written: there were too many of one level\n");
            out.put(text.as_bytes());
        }
        out.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            log: self.clone(),
            level: None,
        }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Line {
        let level = match *of.level() {
            Level::ERROR => Some(0),
            Level::WARN => Some(1),
            Level::INFO => Some(2),
            _ => None,
        };
        Line {
            level,
            ..self.make_writer()
        }
    }
}

/// Sends all tracing to `log`. The second call in a process changes nothing.
pub fn start(log: Log, level: &str) {
    let _ = tracing::subscriber::set_global_default(subscriber(log, level));
}

fn subscriber(log: Log, level: &str) -> impl Subscriber + Send + Sync + use<> {
    // A crate of the transport logs every frame at debug.
    let ours = level.parse().unwrap_or(Level::INFO);
    let filter = Targets::new()
        .with_default(Level::WARN)
        .with_target("seed_shim", ours);
    let lines = fmt::layer()
        .with_writer(log)
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry().with(filter).with(lines)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn a_fifo_that_nobody_reads_does_not_stop_the_writer() {
        let dir = tempfile::tempdir().unwrap();
        mkfifoat(CWD, dir.path().join(FILE), Mode::RUSR | Mode::WUSR).unwrap();
        let log = Log::open(dir.path()).unwrap();
        for _ in 0..10_000 {
            log.make_writer().write_all(&[b'x'; 100]).unwrap();
        }
    }

    #[test]
    fn without_a_fifo_there_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        log.make_writer().write_all(b"line\n").unwrap();
        assert_eq!(
            std::fs::read_to_string(dir.path().join(FILE)).unwrap(),
            "line\n"
        );
    }

    #[test]
    fn the_level_is_ours_and_others_only_warn() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        tracing::subscriber::with_default(subscriber(log, "info"), || {
            tracing::info!(target: "seed_shim::sandbox", "of ours");
            tracing::debug!(target: "seed_shim::sandbox", "detail");
            tracing::info!(target: "ttrpc::proto", "frame");
            tracing::warn!(target: "ttrpc::proto", "trouble");
        });
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let said: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once("  INFO ").or(line.split_once("  WARN ")))
            .map(|(_, said)| said)
            .collect();
        assert_eq!(said, ["of ours", "trouble"], "{text}");
    }

    #[test]
    fn a_level_that_says_too_much_is_cut_short_and_the_others_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let much = BURST * 2;
        tracing::subscriber::with_default(subscriber(log, "info"), || {
            for _ in 0..much {
                tracing::warn!(target: "seed_shim::sandbox", "guest reports a failure");
            }
            tracing::info!(target: "seed_shim::sandbox", "instance ended");
        });
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        let warned = text.matches("guest reports a failure").count();
        let most = usize::try_from(much).unwrap();
        assert!(warned < most, "all {warned} lines were written");
        assert!(text.contains("instance ended"));
    }

    #[test]
    fn an_allowance_comes_back_with_time_and_says_what_was_kept_back() {
        let begin = Instant::now();
        let mut allowance = Allowance::whole(begin);
        for _ in 0..BURST {
            assert_eq!(allowance.take(begin), Some(0));
        }
        let later = begin + Duration::from_millis(999);
        assert_eq!([begin, later].map(|at| allowance.take(at)), [None; 2]);
        let second = begin + Duration::from_millis(1999);
        assert_eq!(allowance.take(second), Some(2));
        for _ in 1..EACH_SECOND {
            assert_eq!(allowance.take(second), Some(0));
        }
        assert_eq!(allowance.take(second), None);
        // Never more than at first, however long nothing was said.
        let day = begin + Duration::from_secs(24 * 3600);
        assert_eq!(allowance.take(day), Some(1));
        for _ in 1..BURST {
            assert_eq!(allowance.take(day), Some(0));
        }
        assert_eq!(allowance.take(day), None);
    }

    #[test]
    fn a_plain_file_is_begun_anew_when_it_is_long() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        let line = [b'x'; 1 << 16];
        for _ in 0..FILE_BYTES / (1 << 16) * 3 {
            log.make_writer().write_all(&line).unwrap();
        }
        log.make_writer().write_all(b"last").unwrap();
        let length = |name: &str| dir.path().join(name).metadata().unwrap().len();
        assert_eq!((length("log"), length("log.old")), (4, FILE_BYTES));
    }
}
