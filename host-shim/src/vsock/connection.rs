//! One connection between guest and host: its stream on the host, what each side may still send (virtio 1.2, section
//! 5.10.6.3), and what waits for a slow reader on the host.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    mem,
    net::Shutdown,
    os::unix::net::UnixStream,
};

use super::packet::{BOTH_WAYS, HOST_CID, Header, STREAM};

/// How much of what the guest sends is kept for a slow reader, for each connection. It may not send more.
pub(super) const BUFFER_BYTES: u32 = 128 * 1024;

/// The two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The guest is asked for it.
    Asked,
    /// Data flows.
    Open,
    /// The guest sends nothing more and takes nothing more: it ends when the reader on the host has all.
    Closing,
    /// The same, and the guest has forgotten it: Linux waits eight seconds for a slow reader.
    Forgotten,
    /// The host's end is gone, and the guest was told. It is the guest's to forget.
    Over,
}

/// What came of reading from the host's end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromHost {
    /// So many bytes.
    Data(usize),
    /// There are none now.
    Nothing,
    /// The guest has no room for any.
    NoRoom,
    /// There will be none.
    End,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) state: State,
    ports: Ports,
    /// It is in the queue of those that may have data for the guest.
    pub(super) queued: bool,
    /// It has data for the guest, and the guest no room.
    pub(super) starved: bool,
    /// The other end of the stream is closed: nothing new comes of waiting for it.
    pub(super) hung_up: bool,
    /// The ways that the guest said are over.
    over: u32,
    /// Nobody takes what the guest sends.
    deaf: bool,
    /// What the reader on the host has not taken yet.
    waiting: VecDeque<u8>,
    /// How much of `waiting` is our own words, for which the guest has no claim.
    own: usize,
    /// How much the guest sent, how much of it was passed on, and how much of that it was told. All wrap.
    came: u32,
    passed_on: u32,
    told: u32,
    /// The guest's buffer, how much it passed on, and how much it was sent.
    their_buffer: u32,
    they_passed_on: u32,
    sent: u32,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, state: State, ports: Ports) -> Self {
        Self {
            stream,
            state,
            ports,
            queued: false,
            starved: false,
            hung_up: false,
            over: 0,
            deaf: false,
            waiting: VecDeque::new(),
            own: 0,
            came: 0,
            passed_on: 0,
            told: 0,
            their_buffer: 0,
            they_passed_on: 0,
            sent: 0,
        }
    }

    /// A header to the guest, with what it may send.
    pub(super) fn header(&mut self, cid: u64, op: u16) -> Header {
        self.told = self.passed_on;
        Header {
            from_cid: HOST_CID,
            to_cid: cid,
            from_port: self.ports.host,
            to_port: self.ports.guest,
            kind: STREAM,
            op,
            buffer: BUFFER_BYTES,
            passed_on: self.passed_on,
            ..Header::default()
        }
    }

    /// What the guest says of its room.
    pub(super) fn hear_of_room(&mut self, header: &Header) {
        self.their_buffer = header.buffer;
        self.they_passed_on = header.passed_on;
    }

    /// The guest says which ways are over; what it said before stays said. Whether both are.
    pub(super) fn hear_of_end(&mut self, flags: u32) -> bool {
        self.over |= flags & BOTH_WAYS;
        self.over == BOTH_WAYS
    }

    fn room(&self) -> u32 {
        let there = self.sent.wrapping_sub(self.they_passed_on);
        self.their_buffer.saturating_sub(there)
    }

    /// Reads at most as much as `buffer` takes, and the guest.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> FromHost {
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let room = room.min(buffer.len());
        if room == 0 {
            return FromHost::NoRoom;
        }
        match self.stream.read(&mut buffer[..room]) {
            Ok(0) => FromHost::End,
            Ok(count) => {
                let sent = u32::try_from(count).unwrap_or(u32::MAX);
                self.sent = self.sent.wrapping_add(sent);
                FromHost::Data(count)
            }
            Err(error) if is_later(&error) => FromHost::Nothing,
            Err(_) => FromHost::End,
        }
    }

    /// Takes data of the guest. False: it sent more than it may.
    pub(super) fn take(&mut self, data: &[u8]) -> bool {
        let Ok(count) = u32::try_from(data.len()) else {
            return false;
        };
        let held = self.came.wrapping_sub(self.passed_on);
        if count > BUFFER_BYTES - held.min(BUFFER_BYTES) {
            return false;
        }
        self.came = self.came.wrapping_add(count);
        let now = if self.waiting.is_empty() {
            self.write(data)
        } else {
            0
        };
        self.pass_on(now);
        self.waiting.extend(&data[now..]);
        true
    }

    /// Words of our own, before any of the guest.
    pub(super) fn say(&mut self, words: &[u8]) {
        self.own += words.len();
        self.waiting.extend(words);
        self.flush();
    }

    /// Writes what waits, as far as it is taken.
    pub(super) fn flush(&mut self) {
        let mut waiting = mem::take(&mut self.waiting);
        while !waiting.is_empty() {
            let written = self.write(waiting.as_slices().0);
            if written == 0 {
                break;
            }
            waiting.drain(..written);
            let own = written.min(self.own);
            self.own -= own;
            self.pass_on(written - own);
        }
        self.waiting = waiting;
    }

    /// How much was taken. Where nobody is left to take it, all is: the guest hears of the end when it has read what
    /// the host said before.
    fn write(&mut self, data: &[u8]) -> usize {
        if self.deaf {
            return data.len();
        }
        match self.stream.write(data) {
            Ok(count) => count,
            Err(error) if is_later(&error) => 0,
            Err(_) => {
                self.deaf = true;
                data.len()
            }
        }
    }

    fn pass_on(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.passed_on = self.passed_on.wrapping_add(count);
    }

    /// Whether the guest should be told of room before it has none.
    pub(super) fn owes_room(&self) -> bool {
        self.passed_on.wrapping_sub(self.told) >= BUFFER_BYTES / 2
    }

    /// Whether a reader on the host is waited for.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The host says nothing more: no end of a stream is closed alone.
    pub(super) fn finish(&mut self) {
        self.state = State::Over;
        self.deaf = true;
        self.flush();
        // What it would say, that it is closed already, is what was wanted.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
