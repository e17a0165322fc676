//! One channel: what is asked for, then the command, until it ends or the client goes.
//!
//! The channel's messages are always taken off, whatever the command does, since the connection waits for that.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex as Lock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use russh::{Channel, ChannelId, ChannelMsg, ChannelReadHalf, Sig, server::Msg};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    Shared,
    inbox::{Inbox, InboxError},
    output::Output,
};
use crate::{access::Who, commands};

pub use super::inbox::Input;

/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(30);

/// How long the end of a command may take to be told.
const GOODBYE: Duration = Duration::from_secs(10);

/// Signals that wait for the command; more are not worth more.
const SIGNALS: usize = 16;

/// The longest command line.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Sizes of terminals that make sense; others are cut to it. A dashboard keeps two screens of cells.
const MAX_COLUMNS: u32 = 400;
const MAX_ROWS: u32 = 150;

/// The longest name of a kind of terminal.
const MAX_TERM_BYTES: usize = 64;

/// Ctrl-C and Ctrl-D, from a terminal whose own handling is off.
const INTERRUPT: [u8; 2] = [3, 4];

/// What came of a command that was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

/// What a client asks a channel for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `ssh host`.
    Shell,
    /// `ssh host command`.
    Exec(String),
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// A terminal of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pty {
    /// Its kind, as `TERM` has it.
    pub term: String,
    /// Its size at first.
    pub size: Size,
}

/// The channels of a connection that were given a terminal: the connection writes, each channel looks.
pub(super) type Terminals = Arc<Lock<HashSet<ChannelId>>>;

/// What a command works with.
#[derive(Debug)]
pub struct Session {
    /// Everything shared.
    pub shared: Shared,
    /// Who asks.
    pub who: Who,
    /// Where it writes.
    pub output: Output,
    /// The terminal's size, where there is one.
    pub size: Option<watch::Receiver<Size>>,
    /// The terminal's kind, where there is one.
    pub term: Option<String>,
    inbox: Inbox,
    wants_input: AtomicBool,
    signals: Mutex<mpsc::Receiver<Sig>>,
}

impl Session {
    /// The next piece of input. To be wanted first.
    pub async fn input(&self) -> Result<Input, InboxError> {
        self.inbox.take().await
    }

    /// The next signal that the client sent.
    pub async fn signal(&self) -> Option<Sig> {
        self.signals.lock().await.recv().await
    }

    /// From now on input is kept; until then it is thrown away, and Ctrl-C ends the command. To be called before the
    /// command waits for anything.
    pub fn want_input(&self) {
        self.wants_input.store(true, Ordering::Relaxed);
    }

    /// As [`Session::want_input`], much of it: what memory does not hold is kept in a file. For those alone who may do
    /// what they ask for.
    pub fn want_much_input(&self) -> Result<(), InboxError> {
        self.want_input();
        let Shared { config, spool, .. } = &self.shared;
        Ok(self.inbox.spill(&config.state_dir, spool)?)
    }
}

/// Lives a channel through.
pub(super) async fn serve(shared: Shared, who: Who, channel: Channel<Msg>, terminals: Terminals) {
    let id = channel.id();
    let (mut read, write) = channel.split();
    let mut pty = None;
    let request = timeout(REQUEST, request(&mut read, &mut pty)).await;
    let Ok(Some(request)) = request else {
        let _ = timeout(GOODBYE, write.close()).await;
        return;
    };
    // One that was asked for and refused is none.
    let pty = pty.filter(|_| {
        let granted = terminals.lock().unwrap_or_else(PoisonError::into_inner);
        granted.contains(&id)
    });
    let (term, size) = pty.map(|Pty { term, size }| (term, size)).unzip();
    let (resize, size) = size.map(watch::channel).unzip();
    let (signal, signals) = mpsc::channel(SIGNALS);
    let session = Session {
        output: Output::new(write, size.is_some(), shared.config.limits.idle()),
        shared,
        who,
        size,
        term,
        inbox: Inbox::default(),
        wants_input: AtomicBool::new(false),
        signals: Mutex::new(signals),
    };
    let ended = tokio::select! {
        // The command first: until it waits for something it may say that it wants input.
        biased;
        status = commands::run(&session, &request) => Some(status),
        ended = pump(&mut read, &session, &signal, resize) => match ended {
            Ended::Gone => None,
            Ended::Interrupted => Some(INTERRUPTED),
            Ended::TooMuch(error) => {
                // Who sends so much may not listen.
                let text = error.to_string();
                let _ = timeout(GOODBYE, session.output.complain(&text)).await;
                Some(1)
            }
        },
    };
    if let Some(status) = ended {
        // What still comes is taken off: the connection waits for that, and the end with it.
        let rest = async { while read.wait().await.is_some() {} };
        tokio::select! {
            () = session.output.close(status) => {}
            () = rest => {}
            () = sleep(GOODBYE) => {}
        }
    }
}

