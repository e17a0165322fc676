//! Whether a host that pulls has everything: what a unit's end and the machine's end wait for. Pure; [`super::reader`]
//! tells it what was asked and what was answered.
//!
//! ```text
//!   open ---> a read for the host finds no more: here it ends ---> a request of the host names that place, or a later one
//!             (`answered`)                                         (`asked`): the host holds all of it
//! ```
//!
//! A request names what its caller has stored, so nothing has to be acknowledged. Between the two the host's long polls
//! are answered at once ([`Drains::hurries`]): its next one then names what it holds.

use std::time::{Duration, Instant};

use seed_journal::Position;
use seed_protocol::{JournalNamespace, MAX_NAMESPACES};
use tokio::sync::oneshot;

/// A journal: a namespace's, or the system's.
pub(super) type Whose = Option<JournalNamespace>;

/// How long a host may take to ask for a namespace's journal that it has just been told of.
const FIRST_ASKED: Duration = Duration::from_secs(1);

/// The system's journal and those of so many namespaces.
const MAX_JOURNALS: usize = MAX_NAMESPACES + 1;

/// One who waits until the host has everything.
#[derive(Debug)]
pub(super) struct Drain {
    journals: Vec<Open>,
    begun: Instant,
    until: Instant,
    answer: oneshot::Sender<bool>,
}

#[derive(Debug)]
struct Open {
    whose: Whose,
    /// Where it ended when a read for the host found no more.
    end: Option<Position>,
}

/// All who wait, and for which journals there is a host.
#[derive(Debug, Default)]
pub(super) struct Drains {
    pulled: Vec<Whose>,
    open: Vec<Drain>,
}

impl Drains {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Somebody waits for these journals, as far as anybody pulls.
    pub(super) fn begin(
        &mut self,
        journals: Vec<Whose>,
        until: Instant,
        answer: oneshot::Sender<bool>,
    ) {
        let open = |whose| Open { whose, end: None };
        // Who pulls no journal of the system pulls none at all.
        let is_pulled = self.pulled.contains(&None);
        let journals = journals.into_iter().filter(|_| is_pulled);
        self.open.push(Drain {
            journals: journals.map(open).collect(),
            begun: Instant::now(),
            until,
            answer,
        });
    }

    /// The host asked for this journal, and holds it up to here.
    pub(super) fn asked(&mut self, whose: &Whose, held: &Position) {
        if !self.pulled.contains(whose) && self.pulled.len() < MAX_JOURNALS {
            self.pulled.push(whose.clone());
        }
        for drain in &mut self.open {
            let has_all =
                |one: &Open| one.whose == *whose && one.end.is_some_and(|end| reaches(held, &end));
            drain.journals.retain(|one| !has_all(one));
        }
    }

    /// A read for the host found no more after this.
    pub(super) fn answered(&mut self, whose: &Whose, end: &Position) {
        let journals = self.open.iter_mut().flat_map(|drain| &mut drain.journals);
        for one in journals.filter(|one| one.whose == *whose) {
            // Of a journal that goes on growing the first end counts; of one that began anew the new one.
            if one.end.is_none_or(|known| known.seqnum_id != end.seqnum_id) {
                one.end = Some(*end);
            }
        }
    }

    /// The host has been given all of this journal, and is to say that it holds it.
    pub(super) fn hurries(&self, whose: &Whose) -> bool {
        let mut journals = self.open.iter().flat_map(|drain| &drain.journals);
        journals.any(|one| one.whose == *whose && one.end.is_some())
    }

    /// Answers those whose journals are all held, and those whose time is over.
    pub(super) fn settle(&mut self, now: Instant) {
        let pulled = &self.pulled;
        for drain in std::mem::take(&mut self.open) {
            let mut drain = drain;
            if now > drain.begun + FIRST_ASKED {
                drain.journals.retain(|one| pulled.contains(&one.whose));
            }
            let is_done = drain.journals.is_empty();
            if is_done || now >= drain.until {
                // Who has left needs no answer.
                let _ = drain.answer.send(is_done);
            } else if !drain.answer.is_closed() {
                self.open.push(drain);
            }
        }
    }
}

