//! The identity with a TPM that is real but for its hardware: swtpm.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use age_tpm::tpm::Tcti;
use seed_agent::identity::{Holder, Identity, IdentityError, Origin};

/// How long swtpm may take to listen on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(20);

struct Swtpm {
    child: Child,
    directory: tempfile::TempDir,
}

impl Swtpm {
    /// A TPM as it comes from the factory; `None` where there is no swtpm.
    fn start() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", directory.path().display())])
            .args(["--server", &format!("type=unixio,path={}", at("tpm"))])
            .args(["--ctrl", &format!("type=unixio,path={}", at("control"))])
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            // Past libtest's capture, and in one write: a skip must be seen.
            let line = "SKIPPED identity: swtpm is not installed\n";
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let swtpm = Self { child, directory };
        let begin = Instant::now();
        while UnixStream::connect(swtpm.path("control")).is_err() {
            assert!(begin.elapsed() < START_LIMIT, "swtpm does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Some(swtpm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the agent of one boot finds.
    async fn boot(&self, file: &Path) -> Identity {
        let holder = Holder::with_tpm(file.to_owned(), Tcti::SwtpmUnix(self.path("tpm")));
        holder.provision().await.unwrap();
        holder.get().unwrap()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // It may have ended by itself; a drop must not panic.
        let _ = self.child.kill();
        let _ = self.child.wait();
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
