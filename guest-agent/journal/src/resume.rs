//! From a caller's position to a place in a part of a stream.
//!
//! Mostly the place is simply there. Where it is not, content decides, not numbers:
//!
//! ```text
//! the stream is gone          /run was flushed into /var: find the same entry among the copies, go on after it
//! the number is not yet given, a killed VM's disk lost what was shipped, or a snapshot was restored: numbers are
//! or is another entry now     issued again. Go on after the last entry of the boot that the caller knows, or where that is
//!                             gone, too, behind the numbers that are missing in its place
//! this part is used up and a  a remnant and what follows it, /run at boot (the caller has everything of /var), or
//! later one exists            journald lost its state
//! ```
//!
//! A verdict that costs a reset must hold for [`CONFIRM`], because journald removes and renames files one by one.

use std::time::{Duration, Instant};

use crate::{
    file::JournalFile,
    object::EntryRef,
    position::{Mark, Position},
    slot::Slots,
    stream::{Key, Part},
};

/// How long a journal must look as if it went back before that is believed.
const CONFIRM: Duration = Duration::from_millis(200);
/// Whoever has not asked again for so long begins anew with that.
const FORGET: Duration = Duration::from_secs(10);
/// Callers whose journal went back at a time; the longest known makes room.
const MAX_SUSPECTS: usize = 16;

/// Where reading begins, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) key: Key,
    pub(crate) after: u64,
    /// The part's last number.
    pub(crate) ceiling: u64,
    /// The entry after `after` should be there.
    pub(crate) check_gap: bool,
    pub(crate) reset: bool,
}

impl Start {
    /// Going on in a part.
    fn at(part: &Part, after: u64) -> Self {
        Self {
            key: part.key,
            after,
            ceiling: part.ceiling,
            check_gap: true,
            reset: false,
        }
    }

    /// It cannot be shown that this goes on where the caller is.
    fn anew(part: &Part, after: u64) -> Self {
        Self {
            check_gap: false,
            reset: true,
            ..Self::at(part, after)
        }
    }

    pub(crate) fn is_in(&self, part: &Part) -> bool {
        self.key == part.key && self.ceiling == part.ceiling
    }
}

#[derive(Debug, Default)]
pub(crate) struct Resume {
    /// Each is a caller's: what another one asks meanwhile is about another position.
    suspects: Vec<Suspect>,
    /// The last answer that was not simply the position itself.
    resolved: Option<(Position, Start)>,
    /// The last search for a later part, and that part's end at that time.
    handed_over: Option<(Position, Part, Start)>,
}

/// A position that looks as if the journal went back.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    position: Position,
    since: Instant,
    /// It was said that it is time to ask again.
    is_told: bool,
}

/// What a part holds around a mark.
#[derive(Debug, Default)]
struct Survey {
    /// The very entry.
    exact: Option<u64>,
    /// The last entry of its boot that is not later.
    before: Option<u64>,
    first_of_boot: Option<u64>,
    last_of_boot: Option<u64>,
    /// The boot of the part's last entry is the mark's.
    ends_in_boot: bool,
    /// The last entry that is not later by the wall clock.
    by_time: u64,
}

