//! One journal, the system's or a namespace's: its reader, and journalctl in the reader's place while there is a file in a
//! form that it does not know. Reads and looks for news; waits for nothing.

use std::{
    collections::HashSet,
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use seed_journal::{Journal, Position, Skipped};
use seed_protocol::{JournalNamespace, journal::BatchEncoder};
use tracing::{info, warn};

use super::{Answer, Batch, JournalError, MACHINE_ID, Request, journalctl::Journalctl};

/// Problems that are told; this many damaged files say enough.
const MAX_TOLD: usize = 64;

/// One journal.
pub(super) struct Source {
    namespace: Option<JournalNamespace>,
    journal: Journal,
    /// Kept from batch to batch, with its buffers.
    block: BatchEncoder,
    /// Reads in place of `journal`, while that does not know the form of a file.
    journalctl: Option<Journalctl>,
    /// Files that were refused, each told once.
    told: HashSet<PathBuf>,
    damage: Damage,
}

/// What was passed over in files that are read. It is told at first and whenever it has doubled: telling makes an entry,
/// which may be written to the damaged file.
#[derive(Debug, Default)]
struct Damage {
    met: u64,
    told: u64,
}

impl Damage {
    /// How much there is by now, when it is time to tell.
    fn meet(&mut self, skipped: Skipped) -> Option<u64> {
        let Skipped {
            bad_objects,
            bad_values,
        } = skipped;
        self.met = self.met.saturating_add(bad_objects);
        self.met = self.met.saturating_add(bad_values);
        let is_news = self.met > self.told.saturating_mul(2);
        is_news.then(|| {
            self.told = self.met;
            self.met
        })
    }
}

impl Source {
    /// The journal in the folder of this machine's id, or of the namespace, below each of these directories.
    pub(super) fn open(
        directories: &[PathBuf],
        machine_id: [u8; 16],
        namespace: Option<&JournalNamespace>,
    ) -> Self {
        let journal = match namespace {
            None => Journal::open(directories, machine_id),
            Some(name) => Journal::open_namespace(directories, machine_id, name.as_str()),
        };
        Self {
            namespace: namespace.cloned(),
            journal,
            block: BatchEncoder::new(0),
            journalctl: None,
            told: HashSet::new(),
            damage: Damage::default(),
        }
    }

    /// Whose journal it is.
    pub(super) fn namespace(&self) -> Option<&JournalNamespace> {
        self.namespace.as_ref()
    }

    /// What may be new can only be had by asking when journalctl reads: it looks by itself.
    pub(super) fn may_have_news(&mut self) -> bool {
        self.journal.has_changed() || self.journalctl.is_some()
    }

    /// After how long it is worth while to look again.
    pub(super) fn next_look(&self) -> Duration {
        self.journal.next_look()
    }

    /// Until then "nothing" is not yet the end.
    pub(super) fn unclear_until(&self) -> Option<Instant> {
        self.journal.unclear_until()
    }

    /// The entries after a position, which the request's own is not where it was followed or nothing was wanted.
    pub(super) fn read(&mut self, request: &Request, after: &Position) -> Answer {
        if self.journalctl.is_some() {
            self.journal.look_for_files();
            if self.journal.unknown_form().is_some() {
                return self.read_by_journalctl(request, after);
            }
            // journald deleted what we do not know.
            info!("all journal files are in a known form again");
            self.journalctl = None;
        }
        if self.block.max_bytes() != request.max_bytes {
            self.block = BatchEncoder::new(request.max_bytes);
        }
        let outcome = self
            .journal
            .read_matching(after, &request.filter, &mut self.block);
        let block = self.block.take();
        if block.len() > request.max_bytes {
            // One entry that is longer than a batch; its buffer is given back.
            self.block = BatchEncoder::new(request.max_bytes);
        }
        let is_unknown = self.journal.unknown_form().is_some();
        self.tell_problems();
        if is_unknown {
            return self.read_by_journalctl(request, after);
        }
        let outcome = outcome?;
        if let Some(objects) = self.damage.meet(outcome.skipped) {
            let namespace = self.namespace.as_ref().map(ToString::to_string);
            warn!(
                objects,
                namespace, "the journal's files are damaged: what cannot be read is passed over"
            );
        }
        let end = self.journal.end().filter(|_| outcome.is_moved());
        let end = end.unwrap_or(*after);
        Ok(Batch {
            outcome,
            block,
            position: (!request.filter.is_empty()).then_some(end),
            namespaces: Vec::new(),
        })
    }

    fn read_by_journalctl(&mut self, request: &Request, after: &Position) -> Answer {
        let journalctl = match self.journalctl.take() {
            Some(journalctl) => journalctl,
            None => {
                // Which file and why was just told.
                warn!(
                    "the journal is read by the guest's own journalctl, since this agent does not know the form of all files"
                );
                let folders = self.journal.folders().to_vec();
                Journalctl::new("journalctl".into(), folders, self.namespace.clone())
            }
        };
        let journalctl = self.journalctl.insert(journalctl);
        Ok(journalctl.read(after, request.max_bytes, &request.filter)?)
    }

    fn tell_problems(&mut self) {
        for problem in self.journal.problems() {
            if self.told.len() < MAX_TOLD && self.told.insert(problem.path.clone()) {
                warn!(path = %problem.path.display(), error = %problem.error, "journal file not read");
            }
        }
    }
}

/// This machine's id, which names the folders of its journals.
pub(super) fn machine_id() -> Result<[u8; 16], JournalError> {
    let read = || {
        let text = fs::read_to_string(MACHINE_ID)?;
        parse_machine_id(text.trim()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    };
    read().map_err(JournalError::MachineId)
}

/// `machine-id(5)`: 32 hexadecimal digits.
fn parse_machine_id(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u128::from_str_radix(text, 16).ok()?;
    (digits && id != 0).then(|| id.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_at_first_and_whenever_it_has_doubled() {
        let mut damage = Damage::default();
        let mut meet = |bad_objects, bad_values| {
            damage.meet(Skipped {
                bad_objects,
                bad_values,
            })
        };
        assert_eq!(meet(0, 0), None);
        assert_eq!(meet(1, 2), Some(3));
        // The entry that says so costs one again.
        let told = (0..1000).filter_map(|_| meet(1, 0)).collect::<Vec<_>>();
        assert_eq!(told, [7, 15, 31, 63, 127, 255, 511]);
        assert_eq!(meet(u64::MAX, u64::MAX), Some(u64::MAX));
        assert_eq!(meet(1, 0), None);
    }

    #[test]
    fn a_machine_id_has_32_digits_and_is_not_zero() {
        let id = parse_machine_id("00112233445566778899aabbccddeeff").unwrap();
        assert_eq!(id[..3], [0x00, 0x11, 0x22]);
        let bad = [
            "",
            "uninitialized",
            "+0112233445566778899aabbccddeeff",
            &"0".repeat(32),
        ];
        assert!(bad.iter().all(|text| parse_machine_id(text).is_none()));
    }
}
