//! `cargo xtask test [vm FILTER]`: everything that CI runs, step by step, to the first step that fails.
//!
//! Order: what is quick to say no comes first; the guest is built and booted last. A test that cannot run here
//! is a skip with its reason ([`crate::report`]); a skip that [`EXPECTED_SKIPS`] does not know fails the run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    image, licences, nix, programs,
    report::{self, Tally},
    setup,
    util::{self, Places, print, say},
};

/// Reasons that are all right, by a part of their text, and why they are.
const EXPECTED_SKIPS: &[(&str, &str)] = &[
    (
        "fetch-peers.sh",
        "peers to compare with come from the network, and the network may not have them",
    ),
    ("needs root", "crate tests run as whoever calls"),
    (NEEDS_SYSTEMD, "a later step takes these tests to a systemd"),
    (NEEDS_GUEST, "a later step gives these tests a guest's root"),
    (
        "CAP_SYS_RESOURCE",
        "containers often run without it, also as root",
    ),
    (
        "cargo-deny is not installed",
        "building it takes longer than all of ours; licences and sources are looked at all the same",
    ),
    (
        "NIXPKGS",
        "evaluating all of NixOS takes minutes and a nixpkgs of the caller's choice",
    ),
    (
        "no git checkout",
        "an unpacked archive has no tree to be clean",
    ),
];
/// What the agent's tests say without a systemd; the step [`agent_with_systemd`] gives them one.
const NEEDS_SYSTEMD: &str = "systemd is not PID 1";
/// What the journal's tests say without a guest's root; the step [`journal_with_guest`] gives them one.
const NEEDS_GUEST: &str = "names no guest's root";
/// The crate whose tree shall stay small, since it is in every guest.
const AGENT: &str = "seed-agent";
/// What the VM cases read (see tests/harness/lab.rs).
const VM_VARIABLES: [&str; 2] = ["SEED_TEST_BIN", "SEED_TEST_GUEST"];

/// What to run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum What {
    Everything,
    /// The VM cases whose name contains this.
    Vm(String),
}

/// A step: its name for the summary, and what it does.
type Step = (&'static str, fn(&mut Run<'_>) -> Result<Tally>);

const WITH_SYSTEMD: &str = "agent, systemd";
const WITH_GUEST: &str = "journal, guest";
const STEPS: &[Step] = &[
    ("set-up", set_up),
    ("format", format),
    ("lints", lints),
    ("documentation", documentation),
    ("licences", licences),
    ("Nix files", nix_files),
    ("crate tests", crate_tests),
    ("agent's tree", agents_tree),
    ("guest", guest),
    (WITH_SYSTEMD, agent_with_systemd),
    (WITH_GUEST, journal_with_guest),
    ("VM cases", vm_cases),
    ("clean tree", clean_tree),
];
const VM_STEPS: &[Step] = &[("set-up", set_up), ("guest", guest), ("VM cases", vm_cases)];

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
        tree: tree(places),
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
        match expected(reason) {
            Some(why) => print(&format!("skipped: {name}: {reason} (allowed: {why})"))?,
            None => print(&format!(
                "skipped, and that was not expected: {name}: {reason}"
            ))?,
        }
    }
    let unexpected = total.skipped.values().filter(|r| expected(r).is_none());
    let unexpected = unexpected.count();
    if unexpected > 0 {
        print(
            "a skip must be known to EXPECTED_SKIPS in xtask/src/test.rs; each other one counts as failed",
        )?;
    }
    let failed = total.failed + unexpected;
    print(&format!(
        "{} passed, {failed} failed, {} skipped",
        total.passed,
        total.skipped.len()
    ))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn expected(reason: &str) -> Option<&'static str> {
    let known = EXPECTED_SKIPS
        .iter()
        .find(|(part, _)| reason.contains(part));
    known.map(|(_, why)| *why)
}

/// cargo with plain output, in the checkout.
fn cargo(places: &Places, args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(args)
        .current_dir(&places.root)
        .env("CARGO_TERM_COLOR", "never")
        .env("TERM", "dumb")
        // The message and its place say enough in a log.
        .env("RUST_BACKTRACE", "0")
        .env("PATH", places.path_variable());
    cargo
}

fn set_up(run: &mut Run<'_>) -> Result<Tally> {
    setup::run(run.places, setup::Need::Test)?;
    Ok(Tally::one())
}

fn format(run: &mut Run<'_>) -> Result<Tally> {
    let mut cargo = cargo(run.places, &["fmt", "--all", "--check"]);
    util::step(run.places, "cargo fmt", &mut cargo)?;
    Ok(Tally::one())
}

