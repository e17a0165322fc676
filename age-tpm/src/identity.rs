//! Identities: a key that only one TPM can use, as text and as a file.
//!
//! Owns the `AGE-PLUGIN-TPM-1..` text of versions 1 and 2 and the identity file around it. It
//! never talks to a TPM. What is inside is no secret: the private half is wrapped by the TPM.
//! The layout is that of the Go plugin of the same name, v0.1 to v1.0 (github.com/Foxboron/age-plugin-tpm).

use std::fmt;
use std::io::Read;
use std::str::FromStr;

use crate::bech32_long;
use crate::recipient::{Recipient, Spelling};
use crate::tpm::wire::{Reader, WireError, Writer};
use crate::tpm::{EccPublic, Name, NewKey, PublicError};
use crate::unix_time::UtcTime;

/// Human-readable part of an identity.
pub const IDENTITY_HRP: &str = "AGE-PLUGIN-TPM-";
/// Name of the plugin, as in `age-plugin-tpm`.
pub const PLUGIN_NAME: &str = "tpm";
/// Longest identity text that is looked at; real ones have 432 characters.
pub const MAX_IDENTITY_CHARS: usize = 4096;
/// Largest identity file that is read: the limit of the Go plugin.
pub const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;
const MAX_PUBLIC_BYTES: usize = crate::tpm::MAX_PUBLIC_BYTES;
const MAX_PRIVATE_BYTES: usize = crate::tpm::MAX_PRIVATE_BYTES;

/// Whether using the key asks for a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Whoever may use the TPM may use the key.
    None,
    /// The TPM demands a PIN.
    Required,
}

/// A wrapped key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    pin: Pin,
    public: EccPublic,
    private: Vec<u8>,
    /// Name of the storage root key; version 1 has none.
    parent: Option<Name>,
}

