//! Salted HMAC sessions: authorisation without a PIN in clear, and hidden parameters.
//!
//! Owns key derivation, the authorisation codes of commands and responses, and AES-128-CFB
//! parameter encryption. A session here serves one command (the TPM drops it afterwards), so there
//! is no nonce state to keep. Follows TPM 2.0 Library Part 1, sections 11.4.10 (KDFa, KDFe), 19
//! (sessions) and 21 (parameter encryption).

use std::io;

use aes::Aes128;
use cfb_mode::cipher::{AsyncStreamCipher, KeyIvInit};
use hmac::{Hmac, Mac};
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::random;

use super::oaep;
use super::public::{Name, Public, PublicError};
use super::wire::{Reader, WireError, Writer};
use super::{Command, Protect, RH_NULL, Tpm, TpmError};

/// Nonce size on both sides, in bytes: the least that Part 1 allows, and plenty.
const NONCE_BYTES: usize = 16;
/// Largest nonce or code that a TPM may send with SHA-256 sessions.
const DIGEST_BYTES: usize = 32;
const ALG_SHA256: u16 = 0x000b;
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
/// Session attribute: the command's first parameter is encrypted.
const ATTR_DECRYPT: u8 = 0x20;
/// Session attribute: the response's first parameter is encrypted.
const ATTR_ENCRYPT: u8 = 0x40;

/// A session that was started and not used yet.
pub(super) struct Session {
    pub(super) handle: u32,
    key: Zeroizing<Vec<u8>>,
    nonce_tpm: Vec<u8>,
}

impl Session {
    /// TPM2_StartAuthSession, salted to the storage key `handle` with public area `salt_key`.
    ///
    /// Whoever watches the bus learns nothing, for only the TPM that holds `salt_key` can find the
    /// salt; the caller must know by its name that `salt_key` is the right one.
    pub(super) fn start(tpm: &mut Tpm, handle: u32, salt_key: &Public) -> Result<Self, TpmError> {
        let mut nonce = [0; NONCE_BYTES];
        random::fill(&mut nonce).map_err(TpmError::Random)?;
        let salt = new_salt(salt_key)?;
        let command = Command::new("TPM2_StartAuthSession", 0x176)
            .handle(handle)
            .handle(RH_NULL)
            .params(
                Writer::new()
                    .sized(&nonce)
                    .sized(&salt.encrypted)
                    .u8(0) // TPM_SE_HMAC
                    .u16(ALG_AES)
                    .u16(128)
                    .u16(ALG_CFB)
                    .u16(ALG_SHA256),
            )
            .yields_handle();
        let response = tpm.execute(command)?;
        let nonce_tpm = response.read(|r| r.sized(DIGEST_BYTES, "nonce").map(<[u8]>::to_vec))?;
        let key = kdfa(&salt.secret, b"ATH", &nonce_tpm, &nonce, DIGEST_BYTES);
        Ok(Self {
            handle: response.handle,
            key,
            nonce_tpm,
        })
    }

    /// Builds the session's part of the authorisation area; encrypts the first parameter in place.
    pub(super) fn authorize(
        &self,
        code: u32,
        handles: &[(u32, Vec<u8>)],
        params: &mut [u8],
        protect: Protect<'_>,
    ) -> Result<(Zeroizing<Vec<u8>>, Pending), io::Error> {
        let mut nonce_caller = [0; NONCE_BYTES];
        random::fill(&mut nonce_caller)?;
        // Trailing zeros of an authorisation value do not count (Part 1, 19.6.5).
        let significant = protect
            .auth_value
            .iter()
            .rposition(|b| *b != 0)
            .map_or(0, |i| i + 1);
        let mut secret = Zeroizing::new(self.key.to_vec());
        secret.extend_from_slice(&protect.auth_value[..significant]);

        let mut attributes = 0;
        if protect.command {
            attributes |= ATTR_DECRYPT;
            if let Some(first) = first_parameter(params) {
                cipher(&secret, &nonce_caller, &self.nonce_tpm).encrypt(first);
            }
        }
        if protect.response {
            attributes |= ATTR_ENCRYPT;
        }

        let mut hash = Sha256::new_with_prefix(code.to_be_bytes());
        for (_, name) in handles {
            hash.update(name);
        }
        hash.update(params);
        let mac = hmac(
            &secret,
            &[
                &hash.finalize(),
                &nonce_caller,
                &self.nonce_tpm,
                &[attributes],
            ],
        )
        .finalize()
        .into_bytes();
        let area = Writer::new()
            .u32(self.handle)
            .sized(&nonce_caller)
            .u8(attributes)
            .sized(&mac)
            .finish();
        Ok((
            area,
            Pending {
                secret,
                nonce_caller,
                decrypt: protect.response,
            },
        ))
    }
}

