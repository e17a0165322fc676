//! Every command, asked with the real OpenSSH client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    sync::atomic::Ordering,
};

use common::{Host, RECIPIENT, public, until};
use serde_json::Value;

const ED25519: &[&str] = &["ed25519"];

/// What a command says of instances that have answered: one that is late is shown without an answer.
fn answered(host: &Host, key: &Path, line: &str) -> String {
    let mut said = String::new();
    until("an answer of every instance", || {
        said = host.ssh(key, line).good();
        !said.contains("no answer")
    });
    said
}

#[test]
fn an_owner_sees_and_manages_what_is_his() {
    let mut host = Host::start();
    let key = host.key("me", ED25519);
    let repo = host.plant("my-app", &public(&key), &["web", "api"]);
    let web = host.run(&repo, "web");
    let mut log = host.log(&repo, "web");
    log.add((1..=150).map(|n| format!("line {n}")));

    let status = answered(&host, &key, "status");
    let lines: Vec<Vec<&str>> = status
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..3], ["REPO", "INSTANCE", "STATE"]);
    assert_eq!(lines[1][..3], ["my-app", "api", "absent"]);
    assert_eq!(lines[2][..4], ["my-app", "web", "running", "running"]);
    assert_eq!(answered(&host, &key, "status my-app"), status);
    let screen = answered(&host, &key, "status my-app/web");
    assert!(screen.contains("14.40 s"), "{screen}");
    let json: Value = serde_json::from_str(&answered(&host, &key, "status --json")).unwrap();
    assert_eq!(json["repos"][0]["namespace"], repo.namespace.as_str());
    assert_eq!(json["repos"][0]["instances"][1]["state"], "running");

    assert_eq!(host.ssh(&key, "keys web").good(), format!("{RECIPIENT}\n"));
    let json: Value = serde_json::from_str(&host.ssh(&key, "keys web --json").good()).unwrap();
    assert_eq!(json["recipient"], RECIPIENT);

    let logs = host.ssh(&key, "logs web").good();
    assert_eq!(logs.lines().count(), 100);
    assert!(logs.ends_with("web app: line 150\n"), "{logs}");
    assert_eq!(
        host.ssh(&key, "logs my-app/web --lines 3")
            .good()
            .lines()
            .count(),
        3
    );
    let json = host.ssh(&key, "logs web --lines 1 --json").good();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["MESSAGE"], "line 150");
    assert_eq!(host.ssh(&key, "logs api").good(), "");

    let restarted = host.ssh(&key, "restart web");
    assert_eq!(restarted.status, 0, "{restarted:?}");
    assert!(restarted.out.starts_with("web is running ("));
    assert_eq!(restarted.err, "web is being restarted\n");
    assert_eq!(web.restarts.load(Ordering::SeqCst), 1);
    let json = host.ssh(&key, "restart web --json").good();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["state"], "running");

    let help = host.ssh(&key, "help").good();
    for verb in [
        "status", "logs", "keys", "restart", "plant", "replant", "help",
    ] {
        assert!(help.contains(verb), "{help}");
    }
    let json: Value = serde_json::from_str(&host.ssh(&key, "help --json").good()).unwrap();
    assert!(json["commands"].as_array().unwrap().len() > 6);
    // Without a terminal and without a command there is no dashboard, but help.
    assert_eq!(host.ssh(&key, "").good(), help);
}

#[test]
fn errors_say_what_and_what_to_do() {
    let mut host = Host::start();
    let key = host.key("me", ED25519);
    let one = host.plant("one", &public(&key), &["web"]);
    let two = host.plant("two", &public(&key), &["web", "db"]);
    host.run(&one, "web");
    host.run(&two, "web");
    for (line, status, said) in [
        (
            "keys web",
            1,
            "\"web\" can mean several: one/web, two/web\n  Write one of these.",
        ),
        (
            "keys two/api",
            1,
            "there is no instance \"two/api\" that your key sees",
        ),
        (
            "keys three/web",
            1,
            "there is no repository \"three\" that your key sees",
        ),
        (
            "keys ../../etc",
            1,
            "there is no repository \"..\" that your key sees",
        ),
        ("keys one/../x", 1, "is no name of an instance"),
        ("keys db", 1, "the instance does not run"),
        ("restart db", 1, "the instance does not run"),
        ("reboot", 2, "there is no command \"reboot\""),
        ("logs", 2, "logs needs an instance"),
    ] {
        let answer = host.ssh(&key, line);
        assert_eq!(
            (answer.status, answer.out.as_str()),
            (status, ""),
            "{line}: {answer:?}"
        );
        assert!(answer.err.contains(said), "{line}: {answer:?}");
        assert!(
            !answer.err.contains("/tmp/"),
            "a path of the host: {answer:?}"
        );
    }
    assert_eq!(
        host.ssh(&key, "keys one/web").good(),
        format!("{RECIPIENT}\n")
    );
    let by_namespace = format!("keys {}/web", two.namespace);
    assert_eq!(
        host.ssh(&key, &by_namespace).good(),
        format!("{RECIPIENT}\n")
    );
}

