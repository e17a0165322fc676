//! From a caller's position to a place in a stream.
//!
//! Mostly the place is simply there. Where it is not, content decides, not numbers:
//!
//! ```text
//! the stream is gone          /run was flushed into /var: find the same entry among the copies, go on after it
//! the number is not yet given, a killed VM's disk lost what was shipped, or a snapshot was restored: numbers are
//! or is another entry now     issued again. Go on after the last entry of the boot that the caller knows
//! this stream is used up and  /run at boot (the caller has everything of /var), or journald lost its state
//! a later one exists
//! ```
//!
//! A verdict that costs a reset must hold for [`CONFIRM`], because journald removes and renames files one by one.

use std::time::{Duration, Instant};

use crate::{
    file::JournalFile,
    journal::parse_id,
    object::EntryRef,
    position::{Mark, Position},
    slot::{Slot, Slots},
    stream::Stream,
};

/// How long a journal must look as if it went back before that is believed.
const CONFIRM: Duration = Duration::from_millis(200);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) stream: [u8; 16],
    pub(crate) after: u64,
    /// The entry after `after` should be there.
    pub(crate) check_gap: bool,
    pub(crate) reset: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Resume {
    /// A position that looks as if the journal went back, and since when.
    suspect: Option<(Position, Instant)>,
    /// The last answer that was not simply the position itself.
    resolved: Option<(Position, Start)>,
    /// The last search for a later stream, and that stream's end at that time.
    handed_over: Option<(Position, Stream, Start)>,
}

/// What a stream holds around a mark.
#[derive(Debug, Default)]
struct Survey {
    /// The very entry.
    exact: Option<u64>,
    /// The last entry of its boot that is not later.
    before: Option<u64>,
    first_of_boot: Option<u64>,
    last_of_boot: Option<u64>,
    /// The boot of the stream's last entry is the mark's.
    ends_in_boot: bool,
    /// The last entry that is not later by the wall clock.
    by_time: u64,
}

impl Resume {
    /// When to look again although nothing changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.suspect.map(|(_, since)| since + CONFIRM)
    }

    /// None: there is nothing, or it is not clear yet.
    pub(crate) fn resolve(
        &mut self,
        position: &Position,
        continuing: bool,
        all: &[Stream],
        slots: &Slots,
    ) -> Option<Start> {
        let first = all.first()?;
        if position.is_start() {
            let begin = Start {
                stream: first.id,
                after: 0,
                check_gap: false,
                reset: false,
            };
            return Some(begin);
        }
        let plain = Start {
            stream: position.seqnum_id,
            after: position.seqnum,
            check_gap: true,
            reset: false,
        };
        let stream = all.iter().find(|stream| stream.id == position.seqnum_id);
        if continuing && stream.is_some_and(|stream| position.seqnum <= stream.tail_seqnum) {
            self.suspect = None;
            return Some(plain);
        }
        if let Some((known, start)) = self.resolved
            && known == *position
            && all.iter().any(|stream| stream.id == start.stream)
        {
            return Some(start);
        }
        let start = match stream {
            Some(stream) if !went_back(position, stream, slots) => {
                self.suspect = None;
                return Some(plain);
            }
            Some(_) if !self.is_confirmed(position) => return None,
            Some(stream) => Start {
                reset: true,
                ..issued_again(position, stream, slots)?
            },
            None => vanished(position, all, slots),
        };
        self.suspect = None;
        self.resolved = Some((*position, start));
        Some(start)
    }

    /// The stream after the one that is used up, and where in it to begin.
    pub(crate) fn hand_over(
        &mut self,
        position: &Position,
        from: &Start,
        all: &[Stream],
        slots: &Slots,
    ) -> Option<Start> {
        let index = all.iter().position(|stream| stream.id == from.stream)?;
        let next = all.get(index + 1)?;
        if let Some((known, stream, start)) = self.handed_over
            && known == *position
            && stream == *next
        {
            return Some(start);
        }
        let mut start = Start {
            stream: next.id,
            after: 0,
            // /run begins with 1 at each boot; another writer's numbers tell nothing.
            check_gap: next.is_volatile,
            reset: from.reset || !next.is_volatile,
        };
        // While /run is being copied into /var, its entries are in both.
        if let Some(mark) = position.mark {
            let survey = Survey::of(next, &mark, slots);
            start.after = survey.exact.or(survey.before).unwrap_or(0);
        }
        self.handed_over = Some((*position, *next, start));
        Some(start)
    }

    fn is_confirmed(&mut self, position: &Position) -> bool {
        match self.suspect {
            Some((known, since)) if known == *position => since.elapsed() >= CONFIRM,
            _ => {
                self.suspect = Some((*position, Instant::now()));
                false
            }
        }
    }
}

