//! The identity of a machine that has no disk of its own to keep it on.
//!
//! Owns the order of truth (an identity file that is there, then the blob in the TPM's NV
//! memory, then a new key) and the steps that make all three agree. Everything blocks; call it on
//! a thread that may. It never overwrites an identity file that somebody else wrote, and never
//! touches an NV index with contents that it does not know.
//!
//! A new key is written to NV before the file, so that a crash between any two steps leaves
//! either nothing (the next start makes a key that nobody knows yet) or a complete identity.
//! Tests kill the process at each [`Step`].

mod file;
mod record;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::identity::{Identity, IdentityFileError, Pin};
use crate::recipient::Spelling;
use crate::tpm::lockout::{self, Lockout};
use crate::tpm::{KeyOptions, LoadedKey, Tpm, TpmError, create_key};
use crate::unix_time::UtcTime;

use self::record::Stored;

pub use self::file::write_new;

/// Where the blob lives: an arbitrary index ("A6E" for age) of the range 0x01800000-0x01bfffff
/// that the TCG registry of reserved handles leaves to the owner.
pub const NV_INDEX: u32 = 0x01a6_e001;

/// Where the identity came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A file that was already there.
    File,
    /// The TPM's NV memory; the file was written anew.
    Nv,
    /// It was made just now.
    Created,
}

/// What was done, for tests that stop in between and for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A key was made; only this process knows it.
    KeyCreated,
    /// An index whose contents were of no use was removed.
    NvRemoved,
    /// The index exists and is empty.
    NvDefined,
    /// The index holds the identity.
    NvWritten,
    /// The identity is in a temporary file beside the real one.
    FileStaged,
    /// The file has its name.
    FileRenamed,
    /// The name is on disk.
    FileSynced,
}

impl Step {
    /// All steps, in their order.
    pub const ALL: [Self; 7] = [
        Self::KeyCreated,
        Self::NvRemoved,
        Self::NvDefined,
        Self::NvWritten,
        Self::FileStaged,
        Self::FileRenamed,
        Self::FileSynced,
    ];
}

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

/// An identity that is in place: file written, key known to load.
#[derive(Debug)]
pub struct Provisioned {
    /// The identity.
    pub identity: Identity,
    /// Where it came from.
    pub origin: Origin,
    /// What happened on the way.
    pub notes: Vec<Note>,
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

/// Makes sure that `path` holds this machine's identity. See the [module](self) for the order.
///
/// # Errors
///
/// [`ProvisionError`]; nothing that existed before was changed in a way that loses a key.
pub fn ensure(tpm: &mut Tpm, path: &Path) -> Result<Provisioned, ProvisionError> {
    ensure_observed(tpm, path, &mut |_| {})
}

/// [`ensure`], telling `observer` after each step.
///
/// # Errors
///
/// As [`ensure`].
pub fn ensure_observed(
    tpm: &mut Tpm,
    path: &Path,
    observer: &mut dyn FnMut(Step),
) -> Result<Provisioned, ProvisionError> {
    let mut run = Run {
        tpm,
        path,
        observer,
        notes: Vec::new(),
    };
    let (identity, origin) = match run.read_file()? {
        Some(identity) => {
            run.keep_file_in_nv(&identity)?;
            (identity, Origin::File)
        }
        None => run.without_file()?,
    };
    run.end_lockout(&identity);
    Ok(Provisioned {
        identity,
        origin,
        notes: run.notes,
    })
}

/// The identity that the TPM's NV memory keeps, if it keeps a whole one.
///
/// # Errors
///
/// The TPM could not be asked.
pub fn stored(tpm: &mut Tpm) -> Result<Option<Identity>, TpmError> {
    Ok(match record::read(tpm, NV_INDEX)? {
        Stored::Identity(identity) => Some(*identity),
        _ => None,
    })
}

/// One call of [`ensure`].
struct Run<'a> {
    tpm: &'a mut Tpm,
    path: &'a Path,
    observer: &'a mut dyn FnMut(Step),
    notes: Vec<Note>,
}

