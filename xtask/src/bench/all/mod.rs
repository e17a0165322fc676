//! `bench all`: every bench in one go, to one page with its pictures, `docs/benchmarks.md`. Nothing on it is typed by hand.
//!
//! Each bench is this program again with `--json`, so that the page holds what the commands on it print. A bench that fails
//! is on the page with its error, and so is what it stands on: commit, machine, versions, how busy the machine was.
//!
//! What each printed is kept in `target/bench/`: `--only NAME` measures that bench anew and takes the others from there.

mod page;
mod plot;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{BENCHES, Bench, Options, machine};
use crate::util::{self, Places, print, read, say};

/// The journal as it grows: tenfold from the least, of which reading costs more than one tick of the kernel's accounts, up to what `--entries` says, and a million unless it does.
const LEAST: u32 = 100_000;
pub(super) const ENTRIES: u32 = 1_000_000;
const SHELL_RUNS: &str = "20";
/// Marks a bench that takes very long.
const FULL: &str = "--full";
/// How a bench begins a line about a target.
const TARGET: &str = "target ";
/// Programs whose versions matter, and how they are asked.
const VERSIONS: [(&str, &[&str]); 7] = [
    ("rustc", &["rustc", "--version"]),
    ("QEMU", &["qemu-system-x86_64", "--version"]),
    ("swtpm", &["swtpm", "--version"]),
    ("virtiofsd", &["virtiofsd", "--version"]),
    ("age", &["age", "--version"]),
    ("OpenSSH", &["ssh", "-V"]),
    (
        "systemd-journal-gatewayd",
        &["/usr/lib/systemd/systemd-journal-gatewayd", "--version"],
    ),
];

/// One bench's part of the page.
#[derive(Debug)]
struct Part {
    /// The command that prints it.
    command: String,
    /// When, at which commit, and how busy the machine was.
    when: String,
    /// What it printed, or why it did not.
    found: Result<Value, String>,
    /// What it said of its targets, a line each.
    targets: Vec<String>,
}

impl Part {
    fn data(&self) -> Value {
        let (found, error) = match &self.found {
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(error)),
        };
        json!({
            "command": self.command,
            "when": self.when,
            "found": found,
            "error": error,
            "targets": self.targets,
        })
    }

    fn of(data: &Value) -> Option<Self> {
        let word = |name: &str| Some(data[name].as_str()?.to_owned());
        Some(Self {
            command: word("command")?,
            when: word("when")?,
            found: match word("error") {
                Some(error) => Err(error),
                None => Ok(data["found"].clone()),
            },
            targets: data["targets"]
                .as_array()?
                .iter()
                .filter_map(|line| Some(line.as_str()?.to_owned()))
                .collect(),
        })
    }
}

pub(super) fn run(places: &Places, options: &Options) -> Result<ExitCode> {
    let about = about(places)?;
    let mut parts = Vec::new();
    for (name, words) in commands(options) {
        let wanted = options.only.as_ref().is_none_or(|only| only == name);
        // What takes very long is measured when it is asked for, and stays on the page.
        let wanted = wanted && (options.full || !words.iter().any(|word| word == FULL));
        let part = if wanted {
            let part = measured(places, &words)?;
            keep(places, &words, &part)?;
            Some(part)
        } else {
            kept(places, &words)
        };
        parts.extend(part);
    }
    let failed = write(&places.root.join("docs"), &about, &parts)?;
    print(&format!(
        "{} benches, {failed} failed: docs/benchmarks.md",
        parts.len()
    ))?;
    Ok(util::code(failed == 0))
}

/// Each bench's name and its words after `cargo xtask bench`.
fn commands(options: &Options) -> Vec<(&'static str, Vec<String>)> {
    let runs = options.runs.to_string();
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let mut all = Vec::new();
    for (name, bench, _) in BENCHES {
        match bench {
            Bench::All => {}
            Bench::Journal => {
                let sizes = std::iter::successors(Some(LEAST), |count| count.checked_mul(10));
                all.extend(
                    sizes
                        .take_while(|count| *count <= options.entries)
                        .map(|count| (name, words(&[name, "--entries", &count.to_string()]))),
                );
            }
            Bench::Growth | Bench::Shim => {
                let vms = options.vms.to_string();
                all.push((name, words(&[name, "--runs", &runs, "--vms", &vms])));
                if bench == Bench::Growth {
                    all.push((name, words(&[name, "--only", "journal", FULL])));
                }
            }
            // What it measures takes milliseconds; it has a count of its own.
            Bench::Age => all.push((name, words(&[name]))),
            // Tens of milliseconds each.
            Bench::Shell => all.push((name, words(&[name, "--runs", SHELL_RUNS]))),
            _ => all.push((name, words(&[name, "--runs", &runs]))),
        }
    }
    all
}

fn file(places: &Places, words: &[String]) -> PathBuf {
    let name = format!("{}.json", words.join("_"));
    places.target.join("bench").join(name)
}

fn keep(places: &Places, words: &[String], part: &Part) -> Result<()> {
    let file = file(places, words);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::write(&file, part.data().to_string()).with_context(|| format!("write {}", file.display()))
}