impl Resume {
    /// When to look again although nothing changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        let waiting = self.suspects.iter().filter(|one| !one.is_told);
        waiting.map(|one| one.since + CONFIRM).min()
    }

    /// It is time to look again. Said once: whoever asked may have left.
    pub(crate) fn is_due(&mut self) -> bool {
        let mut is_due = false;
        for one in &mut self.suspects {
            if !one.is_told && one.since.elapsed() >= CONFIRM {
                (one.is_told, is_due) = (true, true);
            }
        }
        is_due
    }

    /// None: there is nothing, or it is not clear yet. `continuing`: reading stands right there, in this part.
    pub(crate) fn resolve(
        &mut self,
        position: &Position,
        continuing: Option<Key>,
        all: &[Part],
        slots: &Slots,
    ) -> Option<Start> {
        let first = all.first()?;
        if position.is_start() {
            let begin = Start {
                check_gap: false,
                ..Start::at(first, first.floor)
            };
            return Some(begin);
        }
        let number = position.seqnum;
        if let Some(key) = continuing
            && let Some(part) = all
                .iter()
                .find(|part| part.key == key && part.spans(number))
            && number <= tail_of(key, all)
        {
            self.clear(position);
            return Some(Start::at(part, number));
        }
        if let Some((known, start)) = self.resolved
            && known == *position
            && all.iter().any(|part| start.is_in(part))
        {
            return Some(start);
        }
        let of_stream: Vec<&Part> = all
            .iter()
            .filter(|part| part.key.seqnum_id == position.seqnum_id)
            .collect();
        let start = if of_stream.is_empty() {
            vanished(position, all, slots)
        } else if let Some(part) = remnant_with(position, &of_stream, slots) {
            Start::at(part, number)
        } else if let Some(part) = linked_at(position, &of_stream, slots) {
            self.clear(position);
            return Some(Start::at(part, number));
        } else if self.is_confirmed(position) {
            issued_again(position, &of_stream, slots)?
        } else {
            return None;
        };
        self.clear(position);
        self.resolved = Some((*position, start));
        Some(start)
    }

    /// The part after the one that is used up, and where in it to begin.
    pub(crate) fn hand_over(
        &mut self,
        position: &Position,
        from: &Start,
        all: &[Part],
        slots: &Slots,
    ) -> Option<Start> {
        let index = all.iter().position(|part| from.is_in(part))?;
        let next = all.get(index + 1)?;
        if let Some((known, part, start)) = self.handed_over
            && known == *position
            && part == *next
        {
            return Some(start);
        }
        let start = if next.key.seqnum_id == from.key.seqnum_id {
            within_stream(position, from, next, slots)
        } else {
            let mut start = Start {
                // /run begins with 1 at each boot; another writer's numbers tell nothing.
                check_gap: next.is_volatile,
                reset: from.reset || !next.is_volatile,
                ..Start::at(next, 0)
            };
            // While /run is being copied into /var, its entries are in both.
            if let Some(mark) = position.mark {
                let survey = Survey::of(next, &mark, slots);
                start.after = survey.exact.or(survey.before).unwrap_or(0);
            }
            start
        };
        self.handed_over = Some((*position, *next, start));
        Some(start)
    }

    fn clear(&mut self, position: &Position) {
        self.suspects.retain(|one| one.position != *position);
    }

    fn is_confirmed(&mut self, position: &Position) -> bool {
        self.suspects.retain(|one| one.since.elapsed() < FORGET);
        let known = self.suspects.iter().find(|one| one.position == *position);
        if let Some(suspect) = known {
            return suspect.since.elapsed() >= CONFIRM;
        }
        if self.suspects.len() == MAX_SUSPECTS {
            self.suspects.remove(0);
        }
        self.suspects.push(Suspect {
            position: *position,
            since: Instant::now(),
            is_told: false,
        });
        false
    }
}

/// From one part of a stream to the next: numbers go on, unless the next one has given out again what was read.
fn within_stream(position: &Position, from: &Start, next: &Part, slots: &Slots) -> Start {
    let is_position = position.seqnum_id == next.key.seqnum_id;
    let read = from
        .after
        .max(if is_position { position.seqnum } else { 0 });
    let again = next.of(&slots.slots).any(|slot| {
        let header = &slot.header;
        header.head_seqnum.max(next.floor + 1) <= read && header.tail_seqnum > next.floor
    });
    if again || from.reset {
        Start::anew(next, next.floor)
    } else {
        Start::at(next, read.max(next.floor))
    }
}

