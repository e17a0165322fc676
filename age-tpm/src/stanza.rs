//! Stanzas: a wrapped file key inside an age file's header.
//!
//! Owns the shape of `p256tag` (written and read) and of the older `tpm-ecc` (read only). A stanza
//! of another kind is not ours and is no error; one of ours with a wrong shape is. It does no
//! cryptography; `wrap` and `unwrap` do. Follows c2sp.org/age for `p256tag`, and the Go plugin
//! v0.x for `tpm-ecc`.

use age_core::format::Stanza as AgeStanza;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use p256::PublicKey;

use crate::recipient::{COMPRESSED_BYTES, Recipient, TAG_BYTES};

/// Tag of the stanzas we write.
pub const P256TAG: &str = "p256tag";
/// Tag of the stanzas that old versions of the Go plugin wrote.
pub const TPM_ECC: &str = "tpm-ecc";
/// HPKE info, and salt of the hint, of `p256tag`.
pub(crate) const P256TAG_INFO: &[u8] = b"age-encryption.org/p256tag";
/// 04, X and Y.
const UNCOMPRESSED_BYTES: usize = 65;
/// A 16-byte file key and a 16-byte authentication tag.
pub(crate) const BODY_BYTES: usize = 32;

/// Why a stanza of ours cannot be used: the age file is damaged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StanzaError {
    /// Too few or too many arguments.
    #[error("{tag} stanza has {found} arguments instead of 2")]
    Arguments {
        /// Kind of stanza.
        tag: &'static str,
        /// Number of arguments.
        found: usize,
    },
    /// An argument is not unpadded base64 of the right length.
    #[error("{tag} stanza has a malformed {argument}")]
    Argument {
        /// Kind of stanza.
        tag: &'static str,
        /// Which argument.
        argument: &'static str,
    },
    /// The ephemeral key is not on the curve.
    #[error("{tag} stanza has an ephemeral key that is not a P-256 point")]
    BadPoint {
        /// Kind of stanza.
        tag: &'static str,
    },
    /// The body is not a wrapped file key.
    #[error("{tag} stanza has a body of {found} bytes instead of {BODY_BYTES}")]
    Body {
        /// Kind of stanza.
        tag: &'static str,
        /// Length of the body.
        found: usize,
    },
}

/// Which of the two kinds a stanza is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `p256tag`
    P256Tag,
    /// `tpm-ecc`
    TpmEcc,
}

impl Kind {
    fn tag(self) -> &'static str {
        match self {
            Self::P256Tag => P256TAG,
            Self::TpmEcc => TPM_ECC,
        }
    }
}

/// A well-formed stanza of one of our kinds; whom it is for is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stanza {
    kind: Kind,
    hint: [u8; TAG_BYTES],
    ephemeral: PublicKey,
    /// The ephemeral key as written in the stanza: part of the hint and of the key derivation.
    encoded: Vec<u8>,
    body: [u8; BODY_BYTES],
}

impl Stanza {
    /// `None` if the stanza is not ours, an error if it is ours but broken.
    pub fn parse(stanza: &AgeStanza) -> Option<Result<Self, StanzaError>> {
        let kind = match stanza.tag.as_str() {
            P256TAG => Kind::P256Tag,
            TPM_ECC => Kind::TpmEcc,
            _ => return None,
        };
        Some(Self::parse_kind(kind, stanza))
    }

    fn parse_kind(kind: Kind, stanza: &AgeStanza) -> Result<Self, StanzaError> {
        let tag = kind.tag();
        let [hint, key] = stanza.args.as_slice() else {
            return Err(StanzaError::Arguments {
                tag,
                found: stanza.args.len(),
            });
        };
        let key_bytes = match kind {
            Kind::P256Tag => UNCOMPRESSED_BYTES,
            Kind::TpmEcc => COMPRESSED_BYTES,
        };
        let bad = |argument| StanzaError::Argument { tag, argument };
        let hint = decode(hint, TAG_BYTES).ok_or_else(|| bad("hint"))?;
        let hint = hint.try_into().map_err(|_| bad("hint"))?;
        let encoded = decode(key, key_bytes).ok_or_else(|| bad("ephemeral key"))?;
        // The decoder checks the curve equation, but would take encodings of other shapes, too.
        let ephemeral = match (kind, encoded.first()) {
            (Kind::P256Tag, Some(4)) | (Kind::TpmEcc, Some(2 | 3)) => {
                PublicKey::from_sec1_bytes(&encoded).ok()
            }
            _ => None,
        };
        let ephemeral = ephemeral.ok_or(StanzaError::BadPoint { tag })?;
        let body = stanza
            .body
            .as_slice()
            .try_into()
            .map_err(|_| StanzaError::Body {
                tag,
                found: stanza.body.len(),
            })?;
        Ok(Self {
            kind,
            hint,
            ephemeral,
            encoded,
            body,
        })
    }

    /// Whether the hint says that this recipient can open it. A hint has 32 bits: it can be wrong
    /// by chance, in which case opening fails.
    pub fn is_for(&self, recipient: &Recipient) -> bool {
        self.hint
            == match self.kind {
                Kind::P256Tag => recipient.p256_tag(&self.encoded),
                Kind::TpmEcc => recipient.ecc_tag(),
            }
    }

    /// Which kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sender's one-time key.
    pub fn ephemeral(&self) -> &PublicKey {
        &self.ephemeral
    }

    /// The one-time key as it was written.
    pub(crate) fn encoded_ephemeral(&self) -> &[u8] {
        &self.encoded
    }

    /// The wrapped file key.
    pub(crate) fn body(&self) -> &[u8; BODY_BYTES] {
        &self.body
    }
}

/// Decodes an argument that must have exactly `len` bytes.
fn decode(argument: &str, len: usize) -> Option<Vec<u8>> {
    // Look at the length first, so that a hostile header costs nothing.
    if argument.len() != (len * 8).div_ceil(6) {
        return None;
    }
    STANDARD_NO_PAD
        .decode(argument)
        .ok()
        .filter(|bytes| bytes.len() == len)
}

/// Builds the `p256tag` stanza for `recipient`.
pub(crate) fn p256tag(recipient: &Recipient, enc: &[u8], body: Vec<u8>) -> AgeStanza {
    AgeStanza {
        tag: P256TAG.to_owned(),
        args: vec![
            STANDARD_NO_PAD.encode(recipient.p256_tag(enc)),
            STANDARD_NO_PAD.encode(enc),
        ],
        body,
    }
}
