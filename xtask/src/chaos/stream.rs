//! What a container engine reads of an instance: the FIFO that is the container's stdout, and its comparison with the log.
//!
//! Every entry of the log is in the stream, line by line, with its time and its sender, in the same order and once. Only the
//! death of the shim itself may cost lines: those that it had appended to the log and not written yet, the last of
//! them in the middle.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    lab::{COMMAND, until},
    util,
};

/// `O_NONBLOCK`, open(2): a FIFO opens without a writer, and who reads it can be told to stop.
const NONBLOCK: i32 = 0o4000;
/// Between two looks into a FIFO that had nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The most of a line that an error shows.
const SHOWN: usize = 200;

/// What a reader is told.
#[derive(Debug, Default)]
struct Told {
    /// To end.
    over: AtomicBool,
    /// To end when nobody has the FIFO open any more who could write.
    at_end: AtomicBool,
}

/// A FIFO and its reader.
#[derive(Debug)]
pub(super) struct Stream {
    path: PathBuf,
    /// What came and has not been compared.
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<(Arc<Told>, JoinHandle<io::Result<()>>)>,
    /// Lines of the log that have been compared.
    compared: usize,
}

impl Stream {
    /// Makes the FIFO, and reads it.
    pub(super) fn make(path: &Path) -> Result<Self> {
        let mut stream = Self {
            path: path.to_owned(),
            text: Arc::default(),
            reader: None,
            compared: 0,
        };
        stream.renew()?;
        Ok(stream)
    }

    /// Reads it to its end, and makes it anew: who removes a task removes its FIFO with it (`ctr tasks rm` does).
    pub(super) fn renew(&mut self) -> Result<()> {
        self.finish()?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", self.path.display()));
            }
            _ => {}
        }
        util::read(Command::new("mkfifo").arg(&self.path))?;
        self.listen()
    }

    /// Reads what is still to come from a shim that ends, until it has ended.
    pub(super) fn finish(&mut self) -> Result<()> {
        let Some((told, reader)) = &self.reader else {
            return Ok(());
        };
        told.at_end.store(true, Ordering::Release);
        until("the end of a container's stdout", COMMAND, || {
            Ok(reader.is_finished().then_some(()))
        })?;
        self.leave()
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins to read, the first time or after [`Self::leave`].
    pub(super) fn listen(&mut self) -> Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(NONBLOCK);
        let fifo = options.open(&self.path);
        let fifo = fifo.with_context(|| format!("open {}", self.path.display()))?;
        let told = Arc::new(Told::default());
        let (text, ours) = (Arc::clone(&self.text), Arc::clone(&told));
        let reader = thread::spawn(move || read(fifo, &text, &ours));
        self.reader = Some((told, reader));
        Ok(())
    }

    /// Lets go of the FIFO, as an engine does that is killed. What has been read is kept.
    pub(super) fn leave(&mut self) -> Result<()> {
        let Some((told, reader)) = self.reader.take() else {
            return Ok(());
        };
        told.over.store(true, Ordering::Release);
        match reader.join() {
            Ok(ended) => ended.with_context(|| format!("read {}", self.path.display())),
            Err(_) => bail!("the reader of {} panicked", self.path.display()),
        }
    }

    /// Compares what came with a log as `seed logs --json` printed it: whether all of the log has come. What agrees is
    /// not looked at again. `may_miss`: the shim was killed since the last comparison.
    pub(super) fn agrees(&mut self, log: &str, may_miss: bool) -> Result<bool> {
        let entries: Vec<_> = log.lines().skip(self.compared).collect();
        let wanted: Vec<_> = entries.iter().flat_map(|entry| lines(entry)).collect();
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = compare(&wanted, &text, may_miss)? else {
            return Ok(false);
        };
        text.drain(..used);
        self.compared += entries.len();
        Ok(true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Whoever waited for its end has been told why it failed.
        let _ = self.leave();
    }
}

fn read(mut fifo: File, text: &Mutex<Vec<u8>>, told: &Told) -> io::Result<()> {
    let mut piece = vec![0; 64 << 10];
    while !told.over.load(Ordering::Acquire) {
        match fifo.read(&mut piece) {
            Ok(0) if told.at_end.load(Ordering::Acquire) => break,
            // Nobody writes, or nothing is written.
            Ok(0) => thread::sleep(LOOK_AGAIN),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(LOOK_AGAIN),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(count) => {
                let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
                text.extend_from_slice(&piece[..count]);
            }
        }
    }
    Ok(())
}

/// How many bytes of the stream are these lines; nothing when not all of them have come. An error when it has something else.
fn compare(wanted: &[String], stream: &[u8], may_miss: bool) -> Result<Option<usize>> {
    let (mut used, mut next, mut torn) = (0, 0, false);
    while next < wanted.len() {
        let Some(length) = stream[used..].iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&stream[used..used + length]);
        used += length + 1;
        // What stands between entries: a boot, a gap.
        if line.starts_with("-- ") && line.ends_with(" --") {
            continue;
        }
        if line == wanted[next] {
            next += 1;
            continue;
        }
        let later = wanted[next..].iter().position(|wanted| *wanted == line);
        match later {
            Some(skipped) if may_miss => next += skipped + 1,
            None if may_miss && !torn => torn = true,
            _ => bail!(
                "the container's stdout has {:?} where the log has {:?} (which it {} later)",
                shown(&line),
                shown(&wanted[next]),
                match later {
                    Some(_) => "lacks: its line comes",
                    None => "may have: its line is none that comes",
                }
            ),
        }
    }
    Ok(Some(used))
}

