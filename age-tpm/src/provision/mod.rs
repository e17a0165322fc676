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
mod report;

use std::path::Path;

use crate::identity::{Identity, Pin};
use crate::recipient::Spelling;
use crate::tpm::lockout::{self, Lockout};
use crate::tpm::{KeyOptions, LoadedKey, Tpm, TpmError, create_key};
use crate::unix_time::UtcTime;

use self::record::Stored;

pub use self::file::write_new;
pub use self::report::{Note, ProvisionError};

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
