//! `cargo xtask fuzz [--minutes N] [--jobs N] [--page] [TARGET...]`: every cargo-fuzz target of the checkout, or those named, for so
//! many minutes each on average, as many at once as there are cores unless told otherwise.
//!
//! A fuzzed crate has a folder `fuzz/` that is a workspace of its own; [`targets`] finds them, builds them, and knows their
//! folders; [`turns`] shares the time out, [`session`] runs one and reads what libFuzzer printed. The stable compiler is told
//! to take the unstable flags that a sanitizer needs (`RUSTC_BOOTSTRAP=1`): nothing of what ships is built in this way.
//!
//! Inputs that reach something new are kept in the cache from run to run, and so is what the runs came to ([`ledger`]): hours
//! add up over days, and `--page` writes the sums to `docs/fuzzing.md`. An input that crashes a target is kept beside
//! them and named; put into `fuzz/corpus/<target>/` it is read by the crate's own tests from then on.

mod ledger;
mod session;
mod targets;
mod turns;

use std::{
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    setup, table,
    util::{self, Places, print, say},
};
use ledger::Sum;
use session::Outcome;
use targets::Target;
use turns::Turns;

/// How long each target runs unless told otherwise, and at most.
const MINUTES: u64 = 1;
const MAX_MINUTES: u64 = 24 * 60;
const MAX_JOBS: usize = 256;

/// What the command line said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// None runs nothing: the sums are shown.
    minutes: u64,
    /// As many at once as there are cores, unless told.
    jobs: Option<usize>,
    json: bool,
    page: bool,
    /// Names, or parts of `crate/target`; none means all.
    wanted: Vec<String>,
}

impl Options {
    /// From the rest of the command line.
    pub(crate) fn parse(parser: &mut lexopt::Parser) -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Self {
            minutes: MINUTES,
            jobs: None,
            json: false,
            page: false,
            wanted: Vec::new(),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("minutes") => options.minutes = parser.value()?.parse()?,
                Long("jobs") => options.jobs = Some(parser.value()?.parse()?),
                Long("json") => options.json = true,
                Long("page") => options.page = true,
                Value(name) => options.wanted.push(name.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        ensure!(
            options.minutes <= MAX_MINUTES,
            "--minutes {}: from 0 to {MAX_MINUTES}",
            options.minutes
        );
        if let Some(jobs) = options.jobs {
            ensure!(
                (1..=MAX_JOBS).contains(&jobs),
                "--jobs {jobs}: from 1 to {MAX_JOBS}"
            );
        }
        Ok(options)
    }

    fn wants(&self, target: &Target) -> bool {
        let name = target.label();
        self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(part))
    }

    fn jobs(&self) -> usize {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or_else(cores)
    }
}

/// Builds, runs, and prints a table. A crash is a failure.
pub(crate) fn run(places: &Places, options: &Options) -> Result<ExitCode> {
    let all = targets::find(places)?;
    let wanted: Vec<_> = all.iter().filter(|target| options.wants(target)).collect();
    if wanted.is_empty() {
        let names: Vec<_> = all.iter().map(Target::label).collect();
        bail!(
            "no fuzz target is named {}; there are: {}",
            options.wanted.join(" or "),
            names.join(", ")
        );
    }
    let crashed = if options.minutes > 0 {
        setup::run(places, setup::Need::Fuzz)?;
        targets::build(places, &wanted)?;
        at_once(places, options, &wanted)?
    } else {
        Vec::new()
    };
    let sums = |of: &[&Target]| -> Result<Vec<(String, Sum)>> {
        let sum = |target: &&Target| Ok((target.label(), Sum::of(target)?));
        of.iter().map(sum).collect()
    };
    let found = sums(&wanted)?;
    if options.json {
        let rows = found.iter().map(|(label, sum)| {
            let crash = crashed.iter().find(|(target, _)| target.label() == *label);
            let crash = crash.and_then(|(_, outcome)| outcome.crash.as_ref());
            let input = crash.map(|crash| crash.input.as_str());
            json!({ "name": label, "crash": input, "all_runs": sum.data() })
        });
        let rows: Vec<Value> = rows.collect();
        print(&json!({ "minutes": options.minutes, "targets": rows }).to_string())?;
    } else {
        table::aligned(&ledger::rows(&found))
            .iter()
            .try_for_each(|line| print(line))?;
    }
    if options.page {
        ledger::write(&places.root, &sums(&all.iter().collect::<Vec<_>>())?)?;
    }
    for (target, outcome) in &crashed {
        explain(target, outcome);
    }
    Ok(util::code(crashed.is_empty()))
}

