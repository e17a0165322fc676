//! `bench all`: every bench in one go, to one page with its pictures, `docs/benchmarks.md`. Nothing on it is typed by hand.
//!
//! Each bench is this program again with `--json`, so that the page holds what the commands on it print. A bench that fails
//! is on the page with its error, and so is what it stands on: commit, machine, versions, how busy the machine was.

mod page;
mod plot;

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{BENCHES, Bench, Options, machine};
use crate::util::{self, Places, print, read, say};

/// The journal as it grows, entries.
const ENTRIES: [u32; 4] = [10_000, 50_000, 200_000, 1_000_000];
/// Programs whose versions matter, and how they are asked.
const VERSIONS: [(&str, &[&str]); 6] = [
    ("rustc", &["rustc", "--version"]),
    ("QEMU", &["qemu-system-x86_64", "--version"]),
    ("swtpm", &["swtpm", "--version"]),
    ("virtiofsd", &["virtiofsd", "--version"]),
    ("vhost-device-vsock", &["vhost-device-vsock", "--version"]),
    ("age", &["age", "--version"]),
];

/// One bench's part of the page.
#[derive(Debug)]
struct Part {
    /// The command that prints it.
    command: String,
    /// What it printed, or why it did not.
    found: Result<Value, String>,
}

pub(super) fn run(places: &Places, options: &Options) -> Result<ExitCode> {
    let about = about(places)?;
    let runs = options.runs.to_string();
    let mut parts = Vec::new();
    for (name, bench, _) in BENCHES {
        match bench {
            Bench::All => continue,
            Bench::Journal => {
                let sizes = ENTRIES.map(|count| count.to_string());
                let each = sizes
                    .iter()
                    .map(|count| measured(places, &[name, "--entries", count]));
                parts.extend(each);
            }
            // What it measures takes milliseconds; it has a count of its own.
            Bench::Age => parts.push(measured(places, &[name])),
            _ => parts.push(measured(places, &[name, "--runs", &runs])),
        }
    }
    let docs = places.root.join("docs");
    let failed = write(&docs, &about, &parts)?;
    print(&format!(
        "{} benches, {failed} failed: docs/benchmarks.md",
        parts.len()
    ))?;
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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

fn measured(places: &Places, words: &[&str]) -> Part {
    let command = format!("cargo xtask bench {}", words.join(" "));
    say(&command);
    let found = ask(places, words).map_err(|error| format!("{error:#}"));
    if let Err(error) = &found {
        say(&format!("  error: {error}"));
    }
    Part { command, found }
}

fn ask(places: &Places, words: &[&str]) -> Result<Value> {
    let program = std::env::current_exe().context("find our own program")?;
    let mut bench = Command::new(program);
    bench
        .args(places.words())
        .arg("bench")
        .args(words)
        .arg("--json");
    bench.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = bench.output().context("start this program again")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("its output is no JSON")
}

/// What the figures depend on beside the code.
fn about(places: &Places) -> Result<Value> {
    let git = |words: &[&str]| read(Command::new("git").args(words).current_dir(&places.root));
    let changed = !git(&["status", "--porcelain"])?.is_empty();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let load = fs::read_to_string("/proc/loadavg").context("read the load")?;
    let load: Vec<_> = load.split(' ').take(3).collect();
    let versions = VERSIONS.iter().map(|(name, words)| {
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .env("PATH", places.path_variable());
        let text = util::output(&mut command)
            .map(|output| output.stdout)
            .unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().next().unwrap_or("not there").to_owned();
        ((*name).to_owned(), Value::String(line))
    });
    Ok(json!({
        "date": read(Command::new("date").args(["-u", "+%F"]))?.trim(),
        "commit": format!("{}{}", commit.trim(), if changed { " with changes" } else { "" }),
        "machine": machine(),
        "load": load.join(" "),
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
                found: Ok(json!({ "machine": {}, "rows": [
                    { "name": "x", "unit": "ms", "ours": 1.0, "peers": { "p": 2.0 }, "ratio": 0.5 },
                ] })),
            },
            Part {
                command: "cargo xtask bench b".to_owned(),
                found: Err("no disk".to_owned()),
            },
        ];
        fs::create_dir_all(folder.join("benchmarks")).expect("a folder");
        fs::write(folder.join("benchmarks/old.svg"), "").expect("a file");
        let failed = write(&folder, &json!({}), &parts).expect("written");
        assert_eq!(failed, 1);
        assert!(!folder.join("benchmarks/old.svg").exists());
        let page = fs::read_to_string(folder.join("benchmarks.md")).expect("a page");
        assert!(page.contains("| x | ms | 1 | 2 | 0.5 |"), "{page}");
        assert!(page.contains("no disk"), "{page}");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
