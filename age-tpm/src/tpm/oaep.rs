//! RSA-OAEP encryption with SHA-256, to salt a session to an RSA storage root key.
//!
//! Owns padding and the one public-key operation. It never decrypts: there is no private key on
//! this side, and so nothing for a timing attack to find but the message, which is random and used
//! once; the arithmetic is constant-time all the same. Follows RFC 8017, section 7.1.1, with the
//! label that the TPM specification gives.

use std::io;

use crypto_bigint::modular::runtime_mod::{DynResidue, DynResidueParams};
use crypto_bigint::{Encoding, U2048, U3072, U4096};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::random;

const HASH_BYTES: usize = 32;
/// The exponent is a 32-bit field of the public area.
const EXPONENT_BITS: usize = 32;

/// Encrypts a message of at most a hash's length; `None` for a modulus of unusual size or shape.
///
/// # Errors
///
/// The system gave no random bytes.
pub(super) fn encrypt(
    modulus: &[u8],
    exponent: u32,
    label: &[u8],
    message: &[u8],
) -> io::Result<Option<Vec<u8>>> {
    let mut seed = Zeroizing::new([0; HASH_BYTES]);
    random::fill(seed.as_mut())?;
    let Some(padded) = pad(modulus.len(), label, message, &seed) else {
        return Ok(None);
    };
    Ok(power(modulus, exponent, &padded))
}

/// EME-OAEP encoding.
fn pad(
    len: usize,
    label: &[u8],
    message: &[u8],
    seed: &[u8; HASH_BYTES],
) -> Option<Zeroizing<Vec<u8>>> {
    let zeros = len.checked_sub(2 * HASH_BYTES + 2 + message.len())?;
    let mut out = Zeroizing::new(vec![0; len]);
    let (front, data) = out.split_at_mut(1 + HASH_BYTES);
    data[..HASH_BYTES].copy_from_slice(&Sha256::digest(label));
    data[HASH_BYTES + zeros] = 1;
    data[HASH_BYTES + zeros + 1..].copy_from_slice(message);
    mask(data, seed);
    front[1..].copy_from_slice(seed);
    mask(&mut front[1..], data);
    Some(out)
}

/// XORs MGF1 of `seed` over `data`.
fn mask(data: &mut [u8], seed: &[u8]) {
    for (counter, block) in (0_u32..).zip(data.chunks_mut(HASH_BYTES)) {
        let bytes = Sha256::new_with_prefix(seed)
            .chain_update(counter.to_be_bytes())
            .finalize();
        block
            .iter_mut()
            .zip(bytes)
            .for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// `base ^ exponent mod modulus`, all big-endian.
fn power(modulus: &[u8], exponent: u32, base: &[u8]) -> Option<Vec<u8>> {
    // Montgomery arithmetic needs an odd modulus; every RSA modulus is one.
    if modulus.last()? & 1 == 0 {
        return None;
    }
    macro_rules! power {
        ($uint:ty) => {{
            let params = DynResidueParams::new(&<$uint>::from_be_slice(modulus));
            let base = DynResidue::new(&<$uint>::from_be_slice(base), params);
            let result = base.pow_bounded_exp(&<$uint>::from(exponent), EXPONENT_BITS);
            Some(result.retrieve().to_be_bytes().to_vec())
        }};
    }
    match modulus.len() * 8 {
        U2048::BITS => power!(U2048),
        U3072::BITS => power!(U3072),
        U4096::BITS => power!(U4096),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_can_be_taken_off_again_and_has_the_right_parts() {
        let padded = pad(256, b"SECRET\0", b"salt", &[5; 32]).unwrap();
        assert_eq!((padded.len(), padded[0]), (256, 0));
        let mut seed = padded[1..33].to_vec();
        let mut data = padded[33..].to_vec();
        mask(&mut seed, &data);
        assert_eq!(seed, [5; 32]);
        mask(&mut data, &seed);
        assert_eq!(data[..32], Sha256::digest(b"SECRET\0")[..]);
        assert_eq!(data[32..], [[0; 186].as_slice(), &[1], b"salt"].concat());
        assert!(pad(64, b"", b"salt", &[5; 32]).is_none());
    }

    #[test]
    fn powers_agree_with_small_numbers_and_odd_sizes_are_refused() {
        let number = |value: u64| {
            let mut bytes = vec![0; 256];
            bytes[248..].copy_from_slice(&value.to_be_bytes());
            bytes
        };
        // Fermat: 3^(p-1) = 1 mod p for the prime 65537, and 3^65537 = 3.
        assert_eq!(power(&number(65537), 65536, &number(3)), Some(number(1)));
        assert_eq!(power(&number(65537), 65537, &number(3)), Some(number(3)));
        assert_eq!(power(&number(65536), 3, &number(3)), None);
        assert_eq!(power(&[1; 100], 3, &[1; 100]), None);
    }
}
