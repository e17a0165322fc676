//! Golden runs of the program: `tests/cmd/*.toml`, one table per run.
//!
//! `[..]` in an expected text stands for anything within a line, `$DIR` for the run's own folder.
//! Each run gets a session of its own, so that nobody is asked for a PIN on a developer's terminal.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use common::{Swtpm, command, run};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    #[serde(default)]
    tpm: bool,
    run: Vec<Run>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Run {
    name: String,
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    stdin: String,
    /// Name of an identity file in `vectors/peers.toml` to use as stdin.
    stdin_vector: Option<String>,
    #[serde(default)]
    status: i32,
    #[serde(default)]
    stdout: String,
    stdout_file: Option<String>,
    #[serde(default)]
    stderr: String,
}

/// Whether `actual` is `expected` with each `[..]` standing for something within a line.
fn matches(expected: &str, actual: &str) -> bool {
    let mut actual_lines = actual.lines();
    let line_fits = |expected: &str, actual: &str| {
        let mut parts = expected.split("[..]");
        let first = parts.next().unwrap();
        let Some(mut rest) = actual.strip_prefix(first) else {
            return false;
        };
        let mut last_is_open = expected == first;
        for part in parts {
            let Some(at) = rest.find(part) else {
                return false;
            };
            rest = &rest[at + part.len()..];
            last_is_open = part.is_empty();
        }
        rest.is_empty() || (last_is_open && expected != first)
    };
    expected.lines().all(|line| {
        actual_lines
            .next()
            .is_some_and(|actual| line_fits(line, actual))
    }) && actual_lines.next().is_none()
        && (expected.is_empty() || actual.ends_with('\n'))
}

fn check(file: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(folder.join("tests/cmd").join(file)).unwrap();
    let golden: Golden = toml::from_str(&text).unwrap();
    let swtpm = if golden.tpm {
        match Swtpm::start(file) {
            Some(swtpm) => Some(swtpm),
            None => return,
        }
    } else {
        None
    };
    let dir = swtpm
        .as_ref()
        .map(|swtpm| swtpm.scratch().display().to_string());
    let in_dir = |text: &str| match &dir {
        Some(dir) => text.replace("$DIR", dir),
        None => text.to_owned(),
    };
    let vectors: toml::Table = include_str!("vectors/peers.toml").parse().unwrap();
    for case in golden.run {
        let tcti = swtpm.as_ref().map(Swtpm::tcti);
        let mut program = command("setsid", tcti.as_ref());
        program
            .arg("--wait")
            .arg(env!("CARGO_BIN_EXE_age-plugin-tpm"))
            .current_dir(folder);
        program
            .args(case.args.iter().map(|arg| in_dir(arg)))
            .envs(&case.env);
        let stdin = match &case.stdin_vector {
            Some(name) => vectors[name]["file"].as_str().unwrap().to_owned(),
            None => case.stdin,
        };
        let stdout = match &case.stdout_file {
            Some(name) => fs::read_to_string(folder.join(name)).unwrap(),
            None => in_dir(&case.stdout),
        };
        let output = run(&mut program, stdin.as_bytes());
        let name = format!("{file}: {}", case.name);
        for (what, expected, actual) in [
            ("stdout", stdout, output.stdout),
            ("stderr", in_dir(&case.stderr), output.stderr),
        ] {
            let actual = String::from_utf8(actual).unwrap();
            assert!(
                matches(&expected, &actual),
                "{name}: {what}\n--- expected\n{expected}--- actual\n{actual}---"
            );
        }
        assert_eq!(output.status.code(), Some(case.status), "{name}");
    }
}

#[test]
fn the_matcher_matches_only_what_it_should() {
    assert!(matches("a[..]c\n", "abc\n") && matches("a[..]\n", "abc\n"));
    assert!(matches("", "") && matches("a[..]c[..]e\n", "abcde\n"));
    for (expected, actual) in [
        ("a\n", "ab\n"),
        ("a[..]c\n", "abcd\n"),
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a\n"),
        ("", "x\n"),
    ] {
        assert!(!matches(expected, actual), "{expected:?} {actual:?}");
    }
}

#[test]
fn usage() {
    check("usage.toml");
}

#[test]
fn convert() {
    check("convert.toml");
}

#[test]
fn without_a_tpm() {
    check("no-tpm.toml");
}

#[test]
fn with_a_tpm() {
    check("tpm.toml");
}

#[test]
fn help_man_page_and_completions_name_the_same_flags() {
    let flags = |text: &str| -> std::collections::BTreeSet<String> {
        text.replace("\\-", "-")
            .split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
            .filter_map(|word| word.strip_prefix("--").filter(|name| !name.is_empty()))
            .map(str::to_owned)
            .collect()
    };
    let help = flags(include_str!("../src/bin/age-plugin-tpm/help.txt"));
    assert!(help.len() > 8, "{help:?}");
    assert_eq!(flags(include_str!("../man/age-plugin-tpm.1")), help);
    assert_eq!(
        flags(include_str!("../completions/age-plugin-tpm.bash")),
        help
    );
    assert_eq!(flags(include_str!("../completions/_age-plugin-tpm")), help);
    let fish = include_str!("../completions/age-plugin-tpm.fish").replace("-l ", "--");
    assert_eq!(flags(&fish), help);
}