/// True where who holds one position has everything up to the other.
fn reaches(held: &Position, end: &Position) -> bool {
    held.seqnum_id == end.seqnum_id && held.seqnum >= end.seqnum
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn at(writer: u8, seqnum: u64) -> Position {
        Position {
            seqnum_id: [writer; 16],
            seqnum,
            mark: None,
        }
    }

    fn web() -> Whose {
        JournalNamespace::try_from("web").ok()
    }

    /// A drain of these journals, begun now.
    fn begin(drains: &mut Drains, journals: &[Whose]) -> (Instant, oneshot::Receiver<bool>) {
        let (answer, answered) = oneshot::channel();
        let now = Instant::now();
        drains.begin(journals.to_vec(), now + LIMIT, answer);
        drains.settle(now);
        (now, answered)
    }

    #[test]
    fn without_a_host_nothing_is_waited_for() {
        let mut drains = Drains::default();
        let (_, mut answered) = begin(&mut drains, &[None, web()]);
        assert_eq!(answered.try_recv(), Ok(true));
        assert!(drains.is_empty());
    }

    #[test]
    fn all_is_held_when_a_request_names_the_end_that_was_seen() {
        let mut drains = Drains::default();
        drains.asked(&None, &at(1, 5));
        let (now, mut answered) = begin(&mut drains, &[None]);
        assert!(!drains.hurries(&None));
        // Held before, but nobody has looked yet whether it is all.
        drains.asked(&None, &at(1, 9));
        drains.settle(now);
        assert!(answered.try_recv().is_err());
        drains.answered(&None, &at(1, 9));
        assert!(drains.hurries(&None) && !drains.hurries(&web()));
        // The journal grows on; what came after does not count.
        drains.answered(&None, &at(1, 20));
        for held in [at(1, 8), at(2, 30)] {
            drains.asked(&None, &held);
            drains.settle(now);
            assert!(answered.try_recv().is_err(), "{held:?}");
        }
        drains.asked(&None, &at(1, 10));
        drains.settle(now);
        assert_eq!(answered.try_recv(), Ok(true));
    }

    #[test]
    fn a_journal_that_begins_anew_has_a_new_end() {
        let mut drains = Drains::default();
        drains.asked(&None, &at(1, 5));
        let (now, mut answered) = begin(&mut drains, &[None]);
        drains.answered(&None, &at(1, 9));
        drains.answered(&None, &at(2, 3));
        drains.asked(&None, &at(1, 9));
        drains.settle(now);
        assert!(answered.try_recv().is_err());
        drains.asked(&None, &at(2, 3));
        drains.settle(now);
        assert_eq!(answered.try_recv(), Ok(true));
    }

    #[test]
    fn a_namespace_that_nobody_asks_for_is_waited_for_a_moment_only() {
        let mut drains = Drains::default();
        drains.asked(&None, &at(1, 5));
        let (now, mut answered) = begin(&mut drains, &[None, web()]);
        drains.answered(&None, &at(1, 5));
        drains.asked(&None, &at(1, 5));
        drains.settle(now + FIRST_ASKED / 2);
        assert!(answered.try_recv().is_err());
        drains.settle(now + FIRST_ASKED * 2);
        assert_eq!(answered.try_recv(), Ok(true));
        // One that was asked for has to be held.
        drains.asked(&web(), &Position::START);
        let (now, mut answered) = begin(&mut drains, &[None, web()]);
        drains.answered(&None, &at(1, 5));
        drains.asked(&None, &at(1, 5));
        drains.settle(now + FIRST_ASKED * 2);
        assert!(answered.try_recv().is_err());
        drains.settle(now + LIMIT * 2);
        assert_eq!(answered.try_recv(), Ok(false));
        assert!(drains.is_empty());
    }
}
