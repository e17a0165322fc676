//! Full disks, as small tmpfs, under the log folder, the state folder and the run folder.

use anyhow::{Result, ensure};
use seed_tests::{Runner, SmallDisk, limit};

use super::bench::{Bench, refused, said};

/// Of each disk.
const SIZE: &str = "1m";

pub(crate) fn run(runner: &mut Runner, bench: &Bench) {
    runner.case("life: a full disk under the logs", || logs(bench));
    runner.case("life: a full disk under the state", || state(bench));
    runner.case("life: a full disk under the run folder", || {
        run_folder(bench)
    });
}

/// The instance starts, runs and stops; its log has a gap, or goes on when there is room.
fn logs(bench: &Bench) -> Result<()> {
    let small = SmallDisk::mount(&bench.lab.state_dir().join("logs"), SIZE)?;
    small.fill()?;
    let output = bench.run("full", &[])?;
    ensure!(output.status.success(), "{}", said(&output));
    let parts = bench.reach("full", "running")?;
    small.make_room()?;
    limit::until("the log to go on", limit::LOG_LINE, || {
        let text = bench.seed(&["logs", "full"])?;
        Ok(text.contains("stub guest is up").then_some(()))
    })?;
    ensure!(
        bench.reach("full", "running")? == parts,
        "it was started again"
    );
    bench.seed(&["stop", "full"])?;
    bench.nothing_left()?;
    bench.seed(&["rm", "full", "--yes"]).map(drop)
}

fn state(bench: &Bench) -> Result<()> {
    let small = SmallDisk::mount(&bench.lab.state_dir(), SIZE)?;
    small.fill()?;
    let output = bench.run("full", &[])?;
    refused(&output, "No space left on device")?;
    refused(&output, "Make room on that file system")?;
    bench.nothing_left()?;
    small.make_room()?;
    let output = bench.run("full", &[])?;
    ensure!(output.status.success(), "{}", said(&output));
    small.fill()?;
    bench.seed(&["stop", "full"])?;
    bench.nothing_left()
}

fn run_folder(bench: &Bench) -> Result<()> {
    let small = SmallDisk::mount(&bench.lab.run_dir(), SIZE)?;
    small.fill()?;
    let output = bench.run("full", &[])?;
    refused(&output, "No space left on device")?;
    small.make_room()?;
    bench.nothing_left()?;
    let output = bench.run("full", &[])?;
    ensure!(output.status.success(), "{}", said(&output));
    small.fill()?;
    bench.seed(&["stop", "full"])?;
    small.make_room()?;
    bench.nothing_left()
}
