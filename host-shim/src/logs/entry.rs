//! What a frame holds, taken apart: entries, and the marks between them. And the filters that
//! `seed logs` knows, which mean what they mean in journalctl(1).

use seed_protocol::journal::{BatchDecoder, EntryHead};
use thiserror::Error;

use super::segment::{Frame, Gap};

/// One entry of the guest's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who numbered it.
    pub seqnum_id: [u8; 16],
    /// Number, times, boot.
    pub head: EntryHead,
    /// The fields as `NAME=value`, in the journal's order. A name may come more than once.
    pub fields: Vec<Vec<u8>>,
}

impl Entry {
    /// Name and value of each field.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().filter_map(|field| {
            let at = field.iter().position(|byte| *byte == b'=')?;
            Some((&field[..at], &field[at + 1..]))
        })
    }

    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find_map(|f| f.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.fields()
            .any(|(n, v)| n == name.as_bytes() && v == value.as_bytes())
    }

    /// The syslog level, 0 (emerg) to 7 (debug).
    pub fn priority(&self) -> Option<u8> {
        match self.get("PRIORITY")? {
            [digit @ b'0'..=b'7'] => Some(digit - b'0'),
            _ => None,
        }
    }
}

/// One thing of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// An entry.
    Entry(Entry),
    /// Entries that could not be had.
    Gap {
        /// Whose numbers they are.
        seqnum_id: [u8; 16],
        /// Which.
        gap: Gap,
    },
    /// The guest's journal began anew.
    Reset,
    /// The host deleted older entries, which this reader had not come to.
    Removed,
}

/// Everything in a frame, in order.
pub fn records(frame: &Frame) -> Vec<Record> {
    let mut records = Vec::new();
    if frame.reset {
        records.push(Record::Reset);
    }
    if let Some(gap) = frame.gap {
        records.push(Record::Gap {
            seqnum_id: frame.seqnum_id,
            gap,
        });
    }
    // The puller stores only blocks that decode; one that no longer does ends here.
    let entries = BatchDecoder::new(&frame.block)
        .into_iter()
        .flatten()
        .map_while(Result::ok);
    records.extend(entries.map(|entry| {
        Record::Entry(Entry {
            seqnum_id: frame.seqnum_id,
            head: entry.head,
            fields: entry
                .fields
                .iter()
                .map(|field| field.bytes.to_vec())
                .collect(),
        })
    }));
    records
}

/// Which entries to show. The default shows all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Units, with their suffix; none means all.
    pub units: Vec<String>,
    /// The least important level shown.
    pub priority: Option<u8>,
}

impl Filter {
    /// Adds a unit; without a suffix it is a service.
    pub fn add_unit(&mut self, name: &str) {
        let suffixed = name
            .rsplit_once('.')
            .is_some_and(|(_, suffix)| SUFFIXES.contains(&suffix));
        self.units.push(if suffixed {
            name.into()
        } else {
            format!("{name}.service")
        });
    }

    /// Whether to show it. Marks are always shown.
    pub fn passes(&self, record: &Record) -> bool {
        let Record::Entry(entry) = record else {
            return true;
        };
        let important = self
            .priority
            .is_none_or(|least| entry.priority().is_some_and(|priority| priority <= least));
        important && (self.units.is_empty() || self.units.iter().any(|unit| of_unit(entry, unit)))
    }
}

const SUFFIXES: [&str; 11] = [
    "service",
    "socket",
    "target",
    "device",
    "mount",
    "automount",
    "swap",
    "timer",
    "path",
    "slice",
    "scope",
];

/// The unit's own messages, systemd's about it, and the core dumps of its processes.
fn of_unit(entry: &Entry, unit: &str) -> bool {
    entry.has("_SYSTEMD_UNIT", unit)
        || (entry.has("UNIT", unit) && entry.has("_PID", "1"))
        || (entry.has("_UID", "0")
            && (entry.has("COREDUMP_UNIT", unit) || entry.has("OBJECT_SYSTEMD_UNIT", unit)))
}

/// No syslog level.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "priority {0:?} is unknown: use 0 to 7, or emerg, alert, crit, err, warning, notice, info, debug"
)]
pub struct PriorityError(String);

/// A syslog level by number or name.
pub fn parse_priority(text: &str) -> Result<u8, PriorityError> {
    const NAMES: [&str; 8] = [
        "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
    ];
    (0u8..)
        .zip(NAMES)
        .find(|(number, name)| *name == text || number.to_string() == text)
        .map(|(number, _)| number)
        .ok_or_else(|| PriorityError(text.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::logs) fn entry(seqnum: u64, fields: &[&[u8]]) -> Entry {
        Entry {
            seqnum_id: [0xab; 16],
            head: EntryHead {
                seqnum,
                realtime_us: 1_763_766_062_123_456,
                monotonic_us: 4_200_000,
                boot_id: [0xcd; 16],
                xor_hash: 0x1122,
            },
            fields: fields.iter().map(|f| f.to_vec()).collect(),
        }
    }

    #[test]
    fn units_and_priorities_filter_as_in_journalctl() {
        let own: &[&[u8]] = &[b"_SYSTEMD_UNIT=app.service", b"PRIORITY=6"];
        let about: &[&[u8]] = &[b"UNIT=app.service", b"_PID=1", b"PRIORITY=3"];
        let forged: &[&[u8]] = &[b"UNIT=app.service", b"_PID=77"];
        let mut filter = Filter::default();
        filter.add_unit("app");
        let shows = |filter: &Filter, fields| filter.passes(&Record::Entry(entry(1, fields)));
        assert_eq!(
            [own, about, forged].map(|f| shows(&filter, f)),
            [true, true, false]
        );
        filter.priority = Some(parse_priority("err").unwrap());
        assert_eq!(
            [own, about, forged].map(|f| shows(&filter, f)),
            [false, true, false]
        );
        assert!(filter.passes(&Record::Reset));
        filter.add_unit("dbus.socket");
        assert_eq!(filter.units, ["app.service", "dbus.socket"]);
    }

    #[test]
    fn priorities_have_numbers_and_names() {
        assert_eq!(parse_priority("0"), Ok(0));
        assert_eq!(parse_priority("warning"), Ok(4));
        assert!(parse_priority("8").is_err() && parse_priority("loud").is_err());
    }
}
