//! Whose turn it is: hands out the time of a run piece by piece. Pure.
//!
//! Every target gets one piece; what is left goes, piece by piece, to the one that has had least in all runs. So hours add up
//! evenly over many short runs, and a new target catches up.

use std::time::Duration;

/// The longest piece. Each begins with reading the corpus, which is no time for new inputs, and a run that is cut off loses
/// the counts of one.
const LONGEST: Duration = Duration::from_secs(300);

/// One run's time.
#[derive(Debug)]
pub(super) struct Turns {
    left: Duration,
    piece: Duration,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// On a CPU, in all runs.
    spent: Duration,
    had_one: bool,
    /// Somebody runs it, or it crashed and is not run again.
    away: bool,
}

impl Turns {
    /// `each` for every target that has had so much before.
    pub(super) fn new(each: Duration, spent: impl IntoIterator<Item = Duration>) -> Self {
        let entries: Vec<_> = spent
            .into_iter()
            .map(|spent| Entry {
                spent,
                had_one: false,
                away: false,
            })
            .collect();
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        Self {
            left: each * count,
            // Half is everybody's.
            piece: LONGEST.min(each / 2),
            entries,
        }
    }

    /// Which is to run, by its place, and for how long; none when there is no time left or none that is free.
    pub(super) fn next(&mut self) -> Option<(usize, Duration)> {
        let piece = self.piece.min(self.left);
        if piece.is_zero() {
            return None;
        }
        let free = self.entries.iter_mut().enumerate();
        let free = free.filter(|(_, entry)| !entry.away);
        let (at, entry) = free.min_by_key(|(_, entry)| (entry.had_one, entry.spent))?;
        (entry.away, entry.had_one) = (true, true);
        self.left -= piece;
        Some((at, piece))
    }

    /// It ran for so long; `again` unless it crashed.
    pub(super) fn back(&mut self, at: usize, took: Duration, again: bool) {
        if let Some(entry) = self.entries.get_mut(at) {
            entry.spent += took;
            entry.away = !again;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs all of it with one worker; the seconds of each.
    fn shares(minutes: u64, spent: &[u64]) -> Vec<u64> {
        let spent = spent.iter().copied().map(Duration::from_secs);
        let mut shares = vec![0; spent.len()];
        let mut turns = Turns::new(Duration::from_secs(60 * minutes), spent);
        while let Some((at, piece)) = turns.next() {
            shares[at] += piece.as_secs();
            turns.back(at, piece, true);
        }
        shares
    }

    #[test]
    fn each_gets_one_piece_and_the_rest_goes_to_who_has_least() {
        assert_eq!(shares(1, &[0, 0, 0]), [60; 3]);
        assert_eq!(shares(1, &[0, 1000, 1000]), [120, 30, 30]);
        // A long piece ends after five minutes; the newer one catches up.
        assert_eq!(shares(60, &[3600, 0]), [1800, 5400]);
        assert_eq!(shares(12, &[7]), [720]);
        assert!(shares(1, &[]).is_empty() && shares(0, &[1]) == [0]);
    }

    #[test]
    fn what_is_away_or_crashed_is_not_run() {
        let had = [0, 5].map(Duration::from_secs);
        let mut turns = Turns::new(Duration::from_secs(60), had);
        let half = Duration::from_secs(30);
        assert_eq!(turns.next(), Some((0, half)));
        assert_eq!(turns.next(), Some((1, half)));
        assert_eq!(turns.next(), None);
        turns.back(0, half, false);
        assert_eq!(turns.next(), None);
        turns.back(1, half, true);
        assert_eq!(turns.next(), Some((1, half)));
        turns.back(1, half, true);
        assert_eq!(turns.next(), Some((1, half)));
    }
}
