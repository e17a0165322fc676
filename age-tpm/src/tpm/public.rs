//! Public areas of TPM objects: parsing, names, and the templates of what is made here.
//!
//! Owns `TPMT_PUBLIC` for ECC P-256 and RSA keys with SHA-256 names, which is all a storage root
//! key or an age key can be. The bytes are kept as they came, for the name is a hash over them; a
//! name is always computed here and never taken from a TPM's word. Follows TPM 2.0 Library Part 2,
//! section 12.2.

use std::fmt;

use p256::elliptic_curve::sec1::FromEncodedPoint;
use p256::{EncodedPoint, PublicKey};

use super::session::name_of;
use super::wire::{Reader, WireError, Writer};

/// Largest public area that is accepted, in bytes. RSA-4096 needs about 540.
pub(crate) const MAX_PUBLIC_BYTES: usize = 1024;
/// Object attribute: dictionary-attack protection does not apply (TPMA_OBJECT bit 10).
const ATTR_NO_DA: u32 = 1 << 10;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, decrypt: what Go's plugin uses.
const ATTR_AGE_KEY: u32 = 0x0002_0072;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign: a key for TLS.
const ATTR_SIGNING_KEY: u32 = 0x0004_0472;
/// Those of an age key with restricted and noDA: a storage root key.
const ATTR_SRK: u32 = 0x0003_0472;
/// Largest coordinate or modulus that is accepted.
const MAX_UNIQUE_BYTES: usize = 512;

const ALG_RSA: u16 = 0x0001;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDH: u16 = 0x0019;
const ALG_ECDAA: u16 = 0x001a;
const ALG_ECC: u16 = 0x0023;
const ALG_SHA256: u16 = 0x000b;
const ALG_AES: u16 = 0x0006;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
/// Bytes of a P-256 coordinate.
const COORDINATE_BYTES: usize = 32;

/// The cryptographic name of a TPM object: algorithm number and SHA-256 of its public area.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name([u8; Self::BYTES]);

impl Name {
    /// Length of a SHA-256 name.
    pub const BYTES: usize = 34;

    /// The name as it stands in an identity.
    pub fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl From<[u8; Name::BYTES]> for Name {
    fn from(bytes: [u8; Name::BYTES]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sixteen digits tell two TPMs apart; the algorithm number in front never differs.
        self.0[2..10].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self}..)")
    }
}

/// Why a public area cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicError {
    /// The bytes are not a public area.
    #[error("malformed public area")]
    Wire(#[from] WireError),
    /// An algorithm that age keys and storage roots never have.
    #[error("unsupported {what} 0x{value:04x} in the public area")]
    Unsupported {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u16,
    },
    /// The coordinates are not on the curve.
    #[error("the public key is not a point of P-256")]
    BadPoint,
    /// An RSA key of a size that no storage root key has.
    #[error("RSA keys of {bits} bits are not supported")]
    RsaSize {
        /// Size of the modulus.
        bits: usize,
    },
    /// The key is of another kind than needed.
    #[error("the key is not an ECC P-256 key")]
    NotP256,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Unique {
    P256 { x: Vec<u8>, y: Vec<u8> },
    Rsa { exponent: u32, modulus: Vec<u8> },
}

/// A parsed public area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Public {
    raw: Vec<u8>,
    attributes: u32,
    unique: Unique,
}

impl Public {
    /// Parses a `TPMT_PUBLIC` (without the size in front).
    ///
    /// # Errors
    ///
    /// The bytes are malformed or name an algorithm that is not supported.
    pub fn parse(raw: &[u8]) -> Result<Self, PublicError> {
        if raw.len() > MAX_PUBLIC_BYTES {
            let (field, limit) = ("the public area", MAX_PUBLIC_BYTES);
            return Err(WireError::TooLong {
                field,
                len: raw.len(),
                limit,
            }
            .into());
        }
        let mut r = Reader::new(raw);
        let kind = r.u16("key type")?;
        expect("name algorithm", r.u16("name algorithm")?, ALG_SHA256)?;
        let attributes = r.u32("attributes")?;
        r.sized(64, "policy")?;
        if r.u16("symmetric algorithm")? != ALG_NULL {
            r.u16("symmetric key bits")?;
            r.u16("symmetric mode")?;
        }
        match r.u16("scheme")? {
            ALG_NULL => {}
            ALG_ECDAA => {
                r.u32("scheme details")?;
            }
            _ => {
                r.u16("scheme hash")?;
            }
        }
        let unique = match kind {
            ALG_ECC => {
                expect("curve", r.u16("curve")?, CURVE_P256)?;
                if r.u16("key derivation")? != ALG_NULL {
                    r.u16("key derivation hash")?;
                }
                let x = r.sized(COORDINATE_BYTES, "x coordinate")?.to_vec();
                let y = r.sized(COORDINATE_BYTES, "y coordinate")?.to_vec();
                Unique::P256 { x, y }
            }
            ALG_RSA => {
                r.u16("key bits")?;
                let exponent = r.u32("exponent")?;
                let modulus = r.sized(MAX_UNIQUE_BYTES, "modulus")?.to_vec();
                // Zero stands for the default, 2^16 + 1.
                Unique::Rsa {
                    exponent: if exponent == 0 { 65537 } else { exponent },
                    modulus,
                }
            }
            other => {
                return Err(PublicError::Unsupported {
                    what: "key type",
                    value: other,
                });
            }
        };
        r.end("the public area")?;
        Ok(Self {
            raw: raw.to_vec(),
            attributes,
            unique,
        })
    }

