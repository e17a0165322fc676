//! The form for people: journalctl(1)'s `short`, in local time, and its lines about boots. What the guest
//! wrote may hold control characters; on a terminal they are shown, never sent.

use jiff::{Timestamp, tz::TimeZone};

use crate::{
    logs::entry::{Entry, Record, name_of},
    text::{hex, reorders},
};

/// After so many lines of one message each further one has [`INDENT`] before it and nothing else.
pub(super) const MANY_LINES: usize = 1000;
pub(super) const INDENT: &[u8] = b"    ";

/// A renderer. It remembers the last boot, so one goes with one stream.
#[derive(Debug)]
pub struct Human {
    zone: TimeZone,
    /// Escape control characters.
    escape: bool,
    /// Colour by priority.
    colour: bool,
    boot: Option<[u8; 16]>,
    following: Option<String>,
}

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const GREY: &str = "\x1b[90m";
const OFF: &str = "\x1b[0m";

impl Human {
    /// Local time; colours and escapes on a terminal.
    pub fn new(terminal: bool) -> Self {
        Self {
            escape: terminal,
            ..Self::safe(terminal)
        }
    }

    /// Local time; escapes whatever it is written to, for one cannot see what is at the other end.
    pub fn safe(colour: bool) -> Self {
        Self {
            zone: TimeZone::system(),
            escape: true,
            colour,
            boot: None,
            following: None,
        }
    }

    /// From here on entries come as they are written: another boot is a new start of this instance.
    pub fn follow(&mut self, instance: &str) {
        self.following = Some(instance.into());
    }

    /// Appends the record's lines, each with its newline.
    pub fn render(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        match record {
            Record::Entry(entry) => {
                self.entry(entry, out);
                match entry.dropped() {
                    0 => {}
                    count => self.mark(&dropped(count), out),
                }
            }
            other => self.mark(&words(other), out),
        }
    }

    fn mark(&self, text: &str, out: &mut Vec<u8>) {
        let (on, off) = if self.colour { (BOLD, OFF) } else { ("", "") };
        out.extend_from_slice(format!("{on}-- {text} --{off}\n").as_bytes());
    }

    fn entry(&mut self, entry: &Entry<'_>, out: &mut Vec<u8>) {
        let boot = entry.head.boot_id;
        if self.boot.replace(boot).is_some_and(|before| before != boot) {
            let text = match &self.following {
                Some(instance) => format!("{instance} was started again: boot {}", hex(&boot)),
                None => format!("Boot {}", hex(&boot)),
            };
            self.mark(&text, out);
        }
        let mut prefix = self.time(entry).into_bytes();
        prefix.push(b' ');
        self.word(entry.get("_HOSTNAME").unwrap_or(b"-"), &mut prefix);
        prefix.push(b' ');
        self.word(sender(entry), &mut prefix);
        if let Some(pid) = entry.get("_PID").or_else(|| entry.get("SYSLOG_PID")) {
            prefix.push(b'[');
            self.word(pid, &mut prefix);
            prefix.push(b']');
        }
        prefix.extend_from_slice(b": ");
        let (on, off) = self.colour(entry);
        let message = entry.get("MESSAGE").unwrap_or_default();
        let message = message.strip_suffix(b"\n").unwrap_or(message);
        let width = String::from_utf8_lossy(&prefix).chars().count();
        for (number, line) in message.split(|byte| *byte == b'\n').enumerate() {
            match number {
                0 => out.extend_from_slice(&prefix),
                1..MANY_LINES => out.resize(out.len() + width, b' '),
                _ => out.extend_from_slice(INDENT),
            }
            out.extend_from_slice(on.as_bytes());
            self.text(line, out);
            out.extend_from_slice(off.as_bytes());
            out.push(b'\n');
        }
    }

    fn colour(&self, entry: &Entry<'_>) -> (&'static str, &'static str) {
        match entry.priority() {
            _ if !self.colour => ("", ""),
            Some(0..=3) => (RED, OFF),
            Some(4) => (YELLOW, OFF),
            Some(5) => (BOLD, OFF),
            Some(7) => (GREY, OFF),
            _ => ("", ""),
        }
    }

