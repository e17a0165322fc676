//! `exec` with the OpenSSH client: streams, status, terminal, and who may.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    sync::{Arc, atomic::Ordering},
};

use common::{Answer, Host, LIMIT, Played, finish, public, until};
use russh::{
    client,
    keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key},
};

const ON: &str = "exec = true\n[limits]\nnew_per_minute = 100000\n";

fn host(extra: &str) -> (Host, std::path::PathBuf, Arc<Played>) {
    let mut host = Host::with(extra);
    let me = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&me), &["web"]);
    let played = host.run(&repo, "web");
    (host, me, played)
}

#[test]
fn streams_and_status_are_the_commands_own() {
    let (host, me, _) = host(ON);
    let line = "exec web -- sh -c 'echo out; echo err >&2; exit 7'";
    let answer = host.ssh(&me, line);
    assert_eq!(
        (answer.status, answer.out.as_str(), answer.err.as_str()),
        (7, "out\n", "err\n")
    );
    assert_eq!(host.ssh(&me, "exec web -- sh -c 'kill -9 $$'").status, 137);
    // As it is, escapes and all: that is what was asked for.
    let mut ssh = host.client(&me);
    ssh.args(["127.0.0.1", "exec web printf '\\033[31m\\377'"]);
    assert_eq!(finish(ssh.spawn().unwrap()).stdout, b"\x1b[31m\xff");
    let json = host.ssh(&me, "exec --json web -- sh -c 'echo out; exit 3'");
    assert_eq!(
        (json.status, json.out.as_str()),
        (3, "{\"stdout\":\"out\\n\"}\n{\"status\":3}\n")
    );
    let missing = host.ssh(&me, "exec web -- /no/such/program");
    assert!(
        missing.status == 255 && missing.err.contains("No such file"),
        "{missing:?}"
    );
    assert_eq!(host.ssh(&me, "exec other -- true").status, 255);
}

#[test]
fn the_log_says_who_did_it_and_nothing_of_what_was_run_or_given() {
    let (host, me, played) = host(ON);
    let mut ssh = host.client(&me);
    ssh.stdin(Stdio::piped())
        .args(["127.0.0.1", "exec web -- sh -c 'cat; : hidden-word'"]);
    let mut child = ssh.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"given-word").unwrap();
    drop(input);
    assert_eq!(Answer::of(finish(child)).good(), "given-word");
    host.ssh(&me, "restart web --json").good();
    assert_eq!(played.restarts.load(Ordering::SeqCst), 1);
    let code = host.invite();
    host.ssh(&me, &format!("plant silo:other {code}")).good();
    let keygen = Command::new("ssh-keygen").arg("-lf").arg(&me).output();
    let keygen = String::from_utf8(keygen.unwrap().stdout).unwrap();
    let key = keygen.split(' ').nth(1).unwrap().to_owned();
    for what in ["command started", "restart asked for", "planted"] {
        until(what, || {
            let said = host.said.lock().unwrap();
            let mut lines = said.iter().filter(|line| line.contains(what));
            lines.any(|line| line.contains(&key) && line.contains("127.0.0.1"))
        });
    }
    let said = host.said.lock().unwrap().join("\n");
    for secret in ["hidden-word", "given-word", code.as_str()] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[test]
fn much_input_comes_back_whole_although_nobody_reads_it_at_first() {
    let (host, me, _) = host(ON);
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let mut ssh = host.client(&me);
    ssh.stdin(Stdio::piped())
        .args(["127.0.0.1", "exec web -- cat"]);
    let mut child = ssh.spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = bytes.clone();
    // Everything is sent before a byte is read: more than windows and pipes hold.
    let sending = std::thread::spawn(move || input.write_all(&sent));
    sending.join().unwrap().unwrap();
    let mut back = Vec::new();
    output.read_to_end(&mut back).unwrap();
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
    assert!(finish(child).status.success());
    let left = fs::read_dir(host.path("state")).unwrap();
    let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names
            .iter()
            .all(|name| !name.to_string_lossy().starts_with('#')),
        "{names:?}"
    );
}

/// A client that has no room for a byte of output: OpenSSH's always has some.
struct Deaf;

