//! What each step of `cargo xtask test` does: runs programs, and counts what they printed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Run, WITH_GUEST, WITH_SYSTEMD};
use crate::{
    chaos, containerd, documents, image, nix, programs,
    report::{self, Tally},
    setup,
    supply::{self, libraries, licences},
    util::{self, Places, say},
};

/// The crate whose tree shall stay small, since it is in every guest.
const AGENT: &str = "seed-agent";
/// The most that it may have.
const MAX_CRATES: usize = 150;
/// What the crate tests select. Always the same, since features, and so what is built, depend on it.
const CRATES: &str = "--workspace --exclude seed-tests --features age-tpm/age";
/// What the VM cases read (see tests/harness/lab.rs).
const VM_VARIABLES: [&str; 2] = ["SEED_TEST_BIN", "SEED_TEST_GUEST"];

/// What the containerd cases read besides (see tests/harness/containerd/mod.rs).
const CONTAINERD_VARIABLE: &str = "SEED_TEST_CONTAINERD";

/// What proptest's random cases come from. A run tries the same ones each time: whether it passes says something about
/// the change then, not about luck. `cargo test` without it tries others.
const SEED_OF_PROPERTIES: &str = "PROPTEST_RNG_SEED";

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

pub(super) fn set_up(run: &mut Run<'_>) -> Result<Tally> {
    setup::run(run.places, setup::Need::Test)?;
    Ok(Tally::one())
}

pub(super) fn format(run: &mut Run<'_>) -> Result<Tally> {
    let mut cargo = cargo(run.places, &["fmt", "--all", "--check"]);
    util::step(run.places, "cargo fmt", &mut cargo)?;
    Ok(Tally::one())
}

pub(super) fn lints(run: &mut Run<'_>) -> Result<Tally> {
    let args = "clippy --locked --workspace --features age-tpm/age --all-targets -- -D warnings";
    let mut cargo = cargo(run.places, &args.split(' ').collect::<Vec<_>>());
    util::step(run.places, "cargo clippy", &mut cargo)?;
    Ok(Tally::one())
}

