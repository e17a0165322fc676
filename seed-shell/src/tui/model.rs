//! What the dashboard shows, and what keys do to it. No I/O: keys and news go in, [`Wish`]es come out.

use std::{collections::VecDeque, time::Duration};

use super::input::Key;

/// Lines of a log that are kept for scrolling.
pub const MAX_LINES: usize = 5000;

/// The longest line that is kept, in characters: what is behind it is cut off.
pub const MAX_LINE_CHARS: usize = 4096;

/// All lines together.
pub const MAX_BYTES: usize = 4 << 20;

/// Columns that one key press moves the log sideways.
const SIDEWAYS: usize = 8;

/// The longest search.
const MAX_SEARCH: usize = 100;

/// One instance, ready to be shown: every text is escaped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instance {
    /// `repo/instance`, as a command takes it.
    pub name: String,
    /// In one word.
    pub state: String,
    /// The furthest stage of its boot.
    pub stage: String,
    /// Since when.
    pub up: String,
    /// Share of its processors, in percent of one.
    pub cpu: String,
    /// Used of what it has.
    pub memory: String,
    /// Stages of the last boot with their time in milliseconds.
    pub stages: Vec<(String, u64)>,
    /// What is wrong.
    pub problem: String,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// End.
    Quit,
    /// Show the log of the selected instance, from its end.
    Log,
    /// Restart this instance.
    Restart(String),
}

/// What keys go to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// The list and the log.
    #[default]
    Look,
    /// Restart? The name.
    Question(String),
    /// A search is typed.
    Search(String),
}

/// Everything that is shown.
#[derive(Debug, Clone, Default)]
pub struct Model {
    instances: Vec<Instance>,
    selected: usize,
    lines: VecDeque<String>,
    /// Of all of them.
    bytes: usize,
    /// Lines between the end of the log and the end of what is shown; 0 follows.
    back: usize,
    sideways: usize,
    mode: Mode,
    search: String,
    /// The line that was found, counted from the log's beginning.
    found: Option<usize>,
    message: String,
    /// Height of the log's pane, as it was drawn last.
    page: usize,
}

impl Model {
    /// All instances.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// Which of them is selected.
    pub fn selected(&self) -> usize {
        self.selected
    }

    /// The selected one.
    pub fn current(&self) -> Option<&Instance> {
        self.instances.get(self.selected)
    }

    /// What keys go to.
    pub fn mode(&self) -> &Mode {
        &self.mode
    }

    /// What was searched for.
    pub fn search(&self) -> &str {
        &self.search
    }

    /// One sentence about what was done last.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says something.
    pub fn say(&mut self, message: impl Into<String>) {
        self.message = message.into();
    }

    /// Columns of the log that are left of the pane.
    pub fn sideways(&self) -> usize {
        self.sideways
    }

    /// Lines that came after what is shown.
    pub fn back(&self) -> usize {
        self.back
    }

    /// The lines for a pane of this height, and whether each is the one that was found.
    pub fn pane(&mut self, height: usize) -> Vec<(String, bool)> {
        self.page = height;
        self.back = self.back.min(self.lines.len().saturating_sub(height));
        let end = self.lines.len() - self.back;
        let begin = end.saturating_sub(height);
        let line = |at: usize| (self.lines[at].clone(), self.found == Some(at));
        (begin..end).map(line).collect()
    }

    /// The instances are these now. The selection stays with its name.
    pub fn update(&mut self, instances: Vec<Instance>) -> Option<Wish> {
        let before = self.current().map(|instance| instance.name.clone());
        self.instances = instances;
        let same = |instance: &Instance| Some(&instance.name) == before.as_ref();
        self.selected = self.instances.iter().position(same).unwrap_or(0);
        let now = self.current().map(|instance| instance.name.clone());
        (now != before).then(|| self.fresh_log())
    }

    /// More text of the selected instance's log; each line is escaped.
    pub fn append(&mut self, text: &str) {
        for line in text.lines() {
            let cut = line.char_indices().nth(MAX_LINE_CHARS);
            let line = cut.map_or(line.to_owned(), |(end, _)| format!("{}...", &line[..end]));
            self.bytes += line.len();
            self.lines.push_back(line);
            // Who looks back keeps what he looks at.
            if self.back > 0 {
                self.back += 1;
            }
        }
        while self.lines.len() > MAX_LINES || self.bytes > MAX_BYTES {
            let gone = self.lines.pop_front();
            self.bytes -= gone.map_or(self.bytes, |line| line.len());
            self.found = self.found.and_then(|at| at.checked_sub(1));
        }
    }

