//! Full disks, as small tmpfs, under the log folder, the state folder and the run folder.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Runner, limit};

use super::bench::{Bench, refused, said};

pub(crate) fn run(runner: &mut Runner, bench: &Bench) {
    runner.case("life: a full disk under the logs", || logs(bench));
    runner.case("life: a full disk under the state", || state(bench));
    runner.case("life: a full disk under the run folder", || {
        run_folder(bench)
    });
}

/// A tmpfs, unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m,nr_inodes=200", "small"])
            .arg(path)
            .status()?;
        ensure!(status.success(), "mount: {status}");
        Ok(Self(path.to_owned()))
    }

    /// Leaves no byte.
    fn fill(&self) -> Result<()> {
        let mut file = File::create(self.0.join("filler"))?;
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        fs::remove_file(self.0.join("filler")).context("remove the filler")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Detached: nobody may be hindered by what a failed case left in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The instance starts, runs and stops; its log has a gap, or goes on when there is room.
fn logs(bench: &Bench) -> Result<()> {
    let small = Small::mount(&bench.lab.state_dir().join("logs"))?;
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
    let small = Small::mount(&bench.lab.state_dir())?;
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
    let small = Small::mount(&bench.lab.run_dir())?;
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