/// The position's number was not given out yet, or is another entry's now.
fn went_back(position: &Position, stream: &Stream, slots: &Slots) -> bool {
    if position.seqnum > stream.tail_seqnum {
        return true;
    }
    let Some(mark) = position.mark else {
        return false;
    };
    of_stream(stream, slots)
        .filter(|slot| {
            let header = &slot.header;
            (header.head_seqnum..=header.tail_seqnum).contains(&position.seqnum)
        })
        .filter_map(|slot| slot.open_again().ok())
        .filter_map(|mut file| {
            file.seek_after(position.seqnum - 1);
            file.peek()
                .filter(|entry| entry.head.seqnum == position.seqnum)
        })
        .any(|entry| Mark::from(&entry.head) != mark)
}

fn issued_again(position: &Position, stream: &Stream, slots: &Slots) -> Option<Start> {
    let start = |after| Start {
        stream: stream.id,
        after,
        check_gap: false,
        reset: true,
    };
    let Some(mark) = position.mark else {
        // Without a mark: this boot is what the caller cannot have. If the stream has none of it, it has nothing.
        let boot_id = current_boot()?;
        let now = Mark {
            boot_id,
            realtime_us: u64::MAX,
            monotonic_us: u64::MAX,
            xor_hash: 0,
        };
        let survey = Survey::of(stream, &now, slots);
        let after = survey
            .first_of_boot
            .map_or(stream.tail_seqnum, |first| first - 1);
        return Some(start(after));
    };
    let survey = Survey::of(stream, &mark, slots);
    Some(start(match survey.last_of_boot {
        Some(last) if !survey.ends_in_boot => last,
        _ => survey.by_time,
    }))
}

fn vanished(position: &Position, all: &[Stream], slots: &Slots) -> Start {
    let start = |stream: &Stream, after: u64, reset: bool| Start {
        stream: stream.id,
        after,
        check_gap: !reset,
        reset,
    };
    let Some(mark) = position.mark else {
        return start(&all[0], 0, true);
    };
    for stream in all.iter().rev() {
        let survey = Survey::of(stream, &mark, slots);
        if let Some(exact) = survey.exact {
            return start(stream, exact, false);
        }
        if let Some(first) = survey.first_of_boot {
            return start(stream, survey.before.unwrap_or(first - 1), true);
        }
    }
    let later = all
        .iter()
        .find(|stream| stream.tail_realtime_us > mark.realtime_us);
    let stream = later.unwrap_or(&all[all.len() - 1]);
    start(stream, Survey::of(stream, &mark, slots).by_time, true)
}

impl Survey {
    /// Looks at the heads of entries, newest file first, as far back as the mark's boot reaches.
    fn of(stream: &Stream, mark: &Mark, slots: &Slots) -> Self {
        let mut survey = Self::default();
        let mut files: Vec<&Slot> = of_stream(stream, slots).collect();
        files.reverse();
        let mut newest = true;
        for file in files.iter().filter_map(|slot| slot.open_again().ok()) {
            let seen_before = survey.first_of_boot.is_some();
            let began_earlier = survey.look_at(file, mark, newest);
            newest = false;
            let seen = survey.first_of_boot.is_some();
            if survey.exact.is_some() || (seen && began_earlier) || (seen_before && !seen) {
                break;
            }
        }
        survey
    }

    /// True when the file's first entry is of an earlier boot.
    fn look_at(&mut self, mut file: JournalFile, mark: &Mark, newest: bool) -> bool {
        file.rewind();
        let mut first: Option<EntryRef> = None;
        let mut last = None;
        while let Some(entry) = file.peek() {
            file.advance();
            let head = entry.head;
            first = first.or(Some(entry));
            last = Some(head);
            if head.realtime_us <= mark.realtime_us {
                self.by_time = self.by_time.max(head.seqnum);
            }
            if head.boot_id != mark.boot_id {
                continue;
            }
            self.first_of_boot = Some(
                self.first_of_boot
                    .map_or(head.seqnum, |n| n.min(head.seqnum)),
            );
            self.last_of_boot = self.last_of_boot.max(Some(head.seqnum));
            if head.monotonic_us <= mark.monotonic_us {
                self.before = self.before.max(Some(head.seqnum));
            }
            if Mark::from(&head) == *mark {
                self.exact = self.exact.max(Some(head.seqnum));
            }
        }
        if newest {
            self.ends_in_boot = last.is_some_and(|head| head.boot_id == mark.boot_id);
        }
        first.is_some_and(|entry| entry.head.boot_id != mark.boot_id)
    }
}

fn of_stream<'s>(stream: &Stream, slots: &'s Slots) -> impl Iterator<Item = &'s Slot> {
    let id = stream.id;
    let has_entries = move |slot: &&Slot| slot.header.seqnum_id == id && slot.header.n_entries > 0;
    slots.slots.iter().filter(has_entries)
}

fn current_boot() -> Option<[u8; 16]> {
    parse_id(
        std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim(),
    )
}
