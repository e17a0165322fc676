//! `bench journal`: the journal's way from its files in the guest to text on the host, and journalctl on the same files.
//!
//! A real systemd runs in namespaces on the guest's root (an overlay in memory takes what it writes), so everything
//! is at native speed; no VM. The corpus is made once for each size and kept in the cache: eight units, four of which send native
//! datagrams with fields of their own and four of which write lines to stdout. The seeds are fixed, so a corpus is
//! the same but for times and ids.
//!
//! Costs are CPU time (user and system) of the process that is named, per entry, so that less is better as in every
//! bench. Who reads: `journal_bench` (the reader and the encoder alone), the agent as it ships with the puller as it ships
//! (`journal_pull`), and `seed logs`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Results, Row, machine, median};
use crate::util::{self, Places, say};

/// The corpus's size unless told otherwise, and what can be told.
pub(super) const ENTRIES: u32 = 200_000;
pub(super) const SIZES: RangeInclusive<u32> = 8_000..=10_000_000;
/// How long systemd may take to come up, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How long the agent may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long the live part lasts: some 400 lines and as much time with nothing to do.
const LIVE_SECONDS: u64 = 6;
/// The corpus's machine id, which names its folder.
const MACHINE_ID: &str = "5eed5eed5eed5eed5eed5eed5eed5eed";
/// The name of the instance whose log the segments are.
const INSTANCE: &str = "corpus";
/// How often short things are measured.
const SHORT_RUNS: usize = 5;

/// Arguments: the guest's root, an empty folder, the corpus's folder, the folder of our programs, the writer.
const SET_UP: &str = include_str!("journal-container.sh");
/// Writes one unit's part of the corpus.
const WRITER: &str = include_str!("journal-writer.pl");

/// Builds what only this bench needs.
pub(super) fn build(places: &Places) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "lab"]);
    cargo.args(["--package", "seed-journal", "--example", "journal_bench"]);
    cargo.args(["--package", "seed-shim", "--example", "journal_pull"]);
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (bench journal)", &mut cargo)
}

pub(super) fn measure(places: &Places, guest: &Path, entries: u32) -> Result<Results> {
    let scratch = Scratch::make(places)?;
    let corpus = places.cache.join(format!("journal-{}", entries));
    let container = Container::boot(places, guest, &scratch.0, &corpus)?;
    make_corpus(&container, &corpus, entries)?;
    let mut rows = readers(&container)?;
    rows.extend(pulled(places, &container, &scratch.0)?);
    rows.extend(shown(places, &container, &scratch.0)?);
    let mut machine = machine();
    machine.insert("entries".to_owned(), json!(entries));
    Ok(Results { machine, rows })
}

fn row(name: &str, unit: &'static str, ours: f64, peers: &[(&'static str, f64)]) -> Row {
    Row {
        name: name.to_owned(),
        unit,
        ours,
        peers: peers.iter().copied().collect(),
    }
}

/// Fills the corpus unless an earlier run did.
fn make_corpus(container: &Container, corpus: &Path, entries: u32) -> Result<()> {
    let made = corpus.join("made");
    if made.exists() {
        return Ok(());
    }
    say(&format!("  making a corpus of {entries} entries, once"));
    let begin = Instant::now();
    // Each is a unit of Type=oneshot: this waits for all of them.
    let units = (1..=8).map(|n| format!("corpus@{n}-{}.service", entries / 8));
    let mut words = vec!["systemctl".to_owned(), "start".to_owned()];
    words.extend(units);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    container.run(&words)?;
    container.run(&["journalctl", "--sync"])?;
    File::create(&made).context("note that the corpus is made")?;
    say(&format!("  made in {:.1} s", begin.elapsed().as_secs_f64()));
    Ok(())
}

/// Reader and encoder alone, in the guest's namespaces, and journalctl there on the same files.
fn readers(container: &Container) -> Result<Vec<Row>> {
    say("  reading with our reader and with journalctl");
    let text = container.run(&[
        "/opt/bench/examples/journal_bench",
        "/var/log/journal",
        MACHINE_ID,
        "--peers",
    ])?;
    let found: Value = serde_json::from_str(&text).context("read what journal_bench printed")?;
    let mut cost = BTreeMap::new();
    for row in found["rows"].as_array().into_iter().flatten() {
        let name = row["name"].as_str().unwrap_or_default().to_owned();
        let (cpu, entries) = (row["cpu_s"].as_f64(), row["entries"].as_f64());
        if let (Some(cpu), Some(entries)) = (cpu, entries) {
            cost.insert(name, 1e6 * cpu / entries);
        }
    }
    let of = |name: &str| {
        cost.get(name)
            .copied()
            .with_context(|| format!("no {name:?} in {text}"))
    };
    let private = found["private_kib"].as_f64().context("no private_kib")?;
    Ok(vec![
        row(
            "guest: read and encode, CPU per entry",
            "us",
            of("encode")?,
            &[
                ("journalctl json", of("journalctl -o json")?),
                ("journalctl export", of("journalctl -o export")?),
            ],
        ),
        row(
            "guest: reader's private memory",
            "MiB",
            private / 1024.0,
            &[],
        ),
    ])
}