fn tail_of(key: Key, all: &[Part]) -> u64 {
    let tails = all.iter().filter(|part| part.key == key);
    tails.map(|part| part.tail_seqnum).max().unwrap_or(0)
}

/// The remnant that the position's entry is in.
fn remnant_with<'p>(
    position: &Position,
    of_stream: &[&'p Part],
    slots: &Slots,
) -> Option<&'p Part> {
    let mark = position.mark?;
    let mut remnants = of_stream.iter().filter(|part| part.key.remnant.is_some());
    remnants
        .find(|part| {
            part.contains(position.seqnum)
                && entries_at(position.seqnum, part, slots).any(|found| found == mark)
        })
        .copied()
}

/// The part of what is linked that the position is in. None: its number was not given out yet, or is another entry's now.
fn linked_at<'p>(position: &Position, of_stream: &[&'p Part], slots: &Slots) -> Option<&'p Part> {
    let linked = |part: &&&Part| part.key.remnant.is_none();
    let part = of_stream
        .iter()
        .filter(linked)
        .find(|part| part.spans(position.seqnum) && position.seqnum <= part.tail_seqnum)
        .or_else(|| {
            // Behind the end of one part and not yet in the next: damage, or numbers that nobody has.
            let end = of_stream.iter().filter(linked).map(|part| part.tail_seqnum);
            let mut parts = of_stream.iter().filter(linked);
            (position.seqnum <= end.max()?)
                .then(|| parts.find(|part| part.spans(position.seqnum)))?
        })?;
    let changed = position
        .mark
        .is_some_and(|mark| entries_at(position.seqnum, part, slots).any(|found| found != mark));
    (!changed).then_some(*part)
}

/// What the files of a part have under a number.
fn entries_at(seqnum: u64, part: &Part, slots: &Slots) -> impl Iterator<Item = Mark> {
    part.of(&slots.slots)
        .filter(move |slot| {
            let header = &slot.header;
            (header.head_seqnum..=header.tail_seqnum).contains(&seqnum)
        })
        .filter_map(|slot| slot.open_again().ok())
        .filter_map(move |mut file| {
            file.seek_after(seqnum.saturating_sub(1));
            file.peek().filter(|entry| entry.head.seqnum == seqnum)
        })
        .map(|entry| Mark::from(&entry.head))
}

fn issued_again(position: &Position, of_stream: &[&Part], slots: &Slots) -> Option<Start> {
    let linked = || of_stream.iter().filter(|part| part.key.remnant.is_none());
    let Some(mark) = position.mark else {
        // Without a mark: this boot is what the caller cannot have. If the stream has none of it, it has nothing.
        let boot_id = slots.boot_id?;
        let now = Mark {
            boot_id,
            realtime_us: u64::MAX,
            monotonic_us: u64::MAX,
            xor_hash: 0,
        };
        let last = linked().next_back()?;
        let survey = Survey::of(last, &now, slots);
        let after = survey
            .first_of_boot
            .map_or(last.tail_seqnum, |first| first - 1);
        return Some(Start::anew(last, after));
    };
    // The newest part that has something of the boot, or of the time before. Only the boot that runs can have gone on from where
    // it went back to, and only then the time has to tell what is new: a clock that was set back tells it wrong.
    let is_running = slots.boot_id.is_none_or(|boot| boot == mark.boot_id);
    let mut newest = true;
    let mut by_time = None;
    for part in of_stream.iter().rev() {
        let survey = Survey::of(part, &mark, slots);
        if part.key.remnant.is_some() {
            // What it has after the caller's number is the caller's next.
            if part.boot_id == mark.boot_id && part.floor < position.seqnum {
                return Some(Start::at(part, position.seqnum));
            }
            continue;
        }
        match survey.last_of_boot {
            Some(last) if !(is_running && newest && survey.ends_in_boot) => {
                return Some(Start::anew(part, last));
            }
            Some(_) => return Some(Start::anew(part, survey.by_time.max(part.floor))),
            None => {}
        }
        newest = false;
        if by_time.is_none() && survey.by_time > part.floor {
            by_time = Some(Start::anew(part, survey.by_time));
        }
    }
    // The mark's file is gone. It was where numbers are missing, if they are; by the time it cannot be told after a clock that was off.
    let by_hole = linked().rev().find_map(|part| {
        Some(Start::anew(
            part,
            before_hole(position.seqnum, part, slots)?,
        ))
    });
    by_hole.or(by_time).or_else(|| {
        let first = of_stream.first()?;
        Some(Start::anew(first, first.floor))
    })
}

