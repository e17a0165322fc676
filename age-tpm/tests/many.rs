//! Many plugins at once, and hostile input in bulk.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use std::thread;

use age_core::format::Stanza as AgeStanza;
use age_tpm::identity::read_identities;
use age_tpm::stanza::Stanza;
use age_tpm::tpm::{Public, Tcti};
use age_tpm::{Identity, Recipient};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use common::{Swtpm, command, plugin, program, run_ok, skip};

#[test]
fn thirty_two_plugins_at_once_share_one_tpm() {
    let Some(swtpm) = Swtpm::start("32 plugins") else {
        return;
    };
    let Some(age) = program("age") else {
        return skip("32 plugins", "age is not installed");
    };
    let tcti = swtpm.tcti();
    let file = swtpm.scratch().join("identity");
    run_ok(plugin(Some(&tcti)).args(["-g", "-o"]).arg(&file), b"");
    let recipient = run_ok(plugin(None).args(["-y", "--tpm-recipient"]).arg(&file), b"");
    let recipient = String::from_utf8(recipient).unwrap();
    let sealed = run_ok(
        command(&age, None).args(["-r", recipient.trim()]),
        b"shared",
    );
    thread::scope(|scope| {
        let runs: Vec<_> = (0..32)
            .map(|_| {
                scope.spawn(|| {
                    run_ok(
                        command(&age, Some(&tcti)).arg("-d").arg("-i").arg(&file),
                        &sealed,
                    )
                })
            })
            .collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), b"shared");
        }
    });
}

/// An identity that the Go plugin made, as a starting point for mutations.
fn go_identity() -> Identity {
    let peers: toml::Table = include_str!("vectors/peers.toml").parse().unwrap();
    read_identities(peers["go_v2"]["file"].as_str().unwrap().as_bytes())
        .unwrap()
        .remove(0)
}

/// Changes, cuts and extensions of good bytes.
fn mutated(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let len = good.len();
    (
        vec((0..len, any::<u8>()), 0..8),
        0..=len,
        vec(any::<u8>(), 0..40),
    )
        .prop_map(move |(changes, keep, tail)| {
            let mut bytes = good.clone();
            changes.iter().for_each(|(at, value)| bytes[*at] = *value);
            // Most of the time the length stays, or nothing behind the first check is reached.
            if keep % 4 == 0 {
                bytes.truncate(keep);
                bytes.extend_from_slice(&tail);
            }
            bytes
        })
}

fn argument() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!-~]{0,100}",
        vec(any::<u8>(), 4).prop_map(|b| base64_of(&b)),
        vec(any::<u8>(), 33).prop_map(|b| base64_of(&b)),
        vec(any::<u8>(), 65).prop_map(|mut b| {
            b[0] = 4;
            base64_of(&b)
        }),
    ]
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

proptest! {
    #![proptest_config(Config { cases: 10_000, failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_identity_payload_brings_the_parser_down(bytes in mutated(go_identity().to_bytes())) {
        if let Ok(identity) = Identity::from_bytes(&bytes) {
            // What was accepted is written back as it was: nothing is silently dropped.
            prop_assert_eq!(identity.to_bytes(), bytes.clone());
            prop_assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        let _ = Public::parse(&bytes);
    }

    #[test]
    fn no_stanza_brings_the_parser_down(
        tag in prop_oneof!["p256tag", "tpm-ecc", "[!-~]{1,12}"],
        args in vec(argument(), 0..4),
        body in prop_oneof![vec(any::<u8>(), 0..80), vec(any::<u8>(), 32)],
    ) {
        let ours = tag == "p256tag" || tag == "tpm-ecc";
        let parsed = Stanza::parse(&AgeStanza { tag, args, body });
        prop_assert_eq!(parsed.is_some(), ours);
    }

    #[test]
    fn no_text_brings_a_parser_down(text in prop_oneof![
        ".{0,200}",
        "age1t(pm|ag)1[ac-hj-np-z02-9]{0,80}",
        "AGE-PLUGIN-TPM-1[AC-HJ-NP-Z02-9]{0,500}",
        "(swtpm|device|/dev)[:=,/a-z0-9]{0,30}",
    ]) {
        let _ = text.parse::<Recipient>();
        let _ = text.parse::<Identity>();
        let _ = read_identities(text.as_bytes());
        if let Ok(tcti) = text.parse::<Tcti>() {
            prop_assert_eq!(tcti.to_string().parse(), Ok(tcti));
        }
    }
}
