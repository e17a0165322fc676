//! What is written to `/run/seed/env` is read back, byte for byte, by those who read it in a guest: a
//! POSIX shell, and systemd's own parser.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{fs, io, io::Write, path::Path, process::Command};

use proptest::prelude::*;
use seed_agent::env::{self, Environment};

fn write(path: &Path, entries: &[Vec<u8>]) {
    env::write(path, &Environment::parse(entries).unwrap(), None).unwrap();
}

/// The variables whose names begin with `V_`, as `shell` has them after reading the file.
fn read_by(shell: &str, path: &Path) -> Vec<Vec<u8>> {
    let output = Command::new(shell)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .args(["-c", "set -aeu; . \"$1\"; exec env -0", "sh"])
        .arg(path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{shell}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all = output.stdout.split(|byte| *byte == 0);
    let mut ours: Vec<_> = all
        .filter(|e| e.starts_with(b"V_"))
        .map(<[u8]>::to_vec)
        .collect();
    ours.sort();
    ours
}

/// systemd reads `os-release` with the parser that it has for `EnvironmentFile=`
/// (`src/basic/env-file.c`), and `systemd-tmpfiles` writes a field of it to a file.
fn read_by_systemd(value: &[u8]) -> Option<Vec<u8>> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("etc/os-release");
    write(&path, &[[b"BUILD_ID=", value].concat()]);
    fs::create_dir_all(root.path().join("usr/lib/tmpfiles.d")).unwrap();
    fs::write(
        root.path().join("usr/lib/tmpfiles.d/a.conf"),
        "f /out 0600 - - - %B\n",
    )
    .unwrap();
    let root_flag = format!("--root={}", root.path().display());
    let output = Command::new("systemd-tmpfiles")
        .args([&root_flag, "--create"])
        .output()
        .ok()?;
    let words = String::from_utf8_lossy(&output.stderr);
    // Without a value the file is made empty.
    let read = fs::read(root.path().join("out"));
    Some(read.unwrap_or_else(|error| panic!("{error}: {words}")))
}

const HARD: [&str; 9] = [
    "",
    "two words",
    "it's \"quoted\"",
    "$HOME ${HOME} $(id) `id`",
    "back\\slash \\n \\\\ \\",
    "first line\nsecond line\n",
    "# no comment; nor = an end",
    "!history {a,b} * ? [x] ~",
    "\u{fc}ml\u{e4}ut \u{1f331}\ttab",
];

fn numbered<V: AsRef<[u8]>>(values: &[V]) -> Vec<Vec<u8>> {
    let entry = |(n, value): (usize, &V)| [format!("V_{n}=").as_bytes(), value.as_ref()].concat();
    let mut entries: Vec<_> = values.iter().enumerate().map(entry).collect();
    entries.sort();
    entries
}

#[test]
fn shells_read_hard_values_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("env");
    let entries = numbered(&HARD);
    write(&path, &entries);
    for shell in ["sh", "bash"] {
        assert_eq!(read_by(shell, &path), entries, "{shell}");
    }
}

#[test]
fn systemd_reads_hard_values_unchanged() {
    for value in HARD {
        let Some(read) = read_by_systemd(value.as_bytes()) else {
            let _ = writeln!(io::stderr(), "SKIPPED: systemd-tmpfiles is not installed");
            return;
        };
        assert_eq!(String::from_utf8_lossy(&read), value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_shell_reads_any_text_unchanged(
        values in prop::collection::vec("[^\\x00]{0,100}", 0..8)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("env");
        let mut entries = numbered(&values);
        write(&path, &entries);
        let environment = Environment::parse(&entries).unwrap();
        let left_out = environment.left_out();
        let has = |entry: &Vec<u8>, name: &str| entry.starts_with(format!("{name}=").as_bytes());
        entries.retain(|entry| !left_out.iter().any(|name| has(entry, name)));
        prop_assert_eq!(read_by("sh", &path), entries);
    }

    #[test]
    fn systemd_reads_any_text_unchanged(value in "[ -~\n\t\u{e4}\u{1f331}]{0,80}") {
        if let Some(read) = read_by_systemd(value.as_bytes()) {
            prop_assert_eq!(String::from_utf8_lossy(&read), value);
        }
    }
}