impl client::Handler for Deaf {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// The files without a name that the server has open in its state folder.
fn nameless(host: &Host) -> usize {
    let state = host.path("state");
    let open = fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap();
    let files = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    files
        .filter(|file| file.starts_with(&state) && file.to_string_lossy().ends_with("(deleted)"))
        .count()
}

#[test]
fn what_a_stranger_sends_and_does_not_read_is_kept_nowhere() {
    let (host, me, _) = host(ON);
    let stranger = host.key("stranger", &["ed25519"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connect = async |key: &std::path::Path| {
        let config = client::Config {
            window_size: 0,
            ..client::Config::default()
        };
        let address = ("127.0.0.1", host.port);
        let mut ssh = client::connect(Arc::new(config), address, Deaf)
            .await
            .unwrap();
        let key = PrivateKeyWithHashAlg::new(Arc::new(load_secret_key(key, None).unwrap()), None);
        let told = ssh.authenticate_publickey("me", key).await.unwrap();
        assert!(told.success());
        let channel = ssh.channel_open_session().await.unwrap();
        channel.exec(true, "exec web -- cat").await.unwrap();
        channel.data_bytes(vec![7; 3 << 20]).await.unwrap();
        (ssh, channel)
    };
    runtime.block_on(async {
        let sent = async {
            let _stranger = connect(&stranger).await;
            assert_eq!(nameless(&host), 0);
            // An owner's is kept, until he goes.
            let owner = connect(&me).await;
            assert_eq!(nameless(&host), 1);
            drop(owner);
        };
        tokio::time::timeout(LIMIT, sent).await.unwrap();
    });
    drop(runtime);
    until("it is given up", || nameless(&host) == 0);
}

#[test]
fn a_terminal_has_its_kind_and_its_size() {
    let (host, me, played) = host(ON);
    let mut ssh = Command::new("script");
    let options = host.options(&me).join(" ");
    let line = format!("stty cols 100 rows 30; ssh -tt {options} 127.0.0.1 exec web -- echo hello");
    ssh.args(["-qec", &line, "/dev/null"]).env("TERM", "screen");
    ssh.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let answer = Answer::of(finish(ssh.spawn().unwrap()));
    assert!(answer.out.contains("hello"), "{answer:?}");
    let asked = played.commands.asked.lock().unwrap().remove(0);
    assert!(asked.terminal && asked.env == ["TERM=screen"], "{asked:?}");
    assert_eq!((asked.columns, asked.rows), (100, 30));
}

#[test]
fn a_command_is_given_up_when_its_client_goes_or_its_key_is_taken_away() {
    let (host, me, played) = host(ON);
    let begin = || {
        let mut ssh = host.client(&me);
        ssh.args([
            "127.0.0.1",
            "exec web -- sh -c 'echo begun; exec sleep 1000'",
        ]);
        let mut child = ssh.spawn().unwrap();
        let mut word = [0; 5];
        child
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut word)
            .unwrap();
        child
    };
    let abandoned = |count| {
        until("it is given up", || {
            played.commands.abandoned.load(Ordering::SeqCst) == count
        });
    };
    let mut child = begin();
    child.kill().unwrap();
    child.wait().unwrap();
    abandoned(1);
    let child = begin();
    let other = host.key("other", &["ed25519"]);
    let keys = host.path("keys");
    fs::write(&keys, public(&other)).unwrap();
    let told = host.admin(&["authorize", "app", keys.to_str().unwrap()]);
    assert!(told.status.success(), "{told:?}");
    let ended = Answer::of(finish(child));
    assert!(
        ended.err.contains("your key no longer sees app"),
        "{ended:?}"
    );
    abandoned(2);
}

#[test]
fn it_is_off_unless_the_host_says_otherwise_and_a_line_may_allow_one_command_alone() {
    let (host, me, played) = host("");
    let refused = host.ssh(&me, "exec web -- true");
    assert!(
        refused.status == 255 && refused.err.contains("switched off on this host"),
        "{refused:?}"
    );
    assert!(!host.ssh(&me, "help").good().contains("exec"));
    assert!(played.commands.asked.lock().unwrap().is_empty());
    drop(host);

    let mut host = Host::with(ON);
    let me = host.key("me", &["ed25519"]);
    let list = format!("command=\"exec web -- echo backup\" {}", public(&me));
    let repo = host.plant("app", &list, &["web"]);
    host.run(&repo, "web");
    assert_eq!(host.ssh(&me, "exec web -- echo backup").good(), "backup\n");
    for line in ["exec web -- rm -rf /", "keys web", "status"] {
        let refused = host.ssh(&me, line);
        assert!(refused.status != 0 && refused.out.is_empty(), "{refused:?}");
    }
}
