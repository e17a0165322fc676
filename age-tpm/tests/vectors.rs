//! Formats, byte by byte, against vectors that other programs made. See `vectors/README.md`.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

use std::convert::Infallible;

use age_core::format::{FileKey, Stanza as AgeStanza};
use age_core::primitives::hkdf;
use age_core::secrecy::ExposeSecret;
use age_tpm::identity::{IdentityError, read_identities};
use age_tpm::recipient::RecipientError;
use age_tpm::stanza::{Stanza, StanzaError};
use age_tpm::unwrap::{KeyAgreement, SharedX, UnwrapError, unwrap_file_key};
use age_tpm::{Identity, Pin, Recipient};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use p256::ecdh::diffie_hellman;
use p256::{PublicKey, SecretKey};
use sha2::Sha256;
use zeroize::Zeroizing;

fn table(text: &str) -> toml::Table {
    text.parse().unwrap()
}

fn made() -> Vec<toml::Value> {
    table(include_str!("vectors/made.toml"))["case"]
        .as_array()
        .unwrap()
        .clone()
}

fn peers(name: &str) -> toml::Value {
    table(include_str!("vectors/peers.toml"))[name].clone()
}

fn text<'a>(case: &'a toml::Value, field: &str) -> &'a str {
    case[field].as_str().unwrap()
}

/// A private key in memory, where a TPM would be.
struct Software(SecretKey);

impl Software {
    fn new(case: &toml::Value) -> Self {
        let byte = u8::try_from(case["key"].as_integer().unwrap()).unwrap();
        Self(SecretKey::from_slice(&[byte; 32]).unwrap())
    }

    fn recipient(&self) -> Recipient {
        Recipient::new(self.0.public_key())
    }
}

impl KeyAgreement for Software {
    type Error = Infallible;

    fn agree(&mut self, peer: &PublicKey) -> Result<SharedX, Infallible> {
        let shared = diffie_hellman(self.0.to_nonzero_scalar(), peer.as_affine());
        let mut x = Zeroizing::new([0; 32]);
        x.copy_from_slice(shared.raw_secret_bytes());
        Ok(SharedX::new(x))
    }
}

fn stanza(line: &str, body: &str) -> AgeStanza {
    let mut words = line.split(' ').map(str::to_owned);
    AgeStanza {
        tag: words.next().unwrap(),
        args: words.collect(),
        body: STANDARD_NO_PAD.decode(body).unwrap(),
    }
}

#[test]
fn recipients_are_written_and_read_in_both_spellings() {
    for case in made() {
        let recipient = Software::new(&case).recipient();
        assert_eq!(recipient.to_tag_text(), text(&case, "tag"));
        assert_eq!(recipient.to_tpm_text(), text(&case, "tpm"));
        assert_eq!(text(&case, "tag").parse(), Ok(recipient.clone()));
        assert_eq!(text(&case, "tpm").parse(), Ok(recipient));
    }
}

#[test]
fn both_kinds_of_stanza_open_to_the_file_key_and_for_nobody_else() {
    let cases = made();
    for (index, case) in cases.iter().enumerate() {
        let mut key = Software::new(case);
        let own = key.recipient();
        let stranger = Software::new(&cases[(index + 1) % cases.len()]).recipient();
        for kind in ["p256tag", "tpm_ecc"] {
            let raw = stanza(text(case, kind), text(case, &format!("{kind}_body")));
            let stanza = Stanza::parse(&raw).unwrap().unwrap();
            assert!(stanza.is_for(&own) && !stanza.is_for(&stranger));
            let file_key = unwrap_file_key(&stanza, &own, &mut key).unwrap();
            let hex: String = file_key
                .expose_secret()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            assert_eq!(hex, text(case, "file_key"));
        }
    }
}

#[test]
fn every_flipped_bit_of_a_body_is_noticed() {
    let case = &made()[0];
    let mut key = Software::new(case);
    let own = key.recipient();
    for kind in ["p256tag", "tpm_ecc"] {
        let good = stanza(text(case, kind), text(case, &format!("{kind}_body")));
        for bit in 0..good.body.len() * 8 {
            let mut bad = stanza(text(case, kind), text(case, &format!("{kind}_body")));
            bad.body[bit / 8] ^= 1 << (bit % 8);
            let bad = Stanza::parse(&bad).unwrap().unwrap();
            let result = unwrap_file_key(&bad, &own, &mut key);
            assert!(matches!(result, Err(UnwrapError::Body)), "bit {bit}");
        }
    }
}

