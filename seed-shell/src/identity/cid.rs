//! The IPNS name of an Ed25519 key, and the namespace made of it.
//!
//! ```text
//! CIDv1    := 0x01 | codec 0x72 (libp2p-key) | multihash                      multiformats/cid
//! multihash := 0x00 (identity) | length 0x24 | protobuf                       multiformats/multihash
//! protobuf := 0x08 0x01 (Type: Ed25519) | 0x12 0x20 (Data: 32 bytes) | key    libp2p/specs, peer-ids
//! text     := "k" | base36, lower case                                        multiformats/multibase; IPNS
//! ```
//!
//! The namespace is `s-` and the first 12 letters of the base32 form (RFC 4648, lower case) of the SHA-256 of
//! the CID's text: 60 bits, a valid DNS label. The registry refuses a second identity with the same one.

use std::fmt;

use russh::keys::{PublicKey, ssh_key::public::KeyData};
use seed_shim::names::Namespace;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Everything before the key: version, codec, identity hash and its length, type and length of the key.
const PREFIX: [u8; 8] = [0x01, 0x72, 0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

const KEY_BYTES: usize = 32;

const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Letters of the namespace behind `s-`.
const NAMESPACE_LETTERS: usize = 12;

/// A CID has about 62 letters; nothing longer is looked at.
const MAX_LETTERS: usize = 80;

/// Why there is no CID.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CidError {
    /// Another kind of key.
    #[error("an identity is an Ed25519 key, also one in hardware (ed25519-sk); this one is {0}")]
    Algorithm(String),
    /// Not the text of one.
    #[error("{0:?} is not the IPNS name of an Ed25519 key, which begins with k51qzi5uqu5d")]
    Text(String),
}

/// The IPNS name of an Ed25519 key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cid([u8; KEY_BYTES]);

/// The namespace of an identity.
pub type NamespaceName = Namespace;

impl Cid {
    /// Of an SSH key.
    pub fn of(key: &PublicKey) -> Result<Self, CidError> {
        Self::of_data(key.key_data())
    }

    /// Of a key without its comment. Of a key in hardware it is that of the Ed25519 key inside.
    pub fn of_data(key: &KeyData) -> Result<Self, CidError> {
        match key {
            KeyData::Ed25519(key) => Ok(Self(key.0)),
            KeyData::SkEd25519(key) => Ok(Self(key.public_key().0)),
            other => Err(CidError::Algorithm(other.algorithm().to_string())),
        }
    }

    /// Of the 32 bytes of an Ed25519 key.
    pub fn of_bytes(key: [u8; KEY_BYTES]) -> Self {
        Self(key)
    }

    fn bytes(&self) -> [u8; PREFIX.len() + KEY_BYTES] {
        let mut bytes = [0; PREFIX.len() + KEY_BYTES];
        bytes[..PREFIX.len()].copy_from_slice(&PREFIX);
        bytes[PREFIX.len()..].copy_from_slice(&self.0);
        bytes
    }

    /// The namespace of its instances.
    pub fn namespace(&self) -> Namespace {
        let hash = Sha256::digest(self.to_string());
        let name = format!("s-{}", &base32(&hash)[..NAMESPACE_LETTERS]);
        Namespace::try_from(name.as_str()).expect("letters, digits and a dash, 14 of them")
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}", base36(&self.bytes()))
    }
}

impl fmt::Debug for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cid({self})")
    }
}

impl TryFrom<&str> for Cid {
    type Error = CidError;

    fn try_from(text: &str) -> Result<Self, CidError> {
        let wrong = || CidError::Text(text.chars().take(MAX_LETTERS).collect());
        if text.len() > MAX_LETTERS {
            return Err(wrong());
        }
        let letters = text.strip_prefix('k').ok_or_else(wrong)?;
        let bytes = from_base36(letters).ok_or_else(wrong)?;
        let key = bytes.strip_prefix(&PREFIX).ok_or_else(wrong)?;
        let cid = Self(key.try_into().map_err(|_| wrong())?);
        // One key, one spelling.
        if cid.to_string() == text {
            Ok(cid)
        } else {
            Err(wrong())
        }
    }
}

/// A number in base 36, as multibase has it: leading zero bytes are leading zero digits.
fn base36(bytes: &[u8]) -> String {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let mut digits: Vec<u8> = Vec::new();
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) << 8;
            *digit = low(carry % 36);
            carry /= 36;
        }
        while carry > 0 {
            digits.push(low(carry % 36));
            carry /= 36;
        }
    }
    digits.resize(digits.len() + zeros, 0);
    digits
        .iter()
        .rev()
        .map(|digit| char::from(BASE36[usize::from(*digit)]))
        .collect()
}

