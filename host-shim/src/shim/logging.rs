//! The shim's own log: text lines into the bundle's `log`, a FIFO that containerd copies into its own log,
//! or a plain file without containerd. A reader that is gone or slow loses lines and blocks nobody.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use rustix::fs::OFlags;
use tracing::{Level, Subscriber};
use tracing_subscriber::{
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
};

/// The file's name in a bundle.
const FILE: &str = "log";

/// A log that never blocks and never fails.
#[derive(Debug, Clone)]
pub struct Log(Arc<File>);

impl Log {
    /// Opens the log of `bundle`.
    pub fn open(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join(FILE);
        let fifo = path.metadata().is_ok_and(|m| m.file_type().is_fifo());
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let mut options = OpenOptions::new();
        options.custom_flags(nonblock);
        // Both ends of a FIFO, so that a reader which comes back finds it open.
        if fifo {
            options.read(true).write(true)
        } else {
            options.create(true).append(true)
        };
        Ok(Self(Arc::new(options.open(path)?)))
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A full FIFO: the line is dropped rather than the VM's life delayed.
        let _ = (&*self.0).write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
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
        let mut log = Log::open(dir.path()).unwrap();
        for _ in 0..10_000 {
            log.write_all(&[b'x'; 100]).unwrap();
        }
    }

    #[test]
    fn without_a_fifo_there_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        Log::open(dir.path()).unwrap().write_all(b"line\n").unwrap();
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
}
