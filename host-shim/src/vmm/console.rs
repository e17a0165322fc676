//! The guest's serial console: copied to a file of bounded size, never interpreted. What is shown of it to
//! people has lost its control characters.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::oneshot,
};

use crate::text::reorders;

/// The file is renamed to `.old` when it has this many bytes, so that at most twice as much is kept.
pub const MAX_BYTES: u64 = 512 * 1024;

/// What `panic()` prints first, and how much it may print after it.
const PANIC: &str = "Kernel panic - not syncing";
const PANIC_BYTES: usize = 8192;

/// Copies until the other end is closed. `spoke` is told of the first bytes.
///
/// A write that fails (a full disk) loses console output and stops nothing.
pub async fn copy(
    mut from: impl AsyncRead + Unpin,
    path: PathBuf,
    spoke: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut log = Log::open(path)?;
    let mut spoke = Some(spoke);
    let mut buffer = vec![0; 4096];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if let Some(spoke) = spoke.take() {
            let _ = spoke.send(());
        }
        log.write(&buffer[..count]);
    }
}

struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    failed: bool,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self {
            path,
            file,
            bytes,
            failed: false,
        })
    }

    fn write(&mut self, data: &[u8]) {
        match self.try_write(data) {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                tracing::warn!(path = %self.path.display(), %error, "console is not kept");
            }
            Err(_) => {}
        }
    }

    fn try_write(&mut self, data: &[u8]) -> io::Result<()> {
        if self.bytes >= MAX_BYTES {
            fs::rename(&self.path, self.path.with_extension("log.old"))?;
            *self = Self::open(self.path.clone())?;
        }
        self.file.write_all(data)?;
        self.bytes += data.len() as u64;
        Ok(())
    }
}

/// The last lines of a log, from at most `bytes` of its end, without control characters. Empty where the
/// file is missing.
pub fn tail(path: &Path, bytes: usize, lines: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes as u64)))?;
        let mut text = Vec::new();
        file.take(bytes as u64).read_to_end(&mut text)?;
        Ok(text)
    };
    let text = read().unwrap_or_default();
    let all: Vec<String> = String::from_utf8_lossy(&text)
        .split('\n')
        .map(|line| plain(line).trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].to_vec()
}

/// True when the log ends with the kernel's words for a panic (`kernel/panic.c`). A guest can write them
/// itself: then it has said of itself that it panicked.
pub fn panicked(path: &Path) -> bool {
    tail(path, PANIC_BYTES, usize::MAX)
        .iter()
        .any(|line| line.contains(PANIC))
}

/// `line` without terminal escape sequences, other control characters, and the marks that reorder a line.
pub fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\x1b' && chars.peek() == Some(&'[') {
            // A control sequence ends with a byte from '@' to '~' (ECMA-48, 5.4).
            chars.next();
            while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
        } else if !(c.is_control() || reorders(c)) {
            plain.push(c);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_file_stays_bounded_and_ends_with_the_last_output() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let (spoke, heard) = oneshot::channel();
        let line = b"0123456789abcde\n";
        let data = line.repeat(200_000);
        copy(&data[..], path.clone(), spoke).await.unwrap();
        heard.await.unwrap();
        let kept = fs::metadata(&path).unwrap().len()
            + fs::metadata(dir.path().join("console.log.old"))
                .unwrap()
                .len();
        assert!(kept <= 2 * (MAX_BYTES + 4096), "{kept}");
        assert_eq!(tail(&path, 40, 2), ["0123456789abcde", "0123456789abcde"]);
    }

    #[test]
    fn what_a_guest_prints_cannot_move_the_cursor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        fs::write(
            &path,
            "one\r\n\x1b[2J\x1b[1;31mKernel panic\x1b[0m\x07\r\n\n",
        )
        .unwrap();
        assert_eq!(tail(&path, 4096, 5), ["one", "Kernel panic"]);
        assert!(!panicked(&path));
        fs::write(
            &path,
            "[ 9.1] Kernel panic - not syncing: sysrq\r\n[ 9.2] CPU: 0\r\n",
        )
        .unwrap();
        assert!(panicked(&path));
        assert!(tail(&dir.path().join("none"), 10, 1).is_empty());
        // Nor make a line read as another one.
        assert_eq!(plain("a\u{202e}b\u{9b}c\u{2066}"), "abc");
    }
}