    fn time(&self, entry: &Entry<'_>) -> String {
        let us = time_us(entry);
        let time = i64::try_from(us)
            .ok()
            .and_then(|us| Timestamp::from_microsecond(us).ok());
        match time {
            Some(time) => time
                .to_zoned(self.zone.clone())
                .strftime("%b %d %H:%M:%S")
                .to_string(),
            None => format!("[{us} us]"),
        }
    }

    /// A part of the prefix: always one line, and escaped on a terminal.
    fn word(&self, bytes: &[u8], out: &mut Vec<u8>) {
        self.text(name_of(bytes), out);
    }

    fn text(&self, bytes: &[u8], out: &mut Vec<u8>) {
        if self.escape {
            escape(bytes, out)
        } else {
            out.extend_from_slice(bytes)
        }
    }
}

/// What a mark says to people. Of an entry: nothing.
pub(super) fn words(record: &Record<'_>) -> String {
    match record {
        Record::Entry(_) => String::new(),
        Record::Gap { gap, .. } => {
            let (count, text) = (gap.count(), gap.reason.text());
            let entries = if count == 1 {
                "entry is"
            } else {
                "entries are"
            };
            format!("{count} {entries} missing: {text}")
        }
        Record::Dropped { count } => dropped(*count),
        Record::Reset => "the guest's journal begins anew".into(),
        Record::Removed => "older entries were deleted on the host".into(),
    }
}

fn dropped(count: u64) -> String {
    let messages = if count == 1 {
        "message was"
    } else {
        "messages were"
    };
    format!("{count} {messages} dropped by the guest's rate limit")
}

/// Who wrote it.
pub(super) fn sender<'e>(entry: &Entry<'e>) -> &'e [u8] {
    let name = entry.get("SYSLOG_IDENTIFIER");
    name.or_else(|| entry.get("_COMM")).unwrap_or(b"unknown")
}

/// The time that the sender gave, where it did: journald's own is that of arrival.
pub(super) fn time_us(entry: &Entry<'_>) -> u64 {
    let sent = entry
        .get("_SOURCE_REALTIME_TIMESTAMP")
        .and_then(|v| std::str::from_utf8(v).ok());
    sent.and_then(|text| text.parse().ok())
        .unwrap_or(entry.head.realtime_us)
}

/// Appends text in which nothing can steer a terminal: control characters, what is not UTF-8, and the
/// marks that reorder a line are written as escapes. Tabs stay.
pub fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\t' || !(c.is_control() || reorders(c)) {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            } else if c.is_ascii() {
                out.extend_from_slice(format!("\\x{:02x}", u32::from(c)).as_bytes());
            } else {
                out.extend_from_slice(format!("\\u{{{:x}}}", u32::from(c)).as_bytes());
            }
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
}

