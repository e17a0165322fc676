//! The floods in the host's log: pure, from what `seed logs --json` printed.
//!
//! A flood's lines are `<flood> <line>`, with `chaos` as their identifier. Each stands in the log at most once, and what is there
//! of a flood begins at its first line and has no hole that is larger than what records of loss at that very place count.

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
    /// Entries that are missing as gap records and counts of dropped messages say.
    pub(super) missing: u64,
    /// Flood, line, lines that are missing before it and that no record accounts for.
    pub(super) holes: Vec<(u64, u64, u64)>,
}

/// A flood's line.
pub(super) fn line(message: &str) -> Option<(u64, u64)> {
    let (flood, line) = message.split_once(' ')?;
    Some((flood.parse().ok()?, line.parse().ok()?))
}

/// Reads a log.
pub(super) fn read(log: &str) -> Found {
    let mut found = Found::default();
    // By flood: its highest line so far, and what had been missing up to there.
    let mut ends: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for text in log.lines() {
        // Quick first: most entries are somebody else's.
        if !text.contains(IDENTIFIER) && !text.starts_with("{\"__SEED_") {
            continue;
        }
        let Ok(entry) = serde_json::from_str::<Value>(text) else {
            continue;
        };
        for record in ["__SEED_GAP", "__SEED_DROPPED"] {
            found.missing += entry[record]["count"].as_u64().unwrap_or_default();
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
        let (last, missing) = ends.get(&flood).copied().unwrap_or_default();
        let hole = line.saturating_sub(last + 1);
        // What is missing before a flood's first line may be of another time.
        let explained = if last == 0 {
            0
        } else {
            found.missing - missing
        };
        if hole > explained {
            found.holes.push((flood, line, hole - explained));
        }
        ends.insert(flood, (last.max(line), found.missing));
    }
    found
}

impl Found {
    /// How many lines of a flood are there.
    pub(super) fn count(&self, flood: u64) -> u64 {
        let lines = self.floods.get(&flood).map_or(0, BTreeSet::len);
        u64::try_from(lines).unwrap_or(u64::MAX)
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
        assert_eq!(found.missing, 0);
    }

    #[test]
    fn a_hole_is_one_before_the_last_line_only() {
        assert_eq!(read(&(entry("1 1") + &entry("1 2"))).holes, []);
        assert_eq!(read(&(entry("1 1") + &entry("1 3"))).holes, [(1, 3, 1)]);
        assert_eq!(read(&entry("1 3")).holes, [(1, 3, 2)]);
        let two = entry("1 1") + &entry("2 1") + &entry("1 2") + &entry("2 4");
        assert_eq!(read(&two).holes, [(2, 4, 2)]);
    }

    #[test]
    fn a_record_of_loss_explains_so_many_lines_at_its_place_and_no_others() {
        let gap = |count| format!("{{\"__SEED_GAP\":{{\"count\":{count}}}}}\n");
        let log = gap(9) + &entry("1 1") + &gap(3) + &entry("1 5") + "{\"__SEED_RESET\":true}\n";
        let found = read(&log);
        assert_eq!((found.missing, found.holes), (12, vec![]));
        let late = log + &entry("1 7") + &gap(5);
        assert_eq!(read(&late).holes, [(1, 7, 1)]);
        let short = entry("1 1") + &gap(1) + &entry("1 4");
        assert_eq!(read(&short).holes, [(1, 4, 1)]);
    }
}
