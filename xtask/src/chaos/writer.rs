//! What an instance does while things go wrong: a writer on its volume that says which records have reached the disk, and
//! floods of its journal.
//!
//! Both run in the guest as commands of whoever runs it; what they print is the acknowledgement. The check of what was
//! acknowledged against what is there is a pure function here, too.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};

/// The writer's file.
pub(super) const FILE: &str = "/seed/storage/data/records";
/// Record after record: written, synced, then its number printed. A new writer ends one that is left. Each record begins with
/// a newline and ends with a full stop, so that one that was torn spoils no other.
const WRITER: &str = r#"
use strict; use IO::Handle;
my ($path, $n) = @ARGV;
my $running = "/run/records.pid";
if (open my $pid, "<", $running) { my $old = <$pid>; kill "KILL", $old if $old }
open my $pid, ">", $running or die "$running: $!"; print $pid $$; close $pid;
open my $file, ">>", $path or die "$path: $!";
$| = 1;
while (1) {
  $n++;
  my $record = sprintf "\n%d %d.", $n, $n * 7919 % 1000003;
  my $written = syswrite $file, $record;
  if (defined $written && $written == length $record && $file->sync) {
    print "$n\n" or exit 1;
    select undef, undef, undef, 0.05;
  } else {
    $n--;
    sleep 1;
  }
}
"#;
/// Lines at full speed, then a word that journald has them on its disk.
const FLOOD: &str = r#"perl -e 'print "$ARGV[0] $_\n" for 1 .. $ARGV[1]' "$1" "$2" | systemd-cat -t chaos && journalctl --sync && echo synced"#;

/// A writer that runs until its instance or we end.
#[derive(Debug)]
pub(super) struct Writer {
    child: Child,
    reader: JoinHandle<()>,
}

impl Writer {
    /// Starts after the last acknowledged record; `acknowledged` follows it. `inside` runs a command in the guest.
    pub(super) fn start(mut inside: Command, acknowledged: &Arc<AtomicU64>) -> Result<Self> {
        let after = acknowledged.load(Ordering::Acquire).to_string();
        inside
            .args(["perl", "-e", WRITER, FILE, &after])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = inside.spawn().context("start a writer")?;
        let stdout = child.stdout.take().context("the writer has no output")?;
        let acknowledged = Arc::clone(acknowledged);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(number) = line.parse() {
                    acknowledged.fetch_max(number, Ordering::AcqRel);
                }
            }
        });
        Ok(Self { child, reader })
    }

    /// Whether it still runs.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it; every acknowledgement that was on its way has been read then.
    pub(super) fn end(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.reader.join();
    }
}

/// What is wrong with the records that are there, if anything: each acknowledged one must be.
pub(super) fn missing(file: &str, acknowledged: u64) -> Option<String> {
    let whole: BTreeSet<u64> = file.lines().filter_map(record).collect();
    let lost: Vec<_> = (1..=acknowledged).filter(|n| !whole.contains(n)).collect();
    let first = lost.first()?;
    Some(format!(
        "{} of {acknowledged} acknowledged records are not on the volume, the first is {first}",
        lost.len()
    ))
}

/// The number of a whole record.
fn record(line: &str) -> Option<u64> {
    let (number, check) = line.strip_suffix('.')?.split_once(' ')?;
    let number: u64 = number.parse().ok()?;
    (check.parse() == Ok(number.checked_mul(7919)? % 1_000_003)).then_some(number)
}

/// A flood that is under way.
#[derive(Debug)]
pub(super) struct Flood {
    pub(super) number: u64,
    pub(super) lines: u64,
    child: Child,
}

impl Flood {
    /// So many lines with this number. `inside` runs a command in the guest.
    pub(super) fn start(mut inside: Command, number: u64, lines: u64) -> Result<Self> {
        inside
            .args(["/bin/sh", "-c", FLOOD, "flood"])
            .args([number.to_string(), lines.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let child = inside.spawn().context("start a flood")?;
        Ok(Self {
            number,
            lines,
            child,
        })
    }

    /// Whether its command is over.
    pub(super) fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it if it still runs; whether all of it was on the guest's disk.
    pub(super) fn end(mut self) -> bool {
        // It may have ended by itself.
        let _ = self.child.kill();
        let output = self.child.wait_with_output();
        output.is_ok_and(|output| output.stdout == b"synced\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> String {
        format!("\n{number} {}.", number * 7919 % 1_000_003)
    }

    #[test]
    fn a_lost_or_spoilt_record_is_found() {
        let all: String = (1..=300).map(line).collect();
        assert_eq!(missing(&all, 300), None);
        assert_eq!(missing(&all, 250), None, "more than acknowledged is fine");
        assert!(missing(&all, 301).is_some_and(|text| text.contains("the first is 301")));
        let spoilt = all.replace("\n7 55433.", "\n7 55434.");
        assert!(missing(&spoilt, 300).is_some_and(|text| text.contains("the first is 7")));
    }

    #[test]
    fn a_torn_record_spoils_no_other() {
        let torn = format!("{}\n2 158{}{}", line(1), line(2), line(3));
        assert_eq!(missing(&torn, 3), None);
    }
}
