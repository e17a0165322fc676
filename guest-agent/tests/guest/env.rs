//! What is written to `/run/seed/env` is read back by a real systemd, as `EnvironmentFile=` of a service, and by a
//! shell: the same names with the same bytes.

use std::{fs, process::Command};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use seed_agent::env::{self, Environment};

use crate::with_systemd;

const FILE: &str = "/tmp/environment-file";

/// Names and values, as a program that is started with the file has them.
fn read_by(mut command: Command) -> Result<Vec<Vec<u8>>, String> {
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let all = output.stdout.split(|byte| *byte == 0);
    let ours = all.filter(|entry| entry.starts_with(b"V_"));
    let mut ours: Vec<_> = ours.map(<[u8]>::to_vec).collect();
    ours.sort();
    Ok(ours)
}

fn by_systemd() -> Result<Vec<Vec<u8>>, String> {
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--wait", "--pipe", "--collect"]);
    command.args(["-p", &format!("EnvironmentFile={FILE}"), "env", "-0"]);
    read_by(command)
}

fn by_shell() -> Result<Vec<Vec<u8>>, String> {
    let mut command = Command::new("sh");
    command.args(["-c", "set -aeu; . \"$1\"; exec env -0", "sh", FILE]);
    read_by(command)
}

fn write(values: &[Vec<u8>]) -> (Environment, Vec<Vec<u8>>) {
    let entry = |(n, value): (usize, &Vec<u8>)| [format!("V_{n}=").as_bytes(), value].concat();
    let mut entries: Vec<_> = values.iter().enumerate().map(entry).collect();
    entries.sort();
    let environment = Environment::parse(&entries).unwrap();
    env::write(FILE.as_ref(), &environment, None).unwrap();
    (environment, entries)
}

/// What is hard to quote, next to anything.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[\"'\\\\$` \t\n#;=%{}()!~*?-]{0,40}".prop_map(String::into_bytes),
        "\\PC{0,60}".prop_map(String::into_bytes),
        "[ -~\n\t\u{e4}\u{1f331}]{0,200}".prop_map(String::into_bytes),
    ]
}

#[test]
fn a_service_and_a_shell_read_any_text_as_it_was_given() {
    with_systemd(|_| async {
        let mut runner = TestRunner::new(Config {
            cases: 16,
            failure_persistence: None,
            ..Config::default()
        });
        let checked = runner.run(&vec(text(), 1..50), |values| {
            let (_, entries) = write(&values);
            prop_assert_eq!(by_systemd(), Ok(entries.clone()));
            prop_assert_eq!(by_shell(), Ok(entries));
            Ok(())
        });
        checked.unwrap();
        fs::remove_file(FILE).unwrap();
    });
}

#[test]
fn a_value_that_is_no_text_is_left_out_and_keeps_no_service_from_the_others() {
    with_systemd(|_| async {
        let values: Vec<Vec<u8>> = [
            &b"plain"[..],
            b"bell \x07",
            b"return \r",
            b"escape \x1b[0m",
            b"delete \x7f",
            b"c1 \xc2\x85",
            b"last \t\n ok",
            b"\xff\xfe no text",
            "\u{fdd0} no character".as_bytes(),
            "\u{10ffff} nor this".as_bytes(),
        ]
        .map(<[u8]>::to_vec)
        .into();
        let (environment, mut entries) = write(&values);
        assert_eq!(environment.left_out(), ["V_7", "V_8", "V_9"]);
        entries.truncate(7);
        assert_eq!(by_shell(), Ok(entries.clone()));
        assert_eq!(by_systemd(), Ok(entries));
        // What is avoided: one such value, and no service starts.
        for value in [&b"\xff"[..], "\u{ffff}".as_bytes()] {
            fs::write(FILE, [b"V_0=\"plain\"\nV_1=\"", value, b"\"\n"].concat()).unwrap();
            assert!(by_systemd().is_err());
        }
        fs::remove_file(FILE).unwrap();
    });
}
