//! Runs named cases one after another and prints a line for each. A case that cannot run is a skip
//! with its reason; `cargo xtask test` fails on a skip that it did not expect.

use std::{env, process::ExitCode, time::Instant};

use anyhow::Result;

/// Counts and the filter from the command line (a part of a case's name).
#[derive(Debug, Default)]
pub struct Runner {
    filter: Option<String>,
    list: bool,
    passed: usize,
    failed: Vec<String>,
    skipped: usize,
}

impl Runner {
    /// Understands what `cargo test` passes on: a filter, `--list`, and ignores other flags.
    pub fn from_args() -> Self {
        let mut runner = Self::default();
        for arg in env::args().skip(1) {
            match arg.as_str() {
                "--list" => runner.list = true,
                flag if flag.starts_with('-') => {}
                filter => runner.filter = Some(filter.to_owned()),
            }
        }
        runner
    }

    /// Whether any of these cases would run: spares a boot that nobody asked for.
    pub fn wants(&self, names: &[&str]) -> bool {
        !self.list && names.iter().any(|name| self.matches(name))
    }

    fn matches(&self, name: &str) -> bool {
        self.filter
            .as_deref()
            .is_none_or(|filter| name.contains(filter))
    }

    /// Runs one case. The answer says whether it passed or was not asked for.
    pub fn case(&mut self, name: &str, run: impl FnOnce() -> Result<()>) -> bool {
        if self.list {
            println!("{name}: test");
            return true;
        }
        if !self.matches(name) {
            return true;
        }
        self.always(name, run)
    }

    /// Runs one case whatever the filter says: others stand on it.
    pub fn always(&mut self, name: &str, run: impl FnOnce() -> Result<()>) -> bool {
        let start = Instant::now();
        let result = run();
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("test {name} ... ok ({seconds:.1} s)");
                true
            }
            Err(error) => {
                println!("test {name} ... FAILED ({seconds:.1} s)\n  {error:#}");
                self.failed.push(name.to_owned());
                false
            }
        }
    }

    /// Prints what helps to understand a case that failed.
    pub fn note(&self, text: &str) {
        println!("{text}");
    }

    /// Notes that a case cannot run here, and why.
    pub fn skip(&mut self, name: &str, reason: &str) {
        if self.list {
            println!("{name}: test");
        } else if self.matches(name) {
            self.skipped += 1;
            println!("test {name} ... SKIPPED ({reason})");
        }
    }

    /// The closing line, and the exit code.
    pub fn finish(self) -> ExitCode {
        if self.list {
            return ExitCode::SUCCESS;
        }
        if !self.failed.is_empty() {
            println!("failed: {}", self.failed.join(", "));
        }
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped
        );
        if self.failed.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
