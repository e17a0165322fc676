//! The floods in the host's log: pure, from what `seed logs --json` printed.
//!
//! A flood's lines are `<flood> <line>`, with `chaos` as their identifier. Each stands in the log at most once, and what is there
//! of a flood begins at its first line and has no hole, unless a record in between says that something is missing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What identifies a flood's entries.
pub(super) const IDENTIFIER: &str = "chaos";

/// What the log holds of the floods.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Lines by flood.
    pub(super) floods: BTreeMap<u64, BTreeSet<u64>>,
    /// Lines that stand there more than once.
    pub(super) doubled: Vec<(u64, u64)>,
    /// Gap records and counts of dropped messages: the log itself says that something is missing.
    pub(super) gaps: u64,
}

/// A flood's line.
pub(super) fn line(message: &str) -> Option<(u64, u64)> {
    let (flood, line) = message.split_once(' ')?;
    Some((flood.parse().ok()?, line.parse().ok()?))
}

/// Reads a log.
pub(super) fn read(log: &str) -> Found {
    let mut found = Found::default();
    for text in log.lines() {
        // Quick first: most entries are somebody else's.
        if !text.contains(IDENTIFIER) && !text.starts_with("{\"__SEED_") {
            continue;
        }
        let Ok(entry) = serde_json::from_str::<Value>(text) else {
            continue;
        };
        if !entry["__SEED_GAP"].is_null() || !entry["__SEED_DROPPED"].is_null() {
            found.gaps += 1;
        }
        if entry["SYSLOG_IDENTIFIER"] != IDENTIFIER {
            continue;
        }
        let Some((flood, line)) = entry["MESSAGE"].as_str().and_then(line) else {
            continue;
        };
        if !found.floods.entry(flood).or_default().insert(line) {
            found.doubled.push((flood, line));
        }
    }
    found
}

impl Found {
    /// How many lines of a flood are there.
    pub(super) fn count(&self, flood: u64) -> u64 {
        let lines = self.floods.get(&flood).map_or(0, BTreeSet::len);
        u64::try_from(lines).unwrap_or(u64::MAX)
    }

    /// The first line of a flood that is not there although a later one is.
    pub(super) fn hole(&self, flood: u64) -> Option<u64> {
        let lines = self.floods.get(&flood)?;
        let last = *lines.last()?;
        (1..last).find(|line| !lines.contains(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(message: &str) -> String {
        format!("{{\"SYSLOG_IDENTIFIER\":\"chaos\",\"MESSAGE\":\"{message}\"}}\n")
    }

    #[test]
    fn lines_are_told_apart_by_flood_and_doubles_are_named() {
        let log = entry("1 1")
            + &entry("1 2")
            + &entry("2 1")
            + &entry("1 2")
            + "{\"MESSAGE\":\"chaos\"}\n";
        let found = read(&log);
        assert_eq!((found.count(1), found.count(2), found.count(3)), (2, 1, 0));
        assert_eq!(found.doubled, [(1, 2)]);
        assert_eq!(found.gaps, 0);
    }

    #[test]
    fn a_hole_is_one_before_the_last_line_only() {
        let found = read(&(entry("1 1") + &entry("1 3")));
        assert_eq!(found.hole(1), Some(2));
        assert_eq!(read(&(entry("1 1") + &entry("1 2"))).hole(1), None);
        assert_eq!(found.hole(9), None);
    }

    #[test]
    fn records_of_loss_are_counted() {
        let log = "{\"__SEED_GAP\":{\"count\":3}}\n{\"__SEED_RESET\":true}\n";
        assert_eq!(read(log).gaps, 1);
    }
}
