//! `cargo xtask bench NAME [--runs N] [--json]`: figures with their peers from the same run, as a table or as data.
//!
//! Every bench has this form: `{"machine": {...}, "rows": [{"name", "unit", "ours", "peers": {...}, "ratio"}]}`. A figure is a
//! median; `ratio` is ours over the best (smallest) peer of the same run, and null where a row has none.

mod age;
mod agent;
mod all;
mod boot;
mod growth;
mod journal;
mod program;
mod shell;
mod shim;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, thread};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::{
    image, programs, setup, table,
    util::{self, Places, print, say},
};

/// How often each thing is measured unless told otherwise: boots, and what takes milliseconds.
const RUNS: usize = 5;
const SHORT_RUNS: usize = 100;
/// Of each bench in one go, most of whose time is boots.
const ALL_RUNS: usize = 3;
const MAX_RUNS: usize = 100;
/// Instances at once unless told otherwise.
const VMS: usize = 8;
const MAX_VMS: usize = 64;

/// Which bench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bench {
    Age,
    Agent,
    /// Each of the others, to one page.
    All,
    Boot,
    Growth,
    Journal,
    Shell,
    Shim,
}

/// Their names, and how often each measures.
const BENCHES: [(&str, Bench, usize); 8] = [
    ("age", Bench::Age, SHORT_RUNS),
    ("agent", Bench::Agent, RUNS),
    ("all", Bench::All, ALL_RUNS),
    ("boot", Bench::Boot, RUNS),
    ("growth", Bench::Growth, RUNS),
    ("journal", Bench::Journal, RUNS),
    ("shell", Bench::Shell, SHORT_RUNS),
    ("shim", Bench::Shim, RUNS),
];

impl Bench {
    fn name(self) -> &'static str {
        let known = BENCHES.iter().find(|(_, bench, _)| *bench == self);
        known.map_or("", |(name, ..)| name)
    }

    fn named(word: &str) -> Result<(Self, usize)> {
        let known = BENCHES.iter().find(|(name, ..)| *name == word);
        if let Some((_, bench, runs)) = known {
            return Ok((*bench, *runs));
        }
        let names: Vec<_> = BENCHES.iter().map(|(name, ..)| *name).collect();
        bail!("there is no bench {word:?}: {}", names.join(", "))
    }
}

/// What the command line said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) bench: Bench,
    pub(crate) runs: usize,
    pub(crate) json: bool,
    /// `auto`, `kvm` or `tcg`.
    pub(crate) accel: String,
    /// The size of the journal's corpus.
    pub(crate) entries: u32,
    /// Instances at once.
    pub(crate) vms: usize,
    /// Of all, measure this one anew; of growth, this part alone.
    pub(crate) only: Option<String>,
    /// Of growth, also what takes very long.
    pub(crate) full: bool,
}

impl Options {
    /// From the rest of the command line; the first word of it must be the name of a bench.
    pub(crate) fn parse(parser: &mut lexopt::Parser) -> Result<Self> {
        use lexopt::prelude::*;
        let (bench, runs) = match parser.next()? {
            Some(Value(name)) => Bench::named(&name.string()?)?,
            Some(other) => return Err(other.unexpected().into()),
            None => Bench::named("")?,
        };
        let mut options = Self {
            bench,
            runs,
            json: false,
            accel: "auto".to_owned(),
            entries: match bench {
                Bench::All => all::ENTRIES,
                _ => journal::ENTRIES,
            },
            vms: VMS,
            only: None,
            full: false,
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("json") => options.json = true,
                Long("runs") => options.runs = parser.value()?.parse()?,
                Long("accel") => options.accel = parser.value()?.string()?,
                Long("entries") => options.entries = parser.value()?.parse()?,
                Long("only") if options.bench == Bench::All => {
                    let name = parser.value()?.string()?;
                    Bench::named(&name)?;
                    options.only = Some(name);
                }
                Long("only") if options.bench == Bench::Growth => {
                    let part = parser.value()?.string()?;
                    growth::known(&part)?;
                    options.only = Some(part);
                }
                Long("full") if [Bench::All, Bench::Growth].contains(&options.bench) => {
                    options.full = true;
                }
                Long("vms") => options.vms = parser.value()?.parse()?,
                other => return Err(other.unexpected().into()),
            }
        }
        if !(1..=MAX_VMS).contains(&options.vms) {
            bail!("--vms {}: from 1 to {MAX_VMS}", options.vms);
        }
        if !(1..=MAX_RUNS).contains(&options.runs) {
            bail!("--runs {}: from 1 to {MAX_RUNS}", options.runs);
        }
        if !["auto", "kvm", "tcg"].contains(&options.accel.as_str()) {
            bail!("--accel {}: auto, kvm or tcg", options.accel);
        }
        if !journal::SIZES.contains(&options.entries) {
            let (least, most) = (journal::SIZES.start(), journal::SIZES.end());
            bail!("--entries {}: from {least} to {most}", options.entries);
        }
        Ok(options)
    }

    /// As words, for the part that runs as root.
    fn words(&self) -> Vec<String> {
        let (runs, entries) = (self.runs.to_string(), self.entries.to_string());
        let vms = self.vms.to_string();
        let mut words = [self.bench.name(), "--runs", &runs, "--accel", &self.accel]
            .map(str::to_owned)
            .to_vec();
        words.extend(["--entries".to_owned(), entries, "--vms".to_owned(), vms]);
        words.extend(self.json.then(|| "--json".to_owned()));
        words.extend(self.full.then(|| "--full".to_owned()));
        if let Some(only) = &self.only {
            words.extend(["--only".to_owned(), only.clone()]);
        }
        words
    }
}

