//! What an agent that starts again needs to know of an exec: a small file each, beside the descriptors that
//! systemd holds. The descriptors are named after the unit and their part in it.

use std::{
    fs, io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::ExecKey;
use crate::{
    sys::{
        descriptors::{Held, Keeper},
        file,
    },
    systemd::{HELD_CONNECTION, UnitName},
};

const MODE: u32 = 0o600;

/// A file of ours is small.
const MAX_BYTES: u64 = 16 * 1024;

/// The part that a descriptor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Our end of standard input.
    Input,
    /// What the host sent for it.
    Ahead,
    /// Our end of standard output, or a terminal's master.
    Output,
    OutputTail,
    OutputHead,
    /// Our end of standard error.
    Error,
    ErrorTail,
    ErrorHead,
    /// The process's end of a terminal.
    FarEnd,
}

impl Part {
    pub(super) const ALL: [Self; 9] = [
        Self::Input,
        Self::Ahead,
        Self::Output,
        Self::OutputTail,
        Self::OutputHead,
        Self::Error,
        Self::ErrorTail,
        Self::ErrorHead,
        Self::FarEnd,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Input => "in",
            Self::Ahead => "in-ahead",
            Self::Output => "out",
            Self::OutputTail => "out-tail",
            Self::OutputHead => "out-head",
            Self::Error => "err",
            Self::ErrorTail => "err-tail",
            Self::ErrorHead => "err-head",
            Self::FarEnd => "far-end",
        }
    }
}

/// An exec, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) container: String,
    pub(super) exec: String,
    /// Its service.
    pub(super) unit: String,
    /// It has ended so. What it wrote may still be there.
    pub(super) status: Option<i32>,
}

/// Where records and descriptors are kept. Clones share it.
#[derive(Debug, Clone)]
pub struct Memory {
    directory: PathBuf,
    keeper: Keeper,
}

impl Memory {
    /// Files in `directory`, descriptors with `keeper`.
    pub fn new(directory: PathBuf, keeper: Keeper) -> Self {
        Self { directory, keeper }
    }

    pub(super) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// Has a descriptor of this service held.
    pub(super) fn hold(
        &self,
        unit: &UnitName,
        part: Part,
        descriptor: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.keeper.hold(&name(unit.as_str(), part), descriptor)
    }

    /// Lets go of a descriptor: whoever waits for it to be closed hears of it.
    pub(super) fn let_go(&self, unit: &UnitName, part: Part) {
        if let Err(error) = self.keeper.let_go(&name(unit.as_str(), part)) {
            warn!(%unit, ?part, %error, "a stream's end cannot be let go");
        }
    }

    /// Lets go of all of this service's.
    pub(super) fn let_go_of_all(&self, unit: &UnitName) {
        Part::ALL
            .into_iter()
            .for_each(|part| self.let_go(unit, part));
    }

    /// Without a record the exec does not outlive the agent, and that is all.
    pub(super) fn remember(&self, record: &Record) {
        let written = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|text| file::write_atomic(&self.path(&record.unit), &text, MODE));
        if let Err(error) = written {
            warn!(unit = record.unit, %error, "an exec cannot be written down");
        }
    }

    pub(super) fn forget(&self, unit: &str) {
        match fs::remove_file(self.path(unit)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(unit, %error, "the record of an exec cannot be removed");
            }
            _ => {}
        }
    }

    /// All records, in the order in which they began.
    pub(super) fn records(&self) -> Vec<Record> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
        files.sort();
        let read = files.into_iter().filter_map(|path| match record(&path) {
            Ok(record) => Some(record),
            Err(error) => {
                warn!(path = %path.display(), %error, "the record of an exec cannot be read");
                None
            }
        });
        read.collect()
    }

    fn path(&self, unit: &str) -> PathBuf {
        self.directory.join(format!("{unit}.json"))
    }
}

/// The earlier agents' connections to systemd: their references keep services in mind that have ended.
#[derive(Debug)]
pub(super) struct Connections {
    held: Vec<(String, OwnedFd)>,
    keeper: Keeper,
}

impl Connections {
    /// Takes them out of what was handed over.
    pub(super) fn take(held: &mut Held, keeper: &Keeper) -> Self {
        let is_one = |name: &String, _: &mut OwnedFd| name.starts_with(HELD_CONNECTION);
        Self {
            held: held.extract_if(is_one).collect(),
            keeper: keeper.clone(),
        }
    }

    /// This one needs them no more; with the last one they are let go. Never by being dropped: an agent that
    /// ends before leaves them to the next.
    pub(super) fn done(connections: Arc<Self>) {
        let Some(Self { held, keeper }) = Arc::into_inner(connections) else {
            return;
        };
        for (name, descriptor) in held {
            drop(descriptor);
            if let Err(error) = keeper.let_go(&name) {
                warn!(name, %error, "an earlier connection to systemd is still held");
            }
        }
    }
}

/// Takes one descriptor of a service out of those that were handed over.
pub(super) fn take(held: &mut Held, unit: &UnitName, part: Part) -> Option<OwnedFd> {
    held.remove(&name(unit.as_str(), part))
}

fn name(unit: &str, part: Part) -> String {
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    format!("{stem}.{}", part.name())
}

fn record(path: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&file::read_small(path, MAX_BYTES)?)?)
}

impl Record {
    /// Whether this is the name of a descriptor of its.
    pub(super) fn is_its(&self, name: &str) -> bool {
        Part::ALL
            .into_iter()
            .any(|part| self::name(&self.unit, part) == name)
    }

    pub(super) fn key(&self) -> ExecKey {
        ExecKey {
            container: self.container.clone(),
            exec: self.exec.clone(),
        }
    }
}
