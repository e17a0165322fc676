//! The page of figures, as Markdown, and which pictures stand on it. Pure.
//!
//! Rows that differ only in the number that their names begin with are one line in a picture of growth; rows with a ratio are
//! bars.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    Part,
    plot::{self, Line},
};

/// A line of growth has at least so many points.
const POINTS: usize = 3;

/// The page and its pictures by file name.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) text: String,
    pub(super) pictures: BTreeMap<String, String>,
}

/// All parts, in their order.
pub(super) fn of(about: &Value, parts: &[Part]) -> Page {
    let mut page = Page::default();
    page.head(about);
    for part in parts {
        page.part(part);
    }
    page
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn head(&mut self, about: &Value) {
        self.line("# Benchmarks\n");
        self.line(
            "Written by `cargo xtask bench all`; nothing here is typed by hand. Figures are medians; a ratio is ours over the \
             best peer in the same run, so below 1 ours is the smaller one. Without KVM the ratio of two boots that is judged \
             is by instructions; the wall clock's stands beside it, unjudged. A busy machine, which the load shows, makes all \
             times longer.\n",
        );
        self.line("| | |\n|---|---|");
        for part in ["machine", "versions"] {
            for (name, value) in about[part].as_object().into_iter().flatten() {
                self.line(&format!("| {name} | {} |", plain(value)));
            }
        }
    }

    fn part(&mut self, part: &Part) {
        let title = part.command.trim_start_matches("cargo xtask bench ");
        self.line(&format!(
            "\n## {title}\n\n`{}`; {}\n",
            part.command, part.when
        ));
        let found = match &part.found {
            Ok(found) => found,
            Err(error) => {
                let error = error.replace(['\n', '|'], " ");
                return self.line(&format!("It failed: {error}"));
            }
        };
        let rows: Vec<&Value> = found["rows"].as_array().into_iter().flatten().collect();
        self.table(&rows);
        self.targets(&part.targets);
        let settings = found["machine"].as_object().into_iter().flatten();
        let settings = settings
            .filter(|(name, _)| !["cpu", "cores", "memory", "kernel"].contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {}", plain(value)));
        let settings: Vec<_> = settings.collect();
        if !settings.is_empty() {
            self.line(&format!("\n{}", settings.join("; ")));
        }
        let file = title.replace([' ', '-'], "_");
        let bars: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((plain(&row["name"]), row["ratio"].as_f64()?)))
            .collect();
        if !bars.is_empty() {
            let label = format!("{title}: ours over the best peer");
            self.picture(&format!("{file}.svg"), &label, plot::bars(&label, &bars));
        }
        for (number, (name, unit, line)) in growth(&rows).into_iter().enumerate() {
            let label = format!("{name}, {unit}");
            let picture = format!("{file}_{number}.svg");
            self.picture(&picture, &label, plot::growth(&label, &line));
        }
    }

    fn table(&mut self, rows: &[&Value]) {
        let peers: BTreeSet<&String> = rows
            .iter()
            .flat_map(|row| row["peers"].as_object().into_iter().flatten())
            .map(|(name, _)| name)
            .collect();
        let names = peers.iter().map(|peer| format!(" {peer} |"));
        self.line(&format!(
            "| | unit | ours |{} ratio |",
            names.collect::<String>()
        ));
        self.line(&format!(
            "|---|---|---:|{}---:|",
            "---:|".repeat(peers.len())
        ));
        for row in rows {
            let figures = peers
                .iter()
                .map(|peer| format!(" {} |", plain(&row["peers"][peer.as_str()])));
            self.line(&format!(
                "| {} | {} | {} |{} {} |",
                plain(&row["name"]),
                plain(&row["unit"]),
                plain(&row["ours"]),
                figures.collect::<String>(),
                plain(&row["ratio"])
            ));
        }
    }

    /// `met: NAME: FIGURE, at most TARGET`, a row each.
    fn targets(&mut self, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        self.line("\n| target | | |\n|---|---|---|");
        for line in lines {
            let (verdict, rest) = line.split_once(": ").unwrap_or(("", line));
            let (name, figure) = rest.rsplit_once(": ").unwrap_or((rest, ""));
            self.line(&format!(
                "| {} | {figure} | {verdict} |",
                name.replace('|', "/")
            ));
        }
    }

    fn picture(&mut self, name: &str, label: &str, svg: String) {
        self.line(&format!("\n![{label}](benchmarks/{name})"));
        self.pictures.insert(name.to_owned(), svg);
    }
}

/// A cell: no quotes, nothing for nothing, whole numbers without a point.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.replace('|', "/"),
        Value::Number(number) => number
            .as_f64()
            .map_or_else(|| number.to_string(), |number| format!("{number}")),
        other => other.to_string(),
    }
}

/// Rows whose names begin with a number, by the rest of the name. Where there is nothing at any number, there is no line.
fn growth(rows: &[&Value]) -> Vec<(String, String, Line)> {
    let mut lines: BTreeMap<(String, String), Line> = BTreeMap::new();
    for row in rows {
        let name = plain(&row["name"]);
        let Some((count, rest)) = name.split_once(' ') else {
            continue;
        };
        if let (Ok(count), Some(value)) = (count.parse::<u32>(), row["ours"].as_f64()) {
            let key = (rest.to_owned(), plain(&row["unit"]));
            lines
                .entry(key)
                .or_default()
                .push((f64::from(count), value));
        }
    }
    let grows = |line: &Line| line.len() >= POINTS && line.iter().any(|(_, value)| *value > 0.0);
    let long = lines.into_iter().filter(|(_, line)| grows(line));
    long.map(|((name, unit), line)| (name, unit, line))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_that_differ_in_their_number_are_a_line() {
        let row = |name: &str, ours: f64| json!({ "name": name, "unit": "s", "ours": ours, "peers": {}, "ratio": null });
        let rows = [
            row("1 VMs: up", 10.0),
            row("2 VMs: up", 11.0),
            row("4 VMs: up", 14.0),
            row("2 lone", 1.0),
            row("1 VMs: left", 0.0),
            row("2 VMs: left", 0.0),
            row("4 VMs: left", 0.0),
        ];
        let lines = growth(&rows.iter().collect::<Vec<_>>());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].2, [(1.0, 10.0), (2.0, 11.0), (4.0, 14.0)]);
    }

    #[test]
    fn a_failed_part_is_on_the_page() {
        let part = Part {
            command: "cargo xtask bench boot".to_owned(),
            when: "today".to_owned(),
            found: Err("the disk\nis full".to_owned()),
            targets: Vec::new(),
        };
        let page = of(&json!({}), &[part]);
        assert!(
            page.text.contains("It failed: the disk is full"),
            "{}",
            page.text
        );
        assert!(page.pictures.is_empty());
    }
}