fn lints(run: &mut Run<'_>) -> Result<Tally> {
    let args = "clippy --locked --workspace --features age-tpm/age --all-targets -- -D warnings";
    let mut cargo = cargo(run.places, &args.split(' ').collect::<Vec<_>>());
    util::step(run.places, "cargo clippy", &mut cargo)?;
    Ok(Tally::one())
}

fn documentation(run: &mut Run<'_>) -> Result<Tally> {
    // Private items too: module docs are maps for whoever works here, and link to them.
    let args = "doc --locked --workspace --features age-tpm/age --no-deps --document-private-items";
    let mut cargo = cargo(run.places, &args.split(' ').collect::<Vec<_>>());
    cargo.env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private_intra_doc_links",
    );
    util::step(run.places, "cargo doc", &mut cargo)?;
    Ok(Tally::one())
}

/// By cargo-deny where it is installed. It is not installed by us: see [`EXPECTED_SKIPS`].
fn licences(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    if util::which("cargo-deny", &places.path_variable()).is_some() {
        let args = "deny --all-features check licenses bans sources";
        let mut cargo = cargo(places, &args.split(' ').collect::<Vec<_>>());
        util::step(places, "cargo deny", &mut cargo)?;
        return Ok(Tally::one());
    }
    let crates = licences::check(places)?;
    say(&format!(
        "  licences and sources of {crates} crates: as deny.toml allows"
    ));
    let mut tally = Tally::one();
    tally.add(Tally::skip("cargo deny", "cargo-deny is not installed"));
    Ok(tally)
}

fn nix_files(run: &mut Run<'_>) -> Result<Tally> {
    nix::check(run.places)
}

fn crate_tests(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let label = "cargo test";
    let args =
        "test --locked --workspace --features age-tpm/age --exclude seed-tests --no-fail-fast";
    let mut cargo = cargo(places, &args.split(' ').collect::<Vec<_>>());
    cargo.envs(peers(places));
    test_step(places, label, &mut cargo)
}

/// Runs test programs; what they printed, counted, also when they failed.
fn test_step(places: &Places, label: &str, command: &mut Command) -> Result<Tally> {
    let shown = |line: &str| line.contains("SKIPPED ") || line.ends_with(" ... FAILED");
    counted(places, label, command, &shown)
}

/// As [`test_step`], with a say in what is shown as it comes.
fn counted(
    places: &Places,
    label: &str,
    command: &mut Command,
    shown: &dyn Fn(&str) -> bool,
) -> Result<Tally> {
    let result = util::step_showing(places, label, command, shown);
    let log = util::step_log(places, label);
    let text = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let mut tally = Tally::parse(&text);
    if let Err(error) = result {
        let failures = report::failures(&text);
        failures.iter().for_each(|line| say(&format!("    {line}")));
        if tally.failed == 0 {
            // It did not build, or a program died before its closing line.
            util::show_tail(places, label);
            tally.failed = 1;
        }
        say(&format!("  error: {error:#}"));
    }
    let ran = tally.passed + tally.failed + tally.skipped.len();
    ensure!(ran > 0, "no test ran: see {}", log.display());
    Ok(tally)
}