/// What an earlier run found, if there was one.
fn kept(places: &Places, words: &[String]) -> Option<Part> {
    let text = fs::read_to_string(file(places, words)).ok()?;
    Part::of(&serde_json::from_str(&text).ok()?)
}

/// Page and pictures; how many parts failed.
fn write(docs: &Path, about: &Value, parts: &[Part]) -> Result<usize> {
    let pictures = docs.join("benchmarks");
    // Pictures of an earlier run may have no place on the page any more.
    if pictures.exists() {
        fs::remove_dir_all(&pictures).with_context(|| format!("remove {}", pictures.display()))?;
    }
    fs::create_dir_all(&pictures).with_context(|| format!("make {}", pictures.display()))?;
    let page = page::of(about, parts);
    for (name, picture) in &page.pictures {
        fs::write(pictures.join(name), picture).with_context(|| format!("write {name}"))?;
    }
    fs::write(docs.join("benchmarks.md"), &page.text).context("write docs/benchmarks.md")?;
    Ok(parts.iter().filter(|part| part.found.is_err()).count())
}

fn measured(places: &Places, words: &[String]) -> Result<Part> {
    let command = format!("cargo xtask bench {}", words.join(" "));
    say(&command);
    let when = when(places)?;
    let mut targets = Vec::new();
    let found = ask(places, words, &mut targets).map_err(|error| format!("{error:#}"));
    if let Err(error) = &found {
        say(&format!("  error: {error}"));
    }
    Ok(Part {
        command,
        when,
        found,
        targets,
    })
}

/// Date, commit and load before a bench.
fn when(places: &Places) -> Result<String> {
    let commit = util::commit(&places.root, &util::MEASURED)?;
    let load = fs::read_to_string("/proc/loadavg").context("read the load")?;
    let load: Vec<_> = load.split(' ').take(3).collect();
    let date = read(Command::new("date").args(["-u", "+%F"]))?;
    Ok(format!(
        "{}, commit {commit}, load before {}",
        date.trim(),
        load.join(" ")
    ))
}

/// Runs a bench. What it says to people goes on to them; of that, what it says of targets is kept.
fn ask(places: &Places, words: &[String], targets: &mut Vec<String>) -> Result<Value> {
    let program = std::env::current_exe().context("find our own program")?;
    let mut bench = Command::new(program);
    bench
        .args(places.words())
        .arg("bench")
        .args(words)
        .arg("--json");
    bench.stdin(Stdio::null());
    bench.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut bench = bench.spawn().context("start this program again")?;
    let said = bench.stderr.take().context("it has no standard error")?;
    let listener = thread::spawn(move || {
        let lines = BufReader::new(said).lines().map_while(Result::ok);
        lines
            .inspect(|line| say(line))
            .filter_map(|line| Some(line.strip_prefix(TARGET)?.to_owned()))
            .collect::<Vec<_>>()
    });
    let output = bench.wait_with_output().context("wait for the bench")?;
    *targets = listener.join().unwrap_or_default();
    ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("its output is no JSON")
}

/// What the figures depend on beside the code.
fn about(places: &Places) -> Result<Value> {
    let versions = VERSIONS.iter().map(|(name, words)| {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("PATH", places.path_variable());
        // OpenSSH says it where others say their errors.
        let text = util::output(&mut command)
            .map(|output| [output.stdout, output.stderr].concat())
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or("not there").to_owned();
        ((*name).to_owned(), Value::String(line))
    });
    Ok(json!({
        "machine": machine(),
        "versions": versions.collect::<serde_json::Map<_, _>>(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_and_pictures_are_written_and_old_ones_go() {
        let folder = std::env::temp_dir().join(format!("seed-bench-{}", std::process::id()));
        let parts = [
            Part {
                command: "cargo xtask bench a".to_owned(),
                when: "today".to_owned(),
                found: Ok(json!({ "machine": {}, "rows": [
                    { "name": "x", "unit": "ms", "ours": 1.0, "peers": { "p": 2.0 }, "ratio": 0.5 },
                ] })),
                targets: vec!["met: x: 1.00, at most 2.00".to_owned()],
            },
            Part {
                command: "cargo xtask bench b".to_owned(),
                when: "today".to_owned(),
                found: Err("no disk".to_owned()),
                targets: Vec::new(),
            },
        ];
        fs::create_dir_all(folder.join("benchmarks")).expect("a folder");
        fs::write(folder.join("benchmarks/old.svg"), "").expect("a file");
        let failed = write(&folder, &json!({}), &parts).expect("written");
        assert_eq!(failed, 1);
        assert!(!folder.join("benchmarks/old.svg").exists());
        let page = fs::read_to_string(folder.join("benchmarks.md")).expect("a page");
        assert!(page.contains("| x | ms | 1 | 2 | 0.5 |"), "{page}");
        assert!(page.contains("| x | 1.00, at most 2.00 | met |"), "{page}");
        assert!(page.contains("no disk"), "{page}");
        fs::remove_dir_all(&folder).expect("removed");
        for part in &parts {
            let again = Part::of(&part.data()).expect("what was kept");
            assert_eq!(again.data(), part.data());
        }
    }
}
