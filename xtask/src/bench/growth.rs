//! `bench growth`: time and memory as there is more of something: instances on one machine, commands at once in one instance,
//! volumes of one instance. Each row begins with how many there are, so that [`super::all`] draws what differs in that alone.
//!
//! Volumes are also provisioned at native speed, in a guest's systemd in namespaces with loop devices, up to the 16 that one
//! instance can have; and without any machine, their spec is read and checked up to 256, those of sixteen instances.
//!
//! There are no peers: a ratio to nothing says nothing. The journal's growth is `bench journal --entries N`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use seed_container::{Loop, Swtpm};
use serde_json::{Value, json};

use super::{Options, Results, Row, agent, machine, median, shim};
use crate::{
    lab::{BOOT, COMMAND, Lab, STOP},
    util::{self, Places, say},
};

/// The instance that commands run in, and the one that has volumes.
const ONE: &str = "one";
const STORE: &str = "store";
/// How many; doubled up to this.
const COMMANDS: u32 = 64;
/// How many volumes a machine boots with; how many are provisioned without one, and how many stand in specs.
const VOLUMES: [u32; 3] = [1, 4, 16];
const PROVISIONED: usize = 16;
const SPECIFIED: usize = 256;
/// Of each volume that is provisioned without a machine. What is not written takes no room.
const VOLUME_BYTES: u64 = 16 << 20;
/// How often a spec is read.
const SPEC_RUNS: &str = "50";

/// Builds what only this bench needs: the agent as it ships, and who asks it; who reads specs.
pub(super) fn build(places: &Places) -> Result<()> {
    agent::build(places)?;
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "lab"]);
    cargo.args(["--package", "seed-shim", "--example", "spec_figures"]);
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (bench growth)", &mut cargo)
}

pub(super) fn measure(places: &Places, guest: PathBuf, options: &Options) -> Result<Results> {
    let vms: Vec<String> = (1..=options.vms).map(|n| format!("vm{n}")).collect();
    let mut names: Vec<&str> = vms.iter().map(String::as_str).collect();
    names.extend([ONE, STORE]);
    let mut rows = specs(places)?;
    rows.extend(provisioned(places, &guest, options.runs)?);
    let lab = Lab::make(places, guest, &options.accel, &names)?;
    lab.configure(shim::LIMITS)?;
    for count in doubled(options.vms) {
        rows.extend(shim::many::measure(&lab, &vms[..count])?);
    }
    say("  commands at once");
    let root = lab.guest().to_string_lossy().into_owned();
    lab.seed(&["run", &root, "--name", ONE], BOOT)?;
    let accel = lab.status(ONE)?["accel"].clone();
    rows.extend(commands(&lab, options.runs)?);
    lab.seed(&["stop", ONE], STOP)?;
    for count in VOLUMES {
        rows.push(volumes(&lab, &root, count)?);
    }
    for name in names {
        lab.try_seed(&["rm", name, "--yes"], COMMAND)?;
    }
    lab.remove()?;
    let mut machine = machine();
    machine.insert("accel".to_owned(), accel);
    machine.insert("runs".to_owned(), json!(options.runs));
    Ok(Results { machine, rows })
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

/// `true` in the guest, so many at once, until the last has answered.
fn commands(lab: &Lab, runs: usize) -> Result<Vec<Row>> {
    let most = usize::try_from(COMMANDS)?;
    let mut rows = Vec::new();
    for count in doubled(most) {
        let each: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
        let mut took = Vec::new();
        for _ in 0..runs {
            took.push(shim::many::together(&each, |_| {
                let output = lab.exec(ONE, &["true"])?;
                ensure!(output.status.success(), "true: {}", output.status);
                Ok(())
            })?);
        }
        let took = median(&took).context("nothing was run")?;
        rows.push(row(format!("{count} commands: until the last"), "s", took));
    }
    Ok(rows)
}

/// Bundles with so many volumes: read, checked, and QEMU's command line for each.
fn specs(places: &Places) -> Result<Vec<Row>> {
    say("  volumes in a spec");
    let figures = places.programs().join("examples/spec_figures");
    doubled(SPECIFIED)
        .map(|count| {
            let mut command = Command::new(&figures);
            let text = util::read(command.args([&count.to_string(), SPEC_RUNS]))?;
            let found: Value = serde_json::from_str(&text).context("read spec_figures")?;
            let ms = found["ms"].as_f64().context("no ms")?;
            Ok(row(
                format!("{count} volumes: specs and command lines"),
                "ms",
                ms,
            ))
        })
        .collect()
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

/// From the agent's hello to everything provisioned, in a first boot: every volume is made.
fn volumes(lab: &Lab, root: &str, count: u32) -> Result<Row> {
    say(&format!("  {count} volumes"));
    let mut words: Vec<String> = ["run", root, "--name", STORE].map(str::to_owned).to_vec();
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
        format!("{count} volumes: hello to provisioned"),
        "s",
        took,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_double_up_to_the_most() {
        assert_eq!(doubled(8).collect::<Vec<_>>(), [1, 2, 4, 8]);
        assert_eq!(doubled(5).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
