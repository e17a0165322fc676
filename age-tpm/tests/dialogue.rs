//! The plugin's side of the protocol, message by message, and what it does with a PIN.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

#[path = "common/client.rs"]
mod client;
mod common;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use age_core::format::{FileKey, Stanza as AgeStanza};
use age_core::secrecy::SecretString;
use age_tpm::key::TpmKey;
use age_tpm::tpm::{KeyOptions, Tcti, Tpm, TpmError, Transport, create_key};
use age_tpm::unwrap::KeyAgreement;
use age_tpm::wrap::wrap_file_key;
use age_tpm::{Identity, Pin};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{PublicKey, SecretKey};

use client::{ask_to_unwrap, encode, like_age, talk};
use common::{Swtpm, plugin};

const FILE_KEY: [u8; 16] = *b"sixteen bytes ok";
const PIN: &str = "correct horse battery";

fn identity(tpm: &mut Tpm, pin: Option<&str>) -> Identity {
    let options = KeyOptions {
        pin: pin.map(str::as_bytes),
    };
    let kind = if pin.is_some() {
        Pin::Required
    } else {
        Pin::None
    };
    Identity::new(create_key(tpm, options).unwrap(), kind)
}

fn stanza_for(identity: &Identity) -> AgeStanza {
    wrap_file_key(&identity.recipient(), &FileKey::new(Box::new(FILE_KEY))).unwrap()
}

fn secret(stanza: &AgeStanza, pin: &str) -> String {
    match stanza.tag.as_str() {
        "request-secret" => encode("ok", &[], pin.as_bytes()),
        _ => like_age(stanza),
    }
}

#[test]
fn a_file_key_comes_back_among_grease_and_stanzas_of_others() {
    let Some(swtpm) = Swtpm::start("grease") else {
        return;
    };
    let mine = identity(&mut swtpm.open(), None);
    let other = identity(&mut swtpm.open(), None);
    let foreign = AgeStanza {
        tag: "X25519".to_owned(),
        args: vec!["TEiF0ypqr+bpvcqXNyCVJpL7OuwPdVwPL7KQEbFDOCc".to_owned()],
        body: vec![1; 32],
    };
    let empty = AgeStanza {
        tag: "x-grease".to_owned(),
        args: vec![],
        body: vec![2; 48],
    };
    let mut first = encode("y;-grease", &["~", "!"], &[7; 100]);
    first += &ask_to_unwrap(
        &[&mine.to_string()],
        &[foreign, stanza_for(&other), empty, stanza_for(&mine)],
    );
    first += &encode("z-grease", &[], &[]);
    // The plugin sends grease of its own in one of ten runs or so.
    for _ in 0..30 {
        let dialogue = talk(
            &mut plugin(Some(&swtpm.tcti())),
            "identity-v1",
            &first,
            like_age,
        );
        let keys: Vec<_> = dialogue.of("file-key").collect();
        assert_eq!((keys.len(), keys[0].body.as_slice()), (1, &FILE_KEY[..]));
        assert_eq!((dialogue.errors().as_str(), dialogue.code), ("", Some(0)));
    }
}

#[test]
fn a_file_for_somebody_else_sends_no_tpm_command_and_no_error() {
    // No TPM is there at all: had it been opened, an error would tell.
    let nowhere = Tcti::Device("/dev/no-such-tpm".into());
    let Some(swtpm) = Swtpm::start("somebody else's file") else {
        return;
    };
    let mine = identity(&mut swtpm.open(), None);
    let other = identity(&mut swtpm.open(), None);
    let first = ask_to_unwrap(&[&mine.to_string()], &[stanza_for(&other)]);
    let dialogue = talk(&mut plugin(Some(&nowhere)), "identity-v1", &first, like_age);
    assert_eq!(
        (dialogue.errors().as_str(), dialogue.of("file-key").count()),
        ("", 0)
    );
    assert_eq!(dialogue.code, Some(0));
}

#[test]
fn a_broken_stanza_of_ours_condemns_the_file_and_says_which() {
    let Some(swtpm) = Swtpm::start("broken stanza") else {
        return;
    };
    let mine = identity(&mut swtpm.open(), None);
    let mut broken = stanza_for(&mine);
    broken.body.truncate(31);
    let first = ask_to_unwrap(&[&mine.to_string()], &[stanza_for(&mine), broken]);
    let dialogue = talk(
        &mut plugin(Some(&swtpm.tcti())),
        "identity-v1",
        &first,
        like_age,
    );
    assert_eq!(
        dialogue.errors(),
        "stanza 0 1: p256tag stanza has a body of 31 bytes instead of 32\n"
    );
    assert_eq!(dialogue.of("file-key").count(), 0);
}

