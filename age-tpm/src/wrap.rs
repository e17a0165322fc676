//! Wrapping: from a file key and a recipient to a stanza. No TPM takes part.
//!
//! Owns the writing of `p256tag`, the only kind that is written. Follows c2sp.org/age and RFC 9180.

use std::io;

use age_core::format::{FileKey, Stanza as AgeStanza};
use age_core::secrecy::ExposeSecret;
use p256::SecretKey;
use p256::ecdh::diffie_hellman;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use zeroize::Zeroizing;

use crate::hpke::Context;
use crate::random;
use crate::recipient::Recipient;
use crate::stanza::{P256TAG_INFO, p256tag};
use crate::unwrap::SharedX;

/// Wraps `file_key` so that only the TPM behind `recipient` can unwrap it.
///
/// # Errors
///
/// The system gave no random bytes.
pub fn wrap_file_key(recipient: &Recipient, file_key: &FileKey) -> io::Result<AgeStanza> {
    Ok(wrap_with(recipient, file_key, &random::p256_secret()?))
}

/// The same with a given one-time key, so that test vectors can be made.
pub(crate) fn wrap_with(
    recipient: &Recipient,
    file_key: &FileKey,
    ephemeral: &SecretKey,
) -> AgeStanza {
    let shared = diffie_hellman(ephemeral.to_nonzero_scalar(), recipient.point().as_affine());
    let mut x = Zeroizing::new([0; SharedX::BYTES]);
    x.copy_from_slice(shared.raw_secret_bytes());
    let enc = ephemeral.public_key().to_encoded_point(false);
    let context = Context::new(
        &SharedX::new(x),
        enc.as_bytes(),
        &recipient.uncompressed(),
        P256TAG_INFO,
    );
    let body = context.seal(file_key.expose_secret());
    p256tag(recipient, enc.as_bytes(), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_one_time_key_gives_the_stanza_of_the_vectors() {
        let vectors: toml::Table = include_str!("../tests/vectors/made.toml").parse().unwrap();
        for case in vectors["case"].as_array().unwrap() {
            let secret = |field: &str| {
                let byte = u8::try_from(case[field].as_integer().unwrap()).unwrap();
                SecretKey::from_slice(&[byte; 32]).unwrap()
            };
            let mut file_key = Box::new([0; 16]);
            (0..16).for_each(|i| file_key[usize::from(i)] = i);
            let recipient = Recipient::new(secret("key").public_key());
            let stanza = wrap_with(&recipient, &FileKey::new(file_key), &secret("ephemeral"));
            let line = format!("{} {}", stanza.tag, stanza.args.join(" "));
            assert_eq!(line, case["p256tag"].as_str().unwrap());
            let body = base64::Engine::encode(
                &base64::engine::general_purpose::STANDARD_NO_PAD,
                &stanza.body,
            );
            assert_eq!(body, case["p256tag_body"].as_str().unwrap());
        }
    }
}
