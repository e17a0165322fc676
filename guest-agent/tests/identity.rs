//! The identity with a TPM that is real but for its hardware: swtpm.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use age_core::{format::FileKey, secrecy::ExposeSecret};
use age_tpm::{
    Pin, Spelling, UtcTime,
    held::Held,
    identity::read_identities,
    stanza::Stanza,
    tpm::{KeyOptions, Tcti, Tpm, create_key},
    unwrap::{UnwrapError, unwrap_file_key},
    wrap::wrap_file_key,
};
use seed_agent::identity::{Holder, Identity, IdentityError, Origin, Socket};

struct Swtpm {
    _process: seed_container::Swtpm,
    directory: tempfile::TempDir,
}

impl Swtpm {
    /// A TPM as it comes from the factory; `None` where there is no swtpm.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        if Command::new("swtpm").arg("--version").output().is_err() {
            // Past libtest's capture, and in one write: a skip must be seen.
            let line = "SKIPPED identity: swtpm is not installed\n";
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let _process = seed_container::Swtpm::start(directory.path()).unwrap();
        Some(Self {
            _process,
            directory,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn tcti(&self) -> Tcti {
        Tcti::SwtpmUnix(self.path("tpm"))
    }

    /// An agent that lends its key to a group; there is one, called `secrets`.
    async fn lender(&self, file: &Path, group: Option<&str>) -> Holder {
        fs::write(self.path("group"), "root:x:0:\nsecrets:x:4711:\n").unwrap();
        let socket = Socket {
            path: self.path("key.sock"),
            group: group.map(str::to_owned),
            etc: self.directory.path().to_owned(),
        };
        let holder = Holder::with_tpm(file.to_owned(), self.tcti()).lending(socket);
        holder.provision().await.unwrap();
        holder
    }

    /// What the agent of one boot finds.
    async fn boot(&self, file: &Path) -> Identity {
        let holder = Holder::with_tpm(file.to_owned(), self.tcti());
        holder.provision().await.unwrap();
        holder.get().unwrap()
    }
}

#[tokio::test]
async fn the_identity_is_made_once_and_stays_the_same() {
    let Some(swtpm) = Swtpm::start() else { return };
    let file = swtpm.path("seed/age-identity");
    let first = swtpm.boot(&file).await;
    assert_eq!(first.origin, Origin::Created);
    assert!(
        first.recipient.starts_with("age1tpm1q"),
        "{}",
        first.recipient
    );
    assert!(
        first.tag_recipient.starts_with("age1tag1q"),
        "{}",
        first.tag_recipient
    );
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("AGE-PLUGIN-TPM-1"));

    let second = swtpm.boot(&file).await;
    assert_eq!(
        (second.origin, &second.recipient),
        (Origin::File, &first.recipient)
    );
    // A root without the file, as at every boot of an instance whose root is not kept.
    fs::remove_file(&file).unwrap();
    let third = swtpm.boot(&file).await;
    assert_eq!(
        (third.origin, &third.recipient),
        (Origin::Nv, &first.recipient)
    );
}

#[tokio::test]
async fn a_tpm_that_does_not_answer_is_a_sentence_and_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let nobody = Tcti::SwtpmUnix(directory.path().join("nobody"));
    let holder = Holder::with_tpm(directory.path().join("age-identity"), nobody);
    let error = holder.provision().await.unwrap_err();
    assert!(
        matches!(&error, IdentityError::Failed(text) if text.contains("nobody")),
        "{error}"
    );
    assert!(matches!(holder.get(), Err(IdentityError::Failed(_))));
}

#[tokio::test]
async fn a_guest_without_a_tpm_is_told_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let device = directory.path().join("tpmrm0");
    let file = directory.path().join("age-identity");
    let holder = Holder::with_tpm(file.clone(), Tcti::Device(device.clone()));
    let result = holder.provision().await;
    // A machine with a TPM of its own makes us wait for the driver first; the answer is the same.
    assert!(matches!(result, Err(IdentityError::NoDevice(path)) if path == device));
    assert!(!file.exists());
}

/// Opens a file key that is encrypted to the identity in `file`, with whoever listens at `socket`.
fn open_through(socket: &Path, file: &Path) -> Result<(), UnwrapError<io::Error>> {
    const SECRET: [u8; 16] = *b"sixteen bytes ok";
    let key = read_identities(fs::File::open(file).unwrap())
        .unwrap()
        .remove(0)
        .recipient();
    let sealed = wrap_file_key(&key, &FileKey::new(Box::new(SECRET))).unwrap();
    let stanza = Stanza::parse(&sealed).unwrap().unwrap();
    let mut held = Held { socket, key: &key };
    let opened = unwrap_file_key(&stanza, &key, &mut held)?;
    assert_eq!(opened.expose_secret(), &SECRET);
    Ok(())
}

#[tokio::test]
async fn the_key_is_lent_while_the_agent_runs_and_again_after_it_was_killed() {
    let Some(swtpm) = Swtpm::start() else { return };
    let (file, socket) = (swtpm.path("seed/age-identity"), swtpm.path("key.sock"));
    let first = swtpm.lender(&file, None).await;
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for _ in 0..3 {
        open_through(&socket, &file).unwrap();
    }
    // Asked again, as after a lost record: the same key, lent anew.
    first.provision().await.unwrap();
    open_through(&socket, &file).unwrap();

    // A killed agent leaves its socket's name behind; nobody answers there.
    let stale = swtpm.path("stale");
    fs::hard_link(&socket, &stale).unwrap();
    drop(first);
    assert!(!socket.exists(), "an agent that ends takes its socket away");
    fs::rename(&stale, &socket).unwrap();
    assert!(matches!(
        open_through(&socket, &file),
        Err(UnwrapError::Key(error)) if error.kind() == io::ErrorKind::ConnectionRefused
    ));
    let _second = swtpm.lender(&file, None).await;
    open_through(&socket, &file).unwrap();
}

#[tokio::test]
async fn the_key_is_lent_to_the_group_that_the_closure_names() {
    let Some(swtpm) = Swtpm::start() else { return };
    let (file, socket) = (swtpm.path("seed/age-identity"), swtpm.path("key.sock"));
    let rights = || {
        let found = fs::metadata(&socket).unwrap();
        (found.permissions().mode() & 0o777, found.gid())
    };
    if rustix::process::geteuid().is_root() {
        let _holder = swtpm.lender(&file, Some("secrets")).await;
        assert_eq!(rights(), (0o660, 4711));
        open_through(&socket, &file).unwrap();
    } else {
        let line = "SKIPPED identity, the key's group: needs root to give a file away\n";
        io::stderr().write_all(line.as_bytes()).unwrap();
    }
    // One that does not exist is nobody's.
    let _holder = swtpm.lender(&file, Some("nobody-has-it")).await;
    assert_eq!(rights().0, 0o600);
    open_through(&socket, &file).unwrap();
}

#[tokio::test]
async fn a_key_with_pin_is_lent_to_nobody() {
    let Some(swtpm) = Swtpm::start() else { return };
    let (file, socket) = (swtpm.path("age-identity"), swtpm.path("key.sock"));
    let key = {
        let mut tpm = Tpm::open(&swtpm.tcti()).unwrap();
        create_key(&mut tpm, KeyOptions { pin: Some(b"1234") }).unwrap()
    };
    let text =
        age_tpm::Identity::new(key, Pin::Required).to_file_text(UtcTime::now(), Spelling::Tag);
    fs::write(&file, text).unwrap();
    let holder = swtpm.lender(&file, None).await;
    assert_eq!(holder.get().unwrap().origin, Origin::File);
    assert!(!socket.exists());
}
