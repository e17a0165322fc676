//! Cells as text: what every command prints its figures with.

/// First column to the left, the others to the right; no blanks at the ends of lines.
pub(crate) fn aligned(cells: &[Vec<String>]) -> Vec<String> {
    let columns = cells.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let lengths = cells.iter().filter_map(|line| line.get(column));
        lengths
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).enumerate();
        let padded = cells.map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

/// The same as a table of a Markdown page; the first line is its head.
pub(crate) fn markdown(cells: &[Vec<String>]) -> Vec<String> {
    let line = |line: &Vec<String>| format!("| {} |", line.join(" | "));
    let mut lines: Vec<_> = cells.iter().map(line).collect();
    if let Some(head) = cells.first() {
        let others = "---:|".repeat(head.len().saturating_sub(1));
        lines.insert(1, format!("|---|{others}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_is_as_wide_as_its_widest_cell() {
        let line = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let cells = [line(["name", "n"]), line(["a", "100"])];
        assert_eq!(aligned(&cells), ["name    n", "a     100"]);
    }

    #[test]
    fn a_markdown_table_has_a_rule_below_its_head() {
        let line = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let cells = [line(["name", "n"]), line(["a", "100"])];
        assert_eq!(
            markdown(&cells),
            ["| name | n |", "|---|---:|", "| a | 100 |"]
        );
        assert!(markdown(&[]).is_empty());
    }
}
