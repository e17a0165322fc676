//! What can go wrong between us and a TPM, in words for the person at the machine.
//!
//! Owns the error type of the whole TPM layer and its advice. It decides nothing by itself.

use std::io;

use super::wire::WireError;
use super::{DEFAULT_DEVICE, Name, PublicError, Rc, TCTI_ENV, Tcti};

/// Why a conversation with the TPM failed.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The device or socket could not be opened.
    #[error("cannot open the TPM at {tcti}")]
    Open {
        /// Address that was tried.
        tcti: Tcti,
        /// What the kernel said.
        source: io::Error,
    },
    /// The transport broke in the middle of a command.
    #[error("lost the TPM at {tcti} during {command}")]
    Transport {
        /// Address of the TPM.
        tcti: String,
        /// Command that was under way.
        command: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The TPM refused a command.
    #[error("the TPM refused {command}: {rc}")]
    Rc {
        /// Command that was refused.
        command: &'static str,
        /// Its reason.
        rc: Rc,
    },
    /// The TPM's answer is not what the specification says.
    #[error("the TPM's answer to {command} makes no sense")]
    Wire {
        /// Command that was answered.
        command: &'static str,
        /// What is wrong.
        source: WireError,
    },
    /// The answer's authentication code is wrong: somebody altered it on the way.
    #[error("the TPM's answer to {command} is not authentic")]
    Forged {
        /// Command that was answered.
        command: &'static str,
    },
    /// A public area that the TPM sent cannot be used.
    #[error("the TPM's {what} cannot be used")]
    Public {
        /// Which key it is.
        what: &'static str,
        /// What is wrong.
        source: PublicError,
    },
    /// No storage root key on this TPM has the name that the identity asks for.
    #[error("the key belongs to the storage root {wanted}, but this TPM's is {found}")]
    ForeignParent {
        /// Name of the storage root key inside the identity.
        wanted: Name,
        /// Name of the storage root key that this TPM makes.
        found: Name,
    },
    /// The TPM does not recognise the wrapped key as its own.
    #[error("the key was made by another TPM, or by this one before it was cleared")]
    ForeignKey,
    /// The key needs a PIN and it was wrong.
    #[error("wrong PIN{}", say_tries(*.tries_left))]
    WrongPin {
        /// Tries that are left before the TPM locks itself, if it said so.
        tries_left: Option<u32>,
    },
    /// The TPM is in dictionary-attack lockout.
    #[error("the TPM is locked after too many failed tries")]
    Lockout,
    /// The operating system gave no random bytes.
    #[error("cannot get random bytes from the system")]
    Random(#[source] io::Error),
}

fn say_tries(left: Option<u32>) -> String {
    match left {
        Some(1) => ", 1 try left before the TPM locks itself".to_owned(),
        Some(n) => format!(", {n} tries left before the TPM locks itself"),
        None => String::new(),
    }
}

impl TpmError {
    /// The response code, if the TPM refused a command.
    pub fn rc(&self) -> Option<Rc> {
        match self {
            Self::Rc { rc, .. } => Some(*rc),
            _ => None,
        }
    }

    /// What a person can do about it, as a sentence without full stop, if we know.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Open {
                tcti: Tcti::Device(path),
                source,
            } => match source.kind() {
                io::ErrorKind::NotFound => format!(
                    "does this machine have a TPM 2.0? set {TCTI_ENV} to use another device or swtpm"
                ),
                io::ErrorKind::PermissionDenied => format!(
                    "join the group that owns {0} (often \"tss\"), or allow it in the unit with DeviceAllow={0} rw",
                    path.display()
                ),
                _ if source.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                    format!("another program holds it; use the resource-managed {DEFAULT_DEVICE}")
                }
                _ => return None,
            },
            Self::Open { .. } => {
                format!("is swtpm running? {TCTI_ENV} says where it listens")
            }
            Self::ForeignParent { .. } | Self::ForeignKey => {
                "use the identity on the TPM that made it, or decrypt with another recipient's key"
                    .to_owned()
            }
            Self::Lockout => "wait until the TPM forgets a failed try, or reset it with \
                 tpm2_dictionarylockout --clear-lockout"
                .to_owned(),
            Self::Rc {
                rc: Rc::INITIALIZE, ..
            } => "the TPM was not started up; an emulator needs the flag startup-clear".to_owned(),
            _ => return None,
        })
    }

    /// The whole story in one line: this error, its causes, and the remedy.
    pub fn explain(&self) -> String {
        let mut text = crate::error_chain(self);
        if let Some(remedy) = self.remedy() {
            text.push_str("; ");
            text.push_str(&remedy);
        }
        text
    }
}
