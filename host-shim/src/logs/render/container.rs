//! Lines for the container's stdout and stderr: `TIME SENDER: TEXT`, one for each line of a message, so that
//! each can stand alone behind the time that CRI puts before it. A message may have a million empty lines: those behind
//! the first thousand are only indented. The journal does not tell which of the two a
//! line was written to, so importance decides: `err` and above go to stderr.
//!
//! A line is never broken. One that journald itself broke, because it was longer than `LineMax=` (48 KiB),
//! ends without a newline, and what follows from the same stream continues it; containerd cuts what is longer
//! than its own 16 KiB into pieces tagged `P`, and its readers join them again.

use jiff::Timestamp;

use super::human::{INDENT, MANY_LINES, sender, time_us, words};
use crate::{
    logs::entry::{Entry, Record, name_of},
    text::hex,
};

/// The least important level that goes to stderr.
const ERR: u8 = 3;

/// Text for the two streams.
#[derive(Debug, Default)]
pub struct Texts {
    /// For stdout.
    pub stdout: Vec<u8>,
    /// For stderr.
    pub stderr: Vec<u8>,
}

impl Texts {
    /// Bytes of both.
    pub fn len(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A renderer. It remembers what was last, so one goes with one pair of streams.
#[derive(Debug)]
pub struct Container {
    /// There is a stderr apart from stdout.
    apart: bool,
    boot: Option<[u8; 16]>,
    /// The sender of the line that is not ended: of stdout, of stderr.
    open: [Option<Vec<u8>>; 2],
}

impl Container {
    /// `apart`: whether there is a stderr too.
    pub fn new(apart: bool) -> Self {
        Self {
            apart,
            boot: None,
            open: [None, None],
        }
    }

    /// Appends the record's lines.
    pub fn render(&mut self, record: &Record<'_>, out: &mut Texts) {
        match record {
            Record::Entry(entry) => {
                let boot = entry.head.boot_id;
                if self.boot.replace(boot).is_some_and(|before| before != boot) {
                    self.mark(&format!("Boot {}", hex(&boot)), out);
                }
                self.entry(entry, out);
                if let count @ 1.. = entry.dropped() {
                    self.mark(&words(&Record::Dropped { count }), out);
                }
            }
            other => self.mark(&words(other), out),
        }
    }

    /// Ends lines that are not ended: nothing more will come.
    pub fn finish(&mut self, out: &mut Texts) {
        for (open, text) in self.open.iter_mut().zip([&mut out.stdout, &mut out.stderr]) {
            if open.take().is_some() {
                text.push(b'\n');
            }
        }
    }

    fn mark(&mut self, text: &str, out: &mut Texts) {
        let (open, out) = self.stream(false, out);
        if open.take().is_some() {
            out.push(b'\n');
        }
        out.extend_from_slice(format!("-- {text} --\n").as_bytes());
    }

    fn stream<'o>(
        &mut self,
        important: bool,
        out: &'o mut Texts,
    ) -> (&mut Option<Vec<u8>>, &'o mut Vec<u8>) {
        let [stdout, stderr] = &mut self.open;
        if important && self.apart {
            (stderr, &mut out.stderr)
        } else {
            (stdout, &mut out.stdout)
        }
    }

    fn entry(&mut self, entry: &Entry<'_>, out: &mut Texts) {
        let important = entry.priority().is_some_and(|priority| priority <= ERR);
        let (open, out) = self.stream(important, out);
        let stream = stream_of(entry);
        let continues = match open.take() {
            Some(before) if stream.as_ref() == Some(&before) => true,
            Some(_) => {
                out.push(b'\n');
                false
            }
            None => false,
        };
        let message = entry.get("MESSAGE").unwrap_or_default();
        let message = message.strip_suffix(b"\n").unwrap_or(message);
        let mut prefix = time(entry).into_bytes();
        prefix.push(b' ');
        // A name with a newline in it must not look like a line of another sender.
        prefix.extend_from_slice(name_of(sender(entry)));
        prefix.extend_from_slice(b": ");
        for (number, line) in message.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                out.push(b'\n');
            }
            if number >= MANY_LINES {
                out.extend_from_slice(INDENT);
            } else if number > 0 || !continues {
                out.extend_from_slice(&prefix);
            }
            out.extend_from_slice(line);
        }
        if entry.has("_LINE_BREAK", "line-max") && stream.is_some() {
            *open = stream;
        } else {
            out.push(b'\n');
        }
    }
}

