//! `bench journal`: the journal's way from its files in the guest to text on the host, and its peers on the same files.
//!
//! A real systemd runs in namespaces on the guest's root (an overlay in memory takes what it writes), so everything
//! is at native speed; no VM. The corpus is made once for each size and kept in the cache (`corpus`). The seeds are fixed, so a corpus is
//! the same but for times and ids.
//!
//! Costs are CPU time (user and system) of the process that is named, per entry, so that less is better as in every
//! bench. Who reads: `journal_bench` (the reader and the encoder alone), the agent as it ships with the puller as it ships
//! (`pull`, with the example `journal_pull`), and `seed logs` (`show`); beside them libsystemd, systemd-journal-gatewayd
//! (`peers`), journalctl and the crate sdjournal. What a stalled host does to the guest is `flood`'s. The targets are those of the whole: what is printed as missed is.

mod corpus;
mod flood;
pub(super) mod growth;
mod peers;
mod pull;
mod show;

use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use anyhow::{Context, Result};
use seed_container::Container;
use serde_json::{Value, json};

use super::{Options, Results, Row, judge, machine, median};
use crate::{
    setup,
    util::{self, Places, say},
};

/// The corpus's size unless told otherwise, and what can be told.
pub(super) const ENTRIES: u32 = 200_000;
pub(super) const SIZES: RangeInclusive<u32> = 8_000..=10_000_000;
/// The corpus's machine id, which names its folder.
const MACHINE_ID: &str = "5eed5eed5eed5eed5eed5eed5eed5eed";
/// The name of the instance whose log the segments are.
const INSTANCE: &str = "corpus";

/// The most that each row may be: a million entries read and 300,000 printed in a second of CPU, and of a stall of 12 s no unit
/// feels more than a busy journald.
const TARGETS: [(&str, f64); 12] = [
    (READ, 1.0),
    (UNLIKE_JOURNALCTL, 0.0),
    (UNLIKE_SDJOURNAL, 0.0),
    (JSON, 1e6 / 300e3),
    (LAST, 50.0),
    (P50, 5.0),
    (P99, 15.0),
    (IDLE, 1.0),
    (AGENT_MEMORY, 4.0),
    (HOST_MEMORY, 8.0),
    (FLOOD_SYNC, 1000.0),
    (FLOOD_UNCOUNTED, 0.0),
];
const READ: &str = "guest: read and encode, CPU per entry";
const UNLIKE_JOURNALCTL: &str = "entries that differ from journalctl's, in place or any field";
const UNLIKE_SDJOURNAL: &str =
    "entries of sdjournal's that differ from ours, in place or any field";
const JSON: &str = "host: print as JSON, CPU per entry";
const LAST: &str = "seed logs --lines 10, wall";
const P50: &str = "live: journald's stamp to segment, p50";
const P99: &str = "live: journald's stamp to segment, p99";
const IDLE: &str = "live: agent's CPU while nothing comes";
const AGENT_MEMORY: &str = "agent: most private memory in a flood, on top of idle";
const HOST_MEMORY: &str = "puller: private memory";
const FLOOD_CALL: &str = "host stalls 12 s in a flood of 200,000: another unit's longest log call";
const FLOOD_SYNC: &str = "host stalls 12 s in a flood of 200,000: its longest log call and sync";
const FLOOD_UNCOUNTED: &str = "host stalls 12 s: entries neither held nor in a gap";

/// Builds what only this bench needs.
pub(super) fn build(places: &Places) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--locked", "--profile", "lab"]);
    cargo.args(["--package", "seed-journal", "--example", "journal_bench"]);
    cargo.args(["--package", "seed-shim", "--example", "journal_pull"]);
    cargo.current_dir(&places.root);
    util::step(places, "cargo build (bench journal)", &mut cargo)?;
    setup::run(places, setup::Need::Journal)
}