#[test]
fn a_followed_log_brings_every_line_once() {
    let host = Host::start();
    let key = host.key("me", ED25519);
    let repo = host.plant("app", &public(&key), &["web"]);
    let mut log = host.log(&repo, "web");
    log.add(["before"]);
    let mut ssh = host.client(&key);
    let mut child = ssh.args(["127.0.0.1", "logs web -f"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("before"));
    for n in 1..=500 {
        log.add([format!("line {n}")]);
    }
    for n in 1..=500 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.ends_with(&format!("app: line {n}")), "{line}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_watched_status_comes_again() {
    let host = Host::start();
    let key = host.key("me", ED25519);
    host.plant("app", &public(&key), &["web"]);
    let mut ssh = host.client(&key);
    let mut child = ssh
        .args(["127.0.0.1", "status -w 1 --json"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let document: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(document["repos"][0]["instances"][0]["state"], "absent");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn several_commands_share_a_connection() {
    let mut host = Host::start();
    let key = host.key("me", ED25519);
    let repo = host.plant("app", &public(&key), &["web"]);
    host.run(&repo, "web");
    let socket = host.path("mux");
    let control = format!("ControlPath={}", socket.display());
    let mut master = host.client(&key);
    let mut master = master
        .args(["-M", "-N", "-o", &control, "127.0.0.1"])
        .spawn()
        .unwrap();
    until("the master listens", || socket.exists());
    for _ in 0..20 {
        let mut ssh = host.client(&key);
        ssh.args(["-o", &control, "127.0.0.1", "keys web"]);
        let answer = common::Answer::of(common::finish(ssh.spawn().unwrap()));
        assert_eq!(answer.good(), format!("{RECIPIENT}\n"));
    }
    master.kill().unwrap();
    master.wait().unwrap();
}

#[test]
fn a_guest_cannot_steer_the_owners_terminal() {
    let host = Host::start();
    let key = host.key("me", ED25519);
    let repo = host.plant("app", &public(&key), &["web"]);
    let hostile: Vec<u8> = (0u8..=255).filter(|byte| *byte != b'\n').collect();
    let mut log = host.log(&repo, "web");
    log.add([
        b"\x1b[2J\x1b]0;owned\x07 \x9b31m".to_vec(),
        "\u{9b}2J \u{202e}".into(),
        hostile,
    ]);
    for line in ["logs web", "logs web --json"] {
        for pty in ["-T", "-tt"] {
            let mut ssh = host.client(&key);
            ssh.args([pty, "127.0.0.1", line]);
            let output = common::finish(ssh.spawn().unwrap());
            let text = String::from_utf8(output.stdout).unwrap();
            let whole = line.contains("--json") || text.contains("\\x1b]0;owned\\x07");
            assert!(whole && text.lines().count() == 3, "{line} {pty}: {text:?}");
            let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
            assert!(!text.contains(bad), "{line} {pty}: {text:?}");
        }
    }
}

#[test]
fn the_host_key_is_made_once_and_stays() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start();
    let key = host.key("me", ED25519);
    host.ssh(&key, "help").good();
    let path = host.path("state/host_ed25519_key");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let before = fs::read(&path).unwrap();
    host.ssh(&key, "help").good();
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn nothing_but_sessions_is_to_be_had() {
    let host = Host::start();
    let key = host.key("me", ED25519);
    host.plant("app", &public(&key), &["web"]);
    // A subsystem.
    let mut ssh = host.client(&key);
    ssh.args(["-s", "127.0.0.1", "sftp"]);
    let answer = common::Answer::of(common::finish(ssh.spawn().unwrap()));
    assert!(answer.status != 0 && answer.out.is_empty(), "{answer:?}");
    // A forwarding from there to here.
    let mut ssh = host.client(&key);
    ssh.args([
        "-o",
        "ExitOnForwardFailure=yes",
        "-N",
        "-R",
        "0:127.0.0.1:1",
        "127.0.0.1",
    ]);
    let answer = common::Answer::of(common::finish(ssh.spawn().unwrap()));
    assert!(answer.err.contains("forwarding failed"), "{answer:?}");
    // One from here to there.
    let target = format!("127.0.0.1:{}", host.port);
    let mut ssh = host.client(&key);
    let mut child = ssh.args(["-W", &target, "127.0.0.1"]).spawn().unwrap();
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert!(err.contains("forwarding failed"), "{err}");
    assert!(!child.wait().unwrap().success());
}
