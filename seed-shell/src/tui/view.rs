//! Draws a [`Model`] with ratatui into bytes for a terminal.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use ratatui::{
    Frame, Terminal, TerminalOptions, Viewport,
    backend::CrosstermBackend,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState},
};
use seed_shim::text::seconds;

use super::model::{Instance, Mode, Model};
use crate::ssh::channel::Size;

/// At most so many instances are seen at once above the log.
const LIST_ROWS: usize = 8;

/// The other screen, no cursor; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

const KEYS: &str = " up/down select  pgup/pgdn scroll  / search  r restart  q quit";

/// Bytes that the terminal library has written and the client has not got yet.
#[derive(Debug, Clone, Default)]
struct Pending(Arc<Mutex<Vec<u8>>>);

impl Pending {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl io::Write for Pending {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's screen: what it shows now.
#[derive(Debug)]
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Pending>>,
    pending: Pending,
}

impl Screen {
    /// An empty screen of this size. The bytes to begin with come with the first drawing.
    pub fn new(size: Size) -> io::Result<Self> {
        let pending = Pending::default();
        io::Write::write_all(&mut pending.clone(), ENTER)?;
        Ok(Self {
            terminal: terminal(&pending, size)?,
            pending,
        })
    }

    /// The client's window has this size now.
    pub fn resize(&mut self, size: Size) -> io::Result<()> {
        io::Write::write_all(&mut self.pending.clone(), b"\x1b[2J")?;
        self.terminal = terminal(&self.pending, size)?;
        Ok(())
    }

    /// What has to be sent so that the screen shows this.
    pub fn draw(&mut self, model: &mut Model) -> io::Result<Vec<u8>> {
        self.terminal.draw(|frame| draw(frame, model))?;
        Ok(self.pending.take())
    }

    /// What has to be sent at the end.
    pub fn leave(self) -> Vec<u8> {
        LEAVE.to_vec()
    }
}

fn terminal(pending: &Pending, size: Size) -> io::Result<Terminal<CrosstermBackend<Pending>>> {
    let area = Rect::new(0, 0, size.columns, size.rows);
    Terminal::with_options(
        CrosstermBackend::new(pending.clone()),
        TerminalOptions {
            viewport: Viewport::Fixed(area),
        },
    )
}

fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let instances = model.instances().len();
    let list = u16::try_from(instances.clamp(1, LIST_ROWS) + 1).unwrap_or(u16::MAX);
    let [title, table, boot, log, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(list),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let count = match instances {
        1 => "1 instance".to_owned(),
        several => format!("{several} instances"),
    };
    frame.render_widget(
        Line::from(vec![" seed ".bold(), Span::raw(format!(" {count}"))])
            .style(Style::new().add_modifier(Modifier::REVERSED)),
        title,
    );
    draw_list(frame, model, table);
    draw_boot(frame, model.current(), boot);
    draw_log(frame, model, log);
    draw_foot(frame, model, foot);
}

fn draw_list(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let head = Row::new(["INSTANCE", "STATE", "STAGE", "UP", "CPU", "MEMORY"])
        .style(Style::new().add_modifier(Modifier::BOLD));
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(11),
        Constraint::Length(10),
        Constraint::Length(6),
        Constraint::Length(18),
    ];
    let table = Table::new(model.instances().iter().map(row), widths)
        .header(head)
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(model.selected()));
    frame.render_stateful_widget(table, area, &mut state);
}

fn row(instance: &Instance) -> Row<'_> {
    let colour = match instance.state.as_str() {
        "running" if instance.stage == "degraded" => Color::Yellow,
        "running" => Color::Green,
        "starting" | "created" | "stopping" | "paused" => Color::Yellow,
        _ => Color::Red,
    };
    Row::new([
        Cell::new(instance.name.as_str()),
        Cell::new(instance.state.as_str()).style(Style::new().fg(colour)),
        Cell::new(instance.stage.as_str()),
        Cell::new(instance.up.as_str()),
        Cell::new(instance.cpu.as_str()),
        Cell::new(instance.memory.as_str()),
    ])
}

fn draw_boot(frame: &mut Frame<'_>, instance: Option<&Instance>, area: Rect) {
    let Some(instance) = instance else {
        frame.render_widget("no instances yet", area);
        return;
    };
    let stages: Vec<String> = instance
        .stages
        .iter()
        .map(|(stage, at)| format!("{stage} {}", seconds(*at)))
        .collect();
    let boot = Line::from(format!("boot: {}", stages.join(", ")));
    let problem = Line::from(instance.problem.as_str()).style(Style::new().fg(Color::Red));
    frame.render_widget(Paragraph::new(vec![boot, problem]), area);
}

fn draw_log(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let name = model.current().map(|instance| instance.name.as_str());
    let title = match (name, model.back()) {
        (None, _) => String::new(),
        (Some(name), 0) => format!(" log of {name} "),
        (Some(name), back) => format!(" log of {name}, {back} lines back "),
    };
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    let sideways = model.sideways();
    let lines: Vec<Line<'static>> = model
        .pane(inner.height.into())
        .into_iter()
        .map(|(line, found)| {
            let style = if found {
                Style::new().add_modifier(Modifier::REVERSED)
            } else {
                Style::new()
            };
            // A tab has no width of its own in a cell.
            let text: String = line.replace('\t', "    ").chars().skip(sideways).collect();
            Line::styled(text, style)
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn draw_foot(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let text = match model.mode() {
        Mode::Question(name) => format!(" restart {name}? y/n"),
        Mode::Search(text) => format!(" /{text}"),
        Mode::Look if !model.message().is_empty() => format!(" {}", model.message()),
        Mode::Look => KEYS.to_owned(),
    };
    let style = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Line::raw(text).style(style), area);
}