fn from_base36(text: &str) -> Option<Vec<u8>> {
    let zeros = text.bytes().take_while(|byte| *byte == b'0').count();
    let mut bytes: Vec<u8> = Vec::new();
    for letter in text.bytes() {
        let digit = BASE36.iter().position(|known| *known == letter)?;
        let mut carry = u32::try_from(digit).ok()?;
        for byte in &mut bytes {
            carry += u32::from(*byte) * 36;
            *byte = low(carry & 0xff);
            carry >>= 8;
        }
        while carry > 0 {
            bytes.push(low(carry & 0xff));
            carry >>= 8;
        }
    }
    bytes.resize(bytes.len() + zeros, 0);
    bytes.reverse();
    Some(bytes)
}

/// The number's last byte; callers have divided before.
fn low(number: u32) -> u8 {
    number.to_le_bytes()[0]
}

/// RFC 4648 base32 in lower case, without padding.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(letter(buffer >> bits));
        }
        buffer &= (1 << bits) - 1;
    }
    if bits > 0 {
        text.push(letter(buffer << (5 - bits)));
    }
    text
}

fn letter(number: u32) -> char {
    char::from(BASE32[usize::from(low(number & 31))])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    /// libp2p/specs, peer-ids/peer-ids.md, "Test vectors": the public key of the Ed25519 pair, as protobuf.
    #[test]
    fn the_bytes_are_those_of_the_published_key() {
        let key = "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e";
        let protobuf = hex(&format!("08011220{key}"));
        let cid = Cid::of_bytes(hex(key).try_into().unwrap());
        let bytes = cid.bytes();
        assert_eq!(&bytes[4..], protobuf);
        assert_eq!(&bytes[..4], [1, 0x72, 0, 36]);
    }

    /// multiformats/multibase, tests/{basic,leading_zero,two_leading_zeros}.csv.
    #[test]
    fn base36_and_base32_are_as_published() {
        assert_eq!(base36(b"yes mani !"), "2lcpzo5yikidynfl");
        assert_eq!(base36(b"\0yes mani !"), "02lcpzo5yikidynfl");
        assert_eq!(base36(b"\0\0yes mani !"), "002lcpzo5yikidynfl");
        assert_eq!(
            from_base36("02lcpzo5yikidynfl").as_deref(),
            Some(&b"\0yes mani !"[..])
        );
        assert_eq!(base32(b"yes mani !"), "pfsxgidnmfxgsibb");
        assert_eq!(base32(b"\0yes mani !"), "ab4wk4zanvqw42jaee");
        // RFC 4648, section 10, in lower case.
        assert_eq!(base32(b"fooba"), "mzxw6ytb");
        assert_eq!(base32(b"foob"), "mzxw6yq");
    }

    /// From the IPNS documentation (docs.ipfs.tech, "IPNS"): an Ed25519 name in its base36 form.
    #[test]
    fn a_published_name_is_read_and_written_the_same() {
        let text = "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8";
        let cid = Cid::try_from(text).unwrap();
        assert_eq!(cid.to_string(), text);
        assert_eq!(Cid::of_bytes(cid.0), cid);
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "k",
            "k51qzi5uqu5d",
            "QmNnooDu7bfjPFoTZYxMNLWUQJyrVwtbZg5gBMjTezGAJN",
            "bafzbeigai3eoy2ccc7ybwjfz5r3rdxqrinwi4rwytly24tdbh6yk7zslrm",
            "K51QZI5UQU5DLVJ2BAXNQNDEPEB86CBK3NG7N3I46UZYXZYQJ2XJONZLLNV0V8",
            "k051qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8",
            "k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8\n",
        ] {
            assert!(Cid::try_from(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn namespaces_are_labels_and_always_the_same() {
        let cid = Cid::try_from("k51qzi5uqu5dlvj2baxnqndepeb86cbk3ng7n3i46uzyxzyqj2xjonzllnv0v8");
        let cid = cid.unwrap();
        let name = cid.namespace().to_string();
        assert_eq!(name.len(), 14);
        assert_eq!(name, cid.namespace().to_string());
        let hash = Sha256::digest(cid.to_string());
        assert_eq!(name, format!("s-{}", &base32(&hash)[..12]));
    }

    proptest! {
        #[test]
        fn every_key_has_a_name_that_is_read_back(key in any::<[u8; 32]>()) {
            let cid = Cid::of_bytes(key);
            let text = cid.to_string();
            prop_assert!(text.starts_with("k51qzi5uqu5d"), "{}", text);
            prop_assert_eq!(Cid::try_from(text.as_str()), Ok(cid));
        }
    }
}