/// Text from the guest that may go to a terminal.
pub fn escaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    escape(text.as_bytes(), &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{
        entry::tests::{entry, fields},
        segment::{Gap, GapReason},
    };

    fn rendered(mut human: Human, records: &[Record<'_>]) -> String {
        human.zone = TimeZone::UTC;
        let mut out = Vec::new();
        for record in records {
            human.render(record, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_read_like_journalctl_and_further_ones_are_indented() {
        let app = fields(&[
            b"_HOSTNAME=demo",
            b"SYSLOG_IDENTIFIER=app",
            b"_PID=17",
            b"PRIORITY=3",
            b"MESSAGE=first\n  second\n",
        ]);
        assert_eq!(
            rendered(Human::new(false), &[Record::Entry(entry(1, &app))]),
            format!(
                "Nov 21 23:01:02 demo app[17]: first\n{}  second\n",
                " ".repeat(30)
            )
        );
    }

    #[test]
    fn a_message_of_many_lines_under_a_long_name_is_not_many_times_its_length() {
        let name = [b"SYSLOG_IDENTIFIER=".as_slice(), &[1; 1 << 20]].concat();
        let message = [b"MESSAGE=first".as_slice(), &[b'\n'; 1 << 20]].concat();
        let app = fields(&[&message, &name]);
        let text = rendered(Human::new(true), &[Record::Entry(entry(1, &app))]);
        let bytes = text.len();
        assert!(bytes < 8 << 20, "{bytes} bytes of 2 MiB");
        assert_eq!(text.lines().count(), 1 << 20);
        assert_eq!(text.lines().next_back(), Some("    "));
    }

    #[test]
    fn a_terminal_gets_colours_and_never_the_guests_own_escapes() {
        let hostile = fields(&[
            b"_HOSTNAME=de\x1b]0;owned\x07mo",
            b"SYSLOG_IDENTIFIER=a\nNov",
            b"MESSAGE=\x1b[2Jgone \xff \xc2\x9b \xe2\x80\xae\ttab",
            b"PRIORITY=4",
        ]);
        assert_eq!(
            rendered(Human::new(true), &[Record::Entry(entry(1, &hostile))]),
            "Nov 21 23:01:02 de\\x1b]0;owned\\x07mo a: \x1b[1;33m\\x1b[2Jgone \\xff \\u{9b} \\u{202e}\ttab\x1b[0m\n"
        );
    }

    #[test]
    fn what_is_missing_and_a_new_boot_are_lines_of_their_own() {
        let gap = Gap {
            first: 3,
            last: 14,
            reason: GapReason::Vacuumed,
        };
        let (a, b) = (
            fields(&[b"MESSAGE=a", b"_COMM=x", b"_HOSTNAME=h"]),
            fields(&[b"MESSAGE=b", b"_COMM=x", b"_HOSTNAME=h"]),
        );
        let mut later = entry(15, &b);
        later.head.boot_id = [1; 16];
        let records = [
            Record::Entry(entry(2, &a)),
            Record::Gap {
                seqnum_id: [0; 16],
                gap,
            },
            Record::Entry(later),
            Record::Dropped { count: 1 },
            Record::Reset,
            Record::Removed,
        ];
        let expected = "Nov 21 23:01:02 h x: a\n\
             -- 12 entries are missing: the guest deleted them before they were read --\n\
             -- Boot 01010101010101010101010101010101 --\n\
             Nov 21 23:01:02 h x: b\n\
             -- 1 message was dropped by the guest's rate limit --\n\
             -- the guest's journal begins anew --\n\
             -- older entries were deleted on the host --\n";
        assert_eq!(rendered(Human::new(false), &records), expected);
        let mut following = Human::new(false);
        following.follow("demo");
        assert_eq!(
            rendered(following, &records),
            expected.replace("Boot 01", "demo was started again: boot 01")
        );
    }

    #[test]
    fn journalds_notice_of_dropped_messages_is_followed_by_how_many() {
        let notice = fields(&[
            b"_HOSTNAME=h",
            b"SYSLOG_IDENTIFIER=systemd-journald",
            b"_TRANSPORT=driver",
            b"MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e",
            b"N_DROPPED=132029",
            b"MESSAGE=Suppressed 132029 messages from app.service",
        ]);
        assert_eq!(
            rendered(Human::new(false), &[Record::Entry(entry(1, &notice))]),
            "Nov 21 23:01:02 h systemd-journald: Suppressed 132029 messages from app.service\n\
             -- 132029 messages were dropped by the guest's rate limit --\n"
        );
    }

    #[test]
    fn an_impossible_time_is_shown_as_it_is() {
        let fields = fields(&[b"MESSAGE=x", b"_COMM=y", b"_HOSTNAME=h"]);
        let mut odd = entry(1, &fields);
        odd.head.realtime_us = u64::MAX;
        let text = rendered(Human::new(false), &[Record::Entry(odd)]);
        assert_eq!(text, format!("[{} us] h y: x\n", u64::MAX));
    }
}