/// What to do about a crash.
fn explain(target: &Target, outcome: &Outcome) {
    let Some(crash) = &outcome.crash else { return };
    let (label, program) = (target.label(), target.program.display());
    let (what, input) = (&crash.what, &crash.input);
    say(&format!("{label} failed: {what}"));
    say(&format!("  input: {input}"));
    say(&format!("  again: {program} {input}"));
    say(&format!(
        "  once it is mended, keep it from coming back: copy the input into {}/, which the crate's tests read",
        target.committed().display()
    ));
}

/// Runs them, several at once; those that crashed.
fn at_once<'a>(
    places: &Places,
    options: &Options,
    wanted: &[&'a Target],
) -> Result<Vec<(&'a Target, Outcome)>> {
    let workers = options.jobs().min(wanted.len());
    say(&format!(
        "{} targets, {} min each, {workers} at once; who has had least in earlier runs gets more",
        wanted.len(),
        options.minutes,
    ));
    let commit = util::commit(&places.root, &util::MEASURED)?;
    let spent = wanted.iter().map(|target| Ok(Sum::of(target)?.spent));
    let spent = spent.collect::<Result<Vec<_>>>()?;
    let each = Duration::from_secs(options.minutes * 60);
    let turns = Mutex::new(Turns::new(each, spent));
    let turns = || turns.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || -> Result<Vec<(&'a Target, Outcome)>> {
        let mut crashed = Vec::new();
        loop {
            let next = turns().next();
            let Some((at, piece)) = next else {
                return Ok(crashed);
            };
            let target = wanted[at];
            let outcome = session::run(places, target, piece)?;
            say(&format!("  {}: {}", target.label(), outcome.line()));
            ledger::add(target, &outcome, &commit)?;
            turns().back(at, outcome.cpu, outcome.crash.is_none());
            if outcome.crash.is_some() {
                crashed.push((target, outcome));
            }
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut crashed = Vec::new();
        for thread in threads {
            let ended = thread.join();
            crashed.extend(ended.unwrap_or_else(|_| bail!("a worker of this command panicked"))?);
        }
        Ok(crashed)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(words: &[&str]) -> Result<Options> {
        Options::parse(&mut lexopt::Parser::from_args(words))
    }

    #[test]
    fn a_target_is_named_by_a_part_of_crate_and_name() {
        let target = Target::kept_in("age-tpm", "stanza", Path::new(""));
        for (words, wanted) in [
            (&[][..], true),
            (&["stanza"], true),
            (&["age-tpm/"], true),
            (&["journal", "stan"], true),
            (&["journal"], false),
        ] {
            let options = parsed(words).expect("a command line");
            assert_eq!(options.wants(&target), wanted, "{words:?}");
        }
    }

    #[test]
    fn minutes_and_jobs_have_bounds() {
        assert_eq!(parsed(&["--minutes", "60"]).expect("an hour").minutes, 60);
        assert_eq!(parsed(&["--jobs", "1"]).expect("one").jobs(), 1);
        for wrong in [["--minutes", "100000"], ["--jobs", "0"]] {
            assert!(parsed(&wrong).is_err(), "{wrong:?}");
        }
    }
}