pub(super) fn documentation(run: &mut Run<'_>) -> Result<Tally> {
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

pub(super) fn licences(run: &mut Run<'_>) -> Result<Tally> {
    licences::check(run.places)
}

pub(super) fn nix_files(run: &mut Run<'_>) -> Result<Tally> {
    nix::check(run.places)
}

pub(super) fn crate_tests(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let label = "cargo test";
    let args = format!("test --locked {CRATES} --no-fail-fast");
    let mut cargo = cargo(places, &args.split(' ').collect::<Vec<_>>());
    cargo.envs(peers(places)).env(SEED_OF_PROPERTIES, "1");
    let mut tally = test_step(places, label, &mut cargo)?;
    // A feature that nothing else turns on, without the one that the agent has.
    let args = "test --locked -p seed-journal --features xz --lib --test fixtures";
    let mut cargo = self::cargo(places, &args.split(' ').collect::<Vec<_>>());
    cargo.env(SEED_OF_PROPERTIES, "1");
    tally.add(test_step(
        places,
        "cargo test (seed-journal, xz)",
        &mut cargo,
    )?);
    Ok(tally)
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

/// How many crates the agent is made of. More than it may have is a failure.
pub(super) fn agents_tree(run: &mut Run<'_>) -> Result<Tally> {
    let crates = agents_crates(run.places)?;
    say(&format!("  {crates} crates in the normal tree of {AGENT}"));
    ensure!(
        crates <= MAX_CRATES,
        "{AGENT} has {crates} crates in its normal tree, more than {MAX_CRATES}"
    );
    Ok(Tally::one())
}

/// The crates in the agent's normal tree, itself included.
pub(crate) fn agents_crates(places: &Places) -> Result<usize> {
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
    let text = util::read(&mut cargo(places, &args))?;
    let mut crates: Vec<_> = text.lines().map(|line| line.replace(" (*)", "")).collect();
    crates.sort();
    crates.dedup();
    Ok(crates.len())
}

pub(super) fn guest(run: &mut Run<'_>) -> Result<Tally> {
    programs::build(run.places)?;
    run.guest = Some(image::build(run.places)?);
    Ok(Tally::one())
}

/// Documents whose commands are run need an instance, and so root.
pub(super) fn documents(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let mut tally = documents::check(places)?;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let mut command = documents::command(places, guest)?;
    tally.add(counted(places, "documents", &mut command, &|_| true)?);
    Ok(tally)
}

/// Ten minutes of things that go wrong, always in the same order, and longer where the machine is too slow for all of them.
pub(super) fn chaos(run: &mut Run<'_>) -> Result<Tally> {
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let mut command = chaos::Options::of_the_test().command(run.places, guest)?;
    util::step_showing(run.places, "chaos", &mut command, &|_| true)?;
    Ok(Tally::one())
}

/// What our programs want from the system that they run on.
pub(super) fn libraries(run: &mut Run<'_>) -> Result<Tally> {
    let mut tally = Tally::default();
    for (program, _) in supply::PROGRAMS {
        let wants = libraries::check(&run.places.programs().join(program))?;
        say(&format!("  {program}: {}", wants.join(", ")));
        tally.add(Tally::one());
    }
    Ok(tally)
}

/// The agent's tests that need a systemd. Their program takes itself into a container on the guest's root,
/// for which it needs root.
pub(super) fn agent_with_systemd(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let program = test_program(places, "guest")?;
    let guest = guest.to_string_lossy();
    let mut command = util::privileged(&program, &[(VM_VARIABLES[1], &*guest)]);
    command.arg("container").current_dir(&places.root);
    test_step(places, WITH_SYSTEMD, &mut command)
}

/// The journal's whole way in a container on the guest's root, three tests at a time: each writes as fast as it can.
pub(super) fn journal_with_guest(run: &mut Run<'_>) -> Result<Tally> {
    let places = run.places;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let guest = guest.to_string_lossy();
    let mut tally = Tally::default();
    // The reader alone, then the whole way to the host.
    for name in ["live", "journal"] {
        let program = test_program(places, name)?;
        let mut command = util::privileged(&program, &[(VM_VARIABLES[1], &*guest)]);
        command.arg("--test-threads=3").current_dir(&places.root);
        tally.add(test_step(
            places,
            &format!("{WITH_GUEST}: {name}"),
            &mut command,
        )?);
    }
    Ok(tally)
}

pub(super) fn vm_cases(run: &mut Run<'_>) -> Result<Tally> {
    cases(run, "vm", "VM cases", &[])
}

/// Lives and deaths over a stub VM.
pub(super) fn life(run: &mut Run<'_>) -> Result<Tally> {
    cases(run, "life", "life cases", &[])
}

/// The shim under containerd of three releases.
pub(super) fn containerd(run: &mut Run<'_>) -> Result<Tally> {
    let folder = containerd::folder(run.places);
    let folder = folder.to_string_lossy();
    let variable = [(CONTAINERD_VARIABLE, &*folder)];
    let variable = if fs::exists(&*folder)? {
        &variable[..]
    } else {
        &[]
    };
    cases(run, "containerd", "containerd cases", variable)
}

/// The cases need root (mounts, namespaces), so their program is run by itself, not by cargo.
fn cases(run: &Run<'_>, name: &str, label: &str, more: &[(&str, &str)]) -> Result<Tally> {
    let places = run.places;
    let guest = run.guest.as_deref().context("there is no guest root")?;
    let program = test_program(places, name)?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let search = places.path_variable();
    let (bin, guest) = (path(&places.programs()), path(guest));
    let mut variables = vec![
        (VM_VARIABLES[0], bin.as_str()),
        (VM_VARIABLES[1], guest.as_str()),
        ("PATH", search.as_str()),
    ];
    variables.extend(more);
    let accel = std::env::var("SEED_TEST_ACCEL").unwrap_or_default();
    if !accel.is_empty() {
        variables.push(("SEED_TEST_ACCEL", &accel));
    }
    let mut command = util::privileged(&program, &variables);
    command.args(&run.filter).current_dir(&places.root);
    // Each case takes seconds, so each is shown; a failed one says what is needed to understand it.
    counted(places, label, &mut command, &|_| true)
}

/// Builds a test program of the workspace, and finds it in what cargo says.
fn test_program(places: &Places, name: &str) -> Result<PathBuf> {
    let label = format!("cargo test --no-run ({name})");
    let selected = match name {
        "vm" | "containerd" | "life" => "--package seed-tests",
        _ => CRATES,
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
pub(super) fn tree(places: &Places) -> Option<String> {
    let mut git = Command::new("git");
    git.args(["status", "--porcelain"])
        .current_dir(&places.root);
    util::read(&mut git).ok()
}

pub(super) fn clean_tree(run: &mut Run<'_>) -> Result<Tally> {
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
}
