//! An independent opinion: what tss-esapi (ESYS) makes we use, and what we make it uses.
//!
//! libtss2 is needed by this test alone; nothing that ships touches it.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

mod common;

use std::str::FromStr;

use age_core::secrecy::SecretString;
use age_tpm::key::TpmKey;
use age_tpm::provision::{self, Note};
use age_tpm::tpm::{KeyOptions, PERSISTENT_SRK, Tcti, Tpm, TpmError, create_key};
use age_tpm::unwrap::KeyAgreement;
use age_tpm::{Identity, Pin};
use p256::PublicKey;
use p256::SecretKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use tss_esapi::attributes::SessionAttributesBuilder;
use tss_esapi::constants::SessionType;
use tss_esapi::handles::{
    AuthHandle, KeyHandle, ObjectHandle, PersistentTpmHandle, SessionHandle, TpmHandle,
};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Auth, EccParameter, EccPoint, Private, Public, RsaExponent, SymmetricDefinition,
    SymmetricDefinitionObject,
};
use tss_esapi::tcti_ldr::{NetworkTPMConfig, TctiNameConf};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::{Context, utils};

use common::Swtpm;

const PIN: &str = "2718";

/// The storage root template of the Go plugin, written out once more.
fn srk_template() -> Public {
    let mut bytes = vec![0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0x00, 0x00];
    bytes.extend([
        0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00, 0x03, 0x00, 0x10,
    ]);
    for _ in 0..2 {
        bytes.extend([0x00, 0x20]);
        bytes.extend([0; 32]);
    }
    Public::unmarshall(&bytes).unwrap()
}

/// A P-256 ECDH key; `da` as the Go plugin makes it, or noDA as we do.
fn key_template(da: bool) -> Public {
    let mut bytes = vec![
        0x00,
        0x23,
        0x00,
        0x0b,
        0x00,
        0x02,
        if da { 0 } else { 4 },
        0x72,
        0,
        0,
    ];
    bytes.extend([
        0x00, 0x10, 0x00, 0x19, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10, 0, 0, 0, 0,
    ]);
    Public::unmarshall(&bytes).unwrap()
}

/// ESYS on the emulator; dropped, it lets go of the TPM.
struct Esys(Context);

impl Esys {
    fn open(swtpm: &Swtpm) -> Self {
        let Tcti::SwtpmTcp { host, port } = swtpm.tcti() else {
            panic!("ESYS needs TCP")
        };
        let config = NetworkTPMConfig::from_str(&format!("host={host},port={port}")).unwrap();
        let mut context = Context::new(TctiNameConf::Swtpm(config)).unwrap();
        context.set_sessions((Some(AuthSession::Password), None, None));
        Self(context)
    }

    fn primary(&mut self, template: Public) -> KeyHandle {
        self.0
            .create_primary(Hierarchy::Owner, template, None, None, None, None)
            .unwrap()
            .key_handle
    }

    fn name(&mut self, key: KeyHandle) -> Vec<u8> {
        self.0.tr_get_name(key.into()).unwrap().value().to_vec()
    }

    /// A key under `parent`, as an identity.
    fn identity(&mut self, parent: KeyHandle, da: bool, pin: Option<&str>) -> Identity {
        let auth = pin.map(|pin| Auth::try_from(pin.as_bytes()).unwrap());
        let made = self
            .0
            .create(parent, key_template(da), auth, None, None, None)
            .unwrap();
        let public = made.out_public.marshall().unwrap();
        let private: Vec<u8> = made.out_private.value().to_vec();
        let mut bytes = vec![2, u8::from(pin.is_some())];
        for part in [public, private, self.name(parent)] {
            bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(part);
        }
        Identity::from_bytes(&bytes).unwrap()
    }

