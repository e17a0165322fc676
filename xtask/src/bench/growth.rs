//! `bench growth`: time and memory as there is more of something: instances on one machine, commands at once in one instance,
//! volumes of one instance. Each row begins with how many there are, so that [`super::all`] draws what differs in that alone.
//!
//! There are no peers: a ratio to nothing says nothing. The journal's growth is `bench journal --entries N`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Options, Results, Row, machine, median, shim};
use crate::{
    lab::{BOOT, COMMAND, Lab, STOP},
    util::{Places, say},
};

/// The instance that commands run in, and the one that has volumes.
const ONE: &str = "one";
const STORE: &str = "store";
/// How many; doubled up to this.
const COMMANDS: u32 = 64;
/// How many volumes.
const VOLUMES: [u32; 4] = [1, 4, 8, 16];

pub(super) fn measure(places: &Places, guest: PathBuf, options: &Options) -> Result<Results> {
    let vms: Vec<String> = (1..=options.vms).map(|n| format!("vm{n}")).collect();
    let mut names: Vec<&str> = vms.iter().map(String::as_str).collect();
    names.extend([ONE, STORE]);
    let lab = Lab::make(places, guest, &options.accel, &names)?;
    lab.configure(shim::LIMITS)?;
    let mut rows = Vec::new();
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