/// Makes everything ready, then measures.
pub(crate) fn run(places: &Places, options: &Options) -> Result<ExitCode> {
    say("Getting ready");
    setup::run(places, setup::Need::Run)?;
    if options.bench == Bench::Age {
        // No guest; the measuring program is root by itself.
        return show(&age::measure(places, options)?, options);
    }
    if options.bench == Bench::Shell {
        // Its instances are played.
        return show(&shell::measure(places, options)?, options);
    }
    if options.bench == Bench::All {
        return all::run(places, options);
    }
    programs::build(places)?;
    match options.bench {
        Bench::Journal => journal::build(places)?,
        Bench::Agent => agent::build(places)?,
        Bench::Growth => growth::build(places)?,
        Bench::Shim => shim::build(places)?,
        Bench::Age | Bench::All | Bench::Boot | Bench::Shell => {}
    }
    let guest = image::build(places)?;
    if util::is_root() {
        return measure(places, guest, options);
    }
    let mut command = util::again_as_root(places, "bench-of")?;
    util::passed_on(command.arg(guest).args(options.words()))
}

/// As root, with a guest root that is built.
pub(crate) fn measure(places: &Places, guest: PathBuf, options: &Options) -> Result<ExitCode> {
    let results = match options.bench {
        Bench::Journal => journal::measure(places, &guest, options)?,
        Bench::Shim => shim::measure(places, guest, options)?,
        Bench::Agent => agent::measure(places, guest, options)?,
        Bench::Growth => growth::measure(places, guest, options)?,
        Bench::Boot => boot::measure(places, &guest, options)?,
        Bench::Age | Bench::All | Bench::Shell => {
            bail!("bench {} has no part for root", options.bench.name())
        }
    };
    show(&results, options)
}

