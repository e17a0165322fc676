//! Which entries `seed logs` shows. The words mean what they mean in journalctl(1).

use regex::bytes::{Regex, RegexBuilder};
use thiserror::Error;

use super::entry::{Entry, Record};

/// Which entries to show. The default shows all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Units, with their suffix; none means all.
    pub units: Vec<String>,
    /// The least important level shown.
    pub priority: Option<u8>,
    /// The earliest time, in microseconds since the epoch.
    pub since_us: Option<u64>,
    /// The latest time, in microseconds since the epoch.
    pub until_us: Option<u64>,
    /// One boot.
    pub boot: Option<[u8; 16]>,
    /// What the message must contain.
    pub text: Option<Pattern>,
}

/// What to do with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Show it.
    Show,
    /// The entry itself is not wanted, but it says that others are missing: say that.
    Dropped(u64),
    /// Leave it out.
    Hide,
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

    /// Judges a record. Marks are always shown: what is missing might have been wanted.
    pub fn judge(&self, record: &Record<'_>) -> Verdict {
        let Record::Entry(entry) = record else {
            return Verdict::Show;
        };
        if self.passes(entry) {
            return Verdict::Show;
        }
        match entry.dropped() {
            0 => Verdict::Hide,
            count if self.is_of_time(entry) => Verdict::Dropped(count),
            _ => Verdict::Hide,
        }
    }

    /// Whether it is an entry that is asked for.
    pub fn passes(&self, entry: &Entry<'_>) -> bool {
        self.is_of_time(entry)
            && self
                .priority
                .is_none_or(|least| entry.priority().is_some_and(|priority| priority <= least))
            && (self.units.is_empty() || self.units.iter().any(|unit| of_unit(entry, unit)))
            && self
                .text
                .as_ref()
                .is_none_or(|text| entry.get("MESSAGE").is_some_and(|m| text.0.is_match(m)))
    }

    fn is_of_time(&self, entry: &Entry<'_>) -> bool {
        let time = entry.head.realtime_us;
        self.since_us.is_none_or(|since| time >= since)
            && self.until_us.is_none_or(|until| time <= until)
            && self.boot.is_none_or(|boot| entry.head.boot_id == boot)
    }
}

/// A pattern for messages.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// A regular expression. Without capital letters it takes any case, as in journalctl.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        RegexBuilder::new(text)
            .case_insensitive(!text.chars().any(char::is_uppercase))
            .build()
            .map(Self)
            .map_err(|error| {
                // The last line says what is wrong; those before it draw where.
                let all = error.to_string();
                let what = all.lines().last().unwrap_or_default();
                let what = what.strip_prefix("error: ").unwrap_or(what).to_owned();
                PatternError {
                    text: text.into(),
                    what,
                }
            })
    }
}

/// No pattern.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("pattern {text:?} is not a regular expression: {what}")]
pub struct PatternError {
    text: String,
    what: String,
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
fn of_unit(entry: &Entry<'_>, unit: &str) -> bool {
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
mod tests {
    use super::{
        super::entry::tests::{entry, fields},
        *,
    };

    #[test]
    fn units_and_priorities_filter_as_in_journalctl() {
        let own = fields(&[b"_SYSTEMD_UNIT=app.service", b"PRIORITY=6"]);
        let about = fields(&[b"UNIT=app.service", b"_PID=1", b"PRIORITY=3"]);
        let forged = fields(&[b"UNIT=app.service", b"_PID=77"]);
        let mut filter = Filter::default();
        filter.add_unit("app");
        let shown = |filter: &Filter| {
            [&own, &about, &forged].map(|fields| filter.passes(&entry(1, fields)))
        };
        assert_eq!(shown(&filter), [true, true, false]);
        filter.priority = Some(parse_priority("err").unwrap());
        assert_eq!(shown(&filter), [false, true, false]);
        assert_eq!(filter.judge(&Record::Reset), Verdict::Show);
        filter.add_unit("dbus.socket");
        assert_eq!(filter.units, ["app.service", "dbus.socket"]);
    }

    #[test]
    fn times_and_boots_are_of_the_entry_itself() {
        let fields = fields(&[b"MESSAGE=x"]);
        let entry = entry(1, &fields);
        let at = entry.head.realtime_us;
        let shows = |since_us, until_us, boot| {
            let filter = Filter {
                since_us,
                until_us,
                boot,
                ..Filter::default()
            };
            filter.passes(&entry)
        };
        assert!(shows(Some(at), Some(at), Some(entry.head.boot_id)));
        assert!(!shows(Some(at + 1), None, None));
        assert!(!shows(None, Some(at - 1), None));
        assert!(!shows(None, None, Some([0; 16])));
    }

    #[test]
    fn a_pattern_in_small_letters_takes_any_case() {
        let matches = |pattern: &str, message: &[u8]| {
            let field = [b"MESSAGE=".as_slice(), message].concat();
            let fields = fields(&[&field]);
            let filter = Filter {
                text: Some(Pattern::new(pattern).unwrap()),
                ..Filter::default()
            };
            filter.passes(&entry(1, &fields))
        };
        assert!(matches("fail(ed|ure)", b"It FAILED \xff"));
        assert!(!matches("Failed", b"It FAILED"));
        let error = Pattern::new("(").unwrap_err().to_string();
        assert_eq!(
            error,
            "pattern \"(\" is not a regular expression: unclosed group"
        );
    }

    #[test]
    fn a_notice_of_dropped_messages_is_told_also_where_it_is_filtered_out() {
        let fields = fields(&[
            b"_TRANSPORT=driver",
            b"MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e",
            b"N_DROPPED=12",
        ]);
        let record = Record::Entry(entry(1, &fields));
        let mut filter = Filter::default();
        assert_eq!(filter.judge(&record), Verdict::Show);
        filter.add_unit("app");
        assert_eq!(filter.judge(&record), Verdict::Dropped(12));
        filter.boot = Some([0; 16]);
        assert_eq!(filter.judge(&record), Verdict::Hide);
    }

    #[test]
    fn priorities_have_numbers_and_names() {
        assert_eq!(parse_priority("0"), Ok(0));
        assert_eq!(parse_priority("warning"), Ok(4));
        assert!(parse_priority("8").is_err() && parse_priority("loud").is_err());
    }
}
