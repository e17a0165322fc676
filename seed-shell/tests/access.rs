//! Who may do what: kinds of keys, options of lines, certificates, keys that are taken away, and repositories of
//! others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use common::{Answer, Host, RECIPIENT, finish, public, until};

#[test]
fn all_kinds_of_keys_and_nobody_else() {
    let mut host = Host::start();
    let kinds: [(&str, &[&str]); 5] = [
        ("ed25519", &["ed25519"]),
        ("p256", &["ecdsa", "-b", "256"]),
        ("p384", &["ecdsa", "-b", "384"]),
        ("p521", &["ecdsa", "-b", "521"]),
        ("rsa", &["rsa", "-b", "2048"]),
    ];
    let keys = kinds.map(|(name, kind)| host.key(name, kind));
    let list: Vec<_> = keys.iter().map(|key| public(key)).collect();
    let repo = host.plant("app", &list.join("\n"), &["web"]);
    host.run(&repo, "web");
    for key in &keys {
        assert_eq!(host.ssh(key, "keys web").good(), format!("{RECIPIENT}\n"));
    }
    // Somebody else connects, and sees nothing.
    let other = host.key("other", &["ed25519"]);
    assert!(
        host.ssh(&other, "help")
            .good()
            .contains("No repository lists your key")
    );
    for line in [
        "status",
        "status app",
        "keys web",
        "keys app/web",
        "logs web",
        "restart web",
        "replant x silo:y",
    ] {
        let answer = host.ssh(&other, line);
        assert_eq!(
            (answer.status, answer.out.as_str()),
            (1, ""),
            "{line}: {answer:?}"
        );
    }
    // A short RSA key does not even authenticate; neither does nobody, nor a password.
    let weak = host.path("weak");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", "rsa", "-b", "1024", "-f"])
        .arg(&weak)
        .output()
        .unwrap();
    if made.status.success() {
        assert_eq!(host.ssh(&weak, "help").status, 255);
    }
    let mut ssh = host.client(&other);
    ssh.args(["-o", "PubkeyAuthentication=no", "127.0.0.1", "help"]);
    let answer = Answer::of(finish(ssh.spawn().unwrap()));
    assert!(
        answer.err.contains("Permission denied (publickey)"),
        "{answer:?}"
    );
    // SHA-1 signatures are refused, for the same key that may sign with SHA-2.
    let mut ssh = host.client(&keys[4]);
    ssh.args([
        "-o",
        "PubkeyAcceptedAlgorithms=ssh-rsa",
        "127.0.0.1",
        "help",
    ]);
    assert_eq!(finish(ssh.spawn().unwrap()).status.code(), Some(255));
}

#[test]
fn options_of_a_line_are_honoured_or_the_line_is_refused() {
    let mut host = Host::start();
    let key = |name: &str| host.key(name, &["ed25519"]);
    let (forced, there, over, refused, quiet) = (
        key("forced"),
        key("there"),
        key("over"),
        key("refused"),
        key("quiet"),
    );
    let list = [
        format!("command=\"keys web\",restrict {}", public(&forced)),
        format!("from=\"192.0.2.0/24\" {}", public(&there)),
        format!("expiry-time=\"20200101Z\" {}", public(&over)),
        format!("environment=\"A=1\" {}", public(&refused)),
        format!("no-pty {}", public(&quiet)),
    ];
    let repo = host.plant("app", &list.join("\n"), &["web"]);
    host.run(&repo, "web");
    // Whatever is asked for.
    for line in ["keys web", "logs web", "restart web", ""] {
        assert_eq!(
            host.ssh(&forced, line).good(),
            format!("{RECIPIENT}\n"),
            "{line}"
        );
    }
    // Any key may plant.
    let plant = host.ssh(&forced, "plant silo:x y");
    assert!(plant.err.contains("invite code is unknown"), "{plant:?}");
    for key in [&there, &over, &refused] {
        assert_eq!(host.ssh(key, "keys web").status, 1);
    }
    assert_eq!(
        host.ssh(&quiet, "keys web").good(),
        format!("{RECIPIENT}\n")
    );
    let mut ssh = host.client(&quiet);
    ssh.args(["-tt", "127.0.0.1", "keys web"]);
    let answer = Answer::of(finish(ssh.spawn().unwrap()));
    assert!(
        answer.err.contains("PTY allocation request failed"),
        "{answer:?}"
    );
    // Two lines, two repositories: the forced command of one opens nothing of the other.
    let both = host.plant("free", &public(&forced), &["db"]);
    host.run(&both, "db");
    assert_eq!(
        host.ssh(&forced, "keys db").good(),
        format!("{RECIPIENT}\n")
    );
    assert_eq!(host.ssh(&forced, "keys app/web").status, 1);
    assert_eq!(
        host.ssh(&forced, "keys web").good(),
        format!("{RECIPIENT}\n")
    );
}

