//! `bench growth`: time and memory as there is more of something: instances on one machine, commands at once in one instance,
//! volumes of one instance, entries of its journal. Each row begins with how many there are, so that [`super::all`] draws what differs in that alone.
//!
//! Volumes are also provisioned at native speed, in a guest's systemd in namespaces with loop devices, up to the 16 that one
//! instance can have; and without any machine, their spec is read and checked up to 256, those of sixteen instances.
//!
//! A journal is read, pulled and printed from a thousand entries to a million; `--full` adds ten millions, whose corpus takes some
//! 6 GB in the cache and long to make. There are no peers here: those of one size stand in `bench journal`. `--only PART` measures
//! one of [`PARTS`]; how long each took is told and stands among the settings.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use seed_container::{Loop, Swtpm};
use serde_json::{Value, json};

use super::{Options, Results, Row, agent, figure, journal, machine, median, shim};
use crate::{
    lab::{BOOT, COMMAND, Lab, STOP},
    util::{self, Places, say},
};

/// The instance that commands run in, and the one that has volumes.
const ONE: &str = "one";
const STORE: &str = "store";
/// How many; doubled up to this.
const COMMANDS: usize = 64;
/// Up to so many are run several times.
const FEW_COMMANDS: usize = 8;
/// How many volumes a machine boots with beside the one that its closure names, 16 being all it can have; how many are
/// provisioned without one, and how many stand in specs.
const VOLUMES: [u32; 3] = [1, 4, 15];
const PROVISIONED: usize = 16;
const SPECIFIED: usize = 256;
/// Of each volume that is provisioned without a machine. What is not written takes no room.
const VOLUME_BYTES: u64 = 16 << 20;
/// How often a spec is read.
const SPEC_RUNS: &str = "50";

/// Builds what only this bench needs: the agent as it ships, and who asks it; who reads specs.
pub(super) fn build(places: &Places) -> Result<()> {
    agent::build(places)?;
    journal::build(places)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "lab"]);
    cargo.args(["--package", "seed-shim", "--example", "spec_figures"]);
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (bench growth)", &mut cargo)
}

/// What it measures, and its names on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Growing {
    Journal,
    Specs,
    Volumes,
    Boots,
    Commands,
    Instances,
}

/// The quickest first.
const PARTS: [(&str, Growing); 6] = [
    ("specs", Growing::Specs),
    ("volumes", Growing::Volumes),
    ("journal", Growing::Journal),
    ("boots", Growing::Boots),
    ("commands", Growing::Commands),
    ("instances", Growing::Instances),
];

/// An error that lists the parts unless this is one.
pub(super) fn known(part: &str) -> Result<()> {
    let names = PARTS.map(|(name, _)| name);
    let known = names.contains(&part);
    ensure!(known, "growth has no part {part:?}: {}", names.join(", "));
    Ok(())
}

pub(super) fn measure(places: &Places, guest: PathBuf, options: &Options) -> Result<Results> {
    let vms: Vec<String> = (1..=options.vms).map(|n| format!("vm{n}")).collect();
    let mut names: Vec<&str> = vms.iter().map(String::as_str).collect();
    names.extend([ONE, STORE]);
    let lab = Lab::make(places, guest.clone(), &options.accel, &names)?;
    lab.configure(shim::LIMITS)?;
    let mut machine = machine();
    let mut rows = Vec::new();
    for (name, part) in PARTS {
        if options.only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let begin = Instant::now();
        rows.extend(match part {
            Growing::Specs => specs(places)?,
            Growing::Volumes => provisioned(places, &guest, options.runs)?,
            Growing::Journal => journal::growth::rows(places, &guest, options.full)?,
            Growing::Boots => boots(&lab)?,
            Growing::Commands => {
                let (rows, accel) = commands(&lab, options.runs)?;
                machine.insert("accel".to_owned(), accel);
                rows
            }
            Growing::Instances => instances(&lab, &vms)?,
        });
        let took = begin.elapsed().as_secs_f64().round();
        say(&format!("  {name}: {took} s"));
        machine.insert(format!("seconds for {name}"), json!(took));
    }
    for name in names {
        lab.try_seed(&["rm", name, "--yes"], COMMAND)?;
    }
    lab.remove()?;
    machine.insert("runs".to_owned(), json!(options.runs));
    Ok(Results { machine, rows })
}

fn instances(lab: &Lab, names: &[String]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for count in doubled(names.len()) {
        rows.extend(shim::many::measure(lab, &names[..count])?);
    }
    Ok(rows)
}

/// 1, 2, 4, up to `most`.
fn doubled(most: usize) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(1), |count| Some(count * 2)).take_while(move |count| *count <= most)
}

fn row(name: String, unit: &'static str, ours: f64) -> Row {
    Row {
        name,
        unit,
        ours,
        peers: [].into(),
    }
}

