//! `bench shim`: what the host's side of an instance costs: memory of the shim while logs flow, its file's size, what
//! Create adds to the programs that it starts, execs, and several instances at once. runc's Go shim (containerd 1.6,
//! unpacked into the cache) does the same work beside it in the same run.
//!
//! Shim and `seed` are the release build, which is what ships. Memory is of the one process that serves the Task API:
//! `/proc/PID/smaps_rollup` (proc(5)), where PSS shares a page among all who have it mapped.

mod launch;
pub(super) mod many;
mod runc;

use std::{fs, path::Path, path::PathBuf, process::Command, thread, time::Duration, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Options, Results, Row, figure, judge, machine, median};
use crate::{
    containerd,
    lab::{self, BOOT, COMMAND, Lab, STOP, until},
    util::{self, Places, say},
};

/// The instance that most is measured on.
const ONE: &str = "one";
/// The column of the Go shim.
const GO: &str = "runc's shim";
/// How many execs at once.
const CROWD: usize = 100;
/// How often memory is looked at, and how far apart.
const LOOKS: usize = 10;
const APART: Duration = Duration::from_millis(500);
/// What flows into a log: some lines a second.
const FLOW: &str =
    "i=0; while :; do i=$((i+1)); echo \"line $i of a steady flow\"; sleep 0.2; done";
/// The most that these may be, in the units of their rows.
const TARGETS: [(&str, f64); 6] = [
    ("shim, logs flowing: RSS", 6.0),
    ("shim, logs flowing: PSS", 4.0),
    ("binary", 4.0),
    (launch::BEYOND_DAEMONS, 60.0),
    (EXEC_RATIO, 1.5),
    ("100 execs at once: lost", 0.0),
];
const EXEC_RATIO: &str = "  of systemd-run's time inside";
/// A unit that runs [`FLOW`] in the guest.
const FLOW_UNIT: &str = "bench-flow";
/// A busy machine without KVM boots several guests at once in minutes.
pub(super) const LIMITS: &str = "[limits]\nhello_seconds = 900\nprovision_seconds = 900\n";

/// Builds what ships, and gets the Go shim.
pub(super) fn build(places: &Places) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--release", "--bins"]);
    cargo.args(["--package", "seed-shim"]);
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (release, seed-shim)", &mut cargo)?;
    containerd::unpack(places)
}

pub(super) fn measure(places: &Places, guest: PathBuf, options: &Options) -> Result<Results> {
    let programs = places.target.join("release");
    let vms: Vec<String> = (1..=options.vms).map(|n| format!("vm{n}")).collect();
    let mut names: Vec<&str> = vms.iter().map(String::as_str).collect();
    names.extend([ONE, launch::NAME]);
    let mut lab = Lab::make(places, guest, &options.accel, &names)?;
    lab.prefer(&programs);
    lab.configure(LIMITS)?;

    say("  one instance, logs flowing");
    let root = lab.guest().to_string_lossy().into_owned();
    lab.seed_slowly("seed run", &["run", &root, "--name", ONE], BOOT)?;
    flow(&lab)?;
    let ours = Memory::of(shim_of(&lab, ONE)?)?;
    let go = runc::Shim::start(places, &lab)?;
    let theirs = Memory::of(go.pid())?;
    let mut rows = memory_rows(&ours, &theirs);
    let size = |path: &Path| Ok::<_, anyhow::Error>(mebibytes(fs::metadata(path)?.len()));
    let binary = size(&programs.join("containerd-shim-seed-v2"))?;
    rows.push(row(
        "binary",
        "MiB",
        binary,
        &[(GO, go.binary_mebibytes()?)],
    ));
    let version = go.version()?;
    go.stop()?;

    say("  Create, and the same programs by hand");
    rows.extend(launch::measure(
        &lab,
        &lab::processes(&lab.status(ONE)?),
        options.runs,
    )?);
    say("  execs");
    rows.extend(execs(&lab, options.runs)?);
    rows.extend(crowd(&lab)?);
    let accel = lab.status(ONE)?["accel"].clone();
    lab.seed(&["stop", ONE], STOP)?;
    rows.extend(many::measure(&lab, &vms)?);
    for name in names {
        // The one for launches may never have had anything of its own.
        let _ = lab.try_seed(&["rm", name, "--yes"], COMMAND)?;
    }
    lab.remove()?;
    let mut machine = machine();
    machine.insert("accel".to_owned(), accel);
    machine.insert("runs".to_owned(), json!(options.runs));
    machine.insert(GO.to_owned(), json!(version));
    let left = format!("{} instances at once: {}", vms.len(), many::LEFT);
    judge(&rows, &[&TARGETS[..], &[(&left, 0.0)]].concat(), options)?;
    Ok(Results { machine, rows })
}

