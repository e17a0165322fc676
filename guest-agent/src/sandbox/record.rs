//! `/run/seed/agent.json`: what has been done at this boot. It is written when the container has been
//! provisioned and again when it is started, and read once, by an agent that systemd starts again.
//! `/run` is empty at every boot, so a record never outlives its boot.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{ContainerId, State};
use crate::sys::file;

/// A record may say no more than this.
const MAX_BYTES: u64 = 4096;

const MODE: u32 = 0o600;

/// The state, as far as it is worth remembering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The container; none when the guest went on alone.
    container_id: Option<String>,
    /// The boot may go on.
    started: bool,
}

impl Record {
    /// The record of `state`, when it is worth one.
    pub fn of(state: &State) -> Option<Self> {
        let (container_id, started) = match state {
            State::Created(id) => (Some(id.to_string()), false),
            State::Started(id) => (Some(id.to_string()), true),
            State::Alone => (None, true),
            State::Waiting | State::Ready | State::Provisioning(_) => return None,
        };
        Some(Self {
            container_id,
            started,
        })
    }

    /// The state that this records.
    pub fn state(&self) -> State {
        let id = self.container_id.as_deref().map(ContainerId::try_from);
        match (id, self.started) {
            (Some(Ok(id)), false) => State::Created(id),
            (Some(Ok(id)), true) => State::Started(id),
            (None, true) => State::Alone,
            (Some(Err(_)), _) | (None, false) => State::Waiting,
        }
    }
}

/// Reads the record; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<Record>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(_) => {}
    }
    Ok(Some(serde_json::from_slice(&fs::read(path)?)?))
}

/// Writes the record of `state`, when it is worth one.
pub fn write(path: &Path, state: &State) -> io::Result<()> {
    let Some(record) = Record::of(state) else {
        return Ok(());
    };
    file::write_atomic(path, &serde_json::to_vec(&record)?, MODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_comes_back_and_what_was_not_is_not_invented() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.json");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &State::Ready).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        let id = ContainerId::try_from("demo").unwrap();
        for state in [State::Created(id.clone()), State::Started(id), State::Alone] {
            write(&path, &state).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().state(), state);
        }
        fs::write(&path, "{").unwrap();
        assert!(read(&path).is_err());
    }
}
