//! The streams of exec, attach and port-forward, over WebSocket (RFC 6455) with Kubernetes' channel protocol:
//! each message begins with the number of its channel.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::limit;

/// The subprotocol: channel bytes, and the exit status as JSON on [`ERROR`].
const PROTOCOL: &str = "v4.channel.k8s.io";

/// Standard input, or the way into a port.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How it ended.
pub const ERROR: u8 = 3;
/// A terminal's size, as JSON.
pub const RESIZE: u8 = 4;

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
}

impl Stream {
    /// Opens what a CRI call gave the address of.
    pub fn open(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").context("no http address")?;
        let (host, path) = rest.split_once('/').context("an address without a path")?;
        let socket = TcpStream::connect(host)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut stream = Self { socket };
        // Any key will do: whether the server knows the protocol is not what is tried here.
        let request = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Origin: http://{host}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        );
        stream.socket.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.fill(&mut byte, Instant::now() + limit::COMMAND)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        ensure!(head.starts_with("HTTP/1.1 101"), "no stream: {head}");
        Ok(stream)
    }

    /// Sends on a channel, in one frame (binary, masked with zeros).
    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let length = data.len() + 1;
        let mut frame = vec![0x82];
        match u8::try_from(length) {
            Ok(short) if short < 126 => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.push(channel);
        frame.extend_from_slice(data);
        Ok(self.socket.write_all(&frame)?)
    }

    /// The next message: its channel and what it carries. Nothing at the end.
    pub fn receive(&mut self, limit: Duration) -> Result<Option<(u8, Vec<u8>)>> {
        let until = Instant::now() + limit;
        loop {
            let mut head = [0; 2];
            self.fill(&mut head, until)?;
            let length = match head[1] & 0x7f {
                126 => {
                    let mut bytes = [0; 2];
                    self.fill(&mut bytes, until)?;
                    usize::from(u16::from_be_bytes(bytes))
                }
                127 => {
                    let mut bytes = [0; 8];
                    self.fill(&mut bytes, until)?;
                    usize::try_from(u64::from_be_bytes(bytes))?
                }
                length => length.into(),
            };
            let mut data = vec![0; length];
            self.fill(&mut data, until)?;
            match head[0] & 0x0f {
                // Text and binary; the server says a channel is there by an empty message on it.
                1 | 2 if data.len() > 1 => return Ok(Some((data[0], data.split_off(1)))),
                8 => return Ok(None),
                _ => {}
            }
        }
    }

    /// Everything on one channel up to this text, or to the end.
    pub fn read_until(&mut self, channel: u8, wanted: &str, limit: Duration) -> Result<String> {
        let until = Instant::now() + limit;
        let mut text = String::new();
        while !text.contains(wanted) {
            let left = until.saturating_duration_since(Instant::now());
            match self
                .receive(left)
                .with_context(|| format!("so far: {text:?}"))?
            {
                Some((from, data)) if from == channel => {
                    text.push_str(&String::from_utf8_lossy(&data));
                }
                Some(_) => {}
                None => break,
            }
        }
        Ok(text)
    }

    fn fill(&mut self, mut buffer: &mut [u8], until: Instant) -> Result<()> {
        while !buffer.is_empty() {
            match self.socket.read(buffer) {
                Ok(0) => bail!("the stream was closed"),
                Ok(count) => buffer = &mut buffer[count..],
                // With a time limit on the socket the kernel starts no read again that anything woke (signal(7)).
                Err(error)
                    if [ErrorKind::WouldBlock, ErrorKind::Interrupted].contains(&error.kind()) =>
                {
                    ensure!(Instant::now() < until, "nothing came on the stream in time");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
