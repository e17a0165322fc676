//! `bench shell`: the seed shell's commands beside OpenSSH's server in one run, two hundred that follow a log, and the
//! dashboard's redraw.
//!
//! The measuring program is a bench of the crate `seed-shell` (`seed-shell/benches/figures.rs`), which plays the
//! instances; this builds it near release, runs it as root (for OpenSSH's server), and says which targets are met.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Options, Results, Row, age, machine};
use crate::{
    setup,
    util::{self, Places, print, read, say},
};

/// The column of the other side.
const PEER: &str = "OpenSSH, true";
const BUILD: &str = "bench --locked --profile lab --package seed-shell --bench figures --no-run";

pub(super) fn measure(places: &Places, options: &Options) -> Result<Results> {
    setup::run(places, setup::Need::Shell)?;
    let program = age::build(places, &BUILD.split(' ').collect::<Vec<_>>())?;
    let runs = options.runs.to_string();
    say(&format!("Measuring, {runs} rounds"));
    let path = places.path_variable();
    let mut command = util::privileged(program, &[("PATH", path.as_str())]);
    let text = read(command.args(["--runs", &runs]))?;
    let found: Vec<Value> = serde_json::from_str(&text).context("read what was measured")?;
    let rows: Vec<_> = found.iter().map(row).collect::<Result<_>>()?;
    for (row, found) in rows.iter().zip(&found) {
        let (Some(target), figure) = (found["target"].as_f64(), row.ratio().unwrap_or(row.ours))
        else {
            continue;
        };
        let met = if figure <= target { "met" } else { "missed" };
        let line = format!(
            "target {met}: {}: {figure:.2}, at most {target:.2}",
            row.name
        );
        // Data stand alone on standard output.
        if options.json {
            say(&line);
        } else {
            print(&line)?;
        }
    }
    let mut machine = machine();
    machine.insert("runs".to_owned(), json!(options.runs));
    Ok(Results { machine, rows })
}

fn row(found: &Value) -> Result<Row> {
    let known = ["ms", "MiB", "s", "count"];
    let unit = known.into_iter().find(|unit| found["unit"] == *unit);
    let peer = found["peer"].as_f64().map(|value| (PEER, value));
    Ok(Row {
        name: found["name"]
            .as_str()
            .context("a row has no name")?
            .to_owned(),
        unit: unit.with_context(|| format!("an unknown unit in {found}"))?,
        ours: found["ours"].as_f64().context("a row has no figure")?,
        peers: BTreeMap::from_iter(peer),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_may_have_no_peer() {
        let mut found =
            json!({ "name": "a", "unit": "ms", "ours": 12.0, "peer": 10.0, "target": 1.3 });
        assert_eq!(row(&found).expect("a row").ratio(), Some(1.2));
        found["peer"] = Value::Null;
        assert_eq!(row(&found).expect("a row").ratio(), None);
        found["unit"] = json!("miles");
        assert!(row(&found).is_err());
    }
}
