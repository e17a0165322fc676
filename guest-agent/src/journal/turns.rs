//! Callers that have several requests under way: each goes on where the answer to the one before it ends.
//!
//! ```text
//!            anchor n, after P                    follows n + 1
//!  (unknown) ----------------> next n, end P ... its turn when `next` is n + 1
//!                                 | answered, up to Q
//!                                 v
//!                              next n + 1, end Q
//! ```
//!
//! An anchor begins anew at its own position: what the caller asked before it is nobody's any more. A caller that is
//! not known (this program was started again) is taken at its word: every request names a position that the caller
//! holds, and what it then gets twice it drops. So nothing has to be kept; what is kept saves a round trip.

use std::collections::VecDeque;

use seed_journal::Position;

/// Callers that are remembered: one puller, and those that it was before.
const MAX_CALLERS: usize = 16;

/// The place of a request among those of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Who.
    pub caller: u64,
    /// Rises by one with each of its requests.
    pub number: u64,
    /// It goes on where the answer to the one before ends.
    pub follows: bool,
}

/// What is to be done with a request now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Read after this.
    Now(Position),
    /// One before it is not answered yet.
    Later,
    /// Its caller began anew since.
    Past,
}

#[derive(Debug)]
struct Caller {
    id: u64,
    next: u64,
    end: Position,
}

/// The callers that are known.
#[derive(Debug, Default)]
pub(super) struct Turns {
    callers: VecDeque<Caller>,
}

impl Turns {
    /// A request came.
    pub(super) fn arrive(&mut self, turn: Turn, after: Position) {
        let known = self.callers.iter().position(|one| one.id == turn.caller);
        match known {
            Some(_) if turn.follows => return,
            // An older one that comes late.
            Some(index) if self.callers[index].next > turn.number => return,
            Some(index) => drop(self.callers.remove(index)),
            None => {}
        }
        if self.callers.len() == MAX_CALLERS {
            self.callers.pop_front();
        }
        self.callers.push_back(Caller {
            id: turn.caller,
            next: turn.number,
            end: after,
        });
    }

    /// Whose turn it is.
    pub(super) fn when(&self, turn: Turn) -> When {
        match self.callers.iter().find(|one| one.id == turn.caller) {
            Some(caller) if turn.number == caller.next => When::Now(caller.end),
            Some(caller) if turn.number > caller.next => When::Later,
            _ => When::Past,
        }
    }

    /// It was answered, and the answer ends there; `None` when it moved nothing.
    pub(super) fn answered(&mut self, turn: Turn, end: Option<Position>) {
        let caller = self.callers.iter_mut().find(|one| one.id == turn.caller);
        if let Some(caller) = caller.filter(|caller| caller.next == turn.number) {
            caller.next += 1;
            caller.end = end.unwrap_or(caller.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(number: u64, follows: bool) -> Turn {
        Turn {
            caller: 7,
            number,
            follows,
        }
    }

    fn at(seqnum: u64) -> Position {
        Position {
            seqnum_id: [1; 16],
            seqnum,
            mark: None,
        }
    }

    #[test]
    fn each_goes_on_where_the_one_before_it_ended() {
        let mut turns = Turns::default();
        turns.arrive(turn(5, false), at(10));
        turns.arrive(turn(6, true), at(10));
        assert_eq!(turns.when(turn(5, false)), When::Now(at(10)));
        assert_eq!(turns.when(turn(6, true)), When::Later);
        turns.answered(turn(5, false), Some(at(20)));
        assert_eq!(turns.when(turn(5, false)), When::Past);
        assert_eq!(turns.when(turn(6, true)), When::Now(at(20)));
        turns.answered(turn(6, true), None);
        assert_eq!(turns.when(turn(7, true)), When::Now(at(20)));
    }

    #[test]
    fn an_anchor_begins_anew_and_what_was_asked_before_it_is_past() {
        let mut turns = Turns::default();
        turns.arrive(turn(1, false), at(10));
        turns.arrive(turn(2, true), at(10));
        turns.arrive(turn(3, false), at(12));
        assert_eq!(turns.when(turn(1, false)), When::Past);
        assert_eq!(turns.when(turn(2, true)), When::Past);
        assert_eq!(turns.when(turn(3, false)), When::Now(at(12)));
        // An answer that was under way changes nothing, and neither does an anchor that comes late.
        turns.answered(turn(1, false), Some(at(99)));
        turns.arrive(turn(2, false), at(99));
        assert_eq!(turns.when(turn(3, false)), When::Now(at(12)));
    }

    #[test]
    fn a_caller_that_is_not_known_is_taken_at_its_word() {
        let mut turns = Turns::default();
        turns.arrive(turn(40, true), at(10));
        assert_eq!(turns.when(turn(40, true)), When::Now(at(10)));
        assert_eq!(turns.when(turn(41, true)), When::Later);
    }

    #[test]
    fn the_longest_known_caller_is_forgotten_first() {
        let mut turns = Turns::default();
        for caller in 0..=MAX_CALLERS as u64 {
            let turn = Turn {
                caller,
                number: 1,
                follows: false,
            };
            turns.arrive(turn, at(caller));
        }
        let of = |caller| Turn {
            caller,
            number: 1,
            follows: false,
        };
        assert_eq!(turns.callers.len(), MAX_CALLERS);
        assert_eq!(turns.when(of(0)), When::Past);
        assert_eq!(turns.when(of(1)), When::Now(at(1)));
    }
}
