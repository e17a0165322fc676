//! Runs a document's commands for a whole machine (installing programs, making a user, starting a service) in a guest's systemd
//! in namespaces: as they stand there, as root, and nothing of it reaches the machine that runs this.
//!
//! It stands in a folder that has of a checkout what the commands name: the programs at `target/dist`, where a release is, and
//! the units of the seed shell.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;
use seed_container::Spec;

use super::shell::succeeded;
use crate::{lab, util::Places};

/// They install files and start services; none is long.
const LIMIT: Duration = Duration::from_secs(120);
const FOLDER: &str = "/root/seed";
/// What of the checkout is there.
const UNITS: &str = "seed-shell/systemd";
const PRELUDE: &str = "\
PATH=/usr/local/sbin:/usr/local/bin:$PATH
cd /root/seed
PS4='$ '
set -eux
";

/// How long it took.
pub(super) fn run(places: &Places, guest: &Path, commands: &str) -> Result<f64> {
    let begin = Instant::now();
    let container = Spec::new(guest)?
        .show(&places.programs(), &format!("{FOLDER}/target/dist"))
        .show(&places.root.join(UNITS), &format!("{FOLDER}/{UNITS}"))
        .boot()?;
    let script = format!("{PRELUDE}{commands}");
    let mut shell = container.command(&["sh", "-c", &script]);
    succeeded(&lab::run(&mut shell, &[], LIMIT, None)?)?;
    Ok(begin.elapsed().as_secs_f64())
}