/// The agent and the puller as they ship: a whole corpus into segments, then a quiet writer.
fn pulled(places: &Places, container: &Container, scratch: &Path) -> Result<Vec<Row>> {
    say("  pulling everything into segments, then live lines");
    container.run(&["systemctl", "start", "bench-agent.service"])?;
    let socket = container.inside("/run/bench/agent.sock");
    wait_for("the agent to listen", LISTEN_LIMIT, || Ok(socket.exists()))?;
    let before = container.agent()?;
    let segments = scratch.join("state/logs/default").join(INSTANCE);
    fs::create_dir_all(&segments).context("make the segments' folder")?;
    let mut puller = Command::new(places.programs().join("examples/journal_pull"))
        .arg(&socket)
        .arg(&segments)
        .arg(LIVE_SECONDS.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("start journal_pull")?;
    // It says nothing until the end: it has caught up when the agent has nothing more to do.
    let mut last = before.cpu_seconds;
    wait_for("the pull to catch up", Duration::from_secs(600), || {
        ensure!(puller.try_wait()?.is_none(), "journal_pull ended early");
        thread::sleep(Duration::from_millis(500));
        let now = container.agent()?.cpu_seconds;
        let idle = now - last < 0.01 && now > before.cpu_seconds;
        last = now;
        Ok(idle)
    })?;
    let after = container.agent()?;
    container.run(&["systemctl", "start", "live.service"])?;
    let quiet = container.agent()?;
    let quiet_from = Instant::now();
    let output = puller.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "journal_pull: {}", output.status);
    let idle = container.agent()?.cpu_seconds - quiet.cpu_seconds;
    let idle_percent = 100.0 * idle / quiet_from.elapsed().as_secs_f64().max(0.1);
    let found: Value = serde_json::from_str(&text).context("read what journal_pull printed")?;
    let number = |name: &str| {
        found[name]
            .as_f64()
            .with_context(|| format!("no {name} in {text}"))
    };
    let entries = number("entries")?;
    ensure!(number("missing")? == 0.0, "entries are missing: {text}");
    ensure!(number("live")? > 100.0, "hardly a live line: {text}");
    Ok(vec![
        row(
            "agent: CPU per entry pulled",
            "us",
            1e6 * (after.cpu_seconds - before.cpu_seconds) / entries,
            &[],
        ),
        row(
            "puller: CPU per entry",
            "us",
            1e6 * number("cpu_s")? / entries,
            &[],
        ),
        row(
            "pull of everything: wall per entry",
            "us",
            1e6 * number("wall_s")? / entries,
            &[],
        ),
        row(
            "agent: private memory on top of idle",
            "MiB",
            (after.private_kib - before.private_kib) / 1024.0,
            &[],
        ),
        row(
            "puller: private memory",
            "MiB",
            number("private_kib")? / 1024.0,
            &[],
        ),
        row(
            "live: journald's stamp to segment, p50",
            "ms",
            number("p50_us")? / 1e3,
            &[],
        ),
        row(
            "live: journald's stamp to segment, p99",
            "ms",
            number("p99_us")? / 1e3,
            &[],
        ),
        row(
            "live: agent's CPU while nothing comes",
            "%",
            idle_percent,
            &[],
        ),
    ])
}

