//! One target for a while: starts it, and reads what libFuzzer printed (its output is described in LLVM's documentation of
//! libFuzzer, "Output" and "Options").

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::targets::Target;
use crate::{
    cpu,
    util::{self, Places},
};

/// Beyond its own time a target may take this long to read its corpus and to end.
const GRACE: Duration = Duration::from_secs(300);
/// An input that takes longer is a failure.
const SLOW_INPUT: &str = "-timeout=20";
/// SQLite is C, and has constants of one name in several functions: the sanitizer takes them for one that is defined twice.
const SANITIZER: (&str, &str) = ("ASAN_OPTIONS", "detect_odr_violation=0");
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What came of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) executions: u64,
    /// How long it was on a CPU.
    pub(super) cpu: Duration,
    /// Edges of the program that inputs have reached.
    pub(super) coverage: u64,
    /// Inputs that each reach something that no other does.
    pub(super) corpus: u64,
    pub(super) crash: Option<Crash>,
}

/// An input that made the target fail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crash {
    /// In libFuzzer's words.
    pub(super) what: String,
    /// The file.
    pub(super) input: String,
}

impl Outcome {
    pub(super) fn line(&self) -> String {
        let end = self
            .crash
            .as_ref()
            .map_or("ok", |crash| crash.what.as_str());
        let (runs, coverage, corpus) = (self.executions, self.coverage, self.corpus);
        format!("{runs} executions, coverage {coverage}, corpus {corpus}: {end}")
    }
}

/// Runs it to its time or its first crash.
pub(super) fn run(places: &Places, target: &Target, limit: Duration) -> Result<Outcome> {
    let (corpus, crashes) = (target.corpus(), target.crashes());
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let log = util::step_log(places, &format!("fuzz {}", target.label()));
    if let Some(logs) = log.parent() {
        fs::create_dir_all(logs).with_context(|| format!("make {}", logs.display()))?;
    }
    let output = File::create(&log).with_context(|| format!("make {}", log.display()))?;
    let mut command = Command::new(&target.program);
    command
        .env(SANITIZER.0, SANITIZER.1)
        .arg(format!("-max_total_time={}", limit.as_secs()))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-print_final_stats=1", SLOW_INPUT])
        .arg(&corpus)
        // Read, never written to: libFuzzer adds to the first folder only.
        .args(Some(target.committed()).filter(|folder| folder.is_dir()))
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let start = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", target.program.display()))?;
    let mut on_cpu = Duration::ZERO;
    let status = loop {
        // Before the wait, which makes the kernel forget it.
        on_cpu = cpu::of(&child).unwrap_or(on_cpu);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit + GRACE {
            child.kill()?;
            child.wait()?;
            bail!("{} did not end: see {}", target.label(), log.display());
        }
        thread::sleep(LOOK_AGAIN);
    };
    let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let mut outcome = read(&String::from_utf8_lossy(&text));
    outcome.cpu = on_cpu;
    if !status.success() && outcome.crash.is_none() {
        let log = log.display();
        bail!("{}: {status}, and no input: see {log}", target.label());
    }
    Ok(outcome)
}

/// The last line of progress, the final counts, and the crash if there is one.
fn read(text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut what, mut input) = (None, None);
    for line in text.lines() {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            outcome.executions = number(count);
        } else if let Some(error) = line.strip_prefix("SUMMARY: ") {
            what = Some(error.to_owned());
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            // A slow unit is written too, without being a failure.
            if !is_only_slow(path) {
                input = Some(path.trim().to_owned());
            }
        } else if line.starts_with('#') {
            let after = |word: &str| line.split_once(word).map(|(_, rest)| number(rest));
            outcome.coverage = after(" cov: ").unwrap_or(outcome.coverage);
            outcome.corpus = after(" corp: ").unwrap_or(outcome.corpus);
        }
    }
    outcome.crash = input.map(|input| Crash {
        what: what.unwrap_or_else(|| "it ended without a word".to_owned()),
        input,
    });
    outcome
}

fn is_only_slow(path: &str) -> bool {
    let name = Path::new(path).file_name().unwrap_or_default();
    name.to_string_lossy().starts_with("slow-unit-")
}

/// The digits that a text begins with, after spaces.
fn number(text: &str) -> u64 {
    let digits = text.trim_start();
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
INFO: Seed: 1
#2	INITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 40Mb
#4096	pulse  cov: 218 ft: 300 corp: 41/3202b lim: 43 exec/s: 2048 rss: 44Mb
Done 5000 runs in 2 second(s)
stat::number_of_executed_units: 5000
stat::peak_rss_mb:              44
";

    #[test]
    fn counts_are_the_last_ones() {
        let outcome = read(GOOD);
        assert_eq!(
            (outcome.executions, outcome.coverage, outcome.corpus),
            (5000, 218, 41)
        );
        assert_eq!(outcome.crash, None);
    }

    #[test]
    fn a_crash_is_named_with_its_input() {
        let text = format!(
            "{GOOD}SUMMARY: libFuzzer: deadly signal\n\
             artifact_prefix='/c/'; Test unit written to /c/crash-da39\n"
        );
        let crash = read(&text).crash.expect("a crash");
        assert_eq!(crash.what, "libFuzzer: deadly signal");
        assert_eq!(crash.input, "/c/crash-da39");
        let slow = format!("{GOOD}artifact_prefix='/c/'; Test unit written to /c/slow-unit-1\n");
        assert_eq!(read(&slow).crash, None);
    }
}
