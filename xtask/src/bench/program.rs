//! Benches that are programs of their own, beside the code of the crate that they measure: built, run, and their rows read.
//!
//! Each prints a JSON list of `{"name", "unit", "ours", "target"}` and the peer's figure under a key of its own. The target is
//! the most that the ratio may be, or the figure itself where there is no peer.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Options, Row, verdict};
use crate::util::{self, Places, read, say};

/// The other side: its column, and its key in what the program prints.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) column: &'static str,
    pub(super) key: &'static str,
}

const UNITS: [&str; 4] = ["ms", "MiB", "s", "count"];

/// Builds the bench that these words for cargo name, and what it starts; where it is.
pub(super) fn build(places: &Places, words: &str) -> Result<PathBuf> {
    let cargo = || {
        let mut cargo = Command::new("cargo");
        cargo.args(words.split(' ')).current_dir(&places.root);
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

/// Runs it, and says which targets are met.
pub(super) fn rows(mut program: Command, peer: Peer, options: &Options) -> Result<Vec<Row>> {
    let runs = options.runs.to_string();
    say(&format!("Measuring, {runs} rounds"));
    let text = read(program.args(["--runs", &runs]))?;
    let found: Vec<Value> = serde_json::from_str(&text).context("read what was measured")?;
    let rows = found.iter().map(|found| {
        let row = row(found, peer)?;
        if let Some(target) = found["target"].as_f64() {
            verdict(&row.name, row.ratio().unwrap_or(row.ours), target, options)?;
        }
        Ok(row)
    });
    rows.collect()
}

fn row(found: &Value, peer: Peer) -> Result<Row> {
    let unit = UNITS.into_iter().find(|unit| found["unit"] == *unit);
    let name = found["name"].as_str().context("a row has no name")?;
    let theirs = found[peer.key].as_f64();
    Ok(Row {
        name: name.to_owned(),
        unit: unit.with_context(|| format!("an unknown unit in {found}"))?,
        ours: found["ours"].as_f64().context("a row has no figure")?,
        peers: theirs
            .map(|value| (peer.column, value))
            .into_iter()
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Peer = Peer {
        column: "Go plugin",
        key: "go",
    };

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
    fn a_row_may_have_no_peer_and_must_have_a_unit() {
        let mut found =
            json!({ "name": "a", "unit": "ms", "ours": 12.0, "go": 10.0, "target": 1.3 });
        let ratio = |found: &Value| row(found, PEER).expect("a row").ratio();
        assert_eq!(ratio(&found), Some(1.2));
        found["go"] = Value::Null;
        assert_eq!(ratio(&found), None);
        found["unit"] = json!("miles");
        assert!(row(&found, PEER).is_err());
    }

    #[test]
    fn what_a_program_prints_are_rows() {
        let options = Options::parse(&mut lexopt::Parser::from_args(["age", "--json"]));
        let options = options.expect("a command line");
        let told = |text: &str| {
            let mut echo = Command::new("sh");
            echo.args(["-c", "printf %s \"$0\"", text]);
            rows(echo, PEER, &options)
        };
        let text = r#"[{"name":"a","unit":"ms","ours":1.0,"go":4.0,"target":0.5},{"name":"b","unit":"count","ours":2,"go":4}]"#;
        let rows = told(text).expect("two rows");
        let ratios: Vec<_> = rows.iter().map(Row::ratio).collect();
        assert_eq!(ratios, [Some(0.25), Some(0.5)]);
        assert!(told("[{}]").is_err() && told("").is_err());
    }
}
