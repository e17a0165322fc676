//! `seed logs` on the segments against journalctl on the files.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use seed_container::Container;

use super::{INSTANCE, JSON, LAST, median, row};
use crate::{
    bench::Row,
    cpu,
    util::{Places, say},
};

/// How often short things are measured.
const SHORT_RUNS: usize = 5;

/// `seed logs` of the segments below `scratch`, with some words more.
fn logs(places: &Places, scratch: &Path) -> Result<impl Fn(&[&str]) -> Command> {
    let config = scratch.join("shim.toml");
    let text = format!(
        "run_dir = {:?}\nstate_dir = {:?}\n",
        scratch.join("run"),
        scratch.join("state")
    );
    fs::write(&config, text).context("write the configuration")?;
    let seed = places.programs().join("seed");
    Ok(move |words: &[&str]| {
        let mut command = Command::new(&seed);
        command.args(["logs", INSTANCE]).args(words);
        command.env("SEED_CONFIG", &config);
        command
    })
}

/// Milliseconds for the last ten lines of the segments.
pub(super) fn last_lines(places: &Places, scratch: &Path) -> Result<f64> {
    let seed = logs(places, scratch)?;
    wall(|| seed(&["--lines", "10"]))
}

/// `seed logs` on the segments against journalctl on the files.
pub(super) fn rows(places: &Places, container: &Container, scratch: &Path) -> Result<Vec<Row>> {
    say("  printing with seed logs");
    let seed = logs(places, scratch)?;
    let journalctl = |words: &[&str]| {
        let mut command = container.command(&["journalctl", "--quiet", "--no-pager"]);
        command.args(words);
        command
    };
    let mut rows = Vec::new();
    for (name, ours, theirs) in [
        (JSON, "--json", "json"),
        (
            "host: print in the export form, CPU per entry",
            "--export",
            "export",
        ),
    ] {
        let ours = cost(&mut seed(&["--lines", "all", ours]), "seed")?;
        let theirs = cost(
            &mut journalctl(&["--all", "--output", theirs]),
            "journalctl",
        )?;
        rows.push(row(name, "us", ours, &[("journalctl", theirs)]));
    }
    let ours = cost(&mut seed(&["--lines", "all"]), "seed")?;
    rows.push(row("host: print for people, CPU per line", "us", ours, &[]));
    // What it costs to enter the namespaces is not journalctl's.
    let enter = wall(|| container.command(&["true"]))?;
    let theirs = wall(|| journalctl(&["--lines", "10"]))? - enter;
    let ours = last_lines(places, scratch)?;
    rows.push(row(LAST, "ms", ours, &[("journalctl", theirs.max(0.0))]));
    Ok(rows)
}

/// CPU microseconds for each line that a command prints (for each entry of the export form).
fn cost(command: &mut Command, name: &str) -> Result<f64> {
    let before = cpu::of_children()?.as_secs_f64();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let mut output = Counting::default();
    io::copy(child.stdout.as_mut().context("no output")?, &mut output)?;
    let status = child.wait()?;
    ensure!(status.success(), "{name}: {status}");
    let cpu = cpu::of_children()?.as_secs_f64() - before;
    // An entry of the export form ends with an empty line; the other forms have none.
    let count = if output.empty > 0 {
        output.empty
    } else {
        output.lines
    };
    ensure!(count > 0, "{name} printed nothing");
    Ok(1e6 * cpu / f64::from(u32::try_from(count)?))
}

/// Counts lines, and lines with nothing on them.
#[derive(Default)]
struct Counting {
    lines: u64,
    empty: u64,
    last: u8,
}

impl io::Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                self.lines += 1;
                self.empty += u64::from(self.last == b'\n');
            }
            self.last = byte;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Milliseconds, the median of some runs.
fn wall(command: impl Fn() -> Command) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..SHORT_RUNS {
        let begin = Instant::now();
        let status = command()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "a short command: {status}");
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    median(&times).context("no runs")
}