    /// Loads an identity's key and multiplies, in a salted session, as a rival would.
    fn agree(&mut self, parent: KeyHandle, identity: &Identity, peer: &PublicKey) -> Vec<u8> {
        let public = Public::unmarshall(identity.public().public().as_bytes()).unwrap();
        let private = Private::try_from(identity.private()).unwrap();
        let key = self.0.load(parent, private, public).unwrap();
        if identity.pin() == Pin::Required {
            let pin = Auth::try_from(PIN.as_bytes()).unwrap();
            self.0.tr_set_auth(key.into(), pin).unwrap();
        }
        self.0.clear_sessions();
        let session = self
            .0
            .start_auth_session(
                Some(parent),
                None,
                None,
                SessionType::Hmac,
                SymmetricDefinition::AES_128_CFB,
                HashingAlgorithm::Sha256,
            )
            .unwrap();
        let (attributes, mask) = SessionAttributesBuilder::new().with_encrypt(true).build();
        self.0
            .tr_sess_set_attributes(session.unwrap(), attributes, mask)
            .unwrap();
        let point = peer.to_encoded_point(false);
        let coordinate =
            |c: Option<&p256::FieldBytes>| EccParameter::try_from(c.unwrap().as_slice()).unwrap();
        let point = EccPoint::new(coordinate(point.x()), coordinate(point.y()));
        let shared = self
            .0
            .execute_with_sessions((Some(AuthSession::Password), session, None), |context| {
                context.ecdh_z_gen(key, point).unwrap()
            });
        self.0
            .set_sessions((Some(AuthSession::Password), None, None));
        self.0.flush_context(key.into()).unwrap();
        self.0
            .flush_context(SessionHandle::from(session.unwrap()).into())
            .unwrap();
        shared.x().value().to_vec()
    }

    /// Makes a key persistent at the storage root's handle, or evicts what is there.
    fn persist(&mut self, object: ObjectHandle) {
        let handle = PersistentTpmHandle::new(PERSISTENT_SRK).unwrap();
        self.0
            .evict_control(Provision::Owner, object, Persistent::Persistent(handle))
            .unwrap();
    }

    fn persistent(&mut self) -> ObjectHandle {
        let handle = PersistentTpmHandle::new(PERSISTENT_SRK).unwrap();
        self.0
            .execute_without_session(|c| c.tr_from_tpm_public(TpmHandle::Persistent(handle)))
            .unwrap()
    }
}

fn peer() -> PublicKey {
    SecretKey::from_slice(&[9; 32]).unwrap().public_key()
}

/// Our side of the multiplication.
fn ours(tpm: &mut Tpm, identity: &Identity) -> Vec<u8> {
    let pin = (identity.pin() == Pin::Required).then(|| SecretString::from(PIN));
    let mut key = TpmKey::load(tpm, identity, pin).unwrap();
    key.agree(&peer()).unwrap().expose().to_vec()
}

fn start(test: &str) -> Option<Swtpm> {
    let mut swtpm = Swtpm::start(test)?;
    swtpm.move_to_tcp();
    Some(swtpm)
}

#[test]
fn keys_of_esys_and_ours_are_each_others_and_agree_on_the_shared_secret() {
    let Some(swtpm) = start("ESYS keys") else {
        return;
    };
    let mut identities = Vec::new();
    for pin in [None, Some(PIN)] {
        let options = KeyOptions {
            pin: pin.map(str::as_bytes),
        };
        let kind = if pin.is_some() {
            Pin::Required
        } else {
            Pin::None
        };
        identities.push(Identity::new(
            create_key(&mut swtpm.open(), options).unwrap(),
            kind,
        ));
    }
    let mut esys = Esys::open(&swtpm);
    let srk = esys.primary(srk_template());
    let name = esys.name(srk);
    for (da, pin) in [(false, None), (true, None), (true, Some(PIN))] {
        identities.push(esys.identity(srk, da, pin));
    }
    let theirs: Vec<_> = identities
        .iter()
        .map(|identity| esys.agree(srk, identity, &peer()))
        .collect();
    drop(esys);
    for (identity, theirs) in identities.iter().zip(theirs) {
        assert_eq!(identity.parent().unwrap().as_bytes()[..], name);
        assert_eq!(ours(&mut swtpm.open(), identity), theirs, "{identity:?}");
    }
}