    fn fresh_log(&mut self) -> Wish {
        self.lines.clear();
        self.bytes = 0;
        self.back = 0;
        self.sideways = 0;
        self.found = None;
        Wish::Log
    }

    /// A key was pressed.
    pub fn key(&mut self, key: Key) -> Option<Wish> {
        if key == Key::Interrupt {
            return Some(Wish::Quit);
        }
        match std::mem::take(&mut self.mode) {
            Mode::Look => self.look(key),
            Mode::Question(name) => self.answer(key, name),
            Mode::Search(text) => {
                self.type_search(key, text);
                None
            }
        }
    }

    fn look(&mut self, key: Key) -> Option<Wish> {
        self.message.clear();
        match key {
            Key::Char('q') => return Some(Wish::Quit),
            Key::Up | Key::Char('k') => return self.select(self.selected.checked_sub(1)?),
            Key::Down | Key::Char('j') => return self.select(self.selected + 1),
            Key::PageUp => self.back = self.back.saturating_add(self.page.max(1)),
            Key::PageDown => self.back = self.back.saturating_sub(self.page.max(1)),
            Key::Home | Key::Char('g') => self.back = usize::MAX,
            Key::End | Key::Char('G') | Key::Escape => {
                self.back = 0;
                self.found = None;
            }
            Key::Right => self.sideways += SIDEWAYS,
            Key::Left => self.sideways = self.sideways.saturating_sub(SIDEWAYS),
            Key::Char('/') => self.mode = Mode::Search(String::new()),
            Key::Char('n') => self.find(true),
            Key::Char('N') => self.find(false),
            Key::Char('r') => {
                let name = self.current().map(|instance| instance.name.clone());
                self.mode = name.map_or(Mode::Look, Mode::Question);
            }
            _ => {}
        }
        // As far as there is a log.
        self.back = self.back.min(self.lines.len().saturating_sub(self.page));
        None
    }

    fn select(&mut self, at: usize) -> Option<Wish> {
        if at >= self.instances.len() {
            return None;
        }
        self.selected = at;
        Some(self.fresh_log())
    }

    fn answer(&mut self, key: Key, name: String) -> Option<Wish> {
        match key {
            Key::Char('y' | 'Y') => {
                self.say(format!("{name} is being restarted"));
                Some(Wish::Restart(name))
            }
            _ => {
                self.say("not restarted");
                None
            }
        }
    }

    fn type_search(&mut self, key: Key, mut text: String) {
        match key {
            Key::Enter => {
                self.search = text.to_lowercase();
                self.found = None;
                self.find(true);
                return;
            }
            Key::Escape => return,
            Key::Backspace => {
                text.pop();
            }
            Key::Char(c) if text.len() < MAX_SEARCH => text.push(c),
            _ => {}
        }
        self.mode = Mode::Search(text);
    }

    /// The next line that holds what is searched for: an older or a newer one.
    fn find(&mut self, older: bool) {
        if self.search.is_empty() {
            self.say("nothing is searched for: / begins");
            return;
        }
        let fits = |at: &usize| self.lines[*at].to_lowercase().contains(&self.search);
        let hit = if older {
            let before = self.found.unwrap_or(self.lines.len());
            (0..before).rev().find(fits)
        } else {
            let after = self.found.map_or(0, |at| at + 1);
            (after..self.lines.len()).find(fits)
        };
        let Some(at) = hit else {
            self.say(format!(
                "no {} line with {:?}",
                if older { "older" } else { "newer" },
                self.search
            ));
            return;
        };
        self.found = Some(at);
        // In the middle of the pane.
        let below = self.lines.len() - 1 - at;
        self.back = below.saturating_sub(self.page / 2);
    }
}

