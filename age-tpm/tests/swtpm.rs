//! The TPM layer and provisioning against a real swtpm.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use age_core::format::FileKey;
use age_core::secrecy::ExposeSecret;
use age_tpm::key::TpmKey;
use age_tpm::provision::{self, NV_INDEX, Note, Origin, ProvisionError};
use age_tpm::stanza::Stanza;
use age_tpm::tpm::lockout::Lockout;
use age_tpm::tpm::{KeyOptions, Tpm, create_key, nv};
use age_tpm::unwrap::unwrap_file_key;
use age_tpm::wrap::wrap_file_key;
use age_tpm::{Identity, Pin};

use common::Swtpm;

fn new_identity(tpm: &mut Tpm) -> Identity {
    Identity::new(create_key(tpm, KeyOptions::default()).unwrap(), Pin::None)
}

/// Wraps a file key to the identity's recipient and unwraps it with the TPM.
fn round_trip(tpm: &mut Tpm, identity: &Identity) {
    let file_key = FileKey::new(Box::new(*b"0123456789abcdef"));
    let own = identity.recipient();
    let wrapped = wrap_file_key(&own, &file_key).unwrap();
    let stanza = Stanza::parse(&wrapped).unwrap().unwrap();
    assert!(stanza.is_for(&own));
    let mut key = TpmKey::load(tpm, identity, None).unwrap();
    let back = unwrap_file_key(&stanza, &own, &mut key).unwrap();
    assert_eq!(back.expose_secret(), file_key.expose_secret());
}

#[test]
fn a_new_key_opens_what_was_wrapped_to_it_and_leaves_nothing_in_the_tpm() {
    let Some(swtpm) = Swtpm::start("swtpm round trip") else {
        return;
    };
    let mut tpm = swtpm.open();
    let identity = new_identity(&mut tpm);
    assert!(!identity.can_be_locked_out());
    // A TPM without resource manager has three slots: a leak of one object would show.
    for _ in 0..8 {
        round_trip(&mut tpm, &identity);
    }
}

#[test]
fn the_identity_is_made_once_and_then_comes_from_the_file_or_from_nv() {
    let Some(swtpm) = Swtpm::start("swtpm provisioning") else {
        return;
    };
    let path = swtpm.scratch().join("tpm/age-identity");
    let mut tpm = swtpm.open();
    let first = provision::ensure(&mut tpm, &path).unwrap();
    assert_eq!(first.origin, Origin::Created);
    assert!(
        first.notes.iter().all(|n| !n.is_warning()),
        "{:?}",
        first.notes
    );
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(&first.identity.to_string()));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let second = provision::ensure(&mut tpm, &path).unwrap();
    assert_eq!(second.origin, Origin::File);
    assert_eq!(second.identity, first.identity);

    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    let third = provision::ensure(&mut tpm, &path).unwrap();
    assert_eq!(third.origin, Origin::Nv);
    assert_eq!(third.identity, first.identity);
    round_trip(&mut tpm, &third.identity);
}

#[test]
fn an_identity_file_that_is_there_wins_over_nv_and_is_copied_there() {
    let Some(swtpm) = Swtpm::start("swtpm file wins") else {
        return;
    };
    let path = swtpm.scratch().join("age-identity");
    let mut tpm = swtpm.open();
    let old = provision::ensure(&mut tpm, &path).unwrap().identity;
    let other = new_identity(&mut tpm);
    fs::write(&path, format!("# mine\n{other}\n")).unwrap();
    let kept = provision::ensure(&mut tpm, &path).unwrap();
    assert_eq!((kept.origin, &kept.identity), (Origin::File, &other));
    assert_ne!(kept.identity, old);
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("# mine\n{other}\n")
    );
    fs::remove_file(&path).unwrap();
    let back = provision::ensure(&mut tpm, &path).unwrap();
    assert_eq!((back.origin, back.identity), (Origin::Nv, other));
}

