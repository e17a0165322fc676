//! A log as text: the last so many entries that are asked for, and on as it grows. What `seed logs` and the
//! seed shell print. Where the text goes is the caller's affair.

use std::{convert::Infallible, path::Path};

use super::{
    entry::{self, Record},
    filter::{Filter, Verdict},
    reader::{self, Item, ReadError, Reader, Tail},
    render::{Human, Json, export},
    segment::Frame,
};

/// How much text is gathered at least before a caller gets it, while there is more.
const CHUNK_BYTES: usize = 64 << 10;

/// With so much more of it a batch is left in its middle.
const GATHERED_BYTES: usize = 1 << 20;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Human,
    /// One JSON object a line, as journalctl writes them.
    Json,
    /// systemd's export format.
    Export,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Query {
    /// At most so many entries from the end; all without.
    pub lines: Option<usize>,
    /// Which entries.
    pub filter: Filter,
    /// In which form.
    pub form: Form,
}

/// A place in a log, and how its entries are written.
#[derive(Debug)]
pub struct Show {
    reader: Reader,
    /// A batch that was left, and how many of its records are done.
    left: Option<(Frame, usize)>,
    rules: Rules,
}

#[derive(Debug)]
struct Rules {
    human: Human,
    json: Json,
    form: Form,
    filter: Filter,
    /// Wanted entries that come before the first one to print.
    skip: usize,
}

impl Show {
    /// Finds the beginning. The folder need not exist yet. Blocks on the disk.
    pub fn open(dir: &Path, query: Query, human: Human) -> Result<Self, ReadError> {
        let Query {
            lines,
            filter,
            form,
        } = query;
        let Tail { reader, skip } = match lines {
            None => Tail {
                reader: Reader::from_start(dir),
                skip: 0,
            },
            Some(lines) => reader::tail(dir, lines, |frame| wanted(frame, &filter))?,
        };
        Ok(Self {
            reader,
            left: None,
            rules: Rules {
                human,
                json: Json::default(),
                form,
                filter,
                skip,
            },
        })
    }

    /// Appends text: all that there is now, or a part of it. True when there may be more at once. Blocks on
    /// the disk.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Result<bool, ReadError> {
        let full = out.len() + CHUNK_BYTES;
        loop {
            let (frame, done) = match self.left.take() {
                Some(left) => left,
                None => match self.reader.next()? {
                    Some(Item::Frame(frame)) => (frame, 0),
                    Some(Item::Removed) => {
                        self.rules.add(&Record::Removed, out);
                        continue;
                    }
                    None => return Ok(false),
                },
            };
            let done = entry::take_up(&frame, done, |record| {
                self.rules.add(record, out);
                out.len() < full + GATHERED_BYTES
            });
            self.left = done.map(|done| (frame, done));
            if out.len() >= full {
                return Ok(true);
            }
        }
    }

    /// From here on entries come as they are written. `instance` is named where it is started again.
    pub fn follow(&mut self, instance: &str) {
        self.rules.human.follow(instance);
    }

    /// Looks whether the log was removed and another one began in its place; goes on with that one and says so.
    pub fn begin_anew(&mut self, out: &mut Vec<u8>) -> Result<(), ReadError> {
        if self.reader.begin_anew()? {
            self.rules.add(&Record::Removed, out);
        }
        Ok(())
    }
}

/// How many of a frame's entries are asked for.
fn wanted(frame: &Frame, filter: &Filter) -> usize {
    let mut count = 0;
    let Ok(()) = entry::for_each(frame, |record| {
        if let Record::Entry(entry) = record
            && filter.passes(entry)
        {
            count += 1;
        }
        Ok::<(), Infallible>(())
    });
    count
}

impl Rules {
    fn add(&mut self, record: &Record<'_>, out: &mut Vec<u8>) {
        let dropped;
        let record = match self.filter.judge(record) {
            Verdict::Hide => return,
            Verdict::Show => record,
            Verdict::Dropped(count) => {
                dropped = Record::Dropped { count };
                &dropped
            }
        };
        if self.skip > 0 {
            // A mark before the first wanted entry tells of what is before it.
            self.skip -= usize::from(matches!(record, Record::Entry(_)));
            return;
        }
        match self.form {
            Form::Human => self.human.render(record, out),
            Form::Json => self.json.render(record, out),
            Form::Export => export::render(record, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::store::{Limits, Store, tests::frame},
        *,
    };

    #[test]
    fn the_tail_then_what_is_appended() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), Limits::default()).unwrap();
        let gap = |n| Frame {
            gap: Some(super::super::segment::Gap {
                first: n,
                last: n,
                reason: super::super::segment::GapReason::Unknown,
            }),
            ..frame(n, 10)
        };
        store.append(&gap(1)).unwrap();
        let query = Query {
            lines: Some(0),
            filter: Filter::default(),
            form: Form::Human,
        };
        let mut show = Show::open(dir.path(), query, Human::new(false)).unwrap();
        let mut out = Vec::new();
        assert!(!show.read(&mut out).unwrap());
        assert!(out.is_empty(), "what was there is not asked for");
        store.append(&gap(2)).unwrap();
        assert!(!show.read(&mut out).unwrap());
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("-- 1 entry is missing"), "{text}");
    }
}
