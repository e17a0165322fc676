//! Recipients: the public half of an age key, in both of its spellings.
//!
//! Owns the text forms `age1tag1..` (hardware keys of any make; age 1.3 and rage encrypt to it
//! without a plugin) and `age1tpm1..` (this plugin's own, older one). Both carry the same 33
//! bytes, a compressed P-256 point. It never needs a TPM. Follows the age plugin specification
//! (c2sp.org/age-plugin) and c2sp.org/age for the `tag` recipient.

use std::fmt;
use std::str::FromStr;

use p256::PublicKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use sha2::{Digest, Sha256};

use crate::bech32_long;

/// Human-readable part of this plugin's own recipients.
pub const TPM_HRP: &str = "age1tpm";
/// Human-readable part of native tagged recipients.
pub const TAG_HRP: &str = "age1tag";
/// Length of a compressed point.
pub const COMPRESSED_BYTES: usize = 33;
/// Longest text that is looked at; a recipient has 67 characters.
const MAX_TEXT: usize = 256;
/// Bytes of the hint that lets an identity find its stanza.
pub(crate) const TAG_BYTES: usize = 4;

/// A P-256 key to encrypt to.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    point: PublicKey,
}

/// The two ways to write a [`Recipient`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spelling {
    /// `age1tag1..`
    Tag,
    /// `age1tpm1..`
    Tpm,
}

/// Why a text is no recipient of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipientError {
    /// It is a recipient of another kind, or nothing of age's at all.
    #[error("not an age1tpm1 or age1tag1 recipient")]
    NotMine,
    /// It is longer than any recipient.
    #[error("the recipient is longer than {MAX_TEXT} characters")]
    TooLong,
    /// A typing error: checksum or characters are wrong.
    #[error("the recipient is damaged: {reason}")]
    Encoding {
        /// What the decoder found.
        reason: String,
    },
    /// The payload is not a compressed point.
    #[error("the recipient does not hold a P-256 point")]
    BadPoint,
}

impl Recipient {
    /// Encrypts to the key with this public point.
    pub fn new(point: PublicKey) -> Self {
        Self { point }
    }

    /// Reads the payload of a recipient.
    ///
    /// # Errors
    ///
    /// [`RecipientError::BadPoint`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecipientError> {
        // The decoder also takes other encodings, which nobody else would read.
        if bytes.len() != COMPRESSED_BYTES || !matches!(bytes[0], 2 | 3) {
            return Err(RecipientError::BadPoint);
        }
        let point = PublicKey::from_sec1_bytes(bytes).map_err(|_| RecipientError::BadPoint)?;
        Ok(Self { point })
    }

    /// The text in the spelling asked for.
    pub fn to_text(&self, spelling: Spelling) -> String {
        let hrp = match spelling {
            Spelling::Tag => TAG_HRP,
            Spelling::Tpm => TPM_HRP,
        };
        bech32_long::encode(hrp, &self.compressed())
    }

    /// The `age1tpm1..` text.
    pub fn to_tpm_text(&self) -> String {
        self.to_text(Spelling::Tpm)
    }

    /// The `age1tag1..` text.
    pub fn to_tag_text(&self) -> String {
        self.to_text(Spelling::Tag)
    }

    /// The point itself.
    pub fn point(&self) -> &PublicKey {
        &self.point
    }

    /// 02 or 03, then X.
    pub fn compressed(&self) -> Vec<u8> {
        self.point.to_encoded_point(true).as_bytes().to_vec()
    }

    /// 04, then X and Y.
    pub fn uncompressed(&self) -> Vec<u8> {
        self.point.to_encoded_point(false).as_bytes().to_vec()
    }

    /// The hint in `tpm-ecc` stanzas: anybody who knows the recipient can recognise it.
    pub(crate) fn ecc_tag(&self) -> [u8; TAG_BYTES] {
        first_bytes(&Sha256::digest(self.uncompressed()))
    }

    /// The hint in a `p256tag` stanza, different for each encapsulated key `enc`.
    pub(crate) fn p256_tag(&self, enc: &[u8]) -> [u8; TAG_BYTES] {
        let own: [u8; TAG_BYTES] = first_bytes(&Sha256::digest(self.compressed()));
        let mut ikm = enc.to_vec();
        ikm.extend_from_slice(&own);
        let (tag, _) = hkdf::Hkdf::<Sha256>::extract(Some(crate::stanza::P256TAG_INFO), &ikm);
        first_bytes(&tag)
    }
}

fn first_bytes(digest: &[u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&digest[..TAG_BYTES]);
    tag
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mine = [TPM_HRP, TAG_HRP].iter().any(|hrp| {
            text.strip_prefix(hrp)
                .is_some_and(|rest| rest.starts_with('1'))
        });
        if !mine {
            return Err(RecipientError::NotMine);
        }
        if text.len() > MAX_TEXT {
            return Err(RecipientError::TooLong);
        }
        let (hrp, bytes) = bech32_long::decode(text).map_err(|e| RecipientError::Encoding {
            reason: e.to_string(),
        })?;
        // A payload of "tpm1.." inside another name would have a longer readable part.
        if ![TPM_HRP, TAG_HRP].contains(&hrp.as_str()) {
            return Err(RecipientError::NotMine);
        }
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_tag_text())
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient({self})")
    }
}
