//! Bad input that is refused before anything boots: one sentence, and nothing left behind.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::{Result, ensure};
use seed_tests::{Instance, Lab, Runner, Spec, limit};

type Case = fn(&Lab) -> Result<()>;

const CASES: [(&str, Case); 5] = [
    ("refusal: a closure without boot.json", no_boot_json),
    ("refusal: a kernel that is missing", no_kernel),
    (
        "refusal: a program that is not installed names its package",
        no_program,
    ),
    (
        "refusal: an environment name that is no identifier",
        bad_name,
    ),
    ("refusal: a root that does not exist", no_root),
];

/// For the skip list.
pub(crate) const NAMES: [&str; 5] = {
    let mut names = [""; 5];
    let mut index = 0;
    while index < CASES.len() {
        names[index] = CASES[index].0;
        index += 1;
    }
    names
};

/// All of them; seconds in total.
pub(crate) fn run(runner: &mut Runner, lab: &Lab) {
    for (name, case) in CASES {
        runner.case(name, || case(lab));
    }
}

/// `seed run` on this root must fail, say all of `words`, and leave nothing.
fn refused(lab: &Lab, root: &Path, spec: &Spec, words: &[&str]) -> Result<()> {
    let instance = Instance::named(lab, "r");
    let mut args = vec!["run".to_owned(), root.to_string_lossy().into_owned()];
    args.extend(["--name".to_owned(), instance.name().to_owned()]);
    args.extend(spec.flags.iter().cloned());
    let output = lab.seed(&args, limit::COMMAND)?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "it was accepted");
    for word in words {
        ensure!(error.contains(word), "{word:?} is not in: {error}");
    }
    ensure!(error.lines().count() <= 3, "more than a sentence: {error}");
    ensure!(
        !instance.run_dir().exists(),
        "{} was left",
        instance.run_dir().display()
    );
    let layer = lab.state_dir().join("layers/default").join(instance.name());
    ensure!(!layer.exists(), "{} was left", layer.display());
    Ok(())
}

fn no_root(lab: &Lab) -> Result<()> {
    refused(
        lab,
        Path::new("/nowhere/at/all"),
        &Spec::default(),
        &["/nowhere/at/all"],
    )
}

fn no_boot_json(lab: &Lab) -> Result<()> {
    let root = lab.scratch("no-boot-json");
    fs::create_dir_all(root.join("seed-system"))?;
    refused(lab, &root, &Spec::default(), &["boot.json"])
}

fn no_kernel(lab: &Lab) -> Result<()> {
    let root = lab.scratch("no-kernel");
    fs::create_dir_all(root.join("seed-system"))?;
    fs::copy(
        lab.guest().join("seed-system/boot.json"),
        root.join("seed-system/boot.json"),
    )?;
    symlink("/usr/bin/true", root.join("seed-system/init"))?;
    refused(lab, &root, &Spec::default(), &["kernel"])
}

fn no_program(lab: &Lab) -> Result<()> {
    lab.write_config("[programs]\nswtpm = \"/nowhere/swtpm\"")?;
    let result = refused(
        lab,
        lab.guest(),
        &Spec::default(),
        &["/nowhere/swtpm", "swtpm", "apt install"],
    );
    lab.write_config("")?;
    result
}

fn bad_name(lab: &Lab) -> Result<()> {
    let spec = Spec::default().with(["--env", "not-a-name=1"]);
    refused(lab, lab.guest(), &spec, &["not-a-name"])
}
