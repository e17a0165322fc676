//! Words and figures as every table and message of the host's programs writes them: `seed` and the seed
//! shell say the same thing in the same way. Nothing here prints.

use std::{error::Error, time::Duration};

/// The error and its causes on one line. What a cause says that is said already is left out: some messages have their
/// cause within them.
pub fn chain(error: &dyn Error) -> String {
    let mut text = plain(error);
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = plain(inner);
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

/// Whether a character reorders those around it on a terminal, so that a line reads as something that nobody wrote.
pub fn reorders(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Without the number that the standard library adds to errors of the system.
fn plain(error: &dyn Error) -> String {
    let text = error.to_string();
    match text.rfind(" (os error ") {
        Some(at) if text.ends_with(')') => text[..at].to_owned(),
        _ => text,
    }
}

/// The widest that a column is made. What a guest calls its units may be longer, and stands out of its column then: each line
/// of the table would be as long otherwise.
const WIDEST: usize = 256;

/// Lines with their columns aligned, two spaces between, the first column as deep as `indent`.
pub fn table<const N: usize>(indent: usize, rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count()).min(WIDEST);
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            let space = width.saturating_sub(cell.chars().count());
            line.push_str(&" ".repeat(space + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `0.31 s`, `12.40 s`.
pub fn seconds(ms: u64) -> String {
    format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)
}

/// `3 s`, `5 min`, `2 h 10 min`, `4 d 3 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `64 MiB`, `1.5 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = bytes.saturating_mul(10);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    match tenths % 10 {
        0 => format!("{} {}", tenths / 10, UNITS[unit]),
        tenth => format!("{}.{tenth} {}", tenths / 10, UNITS[unit]),
    }
}

/// `1 unit`, `2 units`.
pub fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    enum Failed {
        #[error("{0} cannot be read")]
        Silent(&'static str, #[source] io::Error),
        #[error("gave up: {0} (stage: hello)")]
        Telling(#[source] Box<Self>),
    }

    #[test]
    fn causes_are_said_once_and_without_the_systems_numbers() {
        let missing = || Failed::Silent("a", io::Error::from_raw_os_error(2));
        let text = "a cannot be read: No such file or directory";
        assert_eq!(chain(&missing()), text);
        assert_eq!(
            chain(&Failed::Telling(Box::new(missing()))),
            "gave up: a cannot be read (stage: hello): No such file or directory"
        );
    }

    #[test]
    fn figures_read_naturally() {
        assert_eq!(seconds(12_405), "12.40 s");
        assert_eq!(duration(Duration::from_secs(7_800)), "2 h 10 min");
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
        assert_eq!(bytes(17), "17 bytes");
        assert_eq!(count(1, "unit"), "1 unit");
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [["a".into(), "bb".into()], ["ccc".into(), String::new()]];
        assert_eq!(table(2, &rows), "  a    bb\n  ccc\n");
    }

    #[test]
    fn one_long_cell_does_not_make_every_line_long() {
        let mut rows = vec![["a".to_owned(), "b".to_owned()]; 1000];
        rows[0][0] = "x".repeat(100_000);
        let text = table(0, &rows);
        assert!(text.len() < 400_000, "{} bytes", text.len());
        let mut lines = text.lines();
        assert!(lines.next().is_some_and(|line| line.ends_with("x  b")));
        let aligned = format!("a{}b", " ".repeat(WIDEST + 1));
        assert!(lines.all(|line| line == aligned));
    }
}