/// What must be remembered to check and read the answer.
pub(super) struct Pending {
    secret: Zeroizing<Vec<u8>>,
    nonce_caller: [u8; NONCE_BYTES],
    decrypt: bool,
}

/// Why an answer was not accepted.
pub(super) enum Rejected {
    Wire(WireError),
    Forged,
}

impl Rejected {
    pub(super) fn at(self, command: &'static str) -> TpmError {
        match self {
            Self::Wire(source) => TpmError::Wire { command, source },
            Self::Forged => TpmError::Forged { command },
        }
    }
}

impl Pending {
    /// Checks the code of a successful answer, then decrypts its first parameter in place.
    pub(super) fn accept(
        self,
        code: u32,
        params: &mut [u8],
        area: &mut Reader<'_>,
    ) -> Result<(), Rejected> {
        let nonce_tpm = area
            .sized(DIGEST_BYTES, "response nonce")
            .map_err(Rejected::Wire)?;
        let attributes = area.u8("session attributes").map_err(Rejected::Wire)?;
        let mac = area
            .sized(DIGEST_BYTES, "response code")
            .map_err(Rejected::Wire)?;
        area.end("the authorisation area").map_err(Rejected::Wire)?;
        let hash = Sha256::new_with_prefix(0_u32.to_be_bytes())
            .chain_update(code.to_be_bytes())
            .chain_update(&params)
            .finalize();
        hmac(
            &self.secret,
            &[&hash, nonce_tpm, &self.nonce_caller, &[attributes]],
        )
        .verify_slice(mac)
        .map_err(|_| Rejected::Forged)?;
        if self.decrypt {
            // The attribute is covered by the code: without it the secret would be in clear.
            if attributes & ATTR_ENCRYPT == 0 {
                return Err(Rejected::Forged);
            }
            if let Some(first) = first_parameter(params) {
                cipher(&self.secret, nonce_tpm, &self.nonce_caller).decrypt(first);
            }
        }
        Ok(())
    }
}