#[test]
fn a_stanza_of_another_kind_is_not_ours_and_a_malformed_one_is_named() {
    let case = &made()[0];
    let line = text(case, "p256tag").to_owned();
    let body = text(case, "p256tag_body");
    for other in [
        "X25519 abc",
        "scrypt a b",
        "p256tagx a b",
        "P256TAG a b",
        "mlkem768p256tag a b",
    ] {
        assert!(Stanza::parse(&stanza(other, body)).is_none(), "{other}");
    }
    let broken = |line: &str, body: &str| Stanza::parse(&stanza(line, body)).unwrap().unwrap_err();
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(
        broken("p256tag", body),
        StanzaError::Arguments {
            tag: "p256tag",
            found: 0
        }
    );
    let more = format!("{line} more");
    assert_eq!(
        broken(&more, body),
        StanzaError::Arguments {
            tag: "p256tag",
            found: 3
        }
    );
    for (bad, argument) in [
        (format!("p256tag {} {}", "AAAA", words[2]), "hint"),
        (format!("p256tag {} {}", "5E3DN=", words[2]), "hint"),
        (
            format!("p256tag {} {}", words[1], &words[2][1..]),
            "ephemeral key",
        ),
        (
            format!("p256tag {} {}!", words[1], &words[2][1..]),
            "ephemeral key",
        ),
        // A compressed point where an uncompressed one belongs.
        (
            text(case, "tpm_ecc").replace("tpm-ecc", "p256tag"),
            "ephemeral key",
        ),
    ] {
        assert_eq!(
            broken(&bad, body),
            StanzaError::Argument {
                tag: "p256tag",
                argument
            },
            "{bad}"
        );
    }
    let zero = STANDARD_NO_PAD.encode([[4; 1].as_slice(), &[0; 64]].concat());
    let off_curve = format!("p256tag {} {zero}", words[1]);
    assert_eq!(
        broken(&off_curve, body),
        StanzaError::BadPoint { tag: "p256tag" }
    );
    let own = Software::new(case).recipient();
    for (kind, key) in [
        ("tpm-ecc", own.compressed()),
        ("p256tag", own.uncompressed()),
    ] {
        // 05 is "compact", 06 and 07 are "hybrid" in SEC 1 and its forerunners: never written.
        for first in [0, 5, 6, 7] {
            let mut key = key.clone();
            key[0] = first;
            let line = format!("{kind} {} {}", words[1], STANDARD_NO_PAD.encode(key));
            assert_eq!(
                broken(&line, body),
                StanzaError::BadPoint { tag: kind },
                "{first}"
            );
        }
    }
    let short = STANDARD_NO_PAD.encode([0; 31]);
    assert_eq!(
        broken(&line, &short),
        StanzaError::Body {
            tag: "p256tag",
            found: 31
        }
    );
}

#[test]
fn identities_of_the_go_plugin_are_read_and_written_back_unchanged() {
    for name in ["go_v2", "go_pin"] {
        let case = peers(name);
        let identity = read_identities(text(&case, "file").as_bytes())
            .unwrap()
            .remove(0);
        assert_eq!(
            identity.to_string(),
            text(&case, "file").lines().last().unwrap()
        );
        assert_eq!(identity.recipient().to_tag_text(), text(&case, "tag"));
        assert_eq!(
            identity.pin() == Pin::Required,
            case["pin"].as_bool().unwrap()
        );
        assert!(identity.can_be_locked_out() && identity.parent().is_some());
        assert_eq!(Identity::from_bytes(&identity.to_bytes()), Ok(identity));
    }
    assert_eq!(peers("go_v2")["tpm"], {
        let identity = read_identities(text(&peers("go_v2"), "file").as_bytes())
            .unwrap()
            .remove(0);
        toml::Value::from(identity.recipient().to_tpm_text())
    });
}

#[test]
fn version_1_is_version_2_without_the_storage_roots_name() {
    let file = peers("go_v2");
    let v2 = read_identities(text(&file, "file").as_bytes())
        .unwrap()
        .remove(0);
    let mut bytes = v2.to_bytes();
    bytes[0] = 1;
    assert!(
        matches!(Identity::from_bytes(&bytes), Err(IdentityError::Wire(_))),
        "trailing name"
    );
    bytes.truncate(220);
    let v1 = Identity::from_bytes(&bytes).unwrap();
    assert_eq!((v1.parent(), v1.to_string().len()), (None, 374));
    assert_eq!(v1.recipient(), v2.recipient());
    assert_eq!(v1.to_string().parse(), Ok(v1));
}

