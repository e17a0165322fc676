//! The `age` crate with our identity and recipient in process.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use age::{DecryptError, Decryptor, Encryptor};
use age_core::secrecy::SecretString;
use age_tpm::in_process::TpmIdentity;
use age_tpm::tpm::{KeyOptions, Tcti, create_key};
use age_tpm::{Identity, Pin};
use std::io::{Read, Write};

use common::{Swtpm, command, program, run_ok, skip};

fn seal(to: &Identity, text: &[u8]) -> Vec<u8> {
    let recipient = to.recipient();
    let recipients = [&recipient as &dyn age::Recipient];
    let mut sealed = Vec::new();
    let mut writer = Encryptor::with_recipients(recipients.into_iter())
        .unwrap()
        .wrap_output(&mut sealed)
        .unwrap();
    writer.write_all(text).unwrap();
    writer.finish().unwrap();
    sealed
}

fn open(sealed: &[u8], with: &TpmIdentity) -> Result<Vec<u8>, DecryptError> {
    let decryptor = Decryptor::new(sealed)?;
    let mut text = Vec::new();
    let identities = [with as &dyn age::Identity];
    decryptor
        .decrypt(identities.into_iter())?
        .read_to_end(&mut text)
        .unwrap();
    Ok(text)
}

#[test]
fn rust_programs_encrypt_and_decrypt_without_the_plugin() {
    let Some(swtpm) = Swtpm::start("in process") else {
        return;
    };
    let key = create_key(&mut swtpm.open(), KeyOptions::default()).unwrap();
    let mine = Identity::new(key, Pin::None);
    let here = TpmIdentity::new(mine.clone(), swtpm.tcti(), None);
    let sealed = seal(&mine, b"in process");
    for _ in 0..5 {
        assert_eq!(open(&sealed, &here).unwrap(), b"in process");
    }
    drop(here);
    let Some(age) = program("age") else {
        return skip("in process", "age is not installed");
    };
    let file = swtpm.scratch().join("identity");
    std::fs::write(&file, mine.to_string()).unwrap();
    let tcti = swtpm.tcti();
    let opened = run_ok(
        command(&age, Some(&tcti)).arg("-d").arg("-i").arg(&file),
        &sealed,
    );
    assert_eq!(opened, b"in process");
}

#[test]
fn a_pin_a_missing_tpm_and_a_strangers_file_each_end_in_their_own_way() {
    let Some(swtpm) = Swtpm::start("in process errors") else {
        return;
    };
    let options = KeyOptions { pin: Some(b"0000") };
    let mine = Identity::new(
        create_key(&mut swtpm.open(), options).unwrap(),
        Pin::Required,
    );
    let sealed = seal(&mine, b"with PIN");
    let with = |pin: &str| TpmIdentity::new(mine.clone(), swtpm.tcti(), Some(pin.into()));
    assert_eq!(open(&sealed, &with("0000")).unwrap(), b"with PIN");
    let said = open(&sealed, &with("0001")).unwrap_err().to_string();
    assert!(said.contains("wrong PIN, 2 tries left"), "{said}");
    let nowhere = Tcti::Device("/dev/no-such-tpm".into());
    let gone = TpmIdentity::new(mine, nowhere.clone(), Some(SecretString::from("0000")));
    let said = open(&sealed, &gone).unwrap_err().to_string();
    assert!(
        said.contains("/dev/no-such-tpm") && said.contains("AGE_TPM_TCTI"),
        "{said}"
    );

    let key = create_key(&mut swtpm.open(), KeyOptions::default()).unwrap();
    let other = TpmIdentity::new(Identity::new(key, Pin::None), nowhere, None);
    assert!(matches!(
        open(&sealed, &other),
        Err(DecryptError::NoMatchingKeys)
    ));
}