/// Variables that name the programs to compare with, fetched when they are not there.
pub(crate) fn peers(places: &Places) -> Vec<(String, String)> {
    let script = places.root.join("age-tpm/tests/fetch-peers.sh");
    let mut command = Command::new("sh");
    command.arg(&script);
    match image::mirror() {
        Ok(mirror) => command.env("SEED_DEBIAN_MIRROR", mirror),
        Err(_) => &mut command,
    };
    let label = "peers to compare with";
    if let Err(error) = util::step(places, label, &mut command) {
        say(&format!(
            "  not fetched, tests that need them are skipped: {error:#}"
        ));
        return Vec::new();
    }
    let text = fs::read_to_string(util::step_log(places, label)).unwrap_or_default();
    let variables = text.lines().filter_map(|line| line.split_once('='));
    variables
        .filter(|(name, _)| name.starts_with("SEED_"))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Prints how many crates the agent is made of.
fn agents_tree(run: &mut Run<'_>) -> Result<Tally> {
    let args = [
        "tree",
        "--locked",
        "--package",
        AGENT,
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let text = util::read(&mut cargo(run.places, &args))?;
    let mut crates: Vec<_> = text.lines().map(|line| line.replace(" (*)", "")).collect();
    crates.sort();
    crates.dedup();
    say(&format!(
        "  {} crates in the normal tree of {AGENT}",
        crates.len()
    ));
    Ok(Tally::default())
}

fn guest(run: &mut Run<'_>) -> Result<Tally> {
    programs::build(run.places)?;
    run.guest = Some(image::build(run.places)?);
    Ok(Tally::one())
}

/// The agent's tests that need a systemd. Their program takes itself into a container on the guest's root,
/// for which it needs root.
fn agent_with_systemd(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let program = test_program(places, "guest")?;
    let guest = guest.to_string_lossy();
    let mut command = util::privileged(&program, &[(VM_VARIABLES[1], &*guest)]);
    command.arg("container").current_dir(&places.root);
    test_step(places, WITH_SYSTEMD, &mut command)
}

/// The journal's whole way in a container on the guest's root, one test at a time: each writes as fast as it can.
fn journal_with_guest(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let program = test_program(places, "journal")?;
    let guest = guest.to_string_lossy();
    let mut command = util::privileged(&program, &[(VM_VARIABLES[1], &*guest)]);
    command.arg("--test-threads=1").current_dir(&places.root);
    test_step(places, WITH_GUEST, &mut command)
}

/// The cases need root (mounts, namespaces), so their program is run by itself, not by cargo.
fn vm_cases(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let program = test_program(places, "vm")?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let search = places.path_variable();
    let (bin, guest) = (path(&places.programs()), path(guest));
    let mut variables = vec![
        (VM_VARIABLES[0], bin.as_str()),
        (VM_VARIABLES[1], guest.as_str()),
        ("PATH", search.as_str()),
    ];
    let accel = std::env::var("SEED_TEST_ACCEL").unwrap_or_default();
    if !accel.is_empty() {
        variables.push(("SEED_TEST_ACCEL", &accel));
    }
    let mut command = util::privileged(&program, &variables);
    command.args(&run.filter).current_dir(&places.root);
    // Each case takes seconds, so each is shown; a failed one says what is needed to understand it.
    counted(places, "VM cases", &mut command, &|_| true)
}

/// Builds a test program of the workspace, and finds it in what cargo says.
fn test_program(places: &Places, name: &str) -> Result<PathBuf> {
    let label = format!("cargo test --no-run ({name})");
    // Selected as for the crate tests, so that dependencies have the features that they have been built with.
    let selected = match name {
        "vm" => "--package seed-tests",
        _ => "--workspace --exclude seed-tests",
    };
    let args = format!("test --locked {selected} --test {name} --no-run --message-format json");
    let mut cargo = cargo(places, &args.split(' ').collect::<Vec<_>>());
    util::step(places, &label, &mut cargo)?;
    let text = fs::read_to_string(util::step_log(places, &label))?;
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    executable(messages, name).with_context(|| format!("cargo built no test program {name}"))
}

fn executable(mut messages: impl Iterator<Item = Value>, name: &str) -> Option<PathBuf> {
    messages.find_map(|message| {
        let ours = message["target"]["name"] == name && message["target"]["kind"][0] == "test";
        let path = message["executable"].as_str().filter(|_| ours)?;
        Some(PathBuf::from(path))
    })
}

/// `git status`, or nothing where there is no git checkout.
fn tree(places: &Places) -> Option<String> {
    let mut git = Command::new("git");
    git.args(["status", "--porcelain"])
        .current_dir(&places.root);
    util::read(&mut git).ok()
}

fn clean_tree(run: &mut Run<'_>) -> Result<Tally> {
    let (Some(before), Some(after)) = (&run.tree, tree(run.places)) else {
        return Ok(Tally::skip("clean tree", "no git checkout, or no git"));
    };
    let new: Vec<_> = after
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .collect();
    ensure!(
        new.is_empty(),
        "the run changed the checkout:\n{}",
        new.join("\n")
    );
    Ok(Tally::one())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_expected_by_its_reason_only() {
        assert!(expected("a private mount namespace needs root").is_some());
        assert!(expected("swtpm is not installed").is_none());
        assert!(expected("the instance did not boot").is_none());
    }

    #[test]
    fn the_vm_program_is_found_among_cargos_messages() {
        let messages = [
            serde_json::json!({ "reason": "build-script-executed" }),
            serde_json::json!({ "target": { "name": "vm", "kind": ["lib"] }, "executable": "/no" }),
            serde_json::json!({ "target": { "name": "vm", "kind": ["test"] }, "executable": "/vm-1" }),
        ];
        assert_eq!(
            executable(messages.into_iter(), "vm"),
            Some(PathBuf::from("/vm-1"))
        );
        assert_eq!(executable(std::iter::empty(), "vm"), None);
    }

    #[test]
    fn times_are_minutes_and_seconds() {
        assert_eq!(time(Duration::from_secs(605)), "10:05");
    }
}
