//! `cargo xtask fuzz [--minutes N] [TARGET...]`: every cargo-fuzz target of the checkout, or those named, each for so many
//! minutes, as many at once as there are cores.
//!
//! A fuzzed crate has a folder `fuzz/` that is a workspace of its own; [`targets`] finds them, builds them, and knows their
//! folders; [`session`] runs one and reads what libFuzzer printed. The stable compiler is told to take the unstable flags
//! that a sanitizer needs (`RUSTC_BOOTSTRAP=1`): nothing of what ships is built in this way.
//!
//! Inputs that reach something new are kept in the cache from run to run. An input that crashes a target is kept beside
//! them and named; put into `fuzz/corpus/<target>/` it is read by the crate's own tests from then on.

mod session;
mod targets;

use std::{
    collections::VecDeque,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    setup, table,
    util::{Places, print, say},
};
use session::Outcome;
use targets::Target;

/// How long each target runs unless told otherwise, and at most.
const MINUTES: u64 = 1;
const MAX_MINUTES: u64 = 24 * 60;

/// What the command line said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    minutes: u64,
    json: bool,
    /// Names, or parts of `crate/target`; none means all.
    wanted: Vec<String>,
}

impl Options {
    /// From the rest of the command line.
    pub(crate) fn parse(parser: &mut lexopt::Parser) -> Result<Self> {
        use lexopt::prelude::*;
        let mut options = Self {
            minutes: MINUTES,
            json: false,
            wanted: Vec::new(),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("minutes") => options.minutes = parser.value()?.parse()?,
                Long("json") => options.json = true,
                Value(name) => options.wanted.push(name.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        ensure!(
            (1..=MAX_MINUTES).contains(&options.minutes),
            "--minutes {}: from 1 to {MAX_MINUTES}",
            options.minutes
        );
        Ok(options)
    }

    fn wants(&self, target: &Target) -> bool {
        let name = target.label();
        self.wanted.is_empty() || self.wanted.iter().any(|part| name.contains(part))
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
    setup::run(places, setup::Need::Fuzz)?;
    targets::build(places, &wanted)?;
    let outcomes = at_once(places, options, wanted)?;
    if options.json {
        let rows: Vec<Value> = outcomes.iter().map(|(t, o)| o.data(&t.label())).collect();
        print(&json!({ "minutes": options.minutes, "targets": rows }).to_string())?;
    } else {
        show(&outcomes)?;
    }
    let crashed = outcomes.iter().filter(|(_, o)| o.crash.is_some()).count();
    for (target, crash) in outcomes
        .iter()
        .filter_map(|(target, o)| Some((target, o.crash.as_ref()?)))
    {
        say(&format!("{} failed: {}", target.label(), crash.what));
        say(&format!("  input: {}", crash.input));
        say(&format!(
            "  again: {} {}",
            target.program.display(),
            crash.input
        ));
        say(&format!(
            "  once it is mended, keep it from coming back: copy the input into {}/, which the crate's tests read",
            target.committed().display()
        ));
    }
    Ok(if crashed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs them, as many at once as there are cores, in the order of their names.
fn at_once<'a>(
    places: &Places,
    options: &Options,
    wanted: Vec<&'a Target>,
) -> Result<Vec<(&'a Target, Outcome)>> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let limit = Duration::from_secs(options.minutes * 60);
    say(&format!(
        "{} targets, {} min each, {} at once",
        wanted.len(),
        options.minutes,
        workers.min(wanted.len())
    ));
    let queue = Mutex::new(VecDeque::from(wanted));
    let done = Mutex::new(Vec::new());
    let lock_failed = PoisonError::into_inner;
    let work = || -> Result<()> {
        loop {
            let next = queue.lock().unwrap_or_else(lock_failed).pop_front();
            let Some(target) = next else { return Ok(()) };
            let outcome = session::run(places, target, limit)?;
            say(&format!("  {}: {}", target.label(), outcome.line()));
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((target, outcome));
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| bail!("a worker of this command panicked"))
        })
    })?;
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(target, _)| target.label());
    Ok(done)
}

fn show(outcomes: &[(&Target, Outcome)]) -> Result<()> {
    let head = ["target", "executions", "per s", "coverage", "corpus", "end"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    cells.extend(outcomes.iter().map(|(target, outcome)| {
        let mut line = vec![target.label()];
        line.extend(outcome.cells());
        line
    }));
    table::aligned(&cells)
        .iter()
        .try_for_each(|line| print(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Options> {
        Options::parse(&mut lexopt::Parser::from_args(words))
    }

    #[test]
    fn a_target_is_named_by_a_part_of_crate_and_name() {
        let target = Target::named("age-tpm", "stanza");
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
    fn minutes_have_bounds() {
        assert_eq!(parsed(&["--minutes", "60"]).expect("an hour").minutes, 60);
        assert!(parsed(&["--minutes", "0"]).is_err());
        assert!(parsed(&["--minutes", "100000"]).is_err());
    }
}
