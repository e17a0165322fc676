//! What test programs printed, counted: libtest's `test result:` lines, the VM runner's closing line, and
//! skips with their reasons.
//!
//! A test that cannot run here says so past libtest's capture, in one write to standard error:
//! `SKIPPED <name>: <reason>`. The VM runner has `test <name> ... SKIPPED (<reason>)`, libtest itself
//! `test <name> ... ignored, <reason>`. libtest counts the first kind as passed; here it is a skip.

use std::collections::BTreeMap;

/// Of the output of one failed test.
const FAILURE_LINES: usize = 40;

/// Counts of one step.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Name and reason.
    pub(crate) skipped: BTreeMap<String, String>,
}

impl Tally {
    /// One check that is no test program: it passed.
    pub(crate) fn one() -> Self {
        Self {
            passed: 1,
            ..Self::default()
        }
    }

    /// One check that was not made, and why.
    pub(crate) fn skip(name: &str, reason: &str) -> Self {
        Self {
            skipped: BTreeMap::from([(name.to_owned(), reason.to_owned())]),
            ..Self::default()
        }
    }

    /// Adds another step's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

    /// From all that test programs printed.
    pub(crate) fn parse(text: &str) -> Self {
        let mut tally = Self::default();
        let mut said = 0;
        for line in text.lines() {
            if let Some(counts) = line.strip_prefix("test result: ") {
                // `ok. 3 passed; 0 failed; 1 ignored; ...`
                let counts = counts.split_once(". ").map_or(counts, |(_, rest)| rest);
                tally.passed += count(counts, "passed");
                tally.failed += count(counts, "failed");
            } else if is_closing_line(line) {
                tally.passed += count(line, "passed");
                tally.failed += count(line, "failed");
            } else if let Some(Skip {
                name,
                reason,
                as_passed,
            }) = skip(line)
            {
                let first = tally.skipped.insert(name, reason).is_none();
                said += usize::from(first && as_passed);
            }
        }
        tally.passed = tally.passed.saturating_sub(said);
        tally
    }
}

/// What libtest printed of each failed test: a heading and its output, cut when long.
pub(crate) fn failures(text: &str) -> Vec<&str> {
    let is_heading = |line: &str| line.starts_with("---- ") && line.ends_with(" ----");
    let mut shown = Vec::new();
    let mut left = 0;
    for line in text.lines() {
        if is_heading(line) {
            left = FAILURE_LINES;
        } else if line == "failures:" {
            left = 0;
        }
        if left > 0 {
            shown.push(line);
            left -= 1;
        }
    }
    shown
}

/// `3 passed, 0 failed, 1 skipped` and nothing else.
fn is_closing_line(line: &str) -> bool {
    let words: Vec<_> = line.split([' ', ',']).filter(|w| !w.is_empty()).collect();
    matches!(words[..], [_, "passed", _, "failed", _, "skipped"])
}

/// The number before `word`.
fn count(counts: &str, word: &str) -> usize {
    let parts = counts.split([';', ',']);
    let mut numbers = parts.filter_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok());
    numbers.next().unwrap_or_default()
}

struct Skip {
    name: String,
    reason: String,
    /// libtest does not know of it.
    as_passed: bool,
}

fn skip(line: &str) -> Option<Skip> {
    let case = |line: &str, mark: &str| {
        let (name, reason) = line.strip_prefix("test ")?.split_once(mark)?;
        Some((name.to_owned(), reason.to_owned()))
    };
    if let Some((name, reason)) = case(line, " ... SKIPPED (") {
        return Some(Skip {
            name,
            reason: reason.trim_end_matches(')').to_owned(),
            as_passed: false,
        });
    }
    if let Some((name, reason)) = case(line, " ... ignored") {
        let reason = reason.trim_start_matches([',', ' ']);
        return Some(Skip {
            name,
            reason: if reason.is_empty() {
                "ignored, and no reason is given".to_owned()
            } else {
                reason.to_owned()
            },
            as_passed: false,
        });
    }
    // With one test thread libtest has begun the line: `test <name> ... SKIPPED ...`.
    let (before, rest) = line.split_once("SKIPPED ")?;
    if !before.is_empty() && !before.ends_with(" ... ") {
        return None;
    }
    let (name, reason) = rest.split_once(": ")?;
    Some(Skip {
        name: name.to_owned(),
        reason: reason.to_owned(),
        as_passed: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_programs_add_up_and_skips_are_no_passes() {
        let text = "\
running 3 tests
SKIPPED go both ways: no age-plugin-tpm to compare with
test a ... ok
test long ... ignored, takes an hour
test b ... ok
test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test c ... FAILED
test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let tally = Tally::parse(text);
        assert_eq!((tally.passed, tally.failed), (4, 1));
        let names: Vec<_> = tally.skipped.keys().map(String::as_str).collect();
        assert_eq!(names, ["go both ways", "long"]);
        assert_eq!(tally.skipped["long"], "takes an hour");
    }

    #[test]
    fn the_vm_runners_lines_are_understood() {
        let text = "\
test smoke: an instance boots ... SKIPPED (SEED_TEST_BIN is not set (run it))
test env: values ... ok (0.1 s)
  12 passed, and this is prose
12 passed, 1 failed, 1 skipped
";
        let tally = Tally::parse(text);
        assert_eq!((tally.passed, tally.failed), (12, 1));
        let reason = &tally.skipped["smoke: an instance boots"];
        assert!(reason.starts_with("SEED_TEST_BIN is not set"), "{reason}");
    }

    #[test]
    fn failures_are_shown_with_their_output_and_without_the_list_of_names() {
        let text = "\
test a ... FAILED

failures:

---- a stdout ----
panicked at x.rs:1:
left is not right

failures:
    a
test result: FAILED. 0 passed; 1 failed;
";
        assert_eq!(
            failures(text),
            [
                "---- a stdout ----",
                "panicked at x.rs:1:",
                "left is not right",
                ""
            ]
        );
        assert!(failures("error[E0063]: missing field\n").is_empty());
    }

    #[test]
    fn a_skip_is_seen_with_one_test_thread_too() {
        let tally = Tally::parse("test a ... SKIPPED a: no swtpm\nok\n");
        assert_eq!(tally.skipped["a"], "no swtpm");
    }
}
