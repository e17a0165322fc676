//! What goes wrong while a guest boots or runs: named, and nothing lost.

use std::fs;

use anyhow::{Context, Result, ensure};
use seed_tests::{Instance, Lab, Runner, Spec, lab, limit};

type Case = fn(&Lab) -> Result<()>;

const CASES: [(&str, Case); 3] = [
    ("failure: a guest that never says hello", never_says_hello),
    (
        "failure: an unknown owner and a damaged volume let the boot go on",
        bad_volumes,
    ),
    (
        "failure: a second instance of the same name, or on the same TPM state",
        second_instance,
    ),
];

/// For the skip list.
pub(crate) const NAMES: [&str; 3] = [CASES[0].0, CASES[1].0, CASES[2].0];

/// Each boots a guest of its own.
pub(crate) fn run(runner: &mut Runner, lab: &Lab) {
    for (name, case) in CASES {
        runner.case(name, || case(lab));
    }
}

/// The agent cannot start: the error names the last stage and the console log, which is kept.
fn never_says_hello(lab: &Lab) -> Result<()> {
    // Long enough for the kernel to speak, on a busy machine.
    lab.write_config("[limits]\nhello_seconds = 40")?;
    let instance = Instance::named(lab, "h");
    let result = instance
        .try_run(&Spec::default().with(["--kernel-param", "systemd.mask=seed-agent.service"]));
    lab.write_config("")?;
    let output = result?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it was started");
    ensure!(
        error.contains("kernel"),
        "the last stage is not named: {error}"
    );
    let words = error
        .split_whitespace()
        .map(|word| word.trim_end_matches([';', ',']));
    let path = words
        .into_iter()
        .find(|word| word.starts_with('/') && word.contains("console"));
    let path = path.with_context(|| format!("no console log in: {error}"))?;
    let console = fs::read(path).with_context(|| format!("{path} was not kept"))?;
    let console = String::from_utf8_lossy(&console);
    ensure!(
        console.contains("Linux version"),
        "the console log says {console:?}"
    );
    Ok(())
}

/// Both volumes are reported, neither stops the boot, the damaged one keeps every byte.
fn bad_volumes(lab: &Lab) -> Result<()> {
    let damaged = lab.scratch("damaged.img");
    let mut mkfs = std::process::Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F"]).arg(&damaged).arg("16M");
    ensure!(
        lab::output(mkfs, limit::COMMAND)?.status.success(),
        "mkfs.ext4 failed"
    );
    let mut bytes = fs::read(&damaged)?;
    // The superblock keeps its magic; the group descriptors and the root directory are gone.
    for byte in &mut bytes[4096..2 << 20] {
        *byte = 0xa5;
    }
    fs::write(&damaged, &bytes)?;

    let broken = format!("broken={}:/seed/storage/broken", damaged.display());
    let spec = Spec::default().with(["--volume", &broken]).with([
        "--volume",
        "orphan=16Mi:/seed/storage/orphan,user=nobody-at-all",
    ]);
    let instance = Instance::run(lab, &spec)?;
    let status = instance.status()?;
    let problems = status["problems"].to_string();
    ensure!(status["stage"] == "degraded", "stage: {}", status["stage"]);
    ensure!(
        problems.contains("nobody-at-all"),
        "the owner is not named: {problems}"
    );
    ensure!(
        problems.contains("broken"),
        "the damaged volume is not named: {problems}"
    );
    let owner = instance
        .sh("stat -c '%U' /seed/storage/orphan && findmnt -no FSTYPE /seed/storage/orphan")?;
    ensure!(owner == "root\next4", "the orphan is {owner:?}");
    let source = instance.sh("findmnt -no SOURCE /seed/storage/broken")?;
    ensure!(
        source == "seed-volume-missing",
        "in the damaged volume's place is {source}"
    );
    let write = instance.exec(&["touch", "/seed/storage/broken/lost"])?;
    ensure!(!write.status.success(), "its place can be written");
    instance.stop()?;
    let after = fs::read(&damaged)?;
    ensure!(
        after[4096..2 << 20] == bytes[4096..2 << 20],
        "the damaged volume was written to"
    );
    Ok(())
}

/// Refused with a sentence, while the first goes on undisturbed.
fn second_instance(lab: &Lab) -> Result<()> {
    let instance = Instance::run(lab, &Spec::default().with(["--wait", "provisioned"]))?;
    let output = instance.try_run(&Spec::default())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && error.contains(instance.name()),
        "same name: {error}"
    );

    // Another run directory, the same state: the name is free there, the TPM is not.
    let other = lab.scratch("other.toml");
    let text = fs::read_to_string(lab.config())?;
    let text = text.replace(
        &format!("{:?}", lab.run_dir()),
        &format!("{:?}", lab.scratch("r2")),
    );
    fs::write(&other, text)?;
    let mut command = lab.program("seed");
    command.env("SEED_CONFIG", &other);
    command
        .arg("run")
        .arg(lab.guest())
        .args(["--name", instance.name()]);
    let output = lab::output(command, limit::COMMAND)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success(),
        "a second VM got the same TPM state"
    );
    ensure!(
        error.to_lowercase().contains("tpm"),
        "the TPM is not named: {error}"
    );

    let status = instance.status()?;
    ensure!(
        status["state"] == "running",
        "the first one is {}",
        status["state"]
    );
    Ok(())
}
