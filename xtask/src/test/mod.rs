//! `cargo xtask test [vm FILTER]`: everything that CI runs, step by step, to the first step that fails.
//!
//! Order: what is quick to say no comes first; the guest is built and booted last. A test that cannot run here
//! is a skip with its reason ([`crate::report`]); a skip that [`skips`] does not know fails the run.
//!
//! Here is the order and the summary; what each step does is in [`steps`].

mod skips;
mod steps;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    report::Tally,
    util::{self, Places, print, say},
};
use skips::{NEEDS_GUEST, NEEDS_SYSTEMD};

pub(crate) use steps::{agents_crates, peers};

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    Everything,
    /// The VM cases whose name contains this.
    Vm(String),
}

/// A step: its name for the summary, and what it does.
type Step = (&'static str, fn(&mut Run<'_>) -> Result<Tally>);

/// These two make up for skips of "crate tests".
const WITH_SYSTEMD: &str = "agent, systemd";
const WITH_GUEST: &str = "journal, guest";
const STEPS: &[Step] = &[
    ("set-up", steps::set_up),
    ("format", steps::format),
    ("lints", steps::lints),
    ("documentation", steps::documentation),
    ("licences", steps::licences),
    ("Nix files", steps::nix_files),
    ("crate tests", steps::crate_tests),
    ("agent's tree", steps::agents_tree),
    ("guest", steps::guest),
    ("libraries", steps::libraries),
    (WITH_SYSTEMD, steps::agent_with_systemd),
    (WITH_GUEST, steps::journal_with_guest),
    ("life", steps::life),
    ("VM cases", steps::vm_cases),
    ("containerd", steps::containerd),
    ("documents", steps::documents),
    ("chaos", steps::chaos),
    ("clean tree", steps::clean_tree),
];
const VM_STEPS: &[Step] = &[
    ("set-up", steps::set_up),
    ("guest", steps::guest),
    ("VM cases", steps::vm_cases),
];

/// What the steps share.
struct Run<'a> {
    places: &'a Places,
    filter: Option<String>,
    guest: Option<PathBuf>,
    /// `git status` before anything ran.
    tree: Option<String>,
}

/// One line of the summary.
struct Done {
    name: &'static str,
    tally: Tally,
    took: Duration,
}

/// Runs the steps. The last line is `N passed, N failed, N skipped`.
pub(crate) fn run(places: &Places, what: What) -> Result<ExitCode> {
    let (steps, filter) = match what {
        What::Everything => (STEPS, None),
        What::Vm(filter) => (VM_STEPS, Some(filter)),
    };
    let mut run = Run {
        places,
        filter,
        guest: None,
        tree: steps::tree(places),
    };
    let start = Instant::now();
    let mut done = Vec::new();
    for (name, step) in steps {
        say(name);
        let start = Instant::now();
        let tally = step(&mut run).unwrap_or_else(|error| {
            say(&format!("  error: {error:#}"));
            Tally {
                failed: 1,
                ..Tally::default()
            }
        });
        let failed = tally.failed > 0;
        let took = start.elapsed();
        done.push(Done { name, tally, took });
        if failed {
            break;
        }
    }
    summary(&done, start.elapsed())
}

/// The table, the skips, and the counts.
fn summary(done: &[Done], took: Duration) -> Result<ExitCode> {
    print("")?;
    print("step            passed  failed  skipped     time")?;
    let mut total = Tally::default();
    for step in done {
        let Tally {
            passed,
            failed,
            skipped,
        } = &step.tally;
        print(&format!(
            "{:<14} {passed:>7} {failed:>7} {:>8} {:>8}",
            step.name,
            skipped.len(),
            time(step.took)
        ))?;
        total.add(step.tally.clone());
        let made_up_for = match step.name {
            WITH_SYSTEMD => NEEDS_SYSTEMD,
            WITH_GUEST => NEEDS_GUEST,
            _ => continue,
        };
        total
            .skipped
            .retain(|_, reason| !reason.contains(made_up_for));
    }
    print(&format!(
        "{:<14} {:>7} {:>7} {:>8} {:>8}",
        "all",
        total.passed,
        total.failed,
        total.skipped.len(),
        time(took)
    ))?;
    for (name, reason) in &total.skipped {
        match skips::expected(reason) {
            Some(why) => print(&format!("skipped: {name}: {reason} (allowed: {why})"))?,
            None => print(&format!(
                "skipped, and that was not expected: {name}: {reason}"
            ))?,
        }
    }
    let unexpected = total
        .skipped
        .values()
        .filter(|r| skips::expected(r).is_none());
    let unexpected = unexpected.count();
    if unexpected > 0 {
        print("a skip must be known to xtask/src/test/skips.rs; each other one counts as failed")?;
    }
    let failed = total.failed + unexpected;
    print(&format!(
        "{} passed, {failed} failed, {} skipped",
        total.passed,
        total.skipped.len()
    ))?;
    Ok(util::code(failed == 0))
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(time(Duration::from_secs(605)), "10:05");
    }
}
