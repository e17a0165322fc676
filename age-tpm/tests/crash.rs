//! Provisioning is stopped at every step, and the next start must find or make a usable identity.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use age_tpm::provision::{self, NV_INDEX, Origin, Provisioned, Step};
use age_tpm::tpm::{Tcti, Tpm, TpmError, Transport, nv};
use rustix::process::{Signal, getpid, kill_process};

use common::Swtpm;

const STEP_ENV: &str = "AGE_TPM_TEST_DIE_AT";
const PATH_ENV: &str = "AGE_TPM_TEST_PATH";

/// What the TPM holds before the start that is stopped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Fresh,
    TornRecord,
}

/// The victim: this very test program in another process, which kills itself at the step.
#[test]
fn victim() {
    let Ok(step) = std::env::var(STEP_ENV) else {
        return;
    };
    let path = std::env::var(PATH_ENV).unwrap();
    let mut tpm = Tpm::open(&Tcti::from_env().unwrap()).unwrap();
    let mut observer = |reached: Step| {
        if format!("{reached:?}") == step {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    };
    provision::ensure_observed(&mut tpm, Path::new(&path), &mut observer).unwrap();
}

/// Runs the victim; `true` if it reached the step and died there.
fn die_at(step: Step, swtpm: &Swtpm, path: &Path) -> bool {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim"])
        .env(STEP_ENV, format!("{step:?}"))
        .env(PATH_ENV, path)
        .env("AGE_TPM_TCTI", swtpm.tcti().to_string())
        .output()
        .unwrap()
        .status;
    assert!(status.success() || status.signal() == Some(9), "{status}");
    !status.success()
}

/// After a stop: one start makes or finds an identity, and every later one has the same.
fn must_settle(swtpm: &Swtpm, path: &Path) -> Provisioned {
    let mut tpm = swtpm.open();
    let settled = provision::ensure(&mut tpm, path).unwrap();
    let again = provision::ensure(&mut tpm, path).unwrap();
    assert_eq!(
        (again.origin, &again.identity),
        (Origin::File, &settled.identity)
    );
    fs::remove_file(path).unwrap();
    let from_nv = provision::ensure(&mut tpm, path).unwrap();
    assert_eq!(
        (from_nv.origin, &from_nv.identity),
        (Origin::Nv, &settled.identity)
    );
    settled
}

#[test]
fn a_process_killed_at_any_step_leaves_a_usable_identity_behind() {
    let mut died = 0;
    for before in [Before::Fresh, Before::TornRecord] {
        for step in Step::ALL {
            let Some(mut swtpm) = Swtpm::start("kill at each step") else {
                return;
            };
            let path = swtpm.scratch().join("tpm/age-identity");
            if before == Before::TornRecord {
                let mut tpm = swtpm.open();
                nv::define(&mut tpm, NV_INDEX, 20).unwrap();
                nv::write(&mut tpm, NV_INDEX, b"AGE-TPM1\x01\x00torn").unwrap();
            }
            if !die_at(step, &swtpm, &path) {
                assert_eq!(
                    (before, step),
                    (Before::Fresh, Step::NvRemoved),
                    "was not reached"
                );
                continue;
            }
            died += 1;
            // The power goes with the process: what counts is what reached the TPM's state.
            swtpm.power_cut();
            let settled = must_settle(&swtpm, &path);
            let expected = match step {
                Step::KeyCreated | Step::NvRemoved | Step::NvDefined => Origin::Created,
                Step::NvWritten | Step::FileStaged => Origin::Nv,
                Step::FileRenamed | Step::FileSynced => Origin::File,
            };
            assert_eq!(settled.origin, expected, "{before:?}, {step:?}");
            let leftovers: Vec<_> = fs::read_dir(path.parent().unwrap())
                .unwrap()
                .map(|e| e.unwrap().file_name())
                .collect();
            assert_eq!(leftovers, ["age-identity"], "{step:?}");
        }
    }
    assert_eq!(died, 2 * Step::ALL.len() - 1);
}

/// A connection that is lost before or after the n-th command.
struct Dying {
    inner: Box<dyn Transport>,
    commands_left: usize,
    answer_is_lost: bool,
}

impl Transport for Dying {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let gone = || Err(io::Error::from(io::ErrorKind::ConnectionReset));
        match self.commands_left {
            0 => return gone(),
            1 if self.answer_is_lost => {
                self.commands_left = 0;
                self.inner.transact(command)?;
                return gone();
            }
            _ => self.commands_left -= 1,
        }
        self.inner.transact(command)
    }
}

#[test]
fn a_tpm_lost_at_any_command_is_an_error_now_and_no_harm_later() {
    for answer_is_lost in [false, true] {
        let mut completed = false;
        for commands in 0..60 {
            let Some(mut swtpm) = Swtpm::start("TPM lost at each command") else {
                return;
            };
            let path = swtpm.scratch().join("age-identity");
            let inner = swtpm.tcti().connect().unwrap();
            let dying = Dying {
                inner,
                commands_left: commands,
                answer_is_lost,
            };
            let mut tpm = Tpm::with_transport(Box::new(dying), "dying".to_owned());
            let result = provision::ensure(&mut tpm, &path);
            drop(tpm);
            swtpm.power_cut();
            let before = fs::read(&path).ok();
            let settled = must_settle(&swtpm, &path);
            match result {
                // Losing the TPM while NV is written is a note: the file is there all the same.
                Ok(done) => {
                    assert_eq!(settled.identity, done.identity);
                    if done.notes.iter().all(|note| !note.is_warning()) {
                        completed = true;
                        break;
                    }
                }
                Err(e) => {
                    assert!(
                        before.is_none(),
                        "an error after the file was written: {e:?}"
                    );
                    let provision::ProvisionError::Tpm(TpmError::Transport { .. }) = e else {
                        panic!("after {commands} commands: {e:?}");
                    };
                }
            }
        }
        assert!(completed, "provisioning takes fewer than 60 commands");
    }
}