async fn request(read: &mut ChannelReadHalf, pty: &mut Option<Pty>) -> Option<Request> {
    loop {
        match read.wait().await? {
            ChannelMsg::RequestPty {
                term,
                col_width,
                row_height,
                ..
            } => {
                *pty = Some(Pty {
                    term: kind(term),
                    size: cells(col_width, row_height),
                });
            }
            ChannelMsg::WindowChange {
                col_width,
                row_height,
                ..
            } => {
                if let Some(pty) = pty {
                    pty.size = cells(col_width, row_height);
                }
            }
            ChannelMsg::RequestShell { .. } => return Some(Request::Shell),
            ChannelMsg::Exec { command, .. } => {
                if command.len() > MAX_LINE_BYTES {
                    return None;
                }
                let line = String::from_utf8_lossy(&command).trim().to_owned();
                return Some(if line.is_empty() {
                    Request::Shell
                } else {
                    Request::Exec(line)
                });
            }
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
}

/// A terminal's kind that can be a value of `TERM`; nothing otherwise.
fn kind(term: String) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if term.len() <= MAX_TERM_BYTES && term.chars().all(plain) {
        term
    } else {
        String::new()
    }
}

fn cells(columns: u32, rows: u32) -> Size {
    let cell = |number: u32, usual: u16, most: u32| match number {
        0 => usual,
        number => u16::try_from(number.min(most)).unwrap_or(usual),
    };
    Size {
        columns: cell(columns, 80, MAX_COLUMNS),
        rows: cell(rows, 24, MAX_ROWS),
    }
}

/// Why no more messages are taken off.
#[derive(Debug)]
enum Ended {
    /// The client has gone.
    Gone,
    /// It wants the end.
    Interrupted,
    /// It sends more than is taken.
    TooMuch(InboxError),
}

/// Takes messages off, and never waits for the command.
async fn pump(
    read: &mut ChannelReadHalf,
    session: &Session,
    signals: &mpsc::Sender<Sig>,
    resize: Option<watch::Sender<Size>>,
) -> Ended {
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } if session.wants_input.load(Ordering::Relaxed) => {
                if let Err(error) = session.inbox.put(&data) {
                    return Ended::TooMuch(error);
                }
            }
            ChannelMsg::Data { data }
                if session.output.terminal() && data.iter().any(|b| INTERRUPT.contains(b)) =>
            {
                return Ended::Interrupted;
            }
            ChannelMsg::Eof => session.inbox.end(),
            ChannelMsg::Signal { signal } => {
                // Fails when the command has ended or takes none.
                let _ = signals.try_send(signal);
            }
            ChannelMsg::WindowChange {
                col_width,
                row_height,
                ..
            } => {
                if let Some(resize) = &resize {
                    resize.send_replace(cells(col_width, row_height));
                }
            }
            ChannelMsg::Close => return Ended::Gone,
            _ => {}
        }
    }
    Ended::Gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_has_bounds_and_a_terminals_kind_is_a_word() {
        let size = |columns, rows| Size { columns, rows };
        assert_eq!(cells(0, 0), size(80, 24));
        assert_eq!(cells(u32::MAX, u32::MAX), size(400, 150));
        assert_eq!(cells(100, 30), size(100, 30));
        assert_eq!(kind("xterm-256color".into()), "xterm-256color");
        for term in ["a b", "\x1b[2J", "ä", &"x".repeat(65)] {
            assert_eq!(kind(term.into()), "");
        }
    }
}