#[test]
fn identities_of_another_tpm_are_named_as_such() {
    let Some(here) = Swtpm::start("foreign identity") else {
        return;
    };
    let Some(there) = Swtpm::start("foreign identity") else {
        return;
    };
    let foreign = identity(&mut there.open(), None);
    let first = ask_to_unwrap(&[&foreign.to_string()], &[stanza_for(&foreign)]);
    let dialogue = talk(
        &mut plugin(Some(&here.tcti())),
        "identity-v1",
        &first,
        like_age,
    );
    let errors = dialogue.errors();
    assert!(
        errors.starts_with("identity 0: the key belongs to the storage root "),
        "{errors}"
    );
    assert!(
        errors.contains("use the identity on the TPM that made it"),
        "{errors}"
    );

    // The same storage root is named, yet the wrapped key is another's: a tampered identity.
    let own = identity(&mut here.open(), None);
    let mut bytes = own.to_bytes();
    bytes[150] ^= 1;
    let tampered = Identity::from_bytes(&bytes).unwrap();
    let first = ask_to_unwrap(&[&tampered.to_string()], &[stanza_for(&own)]);
    let dialogue = talk(
        &mut plugin(Some(&here.tcti())),
        "identity-v1",
        &first,
        like_age,
    );
    let errors = dialogue.errors();
    assert!(
        errors.contains("made by another TPM, or by this one before"),
        "{errors}"
    );
}

#[test]
fn the_pin_is_asked_for_and_a_wrong_one_says_how_many_tries_are_left() {
    let Some(swtpm) = Swtpm::start("PIN dialogue") else {
        return;
    };
    let tcti = swtpm.tcti();
    let mine = identity(&mut swtpm.open(), Some(PIN));
    let first = ask_to_unwrap(&[&mine.to_string()], &[stanza_for(&mine)]);
    let try_pin = |pin: &str| {
        talk(&mut plugin(Some(&tcti)), "identity-v1", &first, |s| {
            secret(s, pin)
        })
    };

    let good = try_pin(PIN);
    let question =
        String::from_utf8(good.of("request-secret").next().unwrap().body.clone()).unwrap();
    assert_eq!(question, format!("PIN of the TPM key {}", mine.recipient()));
    assert_eq!(good.of("file-key").count(), 1, "{}", good.errors());

    let wrong = try_pin("12345").errors();
    assert_eq!(
        wrong,
        "identity 0: wrong PIN, 2 tries left before the TPM locks itself\n"
    );
    let wrong = try_pin("").errors();
    assert_eq!(
        wrong,
        "identity 0: wrong PIN, 1 try left before the TPM locks itself\n"
    );
    assert_eq!(
        try_pin(PIN).of("file-key").count(),
        1,
        "a right PIN still works"
    );
    let last = try_pin("123456").errors();
    assert!(
        last.contains("wrong PIN, 0 tries left") || last.contains("locked"),
        "{last}"
    );
    let locked = try_pin(PIN).errors();
    assert!(
        locked.contains("the TPM is locked after too many failed tries"),
        "{locked}"
    );
}

#[test]
fn a_key_with_pin_and_nobody_to_ask_is_an_error_that_names_the_variable() {
    let Some(swtpm) = Swtpm::start("no PIN") else {
        return;
    };
    let mine = identity(&mut swtpm.open(), Some(PIN));
    let first = ask_to_unwrap(&[&mine.to_string()], &[stanza_for(&mine)]);
    let dialogue = talk(
        &mut plugin(Some(&swtpm.tcti())),
        "identity-v1",
        &first,
        like_age,
    );
    assert_eq!(
        dialogue.errors(),
        "identity 0: the key needs a PIN; set AGE_TPM_PIN or run the client on a terminal\n"
    );
    let mut empty = plugin(Some(&swtpm.tcti()));
    let again = talk(
        empty.env("AGE_TPM_PIN", ""),
        "identity-v1",
        &first,
        like_age,
    );
    assert_eq!(
        again.errors(),
        dialogue.errors(),
        "an empty variable costs no try"
    );
    let mut with_variable = plugin(Some(&swtpm.tcti()));
    let dialogue = talk(
        with_variable.env("AGE_TPM_PIN", PIN),
        "identity-v1",
        &first,
        like_age,
    );
    assert_eq!(dialogue.of("file-key").count(), 1, "{}", dialogue.errors());
    assert_eq!(dialogue.of("request-secret").count(), 0);
}

