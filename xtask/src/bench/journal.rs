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
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use seed_container::{Container, Spec, wait_for};
use serde_json::{Value, json};

use super::{Results, Row, machine, median};
use crate::util::{self, Places, say};

/// The corpus's size unless told otherwise, and what can be told.
pub(super) const ENTRIES: u32 = 200_000;
pub(super) const SIZES: RangeInclusive<u32> = 8_000..=10_000_000;
/// How long the agent may take to listen.
const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long the live part lasts: some 400 lines, and then nothing to do.
const LIVE_SECONDS: u64 = 10;
/// The agent looks most often just after a line: idle is what comes this long after the last one.
const SETTLE: Duration = Duration::from_secs(2);
/// The corpus's machine id, which names its folder.
const MACHINE_ID: &str = "5eed5eed5eed5eed5eed5eed5eed5eed";
/// The name of the instance whose log the segments are.
const INSTANCE: &str = "corpus";
/// How often short things are measured.
const SHORT_RUNS: usize = 5;

/// Writes one unit's part of the corpus.
const WRITER: &str = include_str!("journal-writer.pl");
const JOURNALD: &str = "\
[Journal]
Storage=persistent
RateLimitIntervalSec=0
RateLimitBurst=0
SystemMaxUse=8G
SystemKeepFree=1M
SystemMaxFileSize=128M
";
const CORPUS: &str = "\
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/writer.pl %i
TimeoutStartSec=infinity
";
const LIVE: &str = "\
[Service]
Type=oneshot
ExecStart=/usr/bin/perl /opt/writer.pl live
";
/// The agent as it ships.
const AGENT: &str = "bench-agent.service";
const SERVICE: &str = "\
[Service]
ExecStart=/opt/bench/seed-agent --listen unix:/run/bench/agent.sock
RuntimeDirectory=bench
";

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
    let container = boot(places, guest, &corpus)?;
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
                ("sdjournal", of("sdjournal")?),
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
    container.serve(AGENT, "/run/bench/agent.sock", LISTEN_LIMIT)?;
    let socket = container.inside("/run/bench/agent.sock");
    let before = used(container)?;
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
        let now = used(container)?.cpu_seconds;
        let idle = now - last < 0.01 && now > before.cpu_seconds;
        last = now;
        Ok(idle)
    })?;
    let after = used(container)?;
    container.run(&["systemctl", "start", "live.service"])?;
    thread::sleep(SETTLE);
    let quiet = used(container)?;
    let quiet_from = Instant::now();
    let output = puller.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "journal_pull: {}", output.status);
    let idle = used(container)?.cpu_seconds - quiet.cpu_seconds;
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
    // The same again in other ways.
    let single = pull_again(places, &socket, &scratch.join("single"), "one-at-a-time")?;
    let packed = pull_again(places, &socket, &scratch.join("packed"), "zstd")?;
    let bytes = |folder: &Path| -> Result<f64> { Ok(size(folder)? / entries) };
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
            &[("with zstd", packed.cpu_us)],
        ),
        row(
            "segments: on disk per entry",
            "B",
            bytes(&segments)?,
            &[("with zstd", bytes(&scratch.join("packed"))?)],
        ),
        row(
            "pull of everything: wall per entry",
            "us",
            1e6 * number("wall_s")? / entries,
            &[("one at a time", single.wall_us)],
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

/// What a whole corpus costs for each entry.
struct Pulled {
    cpu_us: f64,
    wall_us: f64,
}

/// Another pull of everything, by the same agent.
fn pull_again(places: &Places, socket: &Path, folder: &Path, how: &str) -> Result<Pulled> {
    let mut puller = Command::new(places.programs().join("examples/journal_pull"));
    puller.args([socket, folder]).args(["0", how]);
    let text = util::read(&mut puller)?;
    let found: Value = serde_json::from_str(&text).context("read what journal_pull printed")?;
    let number = |name: &str| {
        found[name]
            .as_f64()
            .with_context(|| format!("no {name} in {text}"))
    };
    let entries = number("entries")?;
    Ok(Pulled {
        cpu_us: 1e6 * number("cpu_s")? / entries,
        wall_us: 1e6 * number("wall_s")? / entries,
    })
}

/// The bytes of a folder's files.
fn size(folder: &Path) -> Result<f64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        bytes += file?.metadata()?.len();
    }
    Ok(f64::from(u32::try_from(bytes)?))
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

/// A folder of our own in the cache, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn make(places: &Places) -> Result<Self> {
        let path = places
            .cache
            .join(format!("bench-journal-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
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

/// A guest's systemd in namespaces, with the corpus and our programs in it.
fn boot(places: &Places, guest: &Path, corpus: &Path) -> Result<Container> {
    let journal = corpus.join("journal");
    fs::create_dir_all(&journal).with_context(|| format!("make {}", journal.display()))?;
    let units = "/etc/systemd/system";
    Spec::new(guest)?
        .file("/etc/machine-id", format!("{MACHINE_ID}\n"))?
        .file("/etc/systemd/journald.conf.d/zz-bench.conf", JOURNALD)?
        .file(&format!("{units}/corpus@.service"), CORPUS)?
        .file(&format!("{units}/live.service"), LIVE)?
        .file(&format!("{units}/{AGENT}"), SERVICE)?
        .file("/opt/writer.pl", WRITER)?
        .bind(&journal, "/var/log/journal")
        .show(&places.programs(), "/opt/bench")
        .boot()
}

/// What the agent has used so far.
fn used(container: &Container) -> Result<Used> {
    let pid = container.main_pid(AGENT)?;
    let text = fs::read_to_string(container.inside(&format!("/proc/{pid}/smaps_rollup")))?;
    let line = text.lines().find(|line| line.starts_with("Private_Dirty:"));
    let private = line.and_then(|line| line.split_whitespace().nth(1));
    let mut cpu_seconds = 0.0;
    for task in fs::read_dir(container.inside(&format!("/proc/{pid}/task")))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds: f64 = text.split(' ').next().context("empty schedstat")?.parse()?;
        cpu_seconds += nanoseconds / 1e9;
    }
    Ok(Used {
        cpu_seconds,
        private_kib: private.context("no Private_Dirty")?.parse()?,
    })
}
