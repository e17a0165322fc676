//! The plugin under real age programs.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use age_tpm::provision;
use age_tpm::recipient::Spelling;
use age_tpm::tpm::{KeyOptions, create_key};
use age_tpm::{Identity, Pin, UtcTime};

use common::{Swtpm, command, plugin, program, run, run_ok, skip};

#[test]
fn the_machines_own_age_encrypts_to_age1tpm1_and_decrypts_with_the_identity() {
    let Some(swtpm) = Swtpm::start("age round trip") else {
        return;
    };
    let Some(age) = program("age") else {
        return skip("age round trip", "age is not installed");
    };
    let tcti = swtpm.tcti();
    let dir = swtpm.scratch();
    let file = dir.join("identity");
    run_ok(
        plugin(Some(&tcti)).args(["--generate", "-o"]).arg(&file),
        b"",
    );
    let recipient = run_ok(plugin(None).args(["-y", "--tpm-recipient"]).arg(&file), b"");
    let recipient = String::from_utf8(recipient).unwrap();
    assert!(recipient.starts_with("age1tpm1q"), "{recipient}");

    // Encrypting must work where there is no TPM at all.
    let sealed = run_ok(
        command(&age, None).args(["-r", recipient.trim()]),
        b"a secret",
    );
    let opened = run_ok(
        command(&age, Some(&tcti)).arg("-d").arg("-i").arg(&file),
        &sealed,
    );
    assert_eq!(opened, b"a secret");
    let by_identity = run_ok(
        command(&age, None).args(["-e", "-i"]).arg(&file),
        b"another",
    );
    let opened = run_ok(
        command(&age, Some(&tcti)).arg("-d").arg("-i").arg(&file),
        &by_identity,
    );
    assert_eq!(opened, b"another");
}

#[test]
fn under_the_name_of_age_plugin_tag_it_encrypts_for_clients_that_know_no_age1tag1() {
    let Some(swtpm) = Swtpm::start("age-plugin-tag") else {
        return;
    };
    let Some(age) = program("age") else {
        return skip("age-plugin-tag", "age is not installed");
    };
    let path = swtpm.scratch().join("age-identity");
    let mine = provision::ensure(&mut swtpm.open(), &path)
        .unwrap()
        .identity;
    let bin = swtpm.scratch().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(
        env!("CARGO_BIN_EXE_age-plugin-tpm"),
        bin.join("age-plugin-tag"),
    )
    .unwrap();
    let mut encrypt = command(&age, None);
    encrypt
        .env("PATH", &bin)
        .args(["-r", &mine.recipient().to_tag_text()]);
    let sealed = run_ok(&mut encrypt, b"tagged");
    let tcti = swtpm.tcti();
    let opened = run_ok(
        command(&age, Some(&tcti)).arg("-d").arg("-i").arg(&path),
        &sealed,
    );
    assert_eq!(opened, b"tagged");
}

#[test]
fn the_plugins_name_alone_stands_for_the_identity_that_the_tpm_keeps() {
    let Some(swtpm) = Swtpm::start("age -j") else {
        return;
    };
    let Some(age) = program("age") else {
        return skip("age -j", "age is not installed");
    };
    let tcti = swtpm.tcti();
    let nothing = run(
        command(&age, Some(&tcti)).args(["-e", "-j", "tpm"]),
        b"too early",
    );
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(
        said.contains("this TPM keeps no identity in NV index 0x01a6e001"),
        "{said}"
    );

    let path = swtpm.scratch().join("age-identity");
    let kept = provision::ensure(&mut swtpm.open(), &path)
        .unwrap()
        .identity;
    let sealed = run_ok(
        command(&age, Some(&tcti)).args(["-e", "-j", "tpm"]),
        b"by name",
    );
    for arguments in [
        vec!["-d", "-j", "tpm"],
        vec!["-d", "-i", path.to_str().unwrap()],
    ] {
        assert_eq!(
            run_ok(command(&age, Some(&tcti)).args(arguments), &sealed),
            b"by name"
        );
    }
    let to = kept.recipient().to_tpm_text();
    let sealed = run_ok(command(&age, None).args(["-r", &to]), b"to the recipient");
    let opened = run_ok(
        command(&age, Some(&tcti)).args(["-d", "-j", "tpm"]),
        &sealed,
    );
    assert_eq!(opened, b"to the recipient");
}

#[test]
fn without_a_tpm_the_person_at_age_reads_path_reason_and_remedy() {
    let Some(swtpm) = Swtpm::start("age without a TPM") else {
        return;
    };
    let Some(age) = program("age") else {
        return skip("age without a TPM", "age is not installed");
    };
    let dir = swtpm.scratch();
    let key = create_key(&mut swtpm.open(), KeyOptions::default()).unwrap();
    let identity = Identity::new(key, Pin::None);
    let file = dir.join("identity");
    fs::write(&file, identity.to_file_text(UtcTime::now(), Spelling::Tag)).unwrap();
    let recipient = identity.recipient().to_tpm_text();
    let sealed = run_ok(command(&age, None).args(["-r", &recipient]), b"a secret");
    let missing = age_tpm::tpm::Tcti::Device("/dev/no-such-tpm".into());
    let output = run(
        command(&age, Some(&missing)).arg("-d").arg("-i").arg(&file),
        &sealed,
    );
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [
        "/dev/no-such-tpm",
        "No such file or directory (os error 2)",
        "AGE_TPM_TCTI",
    ] {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
}
