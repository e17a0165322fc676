//! One entry of the journal as a line of text: for people in the form that `journalctl(1)` calls `short`,
//! in UTC; for a Kata shim's log as one JSON object, with the keys that the stock agent uses.

use std::io::Write;

use seed_protocol::journal::{EntryHead, Field};
use serde_json::json;

/// An entry.
#[derive(Debug)]
pub struct Line<'e> {
    /// Its time.
    pub head: &'e EntryHead,
    /// Its fields.
    pub fields: &'e [Field<'e>],
}

impl Line<'_> {
    fn get(&self, name: &str) -> Option<String> {
        let value = self
            .fields
            .iter()
            .find_map(|field| field.value_of(name.as_bytes()))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    fn identifier(&self) -> String {
        let found = self.get("SYSLOG_IDENTIFIER").or_else(|| self.get("_COMM"));
        found.unwrap_or_else(|| "unknown".to_owned())
    }

    fn process(&self) -> Option<String> {
        self.get("_PID").or_else(|| self.get("SYSLOG_PID"))
    }
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Names of `syslog(3)` priorities as the stock agent spells levels.
const LEVELS: [&str; 8] = [
    "CRIT", "CRIT", "CRIT", "ERROR", "WARN", "INFO", "INFO", "DEBG",
];

/// `Nov 22 00:19:32 demo app[12]: text`. A message of several lines is indented below its first.
pub fn human(line: &Line<'_>, out: &mut Vec<u8>) {
    let time = Time::of(line.head.realtime_us);
    let host = line.get("_HOSTNAME").unwrap_or_default();
    let mut head = format!(
        "{} {:2} {:02}:{:02}:{:02} {} {}",
        MONTHS[time.month0],
        time.day,
        time.hour,
        time.minute,
        time.second,
        plain(&host),
        plain(&line.identifier())
    );
    if let Some(process) = line.process() {
        head.push_str(&format!("[{}]", plain(&process)));
    }
    head.push_str(": ");
    let message = line.get("MESSAGE").unwrap_or_default();
    let indent = " ".repeat(head.chars().count());
    for (at, text) in message.trim_end_matches('\n').split('\n').enumerate() {
        let before = if at == 0 { &head } else { &indent };
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(plain(text).as_bytes());
        out.push(b'\n');
    }
}

/// One JSON object on a line.
pub fn json_line(line: &Line<'_>, out: &mut Vec<u8>) {
    let time = Time::of(line.head.realtime_us);
    let priority = line.get("PRIORITY").and_then(|text| text.parse().ok());
    let level = LEVELS.get(priority.unwrap_or(6_usize)).unwrap_or(&"INFO");
    let object = json!({
        "ts": format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            time.year, time.month0 + 1, time.day, time.hour, time.minute, time.second,
            line.head.realtime_us % 1_000_000
        ),
        "level": level,
        "msg": line.get("MESSAGE").unwrap_or_default(),
        "name": line.identifier(),
        "pid": line.process().unwrap_or_default(),
        "source": "journal",
        "subsystem": line.get("_SYSTEMD_UNIT").unwrap_or_default(),
    });
    // Writing to a vector cannot fail.
    let _ = writeln!(out, "{object}");
}

/// Text for a terminal: control characters stand for nothing good there.
fn plain(text: &str) -> String {
    let safe = |c: char| {
        if c.is_control() && c != '\t' {
            '\u{fffd}'
        } else {
            c
        }
    };
    text.chars().map(safe).collect()
}

/// A moment in UTC.
struct Time {
    year: u64,
    month0: usize,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

impl Time {
    /// Days to a date by eras of 400 years that begin in March, so that the leap day is a year's last.
    fn of(realtime_us: u64) -> Self {
        let seconds = realtime_us / 1_000_000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // 1970-01-01 is day 719 468 of the era that begins with 0000-03-01.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let in_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * in_year + 2) / 153;
        let before = (153 * month + 2) / 5;
        // March is 0 here.
        let month0 = (month + 2) % 12;
        Self {
            year: era * 400 + year + u64::from(month0 < 2),
            // At most 11.
            month0: usize::try_from(month0).unwrap_or_default(),
            day: in_year - before + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(render: super::super::Render, time: u64, fields: &[&[u8]]) -> String {
        let head = EntryHead {
            realtime_us: time,
            ..EntryHead::default()
        };
        let fields: Vec<_> = fields
            .iter()
            .map(|bytes| Field {
                bytes,
                true_length: bytes.len() as u64,
            })
            .collect();
        let mut out = Vec::new();
        let line = Line {
            head: &head,
            fields: &fields,
        };
        render(&line, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn dates_are_right_on_both_sides_of_a_leap_day() {
        // From date(1).
        for (seconds, wanted) in [
            (0, "Jan  1 00:00:00"),
            (951_782_399, "Feb 28 23:59:59"),
            (951_782_400, "Feb 29 00:00:00"),
            (951_868_800, "Mar  1 00:00:00"),
            (1_798_761_599, "Dec 31 23:59:59"),
            (1_798_761_600, "Jan  1 00:00:00"),
        ] {
            let line = rendered(human, seconds * 1_000_000, &[b"MESSAGE=x"]);
            assert!(line.starts_with(wanted), "{seconds}: {line}");
        }
    }

    #[test]
    fn a_line_is_as_journalctl_shows_it_and_harmless() {
        let line = rendered(
            human,
            1_795_306_772_000_000,
            &[
                b"_HOSTNAME=demo",
                b"SYSLOG_IDENTIFIER=app",
                b"_PID=12",
                b"MESSAGE=one\n\x1b[31mtwo\n",
            ],
        );
        let wanted =
            "Nov 22 00:19:32 demo app[12]: one\n                              \u{fffd}[31mtwo\n";
        assert_eq!(line, wanted);
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = rendered(
            json_line,
            1_795_306_772_000_042,
            &[
                b"_COMM=app",
                b"PRIORITY=3",
                b"MESSAGE=a\n\"b\"",
                b"_SYSTEMD_UNIT=app.service",
            ],
        );
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["ts"], "2026-11-22T00:19:32.000042Z");
        assert_eq!(value["level"], "ERROR");
        assert_eq!(value["msg"], "a\n\"b\"");
        assert_eq!(
            (&value["name"], &value["subsystem"]),
            (&"app".into(), &"app.service".into())
        );
    }
}