/// Share of processors between two looks, in percent of one.
pub fn share(before_ms: u64, now_ms: u64, between: Duration) -> Option<u64> {
    let between = u64::try_from(between.as_millis())
        .ok()
        .filter(|ms| *ms > 0)?;
    Some(now_ms.checked_sub(before_ms)?.saturating_mul(100) / between)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(names: &[&str]) -> Model {
        let mut model = Model::default();
        let instance = |name: &&str| Instance {
            name: (*name).into(),
            ..Instance::default()
        };
        assert_eq!(
            model.update(names.iter().map(instance).collect()),
            Some(Wish::Log)
        );
        model
    }

    fn press(model: &mut Model, text: &str) -> Vec<Wish> {
        text.chars()
            .map(|c| if c == '\n' { Key::Enter } else { Key::Char(c) })
            .filter_map(|key| model.key(key))
            .collect()
    }

    fn shown(model: &mut Model, height: usize) -> Vec<String> {
        model
            .pane(height)
            .into_iter()
            .map(|(line, _)| line)
            .collect()
    }

    #[test]
    fn a_restart_asks_first() {
        let mut model = model(&["app/web", "app/db"]);
        assert_eq!(press(&mut model, "rn"), []);
        assert_eq!(model.message(), "not restarted");
        assert_eq!(
            press(&mut model, "jry"),
            [Wish::Log, Wish::Restart("app/db".into())]
        );
        assert_eq!(
            press(&mut model, "rq"),
            [],
            "the answer is no, and not the end"
        );
        assert_eq!(press(&mut model, "q"), [Wish::Quit]);
    }

    #[test]
    fn the_selection_stays_with_its_name() {
        let mut model = model(&["b", "c"]);
        press(&mut model, "j");
        let names = ["a", "b", "c"].map(|name| Instance {
            name: name.into(),
            ..Instance::default()
        });
        assert_eq!(model.update(names.to_vec()), None);
        assert_eq!(model.current().unwrap().name, "c");
        assert_eq!(model.update(names[..1].to_vec()), Some(Wish::Log));
        assert_eq!(model.update(Vec::new()), Some(Wish::Log));
        assert_eq!(press(&mut model, "rjk"), [], "there is nothing to select");
    }

    #[test]
    fn who_looks_back_keeps_what_he_looks_at() {
        let mut model = model(&["a"]);
        (1..=20).for_each(|n| model.append(&format!("line {n}")));
        assert_eq!(shown(&mut model, 3), ["line 18", "line 19", "line 20"]);
        model.key(Key::PageUp);
        assert_eq!(shown(&mut model, 3), ["line 15", "line 16", "line 17"]);
        model.append("line 21\nline 22\n");
        assert_eq!(shown(&mut model, 3), ["line 15", "line 16", "line 17"]);
        model.key(Key::Home);
        assert_eq!(shown(&mut model, 3), ["line 1", "line 2", "line 3"]);
        model.key(Key::End);
        assert_eq!(shown(&mut model, 3), ["line 20", "line 21", "line 22"]);
        assert_eq!(shown(&mut model, 100).len(), 22);
        (0..MAX_LINES).for_each(|n| model.append(&format!("more {n}")));
        assert_eq!(model.lines.len(), MAX_LINES);
    }

    #[test]
    fn a_log_has_bounds_however_long_its_lines_are() {
        let mut model = model(&["a"]);
        model.append(&"ä".repeat(1 << 20));
        let line = shown(&mut model, 1).remove(0);
        assert_eq!(line.chars().count(), MAX_LINE_CHARS + 3);
        (0..2000).for_each(|_| model.append(&"x".repeat(MAX_LINE_CHARS)));
        let bytes: usize = model.lines.iter().map(String::len).sum();
        assert!(bytes <= MAX_BYTES && bytes == model.bytes);
        assert_eq!(model.lines.len(), MAX_BYTES / MAX_LINE_CHARS);
    }

    #[test]
    fn what_is_restarted_is_what_was_asked_about() {
        let mut model = model(&["app/db", "app/web"]);
        press(&mut model, "jr");
        // While the question stands the list loses its selected row.
        let db = model.instances()[0].clone();
        model.update(vec![db]);
        assert_eq!(press(&mut model, "y"), [Wish::Restart("app/web".into())]);
    }

    #[test]
    fn a_search_goes_back_and_forth() {
        let mut model = model(&["a"]);
        for n in 1..=50 {
            model.append(&format!(
                "{} {n}",
                if n % 20 == 0 { "ERROR" } else { "fine" }
            ));
        }
        model.pane(5);
        press(&mut model, "/error\n");
        let found = |model: &mut Model| {
            let mut lines = model.pane(5).into_iter();
            lines.find(|(_, found)| *found).map(|(line, _)| line)
        };
        assert_eq!(found(&mut model).as_deref(), Some("ERROR 40"));
        press(&mut model, "n");
        assert_eq!(found(&mut model).as_deref(), Some("ERROR 20"));
        press(&mut model, "n");
        assert!(model.message().starts_with("no older line"));
        press(&mut model, "N");
        assert_eq!(found(&mut model).as_deref(), Some("ERROR 40"));
        press(&mut model, "/q");
        model.key(Key::Escape);
        assert_eq!(model.mode(), &Mode::Look);
    }

    #[test]
    fn shares_of_a_processor() {
        assert_eq!(share(1000, 2000, Duration::from_secs(2)), Some(50));
        assert_eq!(share(2000, 1000, Duration::from_secs(2)), None);
        assert_eq!(share(0, 1, Duration::ZERO), None);
    }
}