/// The connection to journald that a line came over, and who wrote it.
fn stream_of(entry: &Entry<'_>) -> Option<Vec<u8>> {
    let id = entry.get("_STREAM_ID")?;
    Some([id, b" ", entry.get("_PID").unwrap_or_default()].concat())
}

fn time(entry: &Entry<'_>) -> String {
    let us = time_us(entry);
    let time = i64::try_from(us)
        .ok()
        .and_then(|us| Timestamp::from_microsecond(us).ok());
    time.map_or_else(
        || format!("[{us} us]"),
        |time| time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::entry::tests::{entry, fields};

    fn rendered(apart: bool, entries: &[&[&[u8]]]) -> (String, String) {
        let mut container = Container::new(apart);
        let mut out = Texts::default();
        for list in entries {
            let fields = fields(list);
            container.render(&Record::Entry(entry(1, &fields)), &mut out);
        }
        container.finish(&mut out);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let time = "2025-11-21T23:01:02.123456Z ";
        (
            text(out.stdout).replace(time, ""),
            text(out.stderr).replace(time, ""),
        )
    }

    #[test]
    fn each_line_of_a_message_can_stand_alone() {
        let trace: &[&[u8]] = &[b"MESSAGE=panic:\n\tat x\n", b"_COMM=app\nforged: "];
        assert_eq!(rendered(true, &[trace]).0, "app: panic:\napp: \tat x\n");
        let mut out = Texts::default();
        let fields = fields(&[b"MESSAGE=x", b"_COMM=sh"]);
        Container::new(true).render(&Record::Entry(entry(1, &fields)), &mut out);
        assert_eq!(out.stdout, b"2025-11-21T23:01:02.123456Z sh: x\n");
    }

    #[test]
    fn a_message_of_many_lines_under_a_long_name_is_not_many_times_its_length() {
        let name = [b"SYSLOG_IDENTIFIER=".as_slice(), &[b'n'; 1 << 20]].concat();
        let message = [b"MESSAGE=first".as_slice(), &[b'\n'; 1 << 20]].concat();
        let (text, _) = rendered(false, &[&[&message, &name]]);
        let bytes = text.len();
        assert!(bytes < 8 << 20, "{bytes} bytes of 2 MiB");
        // The last newline is the message's own end.
        assert_eq!(text.lines().count(), 1 << 20);
        let named = "n".repeat(256) + ": ";
        assert!(text.starts_with(&format!("{named}first\n{named}\n")));
        // Whatever a later line says, it is no other sender's.
        assert!(text.lines().skip(MANY_LINES).all(|line| line == "    "));
    }

    #[test]
    fn errors_go_to_stderr_where_there_is_one() {
        let lines: [&[&[u8]]; 4] = [
            &[b"MESSAGE=a", b"_COMM=x", b"PRIORITY=6"],
            &[b"MESSAGE=b", b"_COMM=x", b"PRIORITY=3"],
            &[b"MESSAGE=c", b"_COMM=x", b"PRIORITY=4"],
            &[b"MESSAGE=d", b"_COMM=x", b"PRIORITY=0"],
        ];
        assert_eq!(
            rendered(true, &lines),
            ("x: a\nx: c\n".into(), "x: b\nx: d\n".into())
        );
        assert_eq!(
            rendered(false, &lines),
            ("x: a\nx: b\nx: c\nx: d\n".into(), String::new())
        );
    }

    #[test]
    fn a_line_that_journald_broke_is_one_line_again() {
        let part = |text: &'static [u8], id: &'static [u8]| -> Vec<&'static [u8]> {
            vec![text, id, b"_PID=7", b"_COMM=x", b"_LINE_BREAK=line-max"]
        };
        let last: Vec<&[u8]> = vec![b"MESSAGE=c", b"_STREAM_ID=1", b"_PID=7", b"_COMM=x"];
        let (one, two) = (
            part(b"MESSAGE=a", b"_STREAM_ID=1"),
            part(b"MESSAGE=b", b"_STREAM_ID=1"),
        );
        assert_eq!(rendered(true, &[&one, &two, &last]).0, "x: abc\n");
        // Another sender in between ends the line; what continues it then begins one.
        let other: Vec<&[u8]> = vec![b"MESSAGE=other", b"_STREAM_ID=2", b"_COMM=y"];
        assert_eq!(
            rendered(true, &[&one, &other, &last]).0,
            "x: a\ny: other\nx: c\n"
        );
        assert_eq!(rendered(true, &[&one]).0, "x: a\n");
    }
}
