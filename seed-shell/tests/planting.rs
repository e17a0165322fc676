//! Invite, identity, signature, planting: the owner's programs and ssh-keygen against the real server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::{Command, Output, Stdio},
};

use common::{Host, public};
use seed_shell::identity::Cid;
use serde_json::Value;

fn tool(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

const IDENTITY: &str = env!("CARGO_BIN_EXE_seed-identity");
const SIGN: &str = env!("CARGO_BIN_EXE_seed-sign");
const PLANT: &str = env!("CARGO_BIN_EXE_seed-plant");

/// `seed-plant` in this folder, over a real ssh.
fn seed_plant(host: &Host, key: &Path, dir: &Path, args: &[&str]) -> Output {
    Command::new(PLANT)
        .args(["--host", "127.0.0.1"])
        .args(args)
        .current_dir(dir)
        .env("SEED_SSH", format!("ssh {}", host.options(key).join(" ")))
        .output()
        .unwrap()
}

#[test]
fn the_deploy_sequence_of_an_owner() {
    let host = Host::start();
    let (me, friend) = (host.key("me", &["ed25519"]), host.key("friend", &["rsa"]));
    let dir = host.path("my-app");
    fs::create_dir(&dir).unwrap();
    let list = format!("{}\n{}\n", public(&me), public(&friend));
    fs::write(dir.join(".authorized_keys"), list).unwrap();
    let code = host.invite();
    let planted = text(seed_plant(
        &host,
        &me,
        &dir,
        &["--instance", "web", "silo:my-app", &code],
    ));
    assert!(planted.starts_with("silo:my-app is planted"), "{planted}");

    let key = dir.join(".seed-identity-key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Not to be committed by mistake, and named once.
    let ignored = || fs::read_to_string(dir.join(".gitignore")).unwrap();
    assert_eq!(ignored(), "/.seed-identity-key\n");
    let identity = fs::read_to_string(dir.join(".seed-identity")).unwrap();
    let cid = Cid::try_from(identity.trim()).unwrap();
    assert!(planted.contains(identity.trim()) && planted.contains(cid.namespace().as_str()));
    for file in [key.clone(), dir.join(".seed-identity-key.pub")] {
        assert_eq!(text(tool(IDENTITY, &[path(&file)])), identity.trim());
    }
    for key in [&me, &friend] {
        let status = host.ssh(key, "status --json").good();
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["repos"][0]["identity"], identity.trim());
        assert_eq!(status["repos"][0]["instances"][0]["name"], "web");
    }
    // Once only: neither with the same code nor with another one.
    let again = seed_plant(&host, &me, &dir, &["silo:my-app", &host.invite()]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("is planted already"),
        "{again:?}"
    );
    assert_eq!(ignored().lines().count(), 1);
    let other = host.path("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join(".gitignore"), "target").unwrap();
    let again = seed_plant(&host, &me, &other, &["silo:other", &code]);
    assert!(
        String::from_utf8_lossy(&again.stderr).contains("was used already"),
        "{again:?}"
    );
    // Another source; the identity stays.
    let moved = host.ssh(
        &friend,
        &format!("replant {} github:me/site --json", identity.trim()),
    );
    let moved: Value = serde_json::from_str(&moved.good()).unwrap();
    assert_eq!(moved["namespace"], cid.namespace().as_str());
    assert_eq!(moved["uri"], "github:me/site");
    assert!(host.ssh(&me, "status site").good().contains("web"));
    let listed = text(host.admin(&["repos"]));
    assert!(
        listed.contains("github:me/site") && listed.contains(identity.trim()),
        "{listed}"
    );
    assert!(
        !text(host.admin(&["invites"])).contains(&code),
        "codes are not kept"
    );
}

#[test]
fn the_key_of_the_connection_is_the_identity_where_nothing_is_signed() {
    let host = Host::start();
    let me = host.key("me", &["ed25519"]);
    let planted = host.ssh(&me, &format!("plant silo:app {} --json", host.invite()));
    let planted: Value = serde_json::from_str(&planted.good()).unwrap();
    assert_eq!(planted["identity"], text(tool(IDENTITY, &[path(&me)])));
    assert_eq!(host.ssh(&me, "status").good().lines().count(), 1);
    let rsa = host.key("rsa", &["rsa"]);
    let refused = host.ssh(&rsa, &format!("plant silo:app {}", host.invite()));
    assert!(
        refused.err.contains("an identity is an Ed25519 key"),
        "{refused:?}"
    );
}

#[test]
fn signatures_are_ssh_keygens_and_the_other_way_round() {
    let host = Host::start();
    let (me, identity) = (
        host.key("me", &["ed25519"]),
        host.key("identity", &["ed25519"]),
    );
    // Ours, checked by ssh-keygen.
    let code = host.invite();
    let signature = text(tool(SIGN, &[&code, path(&identity)]));
    let armour =
        format!("-----BEGIN SSH SIGNATURE-----\n{signature}\n-----END SSH SIGNATURE-----\n");
    let (file, signers) = (host.path("sig"), host.path("signers"));
    fs::write(&file, armour).unwrap();
    fs::write(&signers, format!("owner {}\n", public(&identity))).unwrap();
    let verify = [
        "-Y",
        "verify",
        "-n",
        "plant@seed",
        "-I",
        "owner",
        "-f",
        path(&signers),
        "-s",
        path(&file),
    ];
    let mut child = Command::new("ssh-keygen")
        .args(verify)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(code.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    // ssh-keygen's, taken by us. With another namespace it is not.
    let message = host.path("message");
    fs::write(&message, &code).unwrap();
    let sign = |namespace: &str| {
        // Only made anew when it is not there.
        let _ = fs::remove_file(host.path("message.sig"));
        let args = [
            "-q",
            "-Y",
            "sign",
            "-n",
            namespace,
            "-f",
            path(&identity),
            path(&message),
        ];
        text(tool("ssh-keygen", &args));
        let armour = fs::read_to_string(host.path("message.sig")).unwrap();
        armour
            .lines()
            .filter(|line| !line.starts_with('-'))
            .collect::<String>()
    };
    let plant =
        |code: &str, signature: &str| host.ssh(&me, &format!("plant silo:app {code} {signature}"));
    let refused = plant(&code, &sign("file"));
    assert!(refused.err.contains("was made for \"file\""), "{refused:?}");
    let refused = plant(&host.invite(), &signature);
    assert!(
        refused.err.contains("does not fit this invite code"),
        "{refused:?}"
    );
    let mut broken = signature.clone().into_bytes();
    let middle = broken.len() / 2;
    broken[middle] = if broken[middle] == b'A' { b'B' } else { b'A' };
    let refused = plant(&code, &String::from_utf8(broken).unwrap());
    assert_eq!(refused.status, 1, "{refused:?}");
    let refused = plant(&code, "bm90aGluZw");
    assert!(
        refused.err.contains("is not one that seed-sign"),
        "{refused:?}"
    );
    assert!(
        plant(&code, &sign("plant@seed"))
            .good()
            .contains("is planted")
    );
}

#[test]
fn a_key_with_a_passphrase_signs_through_the_agent() {
    let host = Host::start();
    let identity = host.key("identity", &["ed25519"]);
    let socket = host.path("agent");
    let mut agent = Command::new("ssh-agent")
        .args(["-D", "-a", path(&socket)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It has a name a moment before it listens.
    common::until("the agent listens", || UnixStream::connect(&socket).is_ok());
    let with_agent = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("SSH_AUTH_SOCK", &socket)
            .output()
            .unwrap()
    };
    text(with_agent("ssh-add", &["-q", path(&identity)]));
    let locked = tool(
        "ssh-keygen",
        &["-q", "-p", "-P", "", "-N", "secret", "-f", path(&identity)],
    );
    text(locked);
    let code = host.invite();
    let signature = text(with_agent(SIGN, &[&code, path(&identity)]));
    // With the public half alone as well.
    let public_half = identity.with_extension("pub");
    assert_eq!(
        text(with_agent(SIGN, &[&code, path(&public_half)])),
        signature
    );
    agent.kill().unwrap();
    agent.wait().unwrap();
    let alone = Command::new(SIGN)
        .args([&code, path(&identity)])
        .env_remove("SSH_AUTH_SOCK")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&alone.stderr).into_owned();
    assert!(
        !alone.status.success() && said.contains("is encrypted"),
        "{said}"
    );
    assert!(
        host.ssh(
            &host.key("me", &["rsa"]),
            &format!("plant silo:app {code} {signature}")
        )
        .status
            == 0
    );
}

#[test]
fn what_cannot_be_planted_says_why() {
    let host = Host::start();
    let me = host.key("me", &["ed25519"]);
    let code = host.invite();
    for (line, said) in [
        ("plant file:///etc x".to_owned(), "is no source"),
        (
            "plant silo:app wrongcode".to_owned(),
            "the invite code is unknown",
        ),
        ("plant silo:app".to_owned(), "plant needs an invite code"),
        (
            format!("plant silo:app {code} --instance a/b"),
            "container id",
        ),
    ] {
        let answer = host.ssh(&me, &line);
        assert!(
            answer.status != 0 && answer.err.contains(said),
            "{line}: {answer:?}"
        );
    }
    // A list that gives nobody access, and one that is too long.
    for (list, said) in [
        ("# nobody\n".to_owned(), "gives nobody access"),
        ("x".repeat(300_000), "has more than"),
    ] {
        let mut ssh = host.client(&me);
        let line = format!("plant silo:app {code} --authorized-keys");
        let mut child = ssh
            .stdin(Stdio::piped())
            .args(["127.0.0.1", &line])
            .spawn()
            .unwrap();
        // The server may have said no before all is sent.
        let _ = child.stdin.take().unwrap().write_all(list.as_bytes());
        let output = common::finish(child);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains(said), "{err}");
    }
    // Nothing of all that has used the code up.
    assert_eq!(host.ssh(&me, &format!("plant silo:app {code}")).status, 0);
}

#[test]
fn a_signature_holds_for_what_was_signed_and_nothing_else() {
    let host = Host::start();
    let (me, thief) = (
        host.key("me", &["ed25519"]),
        host.key("thief", &["ed25519"]),
    );
    let identity = host.key("identity", &["ed25519"]);
    let (code, list) = (host.invite(), host.path("list"));
    fs::write(&list, format!("{}\n", public(&me))).unwrap();
    let mut args = vec!["--uri", "silo:app", "--instance", "web"];
    args.extend(["--authorized-keys", path(&list), &code, path(&identity)]);
    let signature = text(tool(SIGN, &args));
    let plant = |uri: &str, options: &str, keys: &str| {
        let line = format!("plant {uri} {code} {signature} {options}");
        let mut ssh = host.client(&me);
        ssh.stdin(Stdio::piped()).args(["127.0.0.1", &line]);
        let mut child = ssh.spawn().unwrap();
        // Who is refused early does not take all of it.
        let _ = child.stdin.take().unwrap().write_all(keys.as_bytes());
        common::Answer::of(common::finish(child))
    };
    let keys = fs::read_to_string(&list).unwrap();
    let whole = "--authorized-keys --instance web";
    let stolen = format!("{keys}{}\n", public(&thief));
    for (uri, options, keys) in [
        ("silo:other", whole, keys.as_str()),
        ("silo:app", whole, stolen.as_str()),
        ("silo:app", "--instance web", ""),
        ("silo:app", "--authorized-keys", keys.as_str()),
        ("silo:app", "--authorized-keys --instance db", keys.as_str()),
    ] {
        let refused = plant(uri, options, keys);
        assert!(
            refused
                .err
                .contains("does not fit this invite code, source, keys"),
            "{uri} {options}: {refused:?}"
        );
    }
    assert!(
        plant("silo:app", whole, &keys)
            .good()
            .contains("is planted")
    );
}

#[test]
fn a_server_that_is_killed_while_it_plants_has_planted_all_or_nothing() {
    let mut host = Host::start();
    let me = host.key("me", &["ed25519"]);
    let mut planted = 0;
    for round in 0..12u64 {
        let (code, name) = (host.invite(), format!("app{round}"));
        let identity = host.key(&name, &["ed25519"]);
        let signature = text(tool(SIGN, &[&code, path(&identity)]));
        let line = format!("plant silo:{name} {code} {signature} --instance web --instance db");
        let mut ssh = host.client(&me);
        let mut child = ssh.args(["127.0.0.1", &line]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20 * round));
        host.crash();
        child.kill().unwrap();
        child.wait().unwrap();
        let registry = host.registry();
        let there = registry.repo(&name).ok();
        if let Some(repo) = &there {
            planted += 1;
            assert_eq!(registry.instances(repo).unwrap().len(), 2);
            let again = host.ssh(&me, &line);
            assert!(again.err.contains("is planted already"), "{again:?}");
        } else {
            host.ssh(&me, &line).good();
        }
        let status = host.ssh(&me, &format!("status {name}")).good();
        assert!(status.contains("web") && status.contains("db"), "{status}");
    }
    assert_eq!(
        host.registry().repos().unwrap().len(),
        12,
        "{planted} at once"
    );
}
