//! `/run/seed/agent.json`: what has been done at this boot. It is written when there is a pause container, when the
//! container has been provisioned and again when it is started, and read once, by an agent that systemd starts again: so it
//! knows what not to do twice, and what to tell of the volumes.
//! `/run` is empty at every boot, so a record never outlives its boot.

use std::{io, path::Path};

use seed_protocol::seed::v1;
use serde::{Deserialize, Serialize};

use super::{ContainerId, Pause, State};
use crate::{status::Board, sys::file};

/// A record may say no more than this.
const MAX_BYTES: u64 = 256 * 1024;

const MODE: u32 = 0o600;

/// The state, as far as it is worth remembering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The container; none when the guest went on alone, or the host has not come as far.
    container_id: Option<String>,
    /// The boot may go on.
    started: bool,
    /// The pod's pause container.
    #[serde(default)]
    pause_id: Option<String>,
    /// How that has ended.
    #[serde(default)]
    pause_status: Option<i32>,
    /// What became of the volumes.
    volumes: Vec<VolumeRecord>,
    /// What went wrong at this boot: subject and message.
    problems: Vec<(String, String)>,
}

/// A line of the status' table of volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumeRecord {
    name: String,
    mount_point: String,
    filesystem: String,
    created: bool,
    size_bytes: u64,
    problem: String,
}

impl Record {
    /// The record of `state` and of what `board` shows. Work that is under way is done again.
    pub fn of(state: &State, pause: Option<&Pause>, board: &Board) -> Self {
        let (container_id, started) = match state {
            State::Created(id) => (Some(id.to_string()), false),
            State::Started(id) => (Some(id.to_string()), true),
            State::Alone => (None, true),
            State::Waiting | State::Ready | State::Provisioning(_) => (None, false),
        };
        let v1::GuestStatus {
            volumes, problems, ..
        } = board.now();
        let volumes = volumes.into_iter().map(VolumeRecord::from).collect();
        let problems = problems
            .into_iter()
            .map(|p| (p.subject, p.message))
            .collect();
        Self {
            container_id,
            started,
            pause_id: pause.map(|pause| pause.id().to_string()),
            pause_status: pause.and_then(Pause::status),
            volumes,
            problems,
        }
    }

    /// Puts what was known of volumes and problems back on `board`. What concerns `redone` subjects is
    /// left out: it is found out anew.
    pub fn restore(&self, board: &Board, redone: &[&str]) {
        if !self.volumes.is_empty() {
            board.set_volumes(self.volumes.iter().cloned().map(v1::Volume::from).collect());
        }
        for (subject, message) in &self.problems {
            if !redone.contains(&subject.as_str()) {
                board.problem(subject.as_str(), message.as_str());
            }
        }
    }

    /// The pause container that this records.
    pub fn pause(&self) -> Option<Pause> {
        let id = ContainerId::try_from(self.pause_id.as_deref()?).ok()?;
        Some(Pause::new(id, self.pause_status))
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

impl From<v1::Volume> for VolumeRecord {
    fn from(volume: v1::Volume) -> Self {
        let v1::Volume {
            name,
            mount_point,
            filesystem,
            created,
            size_bytes,
            problem,
            special_fields: _,
        } = volume;
        Self {
            name,
            mount_point,
            filesystem,
            created,
            size_bytes,
            problem,
        }
    }
}

impl From<VolumeRecord> for v1::Volume {
    fn from(record: VolumeRecord) -> Self {
        let VolumeRecord {
            name,
            mount_point,
            filesystem,
            created,
            size_bytes,
            problem,
        } = record;
        Self {
            name,
            mount_point,
            filesystem,
            created,
            size_bytes,
            problem,
            ..Self::default()
        }
    }
}

/// Reads the record; `None` when there is none.
pub fn read(path: &Path) -> io::Result<Option<Record>> {
    match file::read_small(path, MAX_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => Ok(Some(serde_json::from_slice(&read?)?)),
    }
}

/// Writes the record of `state` and `board`.
pub fn write(path: &Path, state: &State, pause: Option<&Pause>, board: &Board) -> io::Result<()> {
    let record = Record::of(state, pause, board);
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
        let board = Board::new();
        let id = ContainerId::try_from("demo").unwrap();
        for state in [State::Ready, State::Provisioning(id.clone())] {
            write(&path, &state, None, &board).unwrap();
            let record = read(&path).unwrap().unwrap();
            assert_eq!(
                (record.state(), record.pause().is_none()),
                (State::Waiting, true)
            );
        }
        for status in [None, Some(143)] {
            let pause = Pause::new(id.clone(), status);
            write(&path, &State::Ready, Some(&pause), &board).unwrap();
            let pause = read(&path).unwrap().unwrap().pause().unwrap();
            assert_eq!((pause.id(), pause.status()), (&id, status));
        }
        for state in [State::Created(id.clone()), State::Started(id), State::Alone] {
            write(&path, &state, None, &board).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().state(), state);
        }
        std::fs::write(&path, "{").unwrap();
        assert!(read(&path).is_err());
    }

    #[test]
    fn volumes_and_problems_are_shown_again_but_not_what_is_done_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.json");
        let board = Board::new();
        let volume = v1::Volume {
            name: "data".to_owned(),
            size_bytes: 7,
            ..Default::default()
        };
        board.set_volumes(vec![volume]);
        board.problem("volume data", "user app does not exist");
        board.problem("identity", "no TPM");
        write(&path, &State::Alone, None, &board).unwrap();
        let again = Board::new();
        read(&path).unwrap().unwrap().restore(&again, &["identity"]);
        let (before, after) = (board.now(), again.now());
        assert_eq!(after.volumes, before.volumes);
        assert_eq!(after.problems, before.problems[..1]);
    }
}
