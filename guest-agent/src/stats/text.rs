//! The three shapes of the kernel's tables: `key value`, `Key: value kB`, and looking a key up.

/// Lines of `key value`. What has no number is left out.
pub(super) fn pairs(text: &str) -> Vec<(&str, u64)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key, value.trim().parse().ok()?)))
        .collect()
}

/// Lines of `Key:   value kB`. What has no number is left out.
pub(super) fn colon_table(text: &str) -> Vec<(&str, u64)> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(key, value)| {
            let number = value.split_ascii_whitespace().next()?;
            Some((key, number.parse().ok()?))
        })
        .collect()
}

/// The value of a key.
pub(super) fn keyed(lines: &[(&str, u64)], key: &str) -> Option<u64> {
    let found = lines.iter().find(|(name, _)| *name == key);
    found.map(|(_, value)| *value)
}