/// `true` in the guest, so many at once, until the last has answered, and the most memory that the shim has had by then; and
/// what the machine runs on.
fn commands(lab: &Lab, runs: usize) -> Result<(Vec<Row>, Value)> {
    say("  commands at once");
    let root = lab.guest().to_string_lossy();
    lab.seed(&["run", &root, "--name", ONE], BOOT)?;
    let accel = lab.status(ONE)?["accel"].clone();
    let shim = PathBuf::from(format!("/proc/{}/status", shim::shim_of(lab, ONE)?));
    let mut rows = Vec::new();
    for count in doubled(COMMANDS) {
        let each: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
        // Many at once are a median by themselves.
        let runs = if count > FEW_COMMANDS { 1 } else { runs };
        let mut took = Vec::new();
        for _ in 0..runs {
            took.push(shim::many::together(&each, |_| {
                let output = lab.try_seed(&["exec", ONE, "--", "true"], BOOT)?;
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "true: {}: {said}", output.status);
                Ok(())
            })?);
        }
        let took = median(&took).context("nothing was run")?;
        rows.push(row(format!("{count} commands: until the last"), "s", took));
        let status =
            fs::read_to_string(&shim).with_context(|| format!("read {}", shim.display()))?;
        let most = figure(&status, "VmHWM:")? / 1024.0;
        let name = format!("{count} commands: the shim's most memory so far");
        rows.push(row(name, "MiB", most));
    }
    lab.seed(&["stop", ONE], STOP)?;
    Ok((rows, accel))
}

/// Bundles with so many volumes: read, checked, and QEMU's command line for each.
fn specs(places: &Places) -> Result<Vec<Row>> {
    say("  volumes in a spec");
    let figures = places.programs().join("examples/spec_figures");
    let mut rows = Vec::new();
    for count in doubled(SPECIFIED) {
        let mut command = Command::new(&figures);
        let text = util::read(command.args([&count.to_string(), SPEC_RUNS]))?;
        let found: Value = serde_json::from_str(&text).context("read spec_figures")?;
        let number = |name: &str| found[name].as_f64().with_context(|| format!("no {name}"));
        let name = |what: &str| format!("{count} volumes: specs and command lines{what}");
        rows.push(row(name(""), "ms", number("ms")?));
        rows.push(row(name(", most memory"), "MiB", number("kib")? / 1024.0));
    }
    Ok(rows)
}

/// Volumes that an agent provisions at native speed: a first boot makes them, later ones find them.
fn provisioned(places: &Places, guest: &Path, runs: usize) -> Result<Vec<Row>> {
    say("  volumes at native speed");
    let scratch = places
        .cache
        .join(format!("bench-growth-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
    let rows = in_container(places, guest, &scratch, runs);
    // Best effort: what stays is in the cache.
    let _ = fs::remove_dir_all(&scratch);
    rows
}

fn in_container(places: &Places, guest: &Path, scratch: &Path, runs: usize) -> Result<Vec<Row>> {
    let tpm = Swtpm::start(&scratch.join("tpm"))?;
    let disks: Vec<_> = (0..PROVISIONED)
        .map(|number| Loop::make(&scratch.join(number.to_string()), VOLUME_BYTES))
        .collect::<Result<_>>()?;
    let nodes: Vec<_> = disks.iter().map(Loop::node).collect();
    let container = agent::container(places, guest, &tpm, &nodes)?;
    let mut rows = Vec::new();
    let mut made = 0;
    for count in doubled(PROVISIONED) {
        let nodes = &nodes[..count];
        let first = agent::provision(places, &container, nodes, count - made)?;
        agent::end_boot(&container, count)?;
        let per = first / f64::from(u32::try_from(count - made)?);
        made = count;
        let mut later = Vec::new();
        for _ in 0..runs {
            later.push(agent::provision(places, &container, nodes, 0)?);
            agent::end_boot(&container, count)?;
        }
        let later = median(&later).context("no boots")?;
        let name = |what: &str| format!("{count} volumes at native speed: {what}");
        rows.push(row(name("first boot, each new one"), "ms", per));
        rows.push(row(name("later boots"), "ms", later));
    }
    Ok(rows)
}

fn boots(lab: &Lab) -> Result<Vec<Row>> {
    VOLUMES.iter().map(|count| boot(lab, *count)).collect()
}

/// From the agent's hello to everything provisioned, in a first boot: every volume is made.
fn boot(lab: &Lab, count: u32) -> Result<Row> {
    say(&format!("  {count} volumes"));
    let root = lab.guest().to_string_lossy();
    let mut words: Vec<String> = ["run", &root, "--name", STORE].map(str::to_owned).to_vec();
    for number in 1..=count {
        words.push("--volume".to_owned());
        words.push(format!("v{number}=16Mi:/seed/storage/v{number}"));
    }
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    lab.seed(&words, BOOT)?;
    let status = lab.status(STORE)?;
    ensure!(status["problems"] == json!([]), "{}", status["problems"]);
    let stages = status["stages"].as_array().context("no stages")?;
    let at = |stage: &str| {
        let found = stages.iter().find(|one| one["stage"] == stage);
        let ms = found.and_then(|one| one["since_create_ms"].as_f64());
        ms.with_context(|| format!("{stage} was not reached"))
    };
    let took = (at("provisioned")? - at("hello")?) / 1000.0;
    lab.seed(&["stop", STORE], STOP)?;
    lab.seed(&["rm", STORE, "--yes"], COMMAND)?;
    Ok(row(
        format!("{count} volumes and the closure's own: hello to provisioned"),
        "s",
        took,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        assert!(known("commands").is_ok());
        let error = known("all").expect_err("no part").to_string();
        assert!(error.ends_with("commands, instances"), "{error}");
    }

    #[test]
    fn counts_double_up_to_the_most() {
        assert_eq!(doubled(8).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert_eq!(doubled(5).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