#[test]
fn a_strangers_list_does_nothing_in_the_name_of_the_keys_on_it() {
    let host = Host::with("exec = true\n");
    let victim = host.key("victim", &["ed25519"]);
    let (code, own) = (host.invite(), host.invite());
    for command in [
        format!("plant silo:evil {code}"),
        "exec web -- evil".to_owned(),
    ] {
        let list = format!("command=\"{command}\" {}", public(&victim));
        let repo = host.plant("trap", &list, &["web"]);
        for line in ["", "status", "help"] {
            let answer = host.ssh(&victim, line);
            assert!(
                !answer.out.contains("planted") && !answer.err.contains("does not run"),
                "{command}, {line:?}: {answer:?}"
            );
        }
        host.registry()
            .authorize(&repo, &public(&host.key(&repo.cid, &["ed25519"])))
            .unwrap();
    }
    let repos = host.registry().repos().unwrap();
    assert!(repos.iter().all(|repo| repo.name == "trap"), "{repos:?}");
    host.ssh(&victim, &format!("plant silo:mine {own}")).good();
}

#[test]
fn a_certificate_is_refused_with_a_sentence_and_the_plain_key_still_works() {
    let host = Host::start();
    let (key, authority) = (host.key("me", &["ed25519"]), host.key("ca", &["ed25519"]));
    host.plant("app", &public(&key), &["web"]);
    let signed = Command::new("ssh-keygen")
        .args(["-q", "-s"])
        .arg(&authority)
        .args(["-I", "me", "-n", "root,me"])
        .arg(key.with_extension("pub"))
        .output()
        .unwrap();
    assert!(signed.status.success(), "{signed:?}");
    assert!(host.path("me-cert.pub").exists());
    // ssh offers the certificate first, then the key.
    host.ssh(&key, "status").good();
    // Only the certificate: the sentence, and no access.
    let agent = Agent::start(&host);
    let added = Command::new("ssh-add")
        .arg("-q")
        .arg(&key)
        .env("SSH_AUTH_SOCK", &agent.socket)
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    // The identity file is the certificate itself, so the plain key is never offered.
    let mut ssh = host.client(&host.path("me-cert.pub"));
    ssh.args(["-o", "BatchMode=no", "-o", "LogLevel=INFO", "-o"])
        .arg(format!("IdentityAgent={}", agent.socket.display()))
        .args(["127.0.0.1", "status"]);
    // The first word of an option counts.
    let output = finish(with_first(&ssh, "BatchMode=no", &agent).spawn().unwrap());
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(255), "{err}");
    assert!(err.contains("Certificates are not accepted here"), "{err}");
}

/// The same client with options put before its own, since the first of a kind counts.
fn with_first(ssh: &Command, option: &str, agent: &Agent) -> Command {
    let mut first = Command::new(ssh.get_program());
    first
        .args(["-o", option, "-o", "LogLevel=INFO", "-o"])
        .arg(format!("IdentityAgent={}", agent.socket.display()))
        .args(ssh.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    first
}

struct Agent {
    child: std::process::Child,
    socket: std::path::PathBuf,
}

impl Agent {
    fn start(host: &Host) -> Self {
        let socket = host.path("agent");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // It has a name a moment before it listens.
        until("the agent listens", || UnixStream::connect(&socket).is_ok());
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_key_that_is_taken_away_ends_what_follows() {
    let host = Host::start();
    let (key, other) = (
        host.key("me", &["ed25519"]),
        host.key("other", &["ed25519"]),
    );
    let repo = host.plant("app", &public(&key), &["web"]);
    let mut log = host.log(&repo, "web");
    log.add(["one"]);
    let mut ssh = host.client(&key);
    let mut child = ssh.args(["127.0.0.1", "logs web -f"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("one"));
    let list = host.path("keys");
    fs::write(&list, public(&other)).unwrap();
    let done = host.admin(&["authorize", "app", list.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    let mut err = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut err)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(err.starts_with("your key no longer sees app"), "{err}");
    assert_eq!(host.ssh(&key, "logs web").status, 1);
    host.ssh(&other, "logs web").good();
}

#[test]
fn a_repository_cannot_name_anothers_instance() {
    let mut host = Host::start();
    let (mine, theirs) = (
        host.key("mine", &["ed25519"]),
        host.key("theirs", &["ed25519"]),
    );
    let victim = host.plant("bank", &public(&theirs), &["vault"]);
    host.run(&victim, "vault");
    // Recorded under the same name, it is another instance: one in the repository's own namespace.
    let thief = host.plant("thief", &public(&mine), &["vault"]);
    assert_ne!(victim.namespace, thief.namespace);
    assert!(host.ssh(&mine, "keys vault").err.contains("does not run"));
    for line in [
        format!("keys {}/vault", victim.namespace),
        "keys bank/vault".to_owned(),
        format!("keys ../{}/vault", victim.namespace),
        format!("logs thief/../{}/vault", victim.namespace),
        format!("replant {} silo:mine", victim.cid),
        "status bank".to_owned(),
    ] {
        let answer = host.ssh(&mine, &line);
        assert_eq!(
            (answer.status, answer.out.as_str()),
            (1, ""),
            "{line}: {answer:?}"
        );
    }
    assert_eq!(
        host.ssh(&theirs, "keys vault").good(),
        format!("{RECIPIENT}\n")
    );
    // A name that leaves its place is none.
    let refused = host.admin(&["instance", "thief", "../bank/vault"]);
    assert!(!refused.status.success());
}