/// `seed logs` on the segments against journalctl on the files.
fn shown(places: &Places, container: &Container, scratch: &Path) -> Result<Vec<Row>> {
    say("  printing with seed logs");
    let config = scratch.join("shim.toml");
    let text = format!(
        "run_dir = {:?}\nstate_dir = {:?}\n",
        scratch.join("run"),
        scratch.join("state")
    );
    fs::write(&config, text).context("write the configuration")?;
    let seed = |words: &[&str]| {
        let mut command = Command::new(places.programs().join("seed"));
        command
            .arg("logs")
            .arg(INSTANCE)
            .args(words)
            .env("SEED_CONFIG", &config);
        command
    };
    let journalctl = |words: &[&str]| {
        let mut command = container.command(&["journalctl", "--quiet", "--no-pager"]);
        command.args(words);
        command
    };
    let mut rows = Vec::new();
    for (name, ours, theirs) in [
        ("host: print as JSON, CPU per entry", "--json", "json"),
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
    let ours = wall(|| seed(&["--lines", "10"]))?;
    rows.push(row(
        "seed logs --lines 10, wall",
        "ms",
        ours,
        &[("journalctl", theirs.max(0.0))],
    ));
    Ok(rows)
}

/// CPU microseconds for each line that a command prints (for each entry of the export form).
fn cost(command: &mut Command, name: &str) -> Result<f64> {
    let before = cpu_of_children()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let mut output = Counting::default();
    io::copy(child.stdout.as_mut().context("no output")?, &mut output)?;
    let status = child.wait()?;
    ensure!(status.success(), "{name}: {status}");
    let cpu = cpu_of_children()? - before;
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

/// Seconds on a CPU of all children that have ended, and theirs: `cutime` and `cstime` of proc_pid_stat(5), in
/// ticks of 10 ms, which is little beside what is measured with them.
fn cpu_of_children() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/stat").context("read /proc/self/stat")?;
    // The name of the program, in brackets, may hold anything; behind it stands field 3.
    let (_, fields) = text
        .rsplit_once(')')
        .context("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(13).take(2);
    let ticks = ticks
        .map(|field| Ok(field.parse::<f64>()?))
        .sum::<Result<f64>>()?;
    Ok(ticks / 100.0)
}

fn wait_for(what: &str, limit: Duration, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > limit {
            bail!("waited in vain for {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// A folder of our own in the cache, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(places: &Places) -> Result<Self> {
        let path = places
            .cache
            .join(format!("bench-journal-{}", std::process::id()));
        fs::create_dir_all(path.join("mounts"))
            .with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: what stays is in the cache.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the agent has used so far.
struct Used {
    cpu_seconds: f64,
    private_kib: f64,
}

/// A guest's systemd in namespaces. Ends with all of its processes and mounts when it is dropped.
struct Container {
    unshare: Child,
    init: String,
}

impl Container {
    fn boot(places: &Places, guest: &Path, scratch: &Path, corpus: &Path) -> Result<Self> {
        fs::create_dir_all(corpus.join("journal"))
            .with_context(|| format!("make {}", corpus.display()))?;
        let writer = scratch.join("writer.pl");
        fs::write(&writer, WRITER).context("write the corpus's writer")?;
        let unshare = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--uts",
                "--ipc",
            ])
            .args([
                "--cgroup",
                "--net",
                "--fork",
                "--kill-child",
                "--",
                "sh",
                "-c",
                SET_UP,
                "sh",
            ])
            .args([
                guest,
                &scratch.join("mounts"),
                &corpus.join("journal"),
                &places.programs(),
                &writer,
            ])
            .arg(MACHINE_ID)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start unshare")?;
        let mut container = Self {
            unshare,
            init: String::new(),
        };
        wait_for("systemd in the container", BOOT_LIMIT, || {
            let ended = container.unshare.try_wait()?;
            ensure!(ended.is_none(), "the container ended: {ended:?}");
            Ok(container.is_up())
        })?;
        Ok(container)
    }

    fn is_up(&mut self) -> bool {
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let Some(init) = children.split_whitespace().next() else {
            return false;
        };
        let comm = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
        init.clone_into(&mut self.init);
        comm.trim() == "systemd"
            && self.inside("/run/systemd/journal/flushed").exists()
            && self
                .command(&["systemctl", "is-system-running"])
                .output()
                .is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"running" | b"degraded"))
    }

    /// A path of the guest, as the host sees it.
    fn inside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// A command in it.
    fn command(&self, words: &[&str]) -> Command {
        let root = self.inside("").display().to_string();
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target", &self.init, "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--net",
            ])
            .args([&format!("--root={root}"), &format!("--wd={root}"), "--"])
            .args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// What a command in it prints; it must succeed.
    fn run(&self, words: &[&str]) -> Result<String> {
        util::read(&mut self.command(words))
    }

    fn agent(&self) -> Result<Used> {
        let show = [
            "systemctl",
            "show",
            "--property=MainPID",
            "--value",
            "bench-agent.service",
        ];
        let pid = self.run(&show)?.trim().to_owned();
        let text = fs::read_to_string(self.inside(&format!("/proc/{pid}/smaps_rollup")))?;
        let line = text.lines().find(|line| line.starts_with("Private_Dirty:"));
        let private = line.and_then(|line| line.split_whitespace().nth(1));
        let mut cpu_seconds = 0.0;
        for task in fs::read_dir(self.inside(&format!("/proc/{pid}/task")))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanoseconds: f64 = text.split(' ').next().context("empty schedstat")?.parse()?;
            cpu_seconds += nanoseconds / 1e9;
        }
        Ok(Used {
            cpu_seconds,
            private_kib: private.context("no Private_Dirty")?.parse()?,
        })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended by itself; a drop must not panic.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}
