//! HPKE base mode for a private key that cannot leave its TPM.
//!
//! Owns the chain from a Diffie-Hellman result to an opened or sealed message for the one suite
//! that `p256tag` uses: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, empty AAD, first
//! sequence number. General HPKE libraries want the private key itself, which is why it is written
//! out here; tests compare it with one. Follows RFC 9180, sections 4.1 and 5.1.

use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::unwrap::SharedX;

/// "KEM" and DHKEM(P-256, HKDF-SHA256).
const KEM_SUITE: &[u8] = b"KEM\x00\x10";
/// "HPKE", the KEM, HKDF-SHA256, ChaCha20Poly1305.
const HPKE_SUITE: &[u8] = b"HPKE\x00\x10\x00\x01\x00\x03";
const VERSION: &[u8] = b"HPKE-v1";
const MODE_BASE: u8 = 0;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;

/// The key and nonce of one message.
pub(crate) struct Context {
    key: Zeroizing<[u8; KEY_BYTES]>,
    nonce: [u8; NONCE_BYTES],
}

impl Context {
    /// Decap (or Encap) from the Diffie-Hellman result, then the key schedule.
    ///
    /// `enc` is the sender's one-time key and `own` the recipient's key, both uncompressed.
    pub(crate) fn new(dh: &SharedX, enc: &[u8], own: &[u8], info: &[u8]) -> Self {
        let eae_prk = extract(KEM_SUITE, &[], b"eae_prk", dh.expose());
        let mut shared = Zeroizing::new([0; KEY_BYTES]);
        expand(
            KEM_SUITE,
            &eae_prk,
            b"shared_secret",
            &[enc, own],
            shared.as_mut(),
        );

        let (_, psk_id_hash) = prk(HPKE_SUITE, &[], b"psk_id_hash", &[]);
        let (_, info_hash) = prk(HPKE_SUITE, &[], b"info_hash", info);
        let context: [&[u8]; 3] = [&[MODE_BASE], &psk_id_hash, &info_hash];
        let secret = extract(HPKE_SUITE, shared.as_ref(), b"secret", &[]);
        let mut this = Self {
            key: Zeroizing::new([0; KEY_BYTES]),
            nonce: [0; NONCE_BYTES],
        };
        expand(HPKE_SUITE, &secret, b"key", &context, this.key.as_mut());
        expand(
            HPKE_SUITE,
            &secret,
            b"base_nonce",
            &context,
            &mut this.nonce,
        );
        this
    }

    fn cipher(&self) -> (ChaCha20Poly1305, &Nonce) {
        let key = Key::from_slice(self.key.as_ref());
        (ChaCha20Poly1305::new(key), Nonce::from_slice(&self.nonce))
    }

    /// `None` if the message was not made with this context.
    pub(crate) fn open(&self, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (cipher, nonce) = self.cipher();
        cipher.decrypt(nonce, ciphertext).ok().map(Zeroizing::new)
    }

    /// Seals a short message.
    pub(crate) fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let (cipher, nonce) = self.cipher();
        cipher
            .encrypt(nonce, plaintext)
            .expect("a few bytes never exhaust the block counter")
    }
}

/// The extracted key as bytes and as a ready HKDF.
fn prk(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> (Hkdf<Sha256>, [u8; 32]) {
    let ikm = Zeroizing::new([VERSION, suite, label, ikm].concat());
    let (bytes, hkdf) = Hkdf::<Sha256>::extract(Some(salt), &ikm);
    (hkdf, bytes.into())
}

fn extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> Hkdf<Sha256> {
    prk(suite, salt, label, ikm).0
}

fn expand(suite: &[u8], prk: &Hkdf<Sha256>, label: &[u8], info: &[&[u8]], out: &mut [u8]) {
    let len = u16::try_from(out.len())
        .expect("outputs are at most 32 bytes")
        .to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![&len, VERSION, suite, label];
    parts.extend_from_slice(info);
    prk.expand_multi_info(&parts, out)
        .expect("outputs are at most 32 bytes");
}
