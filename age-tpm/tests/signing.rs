//! A key for TLS, opened by an independent program: OpenSSL with its provider for TPMs.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use age_tpm::tpm::lockout::Lockout;
use age_tpm::tpm::{Tcti, create_signing_key};
use common::{Swtpm, skip};

/// What openssl says; it has to succeed. Where a TPM is named, keys may be in it.
fn openssl(directory: &Path, tpm: Option<&str>, line: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(line.split(' ')).current_dir(directory);
    if let Some(tcti) = tpm {
        command.env("TPM2OPENSSL_TCTI", tcti);
    }
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {line}: {words}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn openssl_signs_with_it_and_power_cuts_do_not_lock_it() {
    let test = "signing with OpenSSL";
    let Some(mut swtpm) = Swtpm::start(test) else {
        return;
    };
    let scratch = swtpm.scratch();
    let modules = openssl(&scratch, None, "version -m");
    let modules = modules.split('"').nth(1).unwrap_or_default();
    if !Path::new(modules).join("tpm2.so").is_file() {
        return skip(test, "tpm2-openssl is not installed");
    }
    let Tcti::SwtpmUnix(socket) = swtpm.tcti() else {
        unreachable!("it starts on a Unix socket");
    };
    // libtss2 looks for the control socket beside the other.
    symlink("ctrl", socket.with_extension("ctrl")).unwrap();
    let tcti = format!("swtpm:path={}", socket.display());

    let file = create_signing_key(&mut swtpm.open()).unwrap();
    std::fs::write(scratch.join("key.pem"), &file).unwrap();
    let mut owners = Vec::new();
    for boot in 0..5 {
        openssl(
            &scratch,
            Some(&tcti),
            "req -new -provider tpm2 -provider default -propquery ?provider=tpm2 -key key.pem -subj /CN=web -out web.csr",
        );
        // Without the TPM: the signature is right, and by the same key at each boot.
        owners.push(openssl(
            &scratch,
            None,
            "req -in web.csr -noout -verify -pubkey",
        ));
        swtpm.power_cut();
        let lockout = Lockout::read(&mut swtpm.open()).unwrap();
        assert_eq!(lockout.counter, 0, "after power cut {boot}");
    }
    owners.dedup();
    assert_eq!(owners.len(), 1);

    // Each is another key.
    assert_ne!(create_signing_key(&mut swtpm.open()).unwrap(), file);
}