#[test]
fn a_lockout_under_a_lockout_authorisation_is_left_alone_and_explained() {
    let Some(swtpm) = start("lockout authorisation") else {
        return;
    };
    let mut esys = Esys::open(&swtpm);
    let srk = esys.primary(srk_template());
    let go_like = esys.identity(srk, true, None);
    let with_pin = esys.identity(srk, true, Some(PIN));
    let secret = Auth::try_from(b"the owner's".as_slice()).unwrap();
    esys.0
        .hierarchy_change_auth(AuthHandle::Lockout, secret)
        .unwrap();
    drop(esys);
    let mut tpm = swtpm.open();
    loop {
        let mut key = TpmKey::load(&mut tpm, &with_pin, Some("wrong".into())).unwrap();
        match key.agree(&peer()) {
            Err(TpmError::WrongPin { .. }) => {}
            Err(TpmError::Lockout) => break,
            other => panic!("{other:?}"),
        }
    }
    let path = swtpm.scratch().join("age-identity");
    std::fs::write(&path, go_like.to_string()).unwrap();
    let done = provision::ensure(&mut tpm, &path).unwrap();
    let note = done
        .notes
        .iter()
        .find(|note| matches!(note, Note::LockedOut { .. }))
        .unwrap();
    assert!(note.is_warning());
    assert_eq!(
        note.to_string(),
        "the TPM is locked: a lockout authorisation is set; the TPM forgets a failed try every \
         1000 s, or its owner can run tpm2_dictionarylockout --clear-lockout"
    );
    // A key with noDA does not care.
    let key = create_key(&mut tpm, KeyOptions::default()).unwrap();
    ours(&mut tpm, &Identity::new(key, Pin::None));
}

#[test]
fn wrong_pins_that_locked_a_pin_key_are_not_forgiven_at_the_next_start() {
    let Some(swtpm) = start("PIN lockout") else {
        return;
    };
    let mut tpm = swtpm.open();
    let options = KeyOptions {
        pin: Some(PIN.as_bytes()),
    };
    let with_pin = Identity::new(create_key(&mut tpm, options).unwrap(), Pin::Required);
    for _ in 0..4 {
        let mut key = TpmKey::load(&mut tpm, &with_pin, Some("wrong".into())).unwrap();
        key.agree(&peer()).unwrap_err();
    }
    let path = swtpm.scratch().join("age-identity");
    std::fs::write(&path, with_pin.to_string()).unwrap();
    let done = provision::ensure(&mut tpm, &path).unwrap();
    let said: Vec<_> = done.notes.iter().map(ToString::to_string).collect();
    assert!(
        said.iter().any(|s| s.contains("too many wrong PINs")),
        "{said:?}"
    );
    let mut key = TpmKey::load(&mut tpm, &with_pin, Some(PIN.into())).unwrap();
    assert!(matches!(key.agree(&peer()), Err(TpmError::Lockout)));
}

#[test]
fn a_persistent_storage_root_is_used_be_it_ecc_or_rsa_and_missed_when_evicted() {
    let rsa = || {
        let (symmetric, bits) = (SymmetricDefinitionObject::AES_128_CFB, RsaKeyBits::Rsa2048);
        utils::create_restricted_decryption_rsa_public(symmetric, bits, RsaExponent::default())
            .unwrap()
    };
    // An ECC root with empty coordinates, as most tools make it, is another key than Go's.
    let empty_ecc = || {
        let mut bytes = srk_template().marshall().unwrap();
        bytes.truncate(22);
        bytes.extend([0, 0, 0, 0]);
        Public::unmarshall(&bytes).unwrap()
    };
    for (kind, template) in [("RSA", rsa()), ("ECC", empty_ecc())] {
        let Some(swtpm) = start("persistent root") else {
            return;
        };
        // An identity from before the root became persistent keeps working.
        let key = create_key(&mut swtpm.open(), KeyOptions::default()).unwrap();
        let old = Identity::new(key, Pin::None);
        let mut esys = Esys::open(&swtpm);
        let root = esys.primary(template);
        let name = esys.name(root);
        esys.persist(root.into());
        let theirs = esys.identity(root, false, None);
        let their_secret = esys.agree(root, &theirs, &peer());
        drop(esys);

        let mut tpm = swtpm.open();
        let options = KeyOptions {
            pin: Some(PIN.as_bytes()),
        };
        let with_pin = Identity::new(create_key(&mut tpm, options).unwrap(), Pin::Required);
        let plain = Identity::new(
            create_key(&mut tpm, KeyOptions::default()).unwrap(),
            Pin::None,
        );
        for identity in [&with_pin, &plain] {
            assert_eq!(identity.parent().unwrap().as_bytes()[..], name, "{kind}");
            ours(&mut tpm, identity);
        }
        assert_eq!(ours(&mut tpm, &theirs), their_secret, "{kind}");
        ours(&mut tpm, &old);
        drop(tpm);

        let mut esys = Esys::open(&swtpm);
        let persistent = esys.persistent();
        esys.persist(persistent);
        drop(esys);
        let error = TpmKey::load(swtpm.open(), &plain, None).unwrap_err();
        assert!(matches!(error, TpmError::ForeignParent { .. }), "{error:?}");
        ours(&mut swtpm.open(), &old);
    }
}
