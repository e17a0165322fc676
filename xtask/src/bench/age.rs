//! `bench age`: `age-plugin-tpm` beside the Go plugin of that name, over one swtpm in one run.
//!
//! The measuring program is a bench of the crate `age-tpm` (`age-tpm/benches/plugin/`), which knows the protocol; this
//! builds it as it ships, fetches the peers, runs it as root (for a mount namespace in which swtpm is
//! `/dev/tpmrm0`), and says which targets are met.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    Options, Results, machine,
    program::{self, Peer},
};
use crate::{
    test,
    util::{self, Places, read},
};

const PEER: Peer = Peer {
    column: "Go plugin",
    key: "go",
};
const BUILD: &str = "bench --locked --package age-tpm --features age --bench plugin --no-run";

pub(super) fn measure(places: &Places, options: &Options) -> Result<Results> {
    let program = program::build(places, BUILD)?;
    let peers = test::peers(places);
    let peers: Vec<_> = peers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    ensure!(
        !peers.is_empty(),
        "there is nothing to compare with: see age-tpm/tests/fetch-peers.sh"
    );
    let rows = program::rows(util::privileged(program, &peers), PEER, options)?;
    ensure!(
        rows.iter().all(|row| !row.peers.is_empty()),
        "a row has nothing beside it: {rows:?}"
    );
    let mut machine = machine();
    machine.insert("runs".to_owned(), json!(options.runs));
    let swtpm = read(Command::new("swtpm").arg("--version")).unwrap_or_default();
    let swtpm = swtpm.split(',').next().unwrap_or_default().to_owned();
    machine.insert("tpm".to_owned(), json!(swtpm));
    machine.insert("peers".to_owned(), json!(packages(places)));
    Ok(Results { machine, rows })
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