#[test]
fn broken_or_foreign_files_are_left_alone_and_reported() {
    let Some(swtpm) = Swtpm::start("swtpm broken files") else {
        return;
    };
    let path = swtpm.scratch().join("age-identity");
    let mut tpm = swtpm.open();
    let identity = new_identity(&mut tpm).to_string();
    let flipped = identity.replace("QQ", "QP");
    for bad in [
        &flipped[..],
        &identity[..200],
        "hello",
        "AGE-SECRET-KEY-1QQQ",
    ] {
        fs::write(&path, bad).unwrap();
        let error = provision::ensure(&mut tpm, &path).unwrap_err();
        assert!(
            matches!(error, ProvisionError::BrokenFile { .. }),
            "{error:?}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
    let Some(elsewhere) = Swtpm::start("swtpm broken files") else {
        return;
    };
    let foreign = new_identity(&mut elsewhere.open()).to_string();
    fs::write(&path, &foreign).unwrap();
    let error = provision::ensure(&mut tpm, &path).unwrap_err();
    assert!(
        matches!(error, ProvisionError::ForeignFile { .. }),
        "{error:?}"
    );
    assert!(
        error.explain().contains("storage root"),
        "{}",
        error.explain()
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
}

#[test]
fn nv_contents_of_others_are_never_overwritten_and_torn_ones_of_ours_are() {
    let Some(swtpm) = Swtpm::start("swtpm nv contents") else {
        return;
    };
    let path = swtpm.scratch().join("age-identity");
    let mut tpm = swtpm.open();
    nv::define(&mut tpm, NV_INDEX, 20).unwrap();
    nv::write(&mut tpm, NV_INDEX, b"a note from somebody").unwrap();
    let error = provision::ensure(&mut tpm, &path).unwrap_err();
    assert!(
        matches!(error, ProvisionError::NvTaken { len: 20 }),
        "{error:?}"
    );
    assert!(!path.exists());
    // With a file to go by the machine works, and says what is not kept.
    let mine = new_identity(&mut tpm);
    fs::write(&path, mine.to_string()).unwrap();
    let done = provision::ensure(&mut tpm, &path).unwrap();
    assert!(
        matches!(done.notes[..], [Note::NvNotKept { .. }]),
        "{:?}",
        done.notes
    );
    assert_eq!(
        nv::read(&mut tpm, NV_INDEX, 20).unwrap().unwrap(),
        b"a note from somebody"
    );

    nv::undefine(&mut tpm, NV_INDEX).unwrap();
    fs::remove_file(&path).unwrap();
    nv::define(&mut tpm, NV_INDEX, 64).unwrap();
    nv::write(
        &mut tpm,
        NV_INDEX,
        b"AGE-TPM1\x01\x00 and then the power went",
    )
    .unwrap();
    let done = provision::ensure(&mut tpm, &path).unwrap();
    assert_eq!(done.origin, Origin::Created);
    assert!(matches!(
        done.notes[..],
        [Note::NvReplaced { .. }, Note::NvStored]
    ));
    fs::remove_file(&path).unwrap();
    assert_eq!(
        provision::ensure(&mut tpm, &path).unwrap().identity,
        done.identity
    );
}

#[test]
fn twenty_power_cuts_with_a_decryption_each_leave_the_lockout_counter_at_zero() {
    let Some(mut swtpm) = Swtpm::start("swtpm power cuts") else {
        return;
    };
    let path = swtpm.scratch().join("age-identity");
    let identity = provision::ensure(&mut swtpm.open(), &path)
        .unwrap()
        .identity;
    for cut in 0..20 {
        swtpm.power_cut();
        let mut tpm = swtpm.open();
        round_trip(&mut tpm, &identity);
        let state = Lockout::read(&mut tpm).unwrap();
        assert_eq!(
            (state.counter, state.active),
            (0, false),
            "after {cut} power cuts"
        );
    }
}
