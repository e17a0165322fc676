//! The key that a service holds and lends: the plugin asks it, and manages without it.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

#[path = "common/client.rs"]
mod client;
mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use age_core::format::{FileKey, Stanza as AgeStanza};
use age_tpm::held::{Held, Holder, ServeError, Server};
use age_tpm::tpm::{KeyOptions, Tcti, Tpm, create_key};
use age_tpm::unwrap::KeyAgreement;
use age_tpm::wrap::wrap_file_key;
use age_tpm::{Identity, Pin};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{PublicKey, SecretKey};

use client::{ask_to_unwrap, like_age, talk};
use common::{Swtpm, plugin};

const FILE_KEY: [u8; 16] = *b"sixteen bytes ok";
/// Far more than the service gives a client, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

fn identity(tpm: &mut Tpm) -> Identity {
    Identity::new(create_key(tpm, KeyOptions::default()).unwrap(), Pin::None)
}

fn stanza_for(identity: &Identity) -> AgeStanza {
    wrap_file_key(&identity.recipient(), &FileKey::new(Box::new(FILE_KEY))).unwrap()
}

fn peer() -> PublicKey {
    SecretKey::from_slice(&[9; 32]).unwrap().public_key()
}

/// Lends `identity`'s key at a socket in the TPM's scratch folder, from a thread that stays.
fn lend(swtpm: &Swtpm, identity: &Identity) -> (PathBuf, mpsc::Receiver<ServeError>) {
    let socket = swtpm.scratch().join("key.sock");
    let server = Server::bind(&socket, None).unwrap();
    let mut holder = Holder::new(identity.clone(), swtpm.tcti()).unwrap();
    let (report, reports) = mpsc::channel();
    thread::spawn(move || {
        server.run(&mut holder, &mut |e| {
            let _ = report.send(e);
        })
    });
    (socket, reports)
}

/// One run of the plugin; its file keys and its errors.
fn unwrap(tcti: &Tcti, socket: &Path, identity: &Identity) -> (usize, String) {
    let first = ask_to_unwrap(&[&identity.to_string()], &[stanza_for(identity)]);
    let mut plugin = plugin(Some(tcti));
    let dialogue = talk(
        plugin.env("AGE_TPM_SOCKET", socket),
        "identity-v1",
        &first,
        like_age,
    );
    let keys = dialogue
        .of("file-key")
        .filter(|s| s.body == FILE_KEY)
        .count();
    (keys, dialogue.errors())
}

#[test]
fn the_plugin_decrypts_through_the_service_without_touching_a_tpm() {
    let Some(swtpm) = Swtpm::start("held key") else {
        return;
    };
    let mine = identity(&mut swtpm.open());
    let (socket, reports) = lend(&swtpm, &mine);
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let nowhere = Tcti::Device("/dev/no-such-tpm".into());
    for _ in 0..10 {
        assert_eq!(unwrap(&nowhere, &socket, &mine), (1, String::new()));
    }
    assert!(reports.try_recv().is_err());
}

#[test]
fn the_plugin_manages_by_itself_when_the_service_is_missing_dead_or_holds_another_key() {
    let Some(swtpm) = Swtpm::start("no held key") else {
        return;
    };
    let mine = identity(&mut swtpm.open());
    let other = identity(&mut swtpm.open());
    let missing = swtpm.scratch().join("nobody.sock");
    assert_eq!(unwrap(&swtpm.tcti(), &missing, &mine), (1, String::new()));
    let dead = swtpm.scratch().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert_eq!(unwrap(&swtpm.tcti(), &dead, &mine), (1, String::new()));
    let (socket, _reports) = lend(&swtpm, &other);
    assert_eq!(unwrap(&swtpm.tcti(), &socket, &mine), (1, String::new()));
}

#[test]
fn a_service_that_lies_cannot_mislead_the_plugin() {
    let Some(swtpm) = Swtpm::start("lying service") else {
        return;
    };
    let mine = identity(&mut swtpm.open());
    let socket = swtpm.scratch().join("liar.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            client.read_exact(&mut [0; 103]).unwrap();
            client.write_all(&[0; 33]).unwrap();
        }
    });
    assert_eq!(unwrap(&swtpm.tcti(), &socket, &mine), (1, String::new()));
}