/// The last number before the last hole that begins below `seqnum` between a part's files. journald deletes the file that is the
/// oldest by its clock: one that was written under a clock that was set back goes before its time.
fn before_hole(seqnum: u64, part: &Part, slots: &Slots) -> Option<u64> {
    let of_part = slots.slots.iter().filter(|slot| slot.key() == part.key);
    let mut spans: Vec<_> = of_part
        .map(|slot| &slot.header)
        .filter_map(|header| match header.n_entries {
            // It has its number from the one before it.
            0 => Some((header.tail_seqnum.checked_add(1)?, header.tail_seqnum)),
            _ if header.is_witness() => Some((header.head_seqnum, header.tail_seqnum)),
            _ => None,
        })
        .filter(|(_, tail)| *tail > 0)
        .collect();
    spans.sort_unstable();
    let (mut end, mut before) = (spans.first()?.1, None);
    for (head, tail) in spans {
        if end >= seqnum {
            break;
        }
        if head > end.saturating_add(1) {
            before = Some(end);
        }
        end = end.max(tail);
    }
    before.filter(|end| part.spans(*end))
}

fn vanished(position: &Position, all: &[Part], slots: &Slots) -> Start {
    let Some(mark) = position.mark else {
        return Start::anew(&all[0], all[0].floor);
    };
    let mut of_boot: Option<Start> = None;
    for part in all.iter().rev() {
        let survey = Survey::of(part, &mark, slots);
        if let Some(exact) = survey.exact {
            return Start::at(part, exact);
        }
        match (survey.before, survey.first_of_boot) {
            (Some(before), _) => return Start::anew(part, before),
            // All of it is later; a part before may have what is not.
            (None, Some(first)) => of_boot = Some(Start::anew(part, first - 1)),
            (None, None) if of_boot.is_some() => break,
            (None, None) => {}
        }
    }
    of_boot.unwrap_or_else(|| {
        let later = all
            .iter()
            .find(|part| part.tail_realtime_us > mark.realtime_us);
        let part = later.unwrap_or(&all[all.len() - 1]);
        let by_time = Survey::of(part, &mark, slots).by_time;
        Start::anew(part, by_time.max(part.floor))
    })
}

impl Survey {
    /// Looks at the heads of entries, newest file first, as far back as the mark's boot reaches.
    fn of(part: &Part, mark: &Mark, slots: &Slots) -> Self {
        let mut survey = Self::default();
        let mut newest = true;
        let files = part.of(&slots.slots).rev();
        for file in files.filter_map(|slot| slot.open_again().ok()) {
            let seen_before = survey.first_of_boot.is_some();
            let began_earlier = survey.look_at(file, part, mark, newest);
            newest = false;
            let seen = survey.first_of_boot.is_some();
            if survey.exact.is_some() || (seen && began_earlier) || (seen_before && !seen) {
                break;
            }
        }
        survey
    }

    /// True when the file's first entry is of an earlier boot.
    fn look_at(&mut self, mut file: JournalFile, part: &Part, mark: &Mark, newest: bool) -> bool {
        file.seek_after(part.floor);
        let mut first: Option<EntryRef> = None;
        let mut last = None;
        while let Some(entry) = file.peek() {
            file.advance();
            let head = entry.head;
            if head.seqnum > part.ceiling {
                break;
            }
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