/// The contents of the sized buffer at the start of a parameter area.
fn first_parameter(params: &mut [u8]) -> Option<&mut [u8]> {
    let (size, rest) = params.split_first_chunk_mut()?;
    rest.get_mut(..usize::from(u16::from_be_bytes(*size)))
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// Both directions of CFB with the same key and IV.
struct Cfb {
    key: Zeroizing<Vec<u8>>,
}

impl Cfb {
    fn encrypt(&self, data: &mut [u8]) {
        let (key, iv) = self.key.split_at(16);
        cfb_mode::Encryptor::<Aes128>::new(key.into(), iv.into()).encrypt(data);
    }

    fn decrypt(&self, data: &mut [u8]) {
        let (key, iv) = self.key.split_at(16);
        cfb_mode::Decryptor::<Aes128>::new(key.into(), iv.into()).decrypt(data);
    }
}

fn cipher(secret: &[u8], nonce_newer: &[u8], nonce_older: &[u8]) -> Cfb {
    Cfb {
        key: kdfa(secret, b"CFB", nonce_newer, nonce_older, 32),
    }
}

/// KDFa with SHA-256: a counter-mode KDF after SP 800-108.
fn kdfa(key: &[u8], label: &[u8], u: &[u8], v: &[u8], bytes: usize) -> Zeroizing<Vec<u8>> {
    let bits = u32::try_from(bytes * 8).expect("keys are at most a few hundred bits");
    let mut out = Zeroizing::new(Vec::with_capacity(bytes.next_multiple_of(DIGEST_BYTES)));
    for counter in 1_u32.. {
        let block = hmac(
            key,
            &[
                &counter.to_be_bytes(),
                label,
                &[0],
                u,
                v,
                &bits.to_be_bytes(),
            ],
        );
        out.extend_from_slice(&block.finalize().into_bytes());
        if out.len() >= bytes {
            break;
        }
    }
    out.truncate(bytes);
    out
}

/// Label of salts, with its final zero (Part 1, annexes B.10.2 and C.6.3).
const SALT_LABEL: &[u8] = b"SECRET\0";

/// The secret that a session key is derived from.
struct Salt {
    secret: Zeroizing<Vec<u8>>,
    /// What goes to the TPM.
    encrypted: Zeroizing<Vec<u8>>,
}

/// A fresh salt, and the form in which only the holder of `key` can read it.
fn new_salt(key: &Public) -> Result<Salt, TpmError> {
    let unusable = |source| TpmError::Public {
        what: "storage root key",
        source,
    };
    if let Some((modulus, exponent)) = key.rsa() {
        let mut secret = Zeroizing::new(vec![0; DIGEST_BYTES]);
        random::fill(&mut secret).map_err(TpmError::Random)?;
        let encrypted = oaep::encrypt(modulus, exponent, SALT_LABEL, &secret)
            .map_err(TpmError::Random)?
            .ok_or(unusable(PublicError::RsaSize {
                bits: modulus.len() * 8,
            }))?;
        return Ok(Salt {
            secret,
            encrypted: Zeroizing::new(encrypted),
        });
    }
    let public = key.ecc_point().map_err(unusable)?;
    let ephemeral = random::p256_secret().map_err(TpmError::Random)?;
    let point = ephemeral.public_key().to_encoded_point(false);
    let own = public.to_encoded_point(false);
    let (Some(eph_x), Some(eph_y), Some(own_x)) = (point.x(), point.y(), own.x()) else {
        return Err(unusable(PublicError::BadPoint));
    };
    let shared = diffie_hellman(ephemeral.to_nonzero_scalar(), public.as_affine());
    // KDFe: one SHA-256 block is exactly the 256 bits of salt wanted.
    let salt = Sha256::new_with_prefix(1_u32.to_be_bytes())
        .chain_update(shared.raw_secret_bytes())
        .chain_update(SALT_LABEL)
        .chain_update(eph_x)
        .chain_update(own_x)
        .finalize();
    let encrypted = Writer::new().sized(eph_x).sized(eph_y).finish();
    Ok(Salt {
        secret: Zeroizing::new(salt.to_vec()),
        encrypted,
    })
}

/// The name of an object as TPM 2.0 Library Part 1, section 16 computes it.
pub(super) fn name_of(public: &[u8]) -> Name {
    let mut name = [0; Name::BYTES];
    name[..2].copy_from_slice(&ALG_SHA256.to_be_bytes());
    name[2..].copy_from_slice(&Sha256::digest(public));
    Name::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kdfa_gives_as_many_bytes_as_asked_and_depends_on_each_input() {
        let base = kdfa(b"key", b"CFB", b"u", b"v", 48);
        assert_eq!(base.len(), 48);
        for other in [
            kdfa(b"kez", b"CFB", b"u", b"v", 48),
            kdfa(b"key", b"ATH", b"u", b"v", 48),
            kdfa(b"key", b"CFB", b"w", b"v", 48),
            kdfa(b"key", b"CFB", b"u", b"w", 48),
        ] {
            assert_ne!(base, other);
        }
    }

    fn pending(decrypt: bool) -> Pending {
        Pending {
            secret: Zeroizing::new(vec![7; 32]),
            nonce_caller: [1; NONCE_BYTES],
            decrypt,
        }
    }

    /// An answer area made the way a TPM makes it.
    fn area(params: &[u8], attributes: u8) -> Vec<u8> {
        let hash = Sha256::new_with_prefix([0; 4])
            .chain_update(0x154_u32.to_be_bytes())
            .chain_update(params)
            .finalize();
        let mac = hmac(
            &[7; 32],
            &[&hash, &[2; 16], &[1; NONCE_BYTES], &[attributes]],
        );
        Writer::new()
            .sized(&[2; 16])
            .u8(attributes)
            .sized(&mac.finalize().into_bytes())
            .finish()
            .to_vec()
    }

    #[test]
    fn an_answer_is_taken_only_with_the_right_code_and_encrypted_where_asked() {
        let params = [0, 2, 9, 9];
        let good = area(&params, ATTR_ENCRYPT);
        let accept = |decrypt, params: &[u8], area: &[u8]| {
            let mut params = params.to_vec();
            pending(decrypt)
                .accept(0x154, &mut params, &mut Reader::new(area))
                .map(|()| params)
                .map_err(|e| e.at("test").to_string())
        };
        assert_ne!(
            accept(true, &params, &good).unwrap(),
            params,
            "was decrypted"
        );
        assert!(
            accept(true, &[0, 2, 9, 8], &good)
                .unwrap_err()
                .contains("not authentic")
        );
        let clear = area(&params, 0);
        assert_eq!(accept(false, &params, &clear).unwrap(), params);
        assert!(
            accept(true, &params, &clear)
                .unwrap_err()
                .contains("not authentic")
        );
        assert!(
            accept(false, &params, &clear[..20])
                .unwrap_err()
                .contains("no sense")
        );
    }
}