#[test]
fn recipients_and_identities_are_wrapped_to_without_a_tpm() {
    let Some(swtpm) = Swtpm::start("recipient-v1") else {
        return;
    };
    let mine = identity(&mut swtpm.open(), None);
    let mut first = encode("add-recipient", &[&mine.recipient().to_tpm_text()], &[]);
    first += &encode("add-recipient", &[&mine.recipient().to_tag_text()], &[]);
    first += &encode("add-identity", &[&mine.to_string()], &[]);
    first += &encode("wrap-file-key", &[], &FILE_KEY);
    first += &encode("extension-labels", &[], &[]);
    let nowhere = Tcti::Device("/dev/no-such-tpm".into());
    let dialogue = talk(
        &mut plugin(Some(&nowhere)),
        "recipient-v1",
        &first,
        like_age,
    );
    let wrapped: Vec<_> = dialogue.of("recipient-stanza").collect();
    assert_eq!(wrapped.len(), 3, "{}", dialogue.errors());
    assert!(wrapped.iter().all(|s| s.args[..2] == ["0", "p256tag"]));

    for (bad, error) in [
        ("age1tpm1qqqq", "recipient 0: Invalid recipient encoding\n"),
        (
            "age1tpm1qvqsyqcyq5rqwzqfpg9scrgwpugpzysnzs23v9ccrydpk8qarc0sx2xzzx",
            "recipient 0: ",
        ),
    ] {
        let first = encode("add-recipient", &[bad], &[]) + &encode("wrap-file-key", &[], &FILE_KEY);
        let dialogue = talk(&mut plugin(None), "recipient-v1", &first, like_age);
        assert!(
            dialogue.errors().starts_with(error),
            "{}",
            dialogue.errors()
        );
        assert_eq!(dialogue.code, Some(0));
    }
}

/// Everything that crossed the bus.
#[derive(Clone, Default)]
struct Bus(Arc<Mutex<Vec<u8>>>);

impl Bus {
    fn carried(&self, needle: &[u8]) -> bool {
        self.0
            .lock()
            .unwrap()
            .windows(needle.len())
            .any(|window| window == needle)
    }

    fn tap(&self, tcti: &Tcti) -> Tpm {
        let tapped = Tapped {
            inner: tcti.connect().unwrap(),
            bus: self.clone(),
        };
        Tpm::with_transport(Box::new(tapped), "tapped".to_owned())
    }
}

struct Tapped {
    inner: Box<dyn Transport>,
    bus: Bus,
}

impl Transport for Tapped {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let response = self.inner.transact(command)?;
        let mut bus = self.bus.0.lock().unwrap();
        bus.extend_from_slice(command);
        bus.extend_from_slice(&response);
        Ok(response)
    }
}

#[test]
fn neither_pin_nor_shared_secret_crosses_the_bus_in_clear() {
    let Some(swtpm) = Swtpm::start("bus tap") else {
        return;
    };
    let bus = Bus::default();
    let mine = identity(&mut bus.tap(&swtpm.tcti()), Some(PIN));
    let peer = SecretKey::from_slice(&[9; 32]).unwrap().public_key();
    let mut key =
        TpmKey::load(bus.tap(&swtpm.tcti()), &mine, Some(SecretString::from(PIN))).unwrap();
    let shared = key.agree(&peer).unwrap();
    let sent_point = peer.to_encoded_point(false);
    assert!(
        bus.carried(sent_point.x().unwrap()),
        "the tap sees what is in clear"
    );
    assert!(!bus.carried(PIN.as_bytes()), "the PIN was seen");
    assert!(!bus.carried(shared.expose()), "the shared secret was seen");
    // That it is the right secret: the generator point gives the key's own X.
    let generator = PublicKey::from_affine(p256::AffinePoint::GENERATOR).unwrap();
    let own = mine.recipient().point().to_encoded_point(false);
    assert_eq!(
        key.agree(&generator).unwrap().expose(),
        own.x().unwrap().as_slice()
    );
}

/// Answers that somebody alters on their way.
struct Altered {
    inner: Box<dyn Transport>,
    code: u32,
    at: usize,
    answer_bytes: Arc<AtomicUsize>,
}

impl Transport for Altered {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut response = self.inner.transact(command)?;
        if command[6..10] == self.code.to_be_bytes() {
            self.answer_bytes.store(response.len(), Ordering::Relaxed);
            response[self.at] ^= 0x01;
        }
        Ok(response)
    }
}

#[test]
fn an_answer_altered_on_the_bus_never_passes_for_a_shared_secret() {
    const ECDH_ZGEN: u32 = 0x154;
    let Some(swtpm) = Swtpm::start("altered bus") else {
        return;
    };
    let mine = identity(&mut swtpm.open(), None);
    let peer = SecretKey::from_slice(&[9; 32]).unwrap().public_key();
    let mut forged = 0;
    let answer_bytes = Arc::new(AtomicUsize::new(usize::MAX));
    for at in 0.. {
        // Coordinates with leading zeros may make an answer a little shorter than another.
        if at + 2 >= answer_bytes.load(Ordering::Relaxed) {
            break;
        }
        let inner = swtpm.tcti().connect().unwrap();
        let altered = Altered {
            inner,
            code: ECDH_ZGEN,
            at,
            answer_bytes: answer_bytes.clone(),
        };
        let tpm = Tpm::with_transport(Box::new(altered), "altered".to_owned());
        let mut key = TpmKey::load(tpm, &mine, None).unwrap();
        match key.agree(&peer) {
            Err(TpmError::Forged { .. }) => forged += 1,
            Err(_) => {}
            // Only the size in the header is not protected; the transport looks at it first.
            Ok(_) => assert!((2..6).contains(&at), "byte {at} was altered unnoticed"),
        }
    }
    assert!(forged > 100, "{forged}");
}
