//! `bench shell`: the seed shell's commands beside OpenSSH's server in one run, two hundred that follow a log, and the
//! dashboard's redraw.
//!
//! The measuring program is a bench of the crate `seed-shell` (`seed-shell/benches/figures.rs`), which plays the
//! instances; this builds it near release, runs it as root (for OpenSSH's server), and says which targets are met.

use anyhow::Result;
use serde_json::json;

use super::{
    Options, Results, machine,
    program::{self, Peer},
};
use crate::{
    setup,
    util::{self, Places},
};

const PEER: Peer = Peer {
    column: "OpenSSH, true",
    key: "peer",
};
const BUILD: &str = "bench --locked --profile lab --package seed-shell --bench figures --no-run";

pub(super) fn measure(places: &Places, options: &Options) -> Result<Results> {
    setup::run(places, setup::Need::Shell)?;
    let program = program::build(places, BUILD)?;
    let path = places.path_variable();
    let command = util::privileged(program, &[("PATH", path.as_str())]);
    let rows = program::rows(command, PEER, options)?;
    let mut machine = machine();
    machine.insert("runs".to_owned(), json!(options.runs));
    Ok(Results { machine, rows })
}
