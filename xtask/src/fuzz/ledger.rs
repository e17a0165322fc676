//! What all runs together came to: a line for each piece of a run in `runs.jsonl` beside the target's corpus, in the cache; from
//! them the sums, the table, and the page `docs/fuzzing.md`.
//!
//! Lines are only added, each in one write, so that two runs at once do not lose each other's. A line that cannot be read (a
//! full disk cut it off) is an error that names it: counts that are silently too low would be as bad as invented ones.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{session::Outcome, targets::Target};
use crate::table;

const PAGE: &str = "docs/fuzzing.md";
const HEAD: [&str; 8] = [
    "target",
    "CPU time",
    "executions",
    "per CPU second",
    "coverage",
    "corpus",
    "crashes",
    "last at commit",
];
const WORDS: &str = "\
# Fuzzing

Written by `cargo xtask fuzz --page`; nothing here is typed by hand. What coverage-guided runs of each target came to on one
machine, all of them together: time on a CPU under the address sanitizer, and executions; of the last run the edges that were
reached and the inputs that each reach something that no other does. A crash is an input that made a target fail; it is
mended, and from then on read by the crate's own tests.
";

/// What each target is to have.
const HOUR: Duration = Duration::from_secs(3600);

/// The sums of one target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    /// On a CPU, in all runs.
    pub(super) spent: Duration,
    executions: u64,
    /// Runs that ended with one.
    crashes: u64,
    /// Of the last run.
    coverage: u64,
    corpus: u64,
    commit: String,
}

impl Sum {
    /// What is kept of a target's runs; nothing is kept of one that never ran.
    pub(super) fn of(target: &Target) -> Result<Self> {
        let path = target.runs();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let mut sum = Self::default();
        for (number, line) in text.lines().enumerate() {
            sum.add(line)
                .with_context(|| format!("{}, line {}: no run", path.display(), number + 1))?;
        }
        Ok(sum)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let run: Value = serde_json::from_str(line).ok()?;
        let count = |name: &str| run[name].as_u64();
        self.spent += Duration::from_millis(count("cpu_ms")?);
        self.executions += count("executions")?;
        self.crashes += u64::from(!run.get("crash")?.is_null());
        (self.coverage, self.corpus) = (count("coverage")?, count("corpus")?);
        self.commit = run["commit"].as_str()?.to_owned();
        Some(())
    }

    fn cells(&self, label: &str) -> Vec<String> {
        let (coverage, corpus) = (self.coverage.to_string(), self.corpus.to_string());
        let commit = match self.commit.as_str() {
            "" => "never run",
            commit => commit,
        };
        let mut cells = vec![label.to_owned(), time(self.spent)];
        cells.extend(counts(self.executions, self.spent));
        cells.extend([
            coverage,
            corpus,
            self.crashes.to_string(),
            commit.to_owned(),
        ]);
        cells
    }

    pub(super) fn data(&self) -> Value {
        json!({
            "cpu_s": self.spent.as_secs(),
            "executions": self.executions,
            "crashes": self.crashes,
            "commit": self.commit,
        })
    }
}