#[test]
fn the_service_survives_hostile_clients_and_a_tpm_that_was_reset() {
    let Some(mut swtpm) = Swtpm::start("hostile clients") else {
        return;
    };
    let mine = identity(&mut swtpm.open());
    let (socket, reports) = lend(&swtpm, &mine);
    let own = mine.recipient();
    let ask = || {
        Held {
            socket: &socket,
            key: &own,
        }
        .agree(&peer())
        .map(|x| x.expose().to_vec())
    };
    let expected = ask().unwrap();

    let send = |bytes: &[u8]| {
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(bytes).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        let mut answer = Vec::new();
        // Who is cut off may hear of it as an error.
        let late = [ErrorKind::WouldBlock, ErrorKind::TimedOut];
        if let Err(error) = client.read_to_end(&mut answer) {
            assert!(!late.contains(&error.kind()), "neither answer nor end");
        }
        answer
    };
    let mut good = b"AGET1".to_vec();
    good.extend(own.compressed());
    good.extend(peer().to_encoded_point(false).as_bytes());
    assert_eq!(send(&good), [[0].as_slice(), &expected].concat());
    let mut off_curve = good.clone();
    off_curve[100] ^= 1;
    let mut wrong_magic = good.clone();
    wrong_magic[4] = b'2';
    for bad in [&off_curve, &wrong_magic] {
        assert_eq!(send(bad), [1]);
        assert!(matches!(reports.recv().unwrap(), ServeError::Malformed));
    }
    // A client that falls silent is not waited for.
    assert_eq!(send(&good[..50]), []);
    assert!(matches!(reports.recv().unwrap(), ServeError::Client(_)));
    drop(UnixStream::connect(&socket).unwrap());
    assert!(matches!(reports.recv().unwrap(), ServeError::Client(_)));
    assert_eq!(ask().unwrap(), expected);

    swtpm.power_cut();
    assert_eq!(ask().unwrap(), expected, "the key is loaded again");
    swtpm.kill();
    assert_eq!(
        ask().unwrap_err().kind(),
        std::io::ErrorKind::PermissionDenied
    );
    assert!(matches!(reports.recv().unwrap(), ServeError::Key(_)));
    swtpm.power_cut();
    assert_eq!(ask().unwrap(), expected);
}

#[test]
fn a_stopped_service_returns_and_takes_its_socket_away() {
    let Some(swtpm) = Swtpm::start("stopped service") else {
        return;
    };
    let mine = identity(&mut swtpm.open());
    let socket = swtpm.scratch().join("stop.sock");
    let server = Server::bind(&socket, None).unwrap();
    let stopper = server.stopper().unwrap();
    let mut holder = Holder::new(mine.clone(), swtpm.tcti()).unwrap();
    let service = thread::spawn(move || server.run(&mut holder, &mut |_| {}));
    let own = mine.recipient();
    Held {
        socket: &socket,
        key: &own,
    }
    .agree(&peer())
    .unwrap();
    stopper.stop();
    stopper.stop();
    service.join().unwrap();
    assert!(!socket.exists());
    // Its connection to the TPM is gone, too: swtpm serves the next one.
    identity(&mut swtpm.open());
}

#[test]
fn a_key_with_pin_is_never_held_and_a_left_over_socket_is_replaced() {
    let Some(swtpm) = Swtpm::start("PIN is not held") else {
        return;
    };
    let options = KeyOptions { pin: Some(b"1234") };
    let with_pin = Identity::new(
        create_key(&mut swtpm.open(), options).unwrap(),
        Pin::Required,
    );
    assert!(Holder::new(with_pin, swtpm.tcti()).is_none());

    let socket = swtpm.scratch().join("twice.sock");
    let first = Server::bind(&socket, None).unwrap();
    std::mem::forget(first); // as a killed process would, it leaves its name behind
    let second = Server::bind(&socket, Some(0)).unwrap();
    assert_eq!(
        fs::metadata(&socket).unwrap().permissions().mode() & 0o777,
        0o660
    );
    drop(second);
    assert!(!socket.exists());
}