#[test]
fn what_is_not_ours_is_told_from_what_is_ours_but_broken() {
    let v2 = text(&peers("go_v2"), "file")
        .lines()
        .last()
        .unwrap()
        .to_owned();
    for other in [
        "",
        "hello",
        "AGE-SECRET-KEY-1QQQ",
        "AGE-PLUGIN-TPMX-1QQ",
        "AGE-PLUGIN-YUBIKEY-1Q",
    ] {
        assert_eq!(
            other.parse::<Identity>(),
            Err(IdentityError::NotMine),
            "{other}"
        );
        assert_eq!(
            other.parse::<Recipient>(),
            Err(RecipientError::NotMine),
            "{other}"
        );
    }
    let parse = |text: &str| text.parse::<Identity>().unwrap_err();
    for len in "AGE-PLUGIN-TPM-1".len()..v2.len() {
        let error = parse(&v2[..len]);
        assert!(!matches!(error, IdentityError::NotMine), "{len}: {error}");
    }
    assert!(matches!(
        parse(&v2.replacen('Z', "2", 1)),
        IdentityError::Encoding { .. }
    ));
    assert_eq!(
        parse(&format!("{v2}{}", "Q".repeat(4096))),
        IdentityError::TooLong
    );
    let whole = v2.parse::<Identity>().unwrap().to_bytes();
    let with = |at: usize, value: u8| {
        let mut bytes = whole.clone();
        bytes[at] = value;
        Identity::from_bytes(&bytes).unwrap_err()
    };
    assert_eq!(with(0, 3), IdentityError::Version { version: 3 });
    assert_eq!(with(1, 2), IdentityError::PinFlag { flag: 2 });
    assert!(matches!(with(2, 9), IdentityError::Wire(_)));
    assert!(
        matches!(with(60, 0), IdentityError::Public(_)),
        "a point off the curve"
    );
    assert_eq!(
        with(221, 33).to_string(),
        "the identity names its storage root in an unknown way (33 bytes)"
    );

    let good = text(&made()[0], "tpm").to_owned();
    let parse = |text: &str| text.parse::<Recipient>().unwrap_err();
    assert!(matches!(
        parse(&good[..40]),
        RecipientError::Encoding { .. }
    ));
    assert!(matches!(
        parse(&good.replace("age1tpm", "age1tag")),
        RecipientError::Encoding { .. }
    ));
    assert_eq!(
        parse(&format!("{good}{}", "q".repeat(256))),
        RecipientError::TooLong
    );
    assert_eq!(
        Recipient::from_bytes(&[2; 32]),
        Err(RecipientError::BadPoint)
    );
    assert_eq!(
        Recipient::from_bytes(&[5; 33]),
        Err(RecipientError::BadPoint)
    );
}

#[test]
fn a_file_of_age_13_gives_the_file_key_that_its_header_was_sealed_with() {
    let case = peers("age13");
    let armor: String = text(&case, "file")
        .lines()
        .filter(|line| !line.contains("-----"))
        .collect();
    let file = STANDARD.decode(armor).unwrap();
    let end = file.windows(5).position(|w| w == b"\n--- ").unwrap() + 1;
    let header = std::str::from_utf8(&file[..end]).unwrap();
    let lines: Vec<_> = header.lines().collect();
    let mut key = Software::new(&case);
    let own = key.recipient();
    let mut opened = Vec::new();
    for pair in lines[1..].chunks_exact(2) {
        let raw = stanza(pair[0].strip_prefix("-> ").unwrap(), pair[1]);
        let stanza = Stanza::parse(&raw).unwrap().unwrap();
        if stanza.is_for(&own) {
            opened.push(unwrap_file_key(&stanza, &own, &mut key).unwrap());
        }
    }
    let [file_key] = &opened[..] else {
        panic!("one stanza is for the key")
    };
    assert_eq!(
        header_mac(file_key, &file[..end + 3]),
        file[end + 4..end + 4 + 43]
    );
}

/// The code in an age header's last line, in base64.
fn header_mac(file_key: &FileKey, header: &[u8]) -> Vec<u8> {
    let key = hkdf(&[], b"header", file_key.expose_secret());
    let mac = Hmac::<Sha256>::new_from_slice(&key)
        .unwrap()
        .chain_update(header)
        .finalize();
    STANDARD_NO_PAD.encode(mac.into_bytes()).into_bytes()
}
