//! What the demo found out: facts with a verdict each, shown on the terminal as they come and kept as data for
//! `--json`. It shows and keeps; what a fact is and whether it holds is the sections' business.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use serde_json::{Map, Value, json};

/// The points of the demo, in order: key in the data, title on the terminal.
pub(super) const POINTS: [(&str, &str); 8] = [
    ("guest_root", "Guest root"),
    ("run", "Run"),
    ("status", "Status"),
    ("environment", "Environment"),
    ("volume", "Volume"),
    ("identity", "Identity and a secret"),
    ("logs", "Logs"),
    ("exec_and_stop", "Exec, stop, and what is left"),
];
/// Where values begin.
const VALUE_COLUMN: usize = 26;
/// Longer values are cut on the terminal, never in the data.
const WIDTH: usize = 98;

/// All points, and where they are shown.
#[derive(Debug)]
pub(super) struct Screen {
    points: Map<String, Value>,
    current: &'static str,
    to_stderr: bool,
    colour: bool,
}

impl Screen {
    /// With `json`, standard output belongs to the data and the facts are shown on standard error.
    pub(super) fn new(json: bool) -> Self {
        let points = POINTS.iter().map(|(key, _)| {
            let point = json!({ "ok": false, "error": "not reached", "evidence": {} });
            ((*key).to_owned(), point)
        });
        let terminal = if json {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        };
        Self {
            points: points.collect(),
            current: POINTS[0].0,
            to_stderr: json,
            colour: terminal && env::var_os("NO_COLOR").is_none(),
        }
    }

    /// Begins a point.
    pub(super) fn point(&mut self, key: &'static str) {
        self.current = key;
        self.points[key]["ok"] = json!(true);
        self.points[key]["error"] = Value::Null;
        if let Some(at) = POINTS.iter().position(|(known, _)| *known == key) {
            let number = at + 1;
            self.line("");
            self.line(&self.styled("1", &format!("{number}  {}", POINTS[at].1)));
        }
    }

    /// The command that a person would type for what comes.
    pub(super) fn typed(&self, command: &str) {
        self.line(&self.styled("2", &format!("   $ {command}")));
    }

    /// A fact of the current point: shown, and kept under `key`.
    pub(super) fn fact(&mut self, key: &str, label: &str, shown: &str, value: Value, ok: bool) {
        self.keep(self.current, key, value, ok);
        self.show(label, shown, ok);
    }

    /// A fact whose text is its value.
    pub(super) fn text(&mut self, key: &str, label: &str, value: &str, ok: bool) {
        self.fact(key, label, value, json!(value), ok);
    }

    /// Kept under another point, not shown.
    pub(super) fn keep(&mut self, point: &str, key: &str, value: Value, ok: bool) {
        let point = &mut self.points[point];
        point["evidence"][key] = value;
        if !ok {
            point["ok"] = json!(false);
        }
    }

    /// A line with its mark.
    pub(super) fn show(&self, label: &str, shown: &str, ok: bool) {
        let mark = if ok {
            self.styled("32", "✓")
        } else {
            self.styled("31", "✗")
        };
        let space = " ".repeat(
            VALUE_COLUMN
                .saturating_sub(5 + label.chars().count())
                .max(1),
        );
        let label = self.styled("2", label);
        let shown = cut(shown, WIDTH - VALUE_COLUMN);
        self.line(&format!("   {mark} {label}{space}{shown}"));
    }

    /// A line without one: what another program printed.
    pub(super) fn quoted(&self, text: &str) {
        for line in text.lines() {
            self.line(&format!("     {}", cut(line, WIDTH - 5)));
        }
    }

    /// A plain line.
    pub(super) fn plain(&self, text: &str) {
        self.line(text);
    }

    /// The current point ended early.
    pub(super) fn error(&mut self, error: &anyhow::Error) {
        let text = format!("{error:#}");
        self.show("error", "", false);
        // Whole: what does not fit on a line goes on in the next.
        for line in text.lines() {
            let letters: Vec<char> = line.chars().collect();
            letters
                .chunks(WIDTH - 5)
                .for_each(|part| self.quoted(&part.iter().collect::<String>()));
        }
        let point = &mut self.points[self.current];
        point["ok"] = json!(false);
        point["error"] = json!(text);
    }

    /// How many points hold.
    pub(super) fn holding(&self) -> usize {
        self.points.values().filter(|p| p["ok"] == true).count()
    }

    /// All points as one object.
    pub(super) fn data(&self) -> Value {
        Value::Object(self.points.clone())
    }

    fn line(&self, text: &str) {
        // Nobody listens any more: the work goes on, the exit status tells.
        let _ = if self.to_stderr {
            writeln!(io::stderr(), "{text}")
        } else {
            writeln!(io::stdout(), "{text}")
        };
    }

    /// ECMA-48: 1 bold, 2 faint, 31 red, 32 green.
    fn styled(&self, style: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// At most `width` characters, control characters shown as escapes: the guest wrote some of this.
fn cut(text: &str, width: usize) -> String {
    let clean: String = text
        .chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let kept = (!c.is_control()).then_some(c);
            escaped.into_iter().flatten().chain(kept)
        })
        .collect();
    if clean.chars().count() <= width {
        return clean;
    }
    clean.chars().take(width - 1).chain(['…']).collect()
}

/// `12.3 MB`, in powers of ten.
pub(super) fn megabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{} MB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_was_not_reached_or_has_a_wrong_fact_does_not_hold() {
        let mut screen = Screen::new(true);
        screen.point("run");
        screen.text("a", "a", "right", true);
        assert_eq!(screen.holding(), 1);
        screen.keep("run", "b", json!(1), false);
        let data = screen.data();
        assert_eq!(data["run"]["ok"], false);
        assert_eq!(data["run"]["evidence"], json!({ "a": "right", "b": 1 }));
        assert_eq!(data["logs"]["error"], "not reached");
        assert_eq!(data.as_object().map(Map::len), Some(8));
    }

    #[test]
    fn an_error_belongs_to_its_point() {
        let mut screen = Screen::new(true);
        screen.point("logs");
        screen.error(&anyhow::anyhow!("no line\nlook there"));
        assert_eq!(screen.data()["logs"]["error"], "no line\nlook there");
        assert_eq!(screen.holding(), 0);
    }

    #[test]
    fn what_the_guest_wrote_cannot_move_the_cursor() {
        assert_eq!(cut("a\x1b[2Jb\u{9b}1m\n", 40), r"a\u{1b}[2Jb\u{9b}1m\n");
        assert_eq!(cut("grüße", 4), "grü…");
    }

    #[test]
    fn sizes_are_rounded_down_to_tenths() {
        assert_eq!(megabytes(12_390_000), "12.3 MB");
    }
}