pub(super) fn measure(places: &Places, guest: &Path, options: &Options) -> Result<Results> {
    let scratch = Scratch::make(places)?;
    let corpus = corpus::folder(places, options.entries);
    let libsystemd = peers::build_libsystemd(guest, &scratch.0)?;
    let container = corpus::boot(places, guest, &corpus, &scratch.0)?;
    corpus::fill(&container, &corpus, options.entries)?;
    let mut rows = readers(&container)?;
    say("  reading with libsystemd and with systemd-journal-gatewayd");
    let read = &mut rows[0].peers;
    read.insert("libsystemd", peers::libsystemd(&container, &libsystemd)?);
    let files = corpus.join("journal").join(MACHINE_ID);
    read.insert("gatewayd export", peers::gatewayd(&files, &scratch.0)?);
    rows.extend(pull::rows(places, &container, &scratch.0)?);
    rows.extend(show::rows(places, &container, &scratch.0)?);
    let systemd = container.run(&["journalctl", "--version"])?;
    drop(container);
    rows.extend(flood::rows(places, guest, &scratch.0)?);
    judge(&rows, &TARGETS, options)?;
    let mut machine = machine();
    machine.insert("entries".to_owned(), json!(options.entries));
    machine.insert("load".to_owned(), json!(load()));
    let systemd = systemd.lines().next().unwrap_or_default();
    machine.insert("the guest's journalctl".to_owned(), json!(systemd));
    Ok(Results { machine, rows })
}

/// How busy the machine was: the mean of the last minute, of five, of fifteen.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn row(name: &str, unit: &'static str, ours: f64, peers: &[(&'static str, f64)]) -> Row {
    Row {
        name: name.to_owned(),
        unit,
        ours,
        peers: peers.iter().copied().collect(),
    }
}

/// What journal_bench says of each reader: CPU microseconds for each entry; and its own private memory.
struct Readers {
    /// As many as the files hold.
    entries: f64,
    cost: BTreeMap<String, f64>,
    private_mib: f64,
    /// Entries that a peer gives differently, by its name; with `--peers` only.
    unlike: BTreeMap<String, f64>,
}

impl Readers {
    fn of(container: &Container, more: &[&str]) -> Result<Self> {
        let words = [
            "/opt/bench/examples/journal_bench",
            "/var/log/journal",
            MACHINE_ID,
        ];
        let text = container.run(&[&words, more].concat())?;
        let found: Value = serde_json::from_str(&text).context("read journal_bench's figures")?;
        let mut cost = BTreeMap::new();
        for row in found["rows"].as_array().into_iter().flatten() {
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            let (cpu, entries) = (row["cpu_s"].as_f64(), row["entries"].as_f64());
            if let (Some(cpu), Some(entries)) = (cpu, entries) {
                cost.insert(name, 1e6 * cpu / entries);
            }
        }
        let private = found["private_kib"].as_f64().context("no private_kib")?;
        let entries = found["rows"][0]["entries"].as_f64();
        Ok(Self {
            entries: entries.context("no entries")?,
            cost,
            private_mib: private / 1024.0,
            unlike: serde_json::from_value(found["unlike"].clone()).unwrap_or_default(),
        })
    }

    fn unlike(&self, peer: &str) -> Result<f64> {
        let found = self.unlike.get(peer).copied();
        found.with_context(|| format!("{peer} was not compared"))
    }

    fn cost(&self, name: &str) -> Result<f64> {
        let found = self.cost.get(name).copied();
        found.with_context(|| format!("no {name:?} in {:?}", self.cost))
    }
}

/// Reader and encoder alone, in the guest's namespaces, and journalctl there on the same files.
fn readers(container: &Container) -> Result<Vec<Row>> {
    say("  reading with our reader and with journalctl");
    let found = Readers::of(container, &["--peers"])?;
    Ok(vec![
        row(
            READ,
            "us",
            found.cost("encode")?,
            &[
                ("sdjournal", found.cost("sdjournal")?),
                ("journalctl json", found.cost("journalctl -o json")?),
                ("journalctl export", found.cost("journalctl -o export")?),
            ],
        ),
        row(
            "guest: reader's private memory",
            "MiB",
            found.private_mib,
            &[],
        ),
        row(
            UNLIKE_JOURNALCTL,
            "entries",
            found.unlike("journalctl")?,
            &[],
        ),
        row(UNLIKE_SDJOURNAL, "entries", found.unlike("sdjournal")?, &[]),
    ])
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

/// A process that ends with this.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
