//! `cargo xtask build`: our own programs, near release and quick to build, into `target/lab/`.

use std::process::Command;

use anyhow::Result;

use crate::util::{self, Places};

/// The crates whose programs run in guests and on the host.
const CRATES: &[&str] = &["seed-agent", "age-tpm", "seed-shim", "seed-shell"];

/// Builds them. Quick when nothing changed.
pub(crate) fn build(places: &Places) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "lab", "--bins"]);
    for name in CRATES {
        cargo.args(["--package", name]);
    }
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (profile lab)", &mut cargo)
}