/// Why a text or payload is no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It is an identity of another kind, or nothing of age's at all.
    #[error("not an AGE-PLUGIN-TPM- identity")]
    NotMine,
    /// It is longer than any identity.
    #[error("the identity is longer than {MAX_IDENTITY_CHARS} characters")]
    TooLong,
    /// A typing error or a torn copy: checksum or characters are wrong.
    #[error("the identity is damaged: {reason}")]
    Encoding {
        /// What the decoder found.
        reason: String,
    },
    /// A later version of the format.
    #[error("the identity has version {version}, only 1 and 2 are known")]
    Version {
        /// Version byte.
        version: u8,
    },
    /// The PIN flag is neither 0 nor 1.
    #[error("the identity has an unknown PIN flag {flag}")]
    PinFlag {
        /// Flag byte.
        flag: u8,
    },
    /// A part of the payload is cut short, too long, or followed by more.
    #[error("the identity is malformed: {0}")]
    Wire(#[from] WireError),
    /// The public key cannot be used.
    #[error("the identity's public key cannot be used: {0}")]
    Public(#[from] PublicError),
    /// The storage root's name is not a SHA-256 name.
    #[error("the identity names its storage root in an unknown way ({len} bytes)")]
    ParentName {
        /// Length of the name.
        len: usize,
    },
}

impl Identity {
    /// Wraps up a key that [`create_key`](crate::tpm::create_key) made.
    pub fn new(key: NewKey, pin: Pin) -> Self {
        Self {
            pin,
            public: key.public,
            private: key.private,
            parent: Some(key.parent),
        }
    }

    /// Reads a payload: what is inside the Bech32 text, and what an NV index keeps.
    ///
    /// # Errors
    ///
    /// Anything but [`IdentityError::NotMine`]: the caller knows already whose it is.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IdentityError> {
        let mut r = Reader::new(bytes);
        let version = r.u8("version")?;
        if !matches!(version, 1 | 2) {
            return Err(IdentityError::Version { version });
        }
        let pin = match r.u8("PIN flag")? {
            0 => Pin::None,
            1 => Pin::Required,
            flag => return Err(IdentityError::PinFlag { flag }),
        };
        let public = EccPublic::parse(r.sized(MAX_PUBLIC_BYTES, "public key")?)?;
        let private = r.sized(MAX_PRIVATE_BYTES, "wrapped key")?.to_vec();
        let parent = match version {
            1 => None,
            _ => {
                let name = r.sized(MAX_PUBLIC_BYTES, "storage root name")?;
                let name: [u8; Name::BYTES] = name
                    .try_into()
                    .map_err(|_| IdentityError::ParentName { len: name.len() })?;
                Some(Name::from(name))
            }
        };
        r.end("the identity")?;
        Ok(Self {
            pin,
            public,
            private,
            parent,
        })
    }

    /// The payload, in the version that was read; a new key has version 2.
    pub fn to_bytes(&self) -> Vec<u8> {
        let out = Writer::new()
            .u8(if self.parent.is_some() { 2 } else { 1 })
            .u8(u8::from(self.pin == Pin::Required))
            .sized(self.public.public().as_bytes())
            .sized(&self.private);
        let out = match &self.parent {
            Some(name) => out.sized(name.as_bytes()),
            None => out,
        };
        out.as_slice().to_vec()
    }

    /// Whom to encrypt to so that this identity can decrypt.
    pub fn recipient(&self) -> Recipient {
        Recipient::new(*self.public.point())
    }

    /// Whether a PIN is needed.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// The public half as the TPM knows it.
    pub fn public(&self) -> &EccPublic {
        &self.public
    }

    /// The private half, wrapped by the TPM.
    pub fn private(&self) -> &[u8] {
        &self.private
    }

    /// Name of the storage root key, if the identity says it (version 2).
    pub fn parent(&self) -> Option<&Name> {
        self.parent.as_ref()
    }

    /// Whether wrong PINs, and with Go's keys also power cuts, can lock this key for a while.
    pub fn can_be_locked_out(&self) -> bool {
        !self.public.public().no_da()
    }

    /// The text of a whole identity file, ending in a newline.
    pub fn to_file_text(&self, created: UtcTime, spelling: Spelling) -> String {
        let recipient = self.recipient().to_text(spelling);
        format!("# Created: {created}\n# Recipient: {recipient}\n\n{self}\n")
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !text
            .strip_prefix(IDENTITY_HRP)
            .is_some_and(|rest| rest.starts_with('1'))
        {
            return Err(IdentityError::NotMine);
        }
        if text.len() > MAX_IDENTITY_CHARS {
            return Err(IdentityError::TooLong);
        }
        let (hrp, bytes) = bech32_long::decode(text).map_err(|e| IdentityError::Encoding {
            reason: e.to_string(),
        })?;
        if hrp != IDENTITY_HRP {
            return Err(IdentityError::NotMine);
        }
        Self::from_bytes(&bytes)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bech32_long::encode(IDENTITY_HRP, &self.to_bytes());
        f.write_str(&text.to_uppercase())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("recipient", &self.recipient())
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// Why a file holds no identity that we can use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// Reading failed.
    #[error("cannot read it")]
    Read(#[from] std::io::Error),
    /// The file is too large.
    #[error("it is larger than {} MiB", MAX_FILE_BYTES / (1024 * 1024))]
    TooLarge,
    /// The file is not text.
    #[error("it is not a text file")]
    NotText,
    /// No line holds an identity of ours.
    #[error("it holds no AGE-PLUGIN-TPM- identity")]
    Empty,
    /// A line holds an identity of ours, but a broken one.
    #[error("line {line}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: IdentityError,
    },
}

/// Reads the identities of an identity file; comments, empty lines and identities of other kinds
/// are skipped.
///
/// # Errors
///
/// The file is unreadable or too large, or a line is ours but broken, or there is none of ours.
pub fn read_identities(source: impl Read) -> Result<Vec<Identity>, IdentityFileError> {
    let mut bytes = Vec::new();
    let taken = source.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(taken).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(IdentityFileError::TooLarge);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| IdentityFileError::NotText)?;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.parse() {
            Ok(identity) => found.push(identity),
            Err(IdentityError::NotMine) => {}
            Err(source) => {
                return Err(IdentityFileError::Line {
                    line: number + 1,
                    source,
                });
            }
        }
    }
    if found.is_empty() {
        Err(IdentityFileError::Empty)
    } else {
        Ok(found)
    }
}