fn show(results: &Results, options: &Options) -> Result<ExitCode> {
    if options.json {
        print(&results.data().to_string())?;
    } else {
        results.table().iter().try_for_each(|line| print(line))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Says of each target (the most that a row may be) whether it is met. A row that is not there is a mistake.
fn judge(rows: &[Row], targets: &[(&str, f64)], options: &Options) -> Result<()> {
    for (name, target) in targets {
        let found = rows.iter().find(|row| row.name == *name);
        let ours = found.with_context(|| format!("no row {name}"))?.ours;
        verdict(name, ours, *target, options)?;
    }
    Ok(())
}

/// Says whether a figure is within its target.
fn verdict(name: &str, figure: f64, target: f64, options: &Options) -> Result<()> {
    let met = if figure <= target { "met" } else { "missed" };
    let line = format!("target {met}: {name}: {figure:.2}, at most {target:.2}");
    // Data stand alone on standard output.
    if options.json {
        say(&line);
        return Ok(());
    }
    print(&line)
}

/// One thing that was measured.
#[derive(Debug)]
struct Row {
    name: String,
    unit: &'static str,
    ours: f64,
    peers: BTreeMap<&'static str, f64>,
}

impl Row {
    /// Ours over the smallest peer of this run.
    fn ratio(&self) -> Option<f64> {
        let best = self.peers.values().copied().reduce(f64::min)?;
        (best > 0.0).then(|| self.ours / best)
    }

    fn data(&self) -> Value {
        json!({
            "name": self.name,
            "unit": self.unit,
            "ours": rounded(self.ours),
            "peers": self.peers.iter().map(|(name, value)| ((*name).to_owned(), json!(rounded(*value)))).collect::<Map<_, _>>(),
            "ratio": self.ratio().map(rounded),
        })
    }
}

/// What a bench found.
#[derive(Debug)]
struct Results {
    machine: Map<String, Value>,
    rows: Vec<Row>,
}

impl Results {
    fn data(&self) -> Value {
        let rows: Vec<_> = self.rows.iter().map(Row::data).collect();
        json!({ "machine": self.machine, "rows": rows })
    }

    /// Machine, then a column for each peer.
    fn table(&self) -> Vec<String> {
        let mut peers: Vec<&str> = self
            .rows
            .iter()
            .flat_map(|row| row.peers.keys().copied())
            .collect();
        peers.sort_unstable();
        peers.dedup();
        let mut head = vec![String::new(), "unit".to_owned(), "ours".to_owned()];
        head.extend(peers.iter().map(|peer| (*peer).to_owned()));
        head.push("ratio".to_owned());
        let figure =
            |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| format!("{v:.2}"));
        let mut cells = vec![head];
        for row in &self.rows {
            let mut line = vec![
                row.name.clone(),
                row.unit.to_owned(),
                figure(Some(row.ours)),
            ];
            line.extend(
                peers
                    .iter()
                    .map(|peer| figure(row.peers.get(peer).copied())),
            );
            line.push(figure(row.ratio()));
            cells.push(line);
        }
        let machine = self.machine.iter().map(|(name, value)| {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            format!("{name}: {value}")
        });
        let mut lines = vec![machine.collect::<Vec<_>>().join(", "), String::new()];
        lines.extend(table::aligned(&cells));
        lines
    }
}

/// The middle value; of an even number the mean of the two in the middle.
fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// The number after a name at the beginning of a line, as `/proc` has them.
fn figure(text: &str, name: &str) -> Result<f64> {
    let found = text.lines().find_map(|line| line.strip_prefix(name));
    let number = found.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {name} in {text:?}"))
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// What the figures depend on.
fn machine() -> Map<String, Value> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let mut machine = Map::new();
    machine.insert(
        "cpu".to_owned(),
        json!(after(&file("/proc/cpuinfo"), "model name")),
    );
    let cores = thread::available_parallelism().map(usize::from).ok();
    machine.insert("cores".to_owned(), json!(cores));
    machine.insert(
        "memory".to_owned(),
        json!(after(&file("/proc/meminfo"), "MemTotal")),
    );
    let release = file("/proc/sys/kernel/osrelease");
    machine.insert("kernel".to_owned(), json!(release.trim()));
    machine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let row = |name: &str, ours, peers: &[(&'static str, f64)]| Row {
            name: name.to_owned(),
            unit: "s",
            ours,
            peers: peers.iter().copied().collect(),
        };
        Results {
            machine: Map::from_iter([("cores".to_owned(), json!(2))]),
            rows: vec![
                row("multi-user", 12.0, &[("without", 10.0), ("other", 11.0)]),
                row("hello", 8.25, &[]),
            ],
        }
    }

    #[test]
    fn the_data_have_the_form_of_every_bench() {
        let expected = json!({
            "machine": { "cores": 2 },
            "rows": [
                { "name": "multi-user", "unit": "s", "ours": 12.0, "peers": { "other": 11.0, "without": 10.0 }, "ratio": 1.2 },
                { "name": "hello", "unit": "s", "ours": 8.25, "peers": {}, "ratio": null },
            ],
        });
        assert_eq!(results().data(), expected);
    }

    #[test]
    fn the_table_has_a_column_for_each_peer() {
        let expected = "\
cores: 2

            unit   ours  other  without  ratio
multi-user     s  12.00  11.00    10.00   1.20
hello          s   8.25      -        -      -";
        assert_eq!(results().table().join("\n"), expected);
    }

    #[test]
    fn medians_are_of_sorted_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