fn row(
    name: impl Into<String>,
    unit: &'static str,
    ours: f64,
    peers: &[(&'static str, f64)],
) -> Row {
    Row {
        name: name.into(),
        unit,
        ours,
        peers: peers.iter().copied().collect(),
    }
}

/// Lets the guest write, and waits until it arrives.
fn flow(lab: &Lab) -> Result<()> {
    let unit = format!("--unit={FLOW_UNIT}");
    let begin = ["systemd-run", "--quiet", &unit, "/bin/sh", "-c", FLOW];
    let output = lab.exec(ONE, &begin)?;
    ensure!(output.status.success(), "the flow does not start");
    until("the flow to arrive", COMMAND, || {
        let text = lab.seed(&["logs", ONE, "-u", FLOW_UNIT], COMMAND)?;
        Ok(text.contains("of a steady flow").then_some(()))
    })
}

/// The process that serves the Task API: the parent of the VMM.
pub(super) fn shim_of(lab: &Lab, name: &str) -> Result<u32> {
    let processes = lab::processes(&lab.status(name)?);
    let qemu = processes.get("qemu").context("no qemu in the status")?;
    lab::parent(*qemu).context("the VMM has no parent")
}

/// Medians over some seconds, MiB.
#[derive(Debug)]
struct Memory {
    rss: f64,
    pss: f64,
    private_dirty: f64,
    threads: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let file = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).with_context(|| format!("read {path}"))
        };
        let [mut rss, mut pss, mut dirty, mut threads] = [const { Vec::new() }; 4];
        for _ in 0..LOOKS {
            thread::sleep(APART);
            let rollup = file("smaps_rollup")?;
            let mebibytes = |name| figure(&rollup, name).map(|kib| kib / 1024.0);
            rss.push(mebibytes("Rss:")?);
            pss.push(mebibytes("Pss:")?);
            dirty.push(mebibytes("Private_Dirty:")?);
            threads.push(figure(&file("status")?, "Threads:")?);
        }
        let middle = |values: &[f64]| median(values).context("nothing was looked at");
        Ok(Self {
            rss: middle(&rss)?,
            pss: middle(&pss)?,
            private_dirty: middle(&dirty)?,
            threads: middle(&threads)?,
        })
    }
}

fn memory_rows(ours: &Memory, theirs: &Memory) -> Vec<Row> {
    let one = |name, unit, of: fn(&Memory) -> f64| row(name, unit, of(ours), &[(GO, of(theirs))]);
    vec![
        one("shim, logs flowing: RSS", "MiB", |m| m.rss),
        one("shim, logs flowing: PSS", "MiB", |m| m.pss),
        one("shim, logs flowing: private dirty", "MiB", |m| {
            m.private_dirty
        }),
        one("shim, logs flowing: threads", "", |m| m.threads),
    ]
}

fn mebibytes(bytes: u64) -> f64 {
    // Exact up to 2^53.
    #[allow(
        clippy::cast_precision_loss,
        reason = "sizes of files are far below 2^53"
    )]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

/// `/bin/true` from the host's command line to its exit status, and in the guest by `systemd-run`, in turns.
fn execs(lab: &Lab, runs: usize) -> Result<Vec<Row>> {
    const INSIDE: &str = "a=$(date +%s%N); systemd-run --quiet --pipe --wait /bin/true || exit 1; \
                          b=$(date +%s%N); echo $((b - a))";
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let begin = Instant::now();
        let output = lab.exec(ONE, &["/bin/true"])?;
        ours.push(begin.elapsed().as_secs_f64() * 1000.0);
        ensure!(output.status.success(), "/bin/true failed");
        let nanoseconds: f64 = lab.sh(ONE, INSIDE)?.trim().parse().context("a time")?;
        theirs.push(nanoseconds / 1e6);
    }
    let middle = |values: &[f64]| median(values).context("no exec was measured");
    let (ours, theirs) = (middle(&ours)?, middle(&theirs)?);
    let peers = [("systemd-run inside", theirs)];
    Ok(vec![
        row("exec of /bin/true", "ms", ours, &peers),
        row(EXEC_RATIO, "", ours / theirs, &[]),
    ])
}

/// Many at once, each with an output of its own.
fn crowd(lab: &Lab) -> Result<Vec<Row>> {
    let begin = Instant::now();
    let answers: Vec<Result<bool>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..CROWD)
            .map(|number| {
                scope.spawn(move || {
                    let word = format!("answer {number}");
                    let mut command = lab.command("seed");
                    command.args(["exec", ONE, "--", "/bin/echo", &word]);
                    let output = lab::run(&mut command, &[], BOOT, None)?;
                    let right = output.stdout == format!("{word}\n").as_bytes();
                    Ok(output.status.success() && right)
                })
            })
            .collect();
        let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|one| one.unwrap_or(Ok(false))).collect()
    });
    let took = begin.elapsed().as_secs_f64();
    let good = answers.iter().filter(|one| matches!(one, Ok(true))).count();
    let lost = u32::try_from(CROWD - good).context("count the lost ones")?;
    Ok(vec![
        row(
            format!("{CROWD} execs at once: lost"),
            "",
            f64::from(lost),
            &[],
        ),
        row(
            format!("{CROWD} execs at once: all answered"),
            "s",
            took,
            &[],
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_proc() {
        let text = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:                5224 kB\nPss:                3672 kB\n";
        assert_eq!(figure(text, "Rss:").expect("there"), 5224.0);
        assert!(figure(text, "Shared_Clean:").is_err());
        assert_eq!(mebibytes(3 << 19), 1.5);
        let own = Memory {
            rss: 5.0,
            pss: 3.0,
            private_dirty: 1.0,
            threads: 1.0,
        };
        let rows = memory_rows(&own, &Memory { rss: 10.0, ..own });
        assert_eq!(rows[0].ratio(), Some(0.5));
    }
}
