//! A writer of whole age files with a `tpm-ecc` stanza, which nobody writes any more.
//!
//! Owns a header, its code, and one payload chunk. Follows c2sp.org/age and the Go plugin v0.x.
#![allow(
    clippy::unwrap_used,
    reason = "in a test a panic is a failure with a place"
)]

use age_core::primitives::{aead_encrypt, hkdf};
use age_tpm::Recipient;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hmac::{Hmac, Mac};
use p256::SecretKey;
use p256::ecdh::diffie_hellman;
use sha2::{Digest, Sha256};

/// Nonce of the only chunk of a payload: counter 0, and the mark of the last one.
const LAST_CHUNK: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Encrypts a short text. One-time key and file key are fixed: it is a test.
pub(crate) fn seal(to: &Recipient, text: &[u8]) -> Vec<u8> {
    let file_key = [0x5a; 16];
    let ephemeral = SecretKey::from_slice(&[0x21; 32]).unwrap();
    let point = Recipient::new(ephemeral.public_key());
    let shared = diffie_hellman(ephemeral.to_nonzero_scalar(), to.point().as_affine());
    let salt = [point.uncompressed(), to.uncompressed()].concat();
    let key = hkdf(
        &salt,
        b"age-encryption.org/v1/tpm-p256",
        shared.raw_secret_bytes(),
    );
    let base64 = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
    let hint = Sha256::digest(to.uncompressed());
    let header = format!(
        "age-encryption.org/v1\n-> tpm-ecc {} {}\n{}\n---",
        base64(&hint[..4]),
        base64(&point.compressed()),
        base64(&aead_encrypt(&key, &file_key))
    );
    let code = <Hmac<Sha256> as Mac>::new_from_slice(&hkdf(&[], b"header", &file_key))
        .unwrap()
        .chain_update(&header)
        .finalize();
    let nonce = [0x33; 16];
    let key = hkdf(&nonce, b"payload", &file_key);
    let chunk = ChaCha20Poly1305::new(Key::from_slice(&key))
        .encrypt(Nonce::from_slice(&LAST_CHUNK), text)
        .unwrap();
    let mut file = format!("{header} {}\n", base64(&code.into_bytes())).into_bytes();
    file.extend_from_slice(&nonce);
    file.extend_from_slice(&chunk);
    file
}
