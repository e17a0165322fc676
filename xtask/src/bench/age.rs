//! `bench age`: `age-plugin-tpm` beside the Go plugin of that name, over one swtpm in one run.
//!
//! The measuring program is a bench of the crate `age-tpm` (`age-tpm/benches/plugin/`), which knows the protocol; this
//! builds it as it ships, fetches the peers, runs it as root (for a mount namespace in which swtpm is
//! `/dev/tpmrm0`), and says which targets are met.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Options, Results, Row, machine};
use crate::{
    test,
    util::{self, Places, print, read, say},
};

/// The column of the other side.
const PEER: &str = "Go plugin";
const BUILD: [&str; 9] = [
    "bench",
    "--locked",
    "--package",
    "age-tpm",
    "--features",
    "age",
    "--bench",
    "plugin",
    "--no-run",
];

pub(super) fn measure(places: &Places, options: &Options) -> Result<Results> {
    let program = build(places, &BUILD)?;
    let peers = test::peers(places);
    let peers: Vec<_> = peers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    ensure!(
        !peers.is_empty(),
        "there is nothing to compare with: see age-tpm/tests/fetch-peers.sh"
    );
    let runs = options.runs.to_string();
    say(&format!("Measuring, {runs} rounds"));
    let mut command = util::privileged(program, &peers);
    let text = read(command.args(["--runs", &runs]))?;
    let found: Vec<Value> = serde_json::from_str(&text).context("read what was measured")?;
    let rows: Vec<_> = found.iter().map(row).collect::<Result<_>>()?;
    for (row, found) in rows.iter().zip(&found) {
        if let (Some(target), Some(ratio)) = (found["target"].as_f64(), row.ratio()) {
            let met = if ratio <= target { "met" } else { "missed" };
            let line = format!(
                "target {met}: {}: {ratio:.2}, at most {target:.2}",
                row.name
            );
            // Data stand alone on standard output.
            if options.json {
                say(&line);
            } else {
                print(&line)?;
            }
        }
    }
    let mut machine = machine();
    machine.insert("runs".to_owned(), json!(options.runs));
    let swtpm = read(Command::new("swtpm").arg("--version")).unwrap_or_default();
    let swtpm = swtpm.split(',').next().unwrap_or_default().to_owned();
    machine.insert("tpm".to_owned(), json!(swtpm));
    machine.insert("peers".to_owned(), json!(packages(places)));
    Ok(Results { machine, rows })
}

/// Builds the bench that these words name, and what it starts; where it is.
pub(super) fn build(places: &Places, words: &[&str]) -> Result<PathBuf> {
    let cargo = || {
        let mut cargo = Command::new("cargo");
        cargo.args(words).current_dir(&places.root);
        cargo
    };
    util::step(places, "cargo bench --no-run", &mut cargo())?;
    // Nothing is left to build: it only says where the program is.
    let text = read(cargo().arg("--message-format=json"))?;
    executable(&text).context("cargo does not say where it put the bench")
}

fn executable(messages: &str) -> Option<PathBuf> {
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut benches = messages.filter(|message| message["target"]["kind"] == json!(["bench"]));
    benches.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
}

fn row(found: &Value) -> Result<Row> {
    let known = ["ms", "MiB", "count"];
    let unit = known.into_iter().find(|unit| found["unit"] == *unit);
    let number = |name: &str| {
        let value = found[name].as_f64();
        value.with_context(|| format!("{name} is missing in {found}"))
    };
    Ok(Row {
        name: found["name"]
            .as_str()
            .context("a row has no name")?
            .to_owned(),
        unit: unit.with_context(|| format!("an unknown unit in {found}"))?,
        ours: number("ours")?,
        peers: [(PEER, number("go")?)].into(),
    })
}

/// Name and version of each package that the peers were unpacked from.
fn packages(places: &Places) -> String {
    let folder = places.cache.join("age-peers/debs");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = files
        .filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let (name, rest) = name.split_once('_')?;
            Some(format!("{name} {}", rest.split('_').next()?))
        })
        .collect();
    names.sort();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bench_is_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["bin"]},"executable":"/t/age-plugin-tpm"}
{"reason":"compiler-artifact","target":{"kind":["bench"]},"executable":"/t/plugin-1"}
{"reason":"build-finished","success":true}
"#;
        assert_eq!(executable(messages), Some(PathBuf::from("/t/plugin-1")));
        assert_eq!(executable("{}"), None);
    }

    #[test]
    fn a_row_without_its_peer_is_refused() {
        let mut found = json!({ "name": "a: wall", "unit": "ms", "ours": 1.0, "go": 4.0 });
        assert_eq!(row(&found).expect("a row").ratio(), Some(0.25));
        found["go"] = Value::Null;
        assert!(row(&found).is_err());
    }
}