impl Run<'_> {
    fn read_file(&mut self) -> Result<Option<Identity>, ProvisionError> {
        match file::read(self.path) {
            Ok(file::Found::Nothing) => Ok(None),
            Ok(file::Found::Empty) => {
                self.notes.push(Note::FileWasEmpty);
                Ok(None)
            }
            Ok(file::Found::Identity(identity)) => Ok(Some(*identity)),
            Err(source) => Err(ProvisionError::BrokenFile {
                path: self.path.to_owned(),
                source,
            }),
        }
    }

    /// The file rules: check that the key is this TPM's, then bring NV into line, best effort.
    fn keep_file_in_nv(&mut self, identity: &Identity) -> Result<(), ProvisionError> {
        load(self.tpm, identity).map_err(|source| match source {
            TpmError::ForeignKey | TpmError::ForeignParent { .. } => ProvisionError::ForeignFile {
                path: self.path.to_owned(),
                source,
            },
            other => other.into(),
        })?;
        match record::read(self.tpm, NV_INDEX) {
            Ok(Stored::Identity(kept)) if *kept == *identity => {}
            Ok(Stored::Foreign { len }) => self.notes.push(Note::NvNotKept {
                reason: format!("it holds {len} bytes that are not an age identity"),
            }),
            Ok(stored) => self.store(identity, &stored),
            Err(e) => self.notes.push(Note::NvNotKept {
                reason: e.explain(),
            }),
        }
        Ok(())
    }

    /// No file: what NV holds, or else a new key.
    fn without_file(&mut self) -> Result<(Identity, Origin), ProvisionError> {
        let stored = record::read(self.tpm, NV_INDEX)?;
        match &stored {
            Stored::Identity(identity) => match load(self.tpm, identity) {
                Ok(()) => {
                    self.write_file(identity)?;
                    return Ok((identity.as_ref().clone(), Origin::Nv));
                }
                // Nobody can ever open that blob again: nothing is lost by replacing it.
                Err(e @ (TpmError::ForeignKey | TpmError::ForeignParent { .. })) => {
                    self.notes.push(Note::NvReplaced {
                        reason: e.to_string(),
                    });
                }
                Err(e) => return Err(e.into()),
            },
            Stored::Foreign { len } => return Err(ProvisionError::NvTaken { len: *len }),
            Stored::Damaged { reason } => {
                self.notes.push(Note::NvReplaced {
                    reason: reason.clone(),
                });
            }
            Stored::Absent | Stored::Blank => {}
        }
        let identity = Identity::new(create_key(self.tpm, KeyOptions::default())?, Pin::None);
        (self.observer)(Step::KeyCreated);
        self.store(&identity, &stored);
        self.write_file(&identity)?;
        Ok((identity, Origin::Created))
    }

    /// Writes the blob to NV; a failure is a note, for the file still holds the identity.
    fn store(&mut self, identity: &Identity, before: &Stored) {
        let note = match record::write(self.tpm, NV_INDEX, identity, before, self.observer) {
            Ok(()) => Note::NvStored,
            Err(e) => Note::NvNotKept {
                reason: e.explain(),
            },
        };
        self.notes.push(note);
    }

    fn write_file(&mut self, identity: &Identity) -> Result<(), ProvisionError> {
        let text = identity.to_file_text(UtcTime::now(), Spelling::Tpm);
        file::write_atomic(self.path, text.as_bytes(), self.observer).map_err(|source| {
            ProvisionError::WriteFile {
                path: self.path.to_owned(),
                source,
            }
        })
    }

    /// Ends a lockout that keeps a key without PIN from being used.
    ///
    /// With a PIN the lockout is what guards the key, so a start of the machine must not end it.
    fn end_lockout(&mut self, identity: &Identity) {
        if !identity.can_be_locked_out() {
            return;
        }
        let state = match Lockout::read(self.tpm) {
            Ok(state) if state.active || state.counter > 0 => state,
            Ok(_) => return,
            Err(e) => {
                self.notes.push(Note::LockedOut {
                    reason: e.explain(),
                });
                return;
            }
        };
        let wait = format!(
            "the TPM forgets a failed try every {} s",
            state.interval_secs
        );
        let note = if identity.pin() == Pin::Required {
            if !state.active {
                return;
            }
            Note::LockedOut {
                reason: format!("too many wrong PINs; {wait}"),
            }
        } else if state.auth_set {
            if !state.active {
                return;
            }
            Note::LockedOut {
                reason: format!(
                    "a lockout authorisation is set; {wait}, or its owner can run tpm2_dictionarylockout --clear-lockout"
                ),
            }
        } else {
            match lockout::reset(self.tpm) {
                Ok(()) => Note::LockoutCleared {
                    active: state.active,
                    counter: state.counter,
                },
                Err(e) => Note::LockedOut {
                    reason: format!("{}; {wait}", e.explain()),
                },
            }
        };
        self.notes.push(note);
    }
}

/// Proves that the TPM takes the key.
fn load(tpm: &mut Tpm, identity: &Identity) -> Result<(), TpmError> {
    LoadedKey::load(
        tpm,
        identity.public(),
        identity.private(),
        identity.parent(),
    )
    .map(drop)
}
