//! Where a command writes: the channel's two streams. A write waits until the client has room, so a client that
//! does not read costs no memory.

use std::time::Duration;

use russh::{ChannelWriteHalf, server::Msg};
use seed_shim::{data::json_line, logs::render::human::escaped};
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;

/// Standard error's number, RFC 4254, section 5.2.
const STDERR: u32 = 1;

/// The client has gone.
#[derive(Debug, Error)]
#[error("the client has gone")]
pub struct Gone;

/// A channel's streams.
#[derive(Debug)]
pub struct Output {
    half: ChannelWriteHalf<Msg>,
    /// The client's terminal is raw: lines end with a carriage return as well.
    terminal: bool,
    /// How long the client may not read.
    patience: Duration,
}

impl Output {
    /// On this channel. Who reads nothing for so long has gone.
    pub fn new(half: ChannelWriteHalf<Msg>, terminal: bool, patience: Duration) -> Self {
        Self {
            half,
            terminal,
            patience,
        }
    }

    /// Whether the client has a terminal for us.
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Writes text to standard output. What comes from a guest must be escaped already.
    pub async fn text(&self, text: impl AsRef<[u8]>) -> Result<(), Gone> {
        let bytes = newlines(text.as_ref(), self.terminal);
        self.raw(false, bytes).await
    }

    /// Writes a JSON document, one line. Every control character in it is an escape of JSON.
    pub async fn json(&self, value: &Value) -> Result<(), Gone> {
        self.text(json_line(value)).await
    }

    /// Writes a line to standard error, escaped.
    pub async fn complain(&self, line: &str) -> Result<(), Gone> {
        let text = format!("{}\n", escaped(line));
        let bytes = newlines(text.as_bytes(), self.terminal);
        self.raw(true, bytes).await
    }

    /// Writes bytes as they are to one of the streams: what a command in an instance printed, for whoever asked
    /// for just that.
    pub async fn raw(&self, error: bool, bytes: Vec<u8>) -> Result<(), Gone> {
        let sent = async {
            // On a terminal the two streams are one.
            if error && !self.terminal {
                self.half.extended_data_bytes(STDERR, bytes).await
            } else {
                self.half.data_bytes(bytes).await
            }
        };
        match timeout(self.patience, sent).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    /// Says how it ended, and closes.
    pub async fn close(&self, status: u8) {
        // The client may have gone, and then there is nobody to tell.
        let _ = self.half.exit_status(status.into()).await;
        let _ = self.half.eof().await;
        let _ = self.half.close().await;
    }
}

/// The bytes, on a terminal with a carriage return before each newline.
fn newlines(text: &[u8], terminal: bool) -> Vec<u8> {
    if !terminal {
        return text.to_vec();
    }
    let mut bytes = Vec::with_capacity(text.len() + text.len() / 32);
    for &byte in text {
        if byte == b'\n' {
            bytes.push(b'\r');
        }
        bytes.push(byte);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_terminal_gets_carriage_returns() {
        assert_eq!(newlines(b"a\nb\n", true), b"a\r\nb\r\n");
        assert_eq!(newlines(b"a\n", false), b"a\n");
    }
}