    /// The bytes that were parsed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The name, computed from the bytes.
    pub fn name(&self) -> Name {
        name_of(&self.raw)
    }

    /// Whether failed tries of others cannot lock this key.
    pub fn no_da(&self) -> bool {
        self.attributes & ATTR_NO_DA != 0
    }

    /// The point of a P-256 key.
    ///
    /// # Errors
    ///
    /// It is another kind of key, or the point is not on the curve.
    pub fn ecc_point(&self) -> Result<PublicKey, PublicError> {
        let Unique::P256 { x, y } = &self.unique else {
            return Err(PublicError::NotP256);
        };
        // A TPM may leave out leading zeros of a coordinate.
        let (x, y) = (padded(x), padded(y));
        let point = EncodedPoint::from_affine_coordinates(&x.into(), &y.into(), false);
        Option::from(PublicKey::from_encoded_point(&point)).ok_or(PublicError::BadPoint)
    }

    /// Modulus (big-endian) and exponent of an RSA key.
    pub fn rsa(&self) -> Option<(&[u8], u32)> {
        match &self.unique {
            Unique::Rsa { exponent, modulus } => Some((modulus, *exponent)),
            Unique::P256 { .. } => None,
        }
    }
}

fn expect(what: &'static str, value: u16, wanted: u16) -> Result<(), PublicError> {
    if value == wanted {
        Ok(())
    } else {
        Err(PublicError::Unsupported { what, value })
    }
}

/// Left-pads a coordinate that is known to have at most 32 bytes.
fn padded(coordinate: &[u8]) -> [u8; COORDINATE_BYTES] {
    let mut out = [0; COORDINATE_BYTES];
    let start = COORDINATE_BYTES.saturating_sub(coordinate.len());
    out[start..].copy_from_slice(&coordinate[..COORDINATE_BYTES - start]);
    out
}

/// A public area that is known to hold a valid P-256 point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EccPublic {
    public: Public,
    point: PublicKey,
}

impl EccPublic {
    /// Parses and proves the point.
    ///
    /// # Errors
    ///
    /// As [`Public::parse`] and [`Public::ecc_point`].
    pub fn parse(raw: &[u8]) -> Result<Self, PublicError> {
        let public = Public::parse(raw)?;
        let point = public.ecc_point()?;
        Ok(Self { public, point })
    }

    /// The whole public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// The point.
    pub fn point(&self) -> &PublicKey {
        &self.point
    }
}

/// A coordinate of the storage root key's template, from which the key is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SrkUnique {
    /// 32 zero bytes: the Go plugin's.
    Zeros,
    /// Nothing: that of most other tools, and of key files that name no parent but the hierarchy.
    Empty,
}

/// A storage root key.
pub(super) fn srk_template(unique: SrkUnique) -> Writer {
    let coordinate = match unique {
        SrkUnique::Zeros => &[0; COORDINATE_BYTES][..],
        SrkUnique::Empty => &[],
    };
    Writer::new()
        .u16(ALG_ECC)
        .u16(ALG_SHA256)
        .u32(ATTR_SRK)
        .sized(&[])
        .u16(ALG_AES)
        .u16(128)
        .u16(ALG_CFB)
        .u16(ALG_NULL)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
        .sized(coordinate)
        .sized(coordinate)
}

/// An age key. Without a PIN there is nothing to guess, so `no_da` keeps it out of lockouts.
pub(super) fn age_key_template(no_da: bool) -> Writer {
    Writer::new()
        .u16(ALG_ECC)
        .u16(ALG_SHA256)
        .u32(if no_da {
            ATTR_AGE_KEY | ATTR_NO_DA
        } else {
            ATTR_AGE_KEY
        })
        .sized(&[])
        .u16(ALG_NULL)
        .u16(ALG_ECDH)
        .u16(ALG_SHA256)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
        .sized(&[])
        .sized(&[])
}

/// A key that signs digests of any kind, without a PIN and so without dictionary-attack protection.
pub(super) fn signing_key_template() -> Writer {
    Writer::new()
        .u16(ALG_ECC)
        .u16(ALG_SHA256)
        .u32(ATTR_SIGNING_KEY)
        .sized(&[])
        .u16(ALG_NULL)
        .u16(ALG_NULL)
        .u16(CURVE_P256)
        .u16(ALG_NULL)
        .sized(&[])
        .sized(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_root_template_is_the_go_plugins_90_bytes() {
        let bytes = srk_template(SrkUnique::Zeros).finish();
        assert_eq!(bytes.len(), 90);
        assert_eq!(
            bytes[..24],
            [
                0, 0x23, 0, 0x0b, 0, 3, 4, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0,
                0x10, 0, 0x20
            ]
        );
        let parsed = Public::parse(&bytes).unwrap();
        assert!(parsed.no_da());
        assert_eq!(parsed.ecc_point(), Err(PublicError::BadPoint));
    }

    #[test]
    fn every_truncation_of_a_public_area_is_refused() {
        let bytes = srk_template(SrkUnique::Zeros).finish();
        for len in 0..bytes.len() {
            assert!(Public::parse(&bytes[..len]).is_err(), "{len}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(matches!(Public::parse(&longer), Err(PublicError::Wire(_))));
        longer.resize(MAX_PUBLIC_BYTES + 1, 0);
        assert!(matches!(Public::parse(&longer), Err(PublicError::Wire(_))));
    }

    #[test]
    fn short_coordinates_are_padded_on_the_left() {
        assert_eq!(padded(&[1, 2])[29..], [0, 1, 2]);
        assert_eq!(padded(&[9; 32]), [9; 32]);
    }
}
