//! The unit and its companions, as systemd's own programs read them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");

/// How exposed the unit may be by systemd's own account, in tenths; without any hardening it is 96.
const EXPOSURE: &str = "20";

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (package systemd): {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    output
}

/// The unit with the program that was just built.
fn unit(dir: &Path) -> String {
    let text = fs::read_to_string(format!("{FOLDER}/seed-shell.service")).unwrap();
    let program = env!("CARGO_BIN_EXE_seed-shell");
    let text = text.replace("/usr/local/bin/seed-shell", program);
    let path = dir.join("seed-shell.service");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn systemd_takes_the_unit_and_finds_it_little_exposed() {
    let dir = tempfile::tempdir().unwrap();
    let unit = unit(dir.path());
    let said = run("systemd-analyze", &["--man=no", "verify", &unit]).stderr;
    let said = String::from_utf8(said).unwrap();
    let about: Vec<_> = said
        .lines()
        .filter(|line| line.contains("seed-shell"))
        .collect();
    assert!(about.is_empty(), "{about:?}");
    run(
        "systemd-analyze",
        &[
            "security",
            "--offline=true",
            "--threshold",
            EXPOSURE,
            "--no-pager",
            &unit,
        ],
    );
    // The start check reads the configuration as the server does.
    run(env!("CARGO_BIN_EXE_seed-shell"), &["--check-config"]);
}

#[test]
fn user_group_and_folder_are_made_as_the_unit_names_them() {
    let root = tempfile::tempdir().unwrap();
    for (folder, file) in [
        ("sysusers.d", "sysusers.conf"),
        ("tmpfiles.d", "tmpfiles.conf"),
    ] {
        let folder = root.path().join("etc").join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(format!("{FOLDER}/{file}"), folder.join("seed-shell.conf")).unwrap();
    }
    let option = format!("--root={}", root.path().display());
    run("systemd-sysusers", &[&option]);
    let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    let groups = read("etc/group");
    let group = groups
        .lines()
        .find(|line| line.starts_with("seed:"))
        .unwrap();
    let users = read("etc/passwd");
    let user = users
        .lines()
        .find(|line| line.starts_with("seed-shell:"))
        .unwrap();
    let first_group = user.split(':').nth(3);
    assert_eq!(
        first_group,
        group.split(':').nth(2),
        "its first group is the sockets'"
    );
    run("systemd-tmpfiles", &[&option, "--create"]);
    assert!(root.path().join("var/lib/seed-shell").is_dir());
}
