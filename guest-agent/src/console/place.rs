//! How far a reader of the console is, in a small file, so that the reader of an agent that starts again goes on
//! there. It is written when the reader comes back for more, and so has what it was given before: an agent that is
//! killed in between gives its last answer once more, and leaves nothing out.

use std::{io, path::Path};

use seed_journal::{Mark, Position};
use serde::{Deserialize, Serialize};

use crate::sys::file;

const MODE: u32 = 0o600;

/// A file of ours is small.
const MAX_BYTES: u64 = 4096;

/// A place in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    /// After the last entry that was given out whole.
    pub(super) after: Position,
    /// What was given out of the next one's text.
    pub(super) within: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    seqnum_id: [u8; 16],
    seqnum: u64,
    mark: Option<WrittenMark>,
    within: usize,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMark {
    boot_id: [u8; 16],
    realtime_us: u64,
    monotonic_us: u64,
    xor_hash: u64,
}

impl Place {
    /// The place that was written last; `None` when none was.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let written = match file::read_small(path, MAX_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let Written {
            seqnum_id,
            seqnum,
            mark,
            within,
        } = serde_json::from_slice(&written)?;
        let mark = mark.map(|mark| Mark {
            boot_id: mark.boot_id,
            realtime_us: mark.realtime_us,
            monotonic_us: mark.monotonic_us,
            xor_hash: mark.xor_hash,
        });
        let after = Position {
            seqnum_id,
            seqnum,
            mark,
        };
        Ok(Some(Self { after, within }))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let Position {
            seqnum_id,
            seqnum,
            mark,
        } = self.after;
        let written = Written {
            seqnum_id,
            seqnum,
            mark: mark.map(|mark| WrittenMark {
                boot_id: mark.boot_id,
                realtime_us: mark.realtime_us,
                monotonic_us: mark.monotonic_us,
                xor_hash: mark.xor_hash,
            }),
            within: self.within,
        };
        file::write_atomic(path, &serde_json::to_vec(&written)?, MODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_and_what_is_none_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.json");
        assert_eq!(Place::read(&path).unwrap(), None);
        let mark = Mark {
            boot_id: [3; 16],
            realtime_us: 4,
            monotonic_us: 5,
            xor_hash: u64::MAX,
        };
        let after = Position {
            seqnum_id: [1; 16],
            seqnum: 2,
            mark: Some(mark),
        };
        for place in [Place::default(), Place { after, within: 7 }] {
            place.write(&path).unwrap();
            assert_eq!(Place::read(&path).unwrap(), Some(place));
        }
        std::fs::write(&path, "{").unwrap();
        assert!(Place::read(&path).is_err());
    }
}
