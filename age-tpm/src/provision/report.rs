//! What provisioning tells: notes on the way, and why it failed, in words for a log.
//!
//! Owns texts and the types that carry them. It does nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::identity::IdentityFileError;
use crate::tpm::TpmError;

use super::NV_INDEX;

/// Something the owner may want to know; [`Display`](fmt::Display) gives a log line.
#[derive(Debug)]
pub enum Note {
    /// The blob was copied into the TPM's NV memory.
    NvStored,
    /// The blob could not be kept in NV: without the file the identity is lost.
    NvNotKept {
        /// Why not.
        reason: String,
    },
    /// What was in NV was torn or of another TPM, and was replaced.
    NvReplaced {
        /// What was wrong.
        reason: String,
    },
    /// The identity file was there but empty; it was written anew.
    FileWasEmpty,
    /// A lockout, or failed tries that would have led to one, was cleared.
    LockoutCleared {
        /// The TPM was locked.
        active: bool,
        /// Failed tries that had been counted.
        counter: u32,
    },
    /// The TPM is locked and may not be unlocked by us.
    LockedOut {
        /// Why, and what helps.
        reason: String,
    },
}

impl Note {
    /// Whether somebody should act on it.
    pub fn is_warning(&self) -> bool {
        !matches!(self, Self::NvStored | Self::LockoutCleared { .. })
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NvStored => write!(f, "stored the identity in TPM NV index 0x{NV_INDEX:08x}"),
            Self::NvNotKept { reason } => write!(
                f,
                "the TPM does not keep the identity (NV index 0x{NV_INDEX:08x}): {reason}; keep the file"
            ),
            Self::NvReplaced { reason } => {
                write!(
                    f,
                    "replaced the contents of TPM NV index 0x{NV_INDEX:08x}: {reason}"
                )
            }
            Self::FileWasEmpty => f.write_str("the identity file was empty and was written anew"),
            Self::LockoutCleared { active, counter } => write!(
                f,
                "cleared {} of the TPM after {counter} failed tries, for the key was made without noDA",
                if *active {
                    "a lockout"
                } else {
                    "the failed-tries counter"
                }
            ),
            Self::LockedOut { reason } => write!(f, "the TPM is locked: {reason}"),
        }
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The TPM failed.
    #[error("cannot provision the identity")]
    Tpm(#[from] TpmError),
    /// The identity file is there but broken; it is left alone.
    #[error("the identity file {path} cannot be used; repair it or move it away")]
    BrokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityFileError,
    },
    /// The identity file belongs to another TPM; it is left alone.
    #[error(
        "the identity file {path} belongs to another TPM; bring that TPM state back or move the file away"
    )]
    ForeignFile {
        /// The file.
        path: PathBuf,
        /// What the TPM said.
        source: TpmError,
    },
    /// Somebody else's data sits in our NV index and there is no file to go by.
    #[error(
        "TPM NV index 0x{NV_INDEX:08x} holds something that is not an age identity ({len} bytes); remove it with tpm2_nvundefine if nobody needs it"
    )]
    NvTaken {
        /// Size of the index.
        len: u16,
    },
    /// The file could not be written.
    #[error("cannot write the identity file {path}")]
    WriteFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ProvisionError {
    /// The whole story in one line: this error, its causes, and what helps if the TPM is at fault.
    pub fn explain(&self) -> String {
        let mut text = crate::error_chain(self);
        if let Self::Tpm(e) = self
            && let Some(remedy) = e.remedy()
        {
            text.push_str("; ");
            text.push_str(&remedy);
        }
        text
    }
}
