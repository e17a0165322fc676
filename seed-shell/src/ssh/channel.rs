//! One channel: what is asked for, then the command, until it ends or the client goes.
//!
//! The channel's messages are always taken off, whatever the command does, since the connection waits for that.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use russh::{Channel, ChannelMsg, ChannelReadHalf, server::Msg};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::timeout,
};

use super::{Shared, output::Output};
use crate::{access::Who, commands};

/// How long a client may take to say what it wants.
const REQUEST: Duration = Duration::from_secs(30);

/// Pieces of input that wait for the command.
const WAITING: usize = 64;

/// The longest command line.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Sizes of terminals that make sense; others are cut to it.
const MAX_CELLS: u32 = 1000;

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

/// Input of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Bytes.
    Data(Vec<u8>),
    /// No more.
    Eof,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

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
    input: Mutex<mpsc::Receiver<Input>>,
    wants_input: AtomicBool,
}

impl Session {
    /// The next piece of input. To be wanted first.
    pub async fn input(&self) -> Option<Input> {
        self.input.lock().await.recv().await
    }

    /// From now on input is kept; until then it is thrown away, and Ctrl-C ends the command. To be called before the
    /// command waits for anything.
    pub fn want_input(&self) {
        self.wants_input.store(true, Ordering::Relaxed);
    }
}

/// Lives a channel through.
pub(super) async fn serve(shared: Shared, who: Who, channel: Channel<Msg>) {
    let (mut read, write) = channel.split();
    let mut size = None;
    let Ok(Some(request)) = timeout(REQUEST, request(&mut read, &mut size)).await else {
        let _ = write.close().await;
        return;
    };
    let (input, receiver) = mpsc::channel(WAITING);
    let (resize, size) = size.map(watch::channel).unzip();
    let session = Session {
        output: Output::new(write, size.is_some()),
        shared,
        who,
        size,
        input: Mutex::new(receiver),
        wants_input: AtomicBool::new(false),
    };
    let ended = tokio::select! {
        // The command first: until it waits for something it may say that it wants input.
        biased;
        status = commands::run(&session, &request) => Some(status),
        status = pump(&mut read, &session, input, resize) => status,
    };
    if let Some(status) = ended {
        session.output.close(status).await;
    }
}

async fn request(read: &mut ChannelReadHalf, size: &mut Option<Size>) -> Option<Request> {
    loop {
        match read.wait().await? {
            ChannelMsg::RequestPty {
                col_width,
                row_height,
                ..
            } => *size = Some(cells(col_width, row_height)),
            ChannelMsg::WindowChange {
                col_width,
                row_height,
                ..
            } if size.is_some() => *size = Some(cells(col_width, row_height)),
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

fn cells(columns: u32, rows: u32) -> Size {
    let cell = |number: u32, usual: u16| match number {
        0 => usual,
        number => u16::try_from(number.min(MAX_CELLS)).unwrap_or(usual),
    };
    Size {
        columns: cell(columns, 80),
        rows: cell(rows, 24),
    }
}

/// Takes messages off until the client goes (`None`) or interrupts.
async fn pump(
    read: &mut ChannelReadHalf,
    session: &Session,
    input: mpsc::Sender<Input>,
    resize: Option<watch::Sender<Size>>,
) -> Option<u8> {
    while let Some(message) = read.wait().await {
        match message {
            ChannelMsg::Data { data } if session.wants_input.load(Ordering::Relaxed) => {
                // Fails only when the command has ended.
                let _ = input.send(Input::Data(data.to_vec())).await;
            }
            ChannelMsg::Data { data }
                if session.output.terminal() && data.iter().any(|b| INTERRUPT.contains(b)) =>
            {
                return Some(INTERRUPTED);
            }
            ChannelMsg::Eof => {
                let _ = input.send(Input::Eof).await;
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
            ChannelMsg::Close => return None,
            _ => {}
        }
    }
    None
}