/// Hours and minutes.
fn time(spent: Duration) -> String {
    let minutes = spent.as_secs() / 60;
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

/// Executions, and how many in a second on a CPU.
fn counts(executions: u64, spent: Duration) -> [String; 2] {
    let rate = executions.checked_div(spent.as_secs());
    [
        executions.to_string(),
        rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
    ]
}

/// Adds a piece of a run.
pub(super) fn add(target: &Target, outcome: &Outcome, commit: &str) -> Result<()> {
    let path = target.runs();
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let run = line(outcome, commit);
    file.write_all(run.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

fn line(outcome: &Outcome, commit: &str) -> String {
    let run = json!({
        "commit": commit,
        "cpu_ms": u64::try_from(outcome.cpu.as_millis()).unwrap_or(u64::MAX),
        "executions": outcome.executions,
        "coverage": outcome.coverage,
        "corpus": outcome.corpus,
        "crash": outcome.crash.as_ref().map(|crash| &crash.what),
    });
    format!("{run}\n")
}

/// The sums as cells: a head, a row for each, and all of them together.
pub(super) fn rows(sums: &[(String, Sum)]) -> Vec<Vec<String>> {
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(sums.iter().map(|(label, sum)| sum.cells(label)));
    let spent = sums.iter().map(|(_, sum)| sum.spent).sum();
    let executions = sums.iter().map(|(_, sum)| sum.executions).sum();
    let crashes: u64 = sums.iter().map(|(_, sum)| sum.crashes).sum();
    let mut all = vec![format!("all {}", sums.len()), time(spent)];
    all.extend(counts(executions, spent));
    all.extend(["", "", &crashes.to_string(), ""].map(str::to_owned));
    rows.push(all);
    rows
}

/// Writes the page of the checkout.
pub(super) fn write(root: &Path, sums: &[(String, Sum)]) -> Result<()> {
    let path = root.join(PAGE);
    fs::write(&path, page(sums)).with_context(|| format!("write {}", path.display()))
}

fn page(sums: &[(String, Sum)]) -> String {
    let lines = table::markdown(&rows(sums)).join("\n");
    let had = sums.iter().filter(|(_, sum)| sum.spent >= HOUR).count();
    let all = sums.len();
    format!("{WORDS}\nEach is to have an hour on a CPU; {had} of {all} have had it.\n\n{lines}\n")
}

#[cfg(test)]
mod tests {
    use super::{super::session::Crash, *};

    fn outcome(seconds: u64, executions: u64, crash: Option<&str>) -> Outcome {
        Outcome {
            executions,
            cpu: Duration::from_secs(seconds),
            coverage: 7,
            corpus: 3,
            crash: crash.map(|what| Crash {
                what: what.to_owned(),
                input: "crash-1".to_owned(),
            }),
        }
    }

    #[test]
    fn runs_add_up_and_the_last_says_how_far_it_got() {
        let mut sum = Sum::default();
        for run in [
            outcome(60, 1000, None),
            Outcome {
                coverage: 9,
                ..outcome(120, 500, Some("deadly signal"))
            },
        ] {
            let line = line(&run, "abc");
            sum.add(&line).expect("a run");
        }
        assert_eq!((sum.spent.as_secs(), sum.executions), (180, 1500));
        assert_eq!((sum.crashes, sum.coverage), (1, 9));
        let cells = ["a/b", "0 h 03 min", "1500", "8", "9", "3", "1", "abc"];
        assert_eq!(sum.cells("a/b"), cells);
        let long = Sum {
            spent: HOUR,
            ..Sum::default()
        };
        let page = page(&[
            ("a/b".to_owned(), sum),
            ("a/c".to_owned(), Sum::default()),
            ("a/d".to_owned(), long),
        ]);
        assert!(
            page.contains("| a/c | 0 h 00 min | 0 | - | 0 | 0 | 0 | never run |"),
            "{page}"
        );
        assert!(page.contains("| all 3 | 1 h 03 min | 1500 | 0 |"), "{page}");
        assert!(page.contains("; 1 of 3 have had it."), "{page}");
    }

    #[test]
    fn half_a_line_is_no_run() {
        let whole = line(&outcome(1, 1, None), "abc");
        let half = &whole[..whole.len() / 2];
        assert!(Sum::default().add(half).is_none());
        assert!(Sum::default().add("{}").is_none());
        assert!(Sum::default().add(&whole).is_some());
    }

    #[test]
    fn a_targets_runs_are_kept_beside_its_corpus() {
        let folder = std::env::temp_dir().join(format!("seed-runs-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let target = Target::kept_in("a", "b", &folder);
        assert_eq!(Sum::of(&target).expect("no runs"), Sum::default());
        for _ in 0..2 {
            add(&target, &outcome(30, 10, None), "abc").expect("added");
        }
        let sum = Sum::of(&target).expect("two runs");
        assert_eq!((sum.spent.as_secs(), sum.executions), (60, 20));
        fs::write(target.runs(), "{\"cpu_ms\":1").expect("cut off");
        let error = Sum::of(&target).expect_err("half a line");
        assert!(error.to_string().ends_with("line 1: no run"), "{error}");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
