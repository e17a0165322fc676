//! Keys in hardware: a security key that is played by an SSH agent, in OpenSSH's form (openssh-portable, `PROTOCOL.u2f`,
//! `PROTOCOL.agent`), with the OpenSSH client and the owner's programs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use common::{Answer, Host, RECIPIENT, finish};
use russh::keys::{PublicKey, signature::Signer, ssh_key::private::Ed25519Keypair};
use seed_shell::identity::Cid;
use sha2::{Digest, Sha256};

const KIND: &[u8] = b"sk-ssh-ed25519@openssh.com";
const APPLICATION: &[u8] = b"ssh:";

/// `SSH_SK_USER_PRESENCE_REQD`.
const TOUCHED: u8 = 1;

/// Signs with another counter than it tells.
const LIES: u8 = 0x80;

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes()[..], bytes].concat()
}

fn take<'b>(rest: &mut &'b [u8]) -> &'b [u8] {
    let (length, behind) = rest.split_at(4);
    let length = u32::from_be_bytes(length.try_into().unwrap());
    let (bytes, behind) = behind.split_at(usize::try_from(length).unwrap());
    *rest = behind;
    bytes
}

/// An agent with one security key; it goes with the test's process.
struct Token {
    socket: PathBuf,
    /// The key's file without its private half: what `ssh` is told.
    key: PathBuf,
    line: String,
    cid: Cid,
    flags: Arc<AtomicU8>,
}

impl Token {
    fn plug(dir: &Path) -> Self {
        let pair = Ed25519Keypair::from_seed(&[7; 32]);
        let blob = [string(KIND), string(&pair.public.0), string(APPLICATION)].concat();
        let line = PublicKey::from_bytes(&blob).unwrap().to_openssh().unwrap();
        let key = dir.join("token");
        fs::write(key.with_extension("pub"), format!("{line}\n")).unwrap();
        let socket = dir.join("token.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let flags = Arc::new(AtomicU8::new(TOUCHED));
        let (cid, shown) = (Cid::of_bytes(pair.public.0), Arc::clone(&flags));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // A client that hangs up has had enough.
                let _ = serve(stream, &pair, &blob, &shown);
            }
        });
        Self {
            socket,
            key,
            line,
            cid,
            flags,
        }
    }

    fn with(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).env("SSH_AUTH_SOCK", &self.socket);
        command.output().unwrap()
    }

    fn ssh(&self, host: &Host, line: &str) -> Answer {
        let mut ssh = Command::new("ssh");
        // The first word about a thing counts.
        ssh.arg("-o")
            .arg(format!("IdentityAgent={}", self.socket.display()));
        ssh.args(host.options(&self.key)).args(["127.0.0.1", line]);
        ssh.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Answer::of(finish(ssh.spawn().unwrap()))
    }
}

fn serve(
    mut stream: UnixStream,
    pair: &Ed25519Keypair,
    blob: &[u8],
    flags: &AtomicU8,
) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut request)?;
        let answer = match request[0] {
            // SSH_AGENTC_REQUEST_IDENTITIES
            11 => [&[12, 0, 0, 0, 1][..], &string(blob), &string(b"token")].concat(),
            // SSH_AGENTC_SIGN_REQUEST
            13 => {
                let mut rest = &request[1..];
                assert_eq!(take(&mut rest), blob);
                let data = take(&mut rest);
                let set = flags.load(Ordering::Relaxed);
                let signed = [
                    &Sha256::digest(APPLICATION)[..],
                    &[set & !LIES],
                    &(9 + u32::from(set & LIES)).to_be_bytes(),
                    &Sha256::digest(data),
                ]
                .concat();
                let signature = pair.try_sign(&signed).unwrap();
                let told = [
                    &string(KIND)[..],
                    &string(signature.as_bytes()),
                    &[set & !LIES],
                    &9u32.to_be_bytes(),
                ]
                .concat();
                [&[14][..], &string(&told)].concat()
            }
            // SSH_AGENT_FAILURE
            _ => vec![5],
        };
        stream.write_all(&string(&answer))?;
    }
}

#[test]
fn a_security_key_gets_in_and_a_false_signature_does_not() {
    let mut host = Host::start();
    let token = Token::plug(host.dir.path());
    let repo = host.plant("app", &token.line, &["web"]);
    host.run(&repo, "web");
    assert_eq!(
        token.ssh(&host, "keys web").good(),
        format!("{RECIPIENT}\n")
    );
    token.flags.store(TOUCHED | LIES, Ordering::Relaxed);
    let refused = token.ssh(&host, "keys web");
    assert!(
        refused.status == 255 && refused.out.is_empty(),
        "{refused:?}"
    );
    // A line that asks for more than can be seen gives nothing.
    token.flags.store(TOUCHED, Ordering::Relaxed);
    host.plant(
        "strict",
        &format!("verify-required {}", token.line),
        &["db"],
    );
    let hidden = token.ssh(&host, "keys strict/db");
    assert!(hidden.err.contains("there is no repository"), "{hidden:?}");
}

#[test]
fn an_identity_in_hardware_plants_when_it_was_touched() {
    let host = Host::start();
    let token = Token::plug(host.dir.path());
    let public = token.key.with_extension("pub");
    let public = public.to_str().unwrap();
    let text = |output: Output| {
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let identity = token.with(env!("CARGO_BIN_EXE_seed-identity"), &[public]);
    assert_eq!(text(identity), token.cid.to_string());
    let code = host.invite();
    let sign = || {
        let args = ["--uri", "silo:app", &code, public];
        text(token.with(env!("CARGO_BIN_EXE_seed-sign"), &args))
    };
    token.flags.store(0, Ordering::Relaxed);
    let untouched = token.ssh(&host, &format!("plant silo:app {code} {}", sign()));
    assert!(
        untouched.err.contains("that nobody touched"),
        "{untouched:?}"
    );
    token.flags.store(TOUCHED, Ordering::Relaxed);
    let planted = token.ssh(&host, &format!("plant silo:app {code} {}", sign()));
    assert!(planted.good().contains(&token.cid.to_string()));
}