fn shown(line: &str) -> String {
    line.chars().take(SHOWN).collect()
}

/// An entry's lines as they are in a stream: `TIME SENDER: TEXT`. What is no entry has none.
fn lines(entry: &str) -> Vec<String> {
    let Ok(entry) = serde_json::from_str::<Value>(entry) else {
        return Vec::new();
    };
    let Some(arrived) = text(&entry["__REALTIME_TIMESTAMP"]) else {
        return Vec::new();
    };
    let sent = text(&entry["_SOURCE_REALTIME_TIMESTAMP"]).unwrap_or(arrived);
    let time = time(sent.parse().unwrap_or_default());
    let name = text(&entry["SYSLOG_IDENTIFIER"]).or_else(|| text(&entry["_COMM"]));
    let name = name.unwrap_or_else(|| "unknown".to_owned());
    let name = name.split('\n').next().unwrap_or_default();
    let message = text(&entry["MESSAGE"]).unwrap_or_default();
    let message = message.strip_suffix('\n').unwrap_or(&message);
    let lines = message.split('\n');
    lines.map(|line| format!("{time} {name}: {line}")).collect()
}

/// A field's value: of several the first; what is no text comes as numbers.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            let bytes = list.iter().map(|byte| u8::try_from(byte.as_u64()?).ok());
            let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(list) => list.first().and_then(text),
        _ => None,
    }
}

/// A time of the journal (microseconds since 1970) as RFC 3339 has it, in UTC. The calendar is Howard Hinnant's
/// "chrono-Compatible Low-Level Date Algorithms", for days after 1970.
fn time(us: u64) -> String {
    let (days, rest) = (us / 86_400_000_000, us % 86_400_000_000);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (seconds, us) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(us: u64, message: &str) -> String {
        format!(
            r#"{{"__REALTIME_TIMESTAMP":"{us}","SYSLOG_IDENTIFIER":"app","MESSAGE":{message}}}"#
        )
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (us, wanted) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_001, "2000-02-29T00:00:00.000001Z"),
            (1_763_766_062_123_456, "2025-11-21T23:01:02.123456Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
        ] {
            assert_eq!(time(us), wanted);
        }
    }

    #[test]
    fn an_entry_is_a_line_for_each_of_its_own() {
        let time = "1970-01-01T00:00:00.000007Z";
        assert_eq!(
            lines(&entry(7, r#""one\n\ttwo\n""#)),
            [format!("{time} app: one"), format!("{time} app: \ttwo")]
        );
        assert_eq!(lines(&entry(7, "[104,105]")), [format!("{time} app: hi")]);
        let sent = r#"{"__REALTIME_TIMESTAMP":"9","_SOURCE_REALTIME_TIMESTAMP":"7","_COMM":"x"}"#;
        assert_eq!(lines(sent), [format!("{time} x: ")]);
        assert!(lines(r#"{"__SEED_GAP":{"count":1}}"#).is_empty());
    }

    #[test]
    fn a_stream_has_every_line_once_and_in_order() {
        let wanted = ["a", "b", "c"].map(str::to_owned);
        let same = |stream: &str| compare(&wanted, stream.as_bytes(), false);
        assert_eq!(same("-- Boot 1 --\na\nb\nc\nd\n").expect("all"), Some(19));
        assert_eq!(same("a\nb\nc").expect("so far"), None);
        for wrong in ["a\nc\n", "a\na\n", "b\n", "a\nb\nx\n"] {
            assert!(same(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_killed_shim_may_cost_lines_and_tear_one() {
        let wanted = ["a", "bb", "c", "d"].map(str::to_owned);
        let same = |stream: &str| compare(&wanted, stream.as_bytes(), true);
        assert_eq!(same("a\nd\n").expect("lines less"), Some(4));
        assert_eq!(same("a\nbc\nd\n").expect("a torn one"), Some(7));
        assert_eq!(same("a\nc\n").expect("so far"), None);
        for wrong in ["x\ny\n", "c\nx\na\n"] {
            assert!(same(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_stream_is_read_left_and_read_again() {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("seed-stream-{}", std::process::id()));
        let mut stream = Stream::make(&path).expect("a FIFO");
        let both = OpenOptions::new().read(true).write(true).open(&path);
        let mut fifo = both.expect("the other end");
        let line = |us| format!("{}\n", lines(&entry(us, r#""x""#)).concat());
        let mut log = String::new();
        for us in [1, 2] {
            log += &format!("{}\n", entry(us, r#""x""#));
            stream.leave().expect("left");
            fifo.write_all(line(us).as_bytes()).expect("written");
            assert!(!stream.agrees(&log, false).expect("nothing yet"));
            stream.listen().expect("read again");
            let come = until("a line", COMMAND, || {
                Ok(stream.agrees(&log, false)?.then_some(()))
            });
            come.expect("it came");
        }
        // What a shim wrote last is read before the FIFO is made anew.
        log += &format!("{}\n", entry(3, r#""x""#));
        fs::remove_file(&path).expect("removed by who removed the task");
        fifo.write_all(line(3).as_bytes()).expect("written");
        drop(fifo);
        stream.renew().expect("read to its end");
        assert!(stream.agrees(&log, false).expect("all"));
        fs::remove_file(path).expect("removed");
    }
}
