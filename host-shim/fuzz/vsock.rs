//! The vsock device's hub between a guest that sends what it likes and callers that come and go, without rings. An input
//! is a list of steps, each a byte that says which and then its numbers.
//!
//! Whatever happens, bytes come out as they went in, in their order, without a hole; the guest is sent no more than it
//! has room for and is told of no more room than it made; and there is an end to what it is sent.

use std::{
    collections::HashMap,
    env, fs,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process,
};

use seed_shim::vsock::{
    hub::Hub,
    packet::{HEADER_BYTES, HOST_CID, Header, STREAM, op},
};

use super::Folder;

const CID: u64 = 3;
/// Whom the guest can call.
const SERVICE: u32 = 1030;
/// The first port of the host's own calls.
const FIRST_PORT: u32 = 1 << 30;
/// The guest's port of the first caller; each has another one.
const FIRST_GUEST_PORT: u32 = 1_000_000;
/// The most callers, and the most that talk nonsense: those that wait for the hub fit into its socket's queue.
const MOST: usize = 32;
/// What a packet may carry.
const MAX_DATA_BYTES: usize = 64 * 1024;
/// The guest's buffer, where it is sensible.
const ROOM: u32 = 64 * 1024;

/// The host's and the guest's port.
type Ends = (u32, u32);

/// Taken when a byte got to the other side.
pub(super) fn vsock(input: &[u8]) -> bool {
    let folder = Folder(env::temp_dir().join(format!("seed-vsock-{}", process::id())));
    fs::create_dir_all(&folder.0).expect("a folder among the temporary files");
    let mut play = Play::new(&folder.0);
    let mut steps = Steps(input);
    while play.step(&mut steps).is_some() {}
    play.end();
    play.moved
}

struct Steps<'a>(&'a [u8]);

impl<'a> Steps<'a> {
    fn byte(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Somebody on the host who called a port of the guest.
struct Caller {
    stream: Option<UnixStream>,
    guest: u32,
    /// Since the guest was asked for it.
    host: Option<u32>,
    /// The hub's own words.
    line: Vec<u8>,
    /// How much it said, how much it heard, and how much the guest said.
    said: u32,
    heard: u32,
    of_guest: u32,
}

struct Play {
    socket: PathBuf,
    hub: Hub,
    service: UnixListener,
    served: Vec<UnixStream>,
    strangers: Vec<UnixStream>,
    callers: Vec<Caller>,
    /// What the guest said last of its room on a connection, and how much it was sent.
    room: HashMap<Ends, (u32, u32)>,
    came: HashMap<Ends, u32>,
    moved: bool,
}

impl Play {
    fn new(folder: &Path) -> Self {
        let socket = folder.join("sock");
        let service = UnixListener::bind(folder.join(format!("sock_{SERVICE}")));
        let service = service.expect("a folder of our own");
        service.set_nonblocking(true).expect("a socket of our own");
        Self {
            hub: Hub::listen(CID, &socket).expect("a folder of our own"),
            socket,
            service,
            served: Vec::new(),
            strangers: Vec::new(),
            callers: Vec::new(),
            room: HashMap::new(),
            came: HashMap::new(),
            moved: false,
        }
    }

    /// Does the next step; none when there is none.
    fn step(&mut self, steps: &mut Steps<'_>) -> Option<()> {
        match steps.byte()? % 11 {
            0 => self.call(),
            1 => {
                let (which, count) = (steps.byte()?, steps.byte()?);
                if let Some(caller) = self.chosen(which) {
                    caller.say(count);
                }
            }
            2 => {
                let (which, count) = (steps.byte()?, steps.byte()?);
                let heard = self.chosen(which).is_some_and(|caller| caller.hear(count));
                self.moved |= heard;
            }
            3 => {
                let which = steps.byte()?;
                if let Some(caller) = self.chosen(which) {
                    caller.stream = None;
                }
            }
            4 => {
                let count = usize::from(steps.byte()?) % 48;
                self.strange(steps.bytes(count)?);
            }
            5 => self.look(),
            6 => {
                let room = usize::from(steps.byte()?) * 32;
                self.give(room);
            }
            7 => {
                let (which, op) = (steps.byte()?, steps.byte()?);
                let (flags, behind, count) = (steps.byte()?, steps.byte()?, steps.byte()?);
                let Some(caller) = self.chosen(which) else {
                    return Some(());
                };
                let ends = (caller.host.unwrap_or_default(), caller.guest);
                let came = self.came.get(&ends).copied().unwrap_or_default();
                self.speak(&Header {
                    len: u32::from(count) * 512,
                    op: op.into(),
                    flags: flags.into(),
                    buffer: ROOM,
                    passed_on: came.saturating_sub(u32::from(behind) * 256),
                    ..of_guest(ends)
                });
            }
            8 => {
                let bytes = steps.bytes(HEADER_BYTES)?;
                let bytes = bytes.try_into().expect("as many as were asked for");
                self.speak(&Header::parse(bytes));
            }
            9 => {
                let guest = steps.byte()?.into();
                self.speak(&Header {
                    op: op::REQUEST,
                    buffer: ROOM,
                    ..of_guest((SERVICE, guest))
                });
            }
            _ => {
                if steps.byte()? % 2 == 0 {
                    self.served
                        .extend(self.service.accept().map(|(stream, _)| stream));
                } else {
                    self.served.pop();
                }
            }
        }
        Some(())
    }

    /// What is still on its way for the guest, which has an end.
    fn end(&mut self) {
        for _ in 0..3 {
            self.look();
        }
        for _ in 0..100_000 {
            if !self.give(4096) {
                return;
            }
        }
        panic!("packets without an end");
    }

    fn chosen(&mut self, which: u8) -> Option<&mut Caller> {
        let at = usize::from(which).checked_rem(self.callers.len())?;
        self.callers.get_mut(at)
    }

    fn connect(&self, words: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).expect("room in its queue");
        stream.write_all(words).expect("room for a line");
        stream.set_nonblocking(true).expect("a socket of our own");
        stream
    }

    fn call(&mut self) {
        if self.callers.len() == MOST {
            return;
        }
        let guest = FIRST_GUEST_PORT + u32::try_from(self.callers.len()).expect("few");
        let stream = self.connect(format!("CONNECT {guest}\n").as_bytes());
        self.callers.push(Caller {
            stream: Some(stream),
            guest,
            host: None,
            line: Vec::new(),
            said: 0,
            heard: 0,
            of_guest: 0,
        });
    }

    /// Somebody who says anything at all, but calls no caller's port.
    fn strange(&mut self, words: &[u8]) {
        if self.strangers.len() < MOST {
            let words: Vec<u8> = words
                .iter()
                .map(|byte| if *byte == b'0' { b'9' } else { *byte })
                .collect();
            let stream = self.connect(&words);
            self.strangers.push(stream);
        }
    }

    fn look(&mut self) {
        self.hub.look().expect("what it looks at is its own");
    }

    /// Gives the guest a packet, with at most so much data. False: there is none.
    fn give(&mut self, room: usize) -> bool {
        let mut buffer = vec![0; room];
        let Some(header) = self.hub.next(&mut buffer) else {
            return false;
        };
        self.hear(&header, &buffer[..header.len as usize]);
        true
    }

    /// A packet for the guest.
    fn hear(&mut self, header: &Header, data: &[u8]) {
        assert_eq!((header.from_cid, header.to_cid), (HOST_CID, CID));
        let ends = (header.from_port, header.to_port);
        if header.op == op::REQUEST
            && let Some(caller) = self.callers.iter_mut().find(|one| one.guest == ends.1)
        {
            caller.host = Some(ends.0);
        }
        let caller = self.callers.iter().find(|one| one.has(ends));
        match header.op {
            op::REQUEST | op::RESPONSE => {
                self.came.insert(ends, 0);
            }
            op::DATA => {
                let came = self.came.get_mut(&ends).expect("an open connection");
                let (buffer, passed_on) = self.room[&ends];
                let held = u64::from(came.wrapping_sub(passed_on));
                assert!(held + u64::from(header.len) <= u64::from(buffer));
                if let Some(caller) = caller {
                    let mut wanted = (*came..).map(|at| pattern(caller.guest, at));
                    assert!(data.iter().all(|byte| wanted.next() == Some(*byte)));
                }
                *came += header.len;
                self.moved |= !data.is_empty();
            }
            op::RESET | op::SHUTDOWN | op::CREDIT_UPDATE => {}
            other => panic!("a packet of kind {other}"),
        }
        if let Some(caller) = caller {
            assert!(header.passed_on <= caller.of_guest);
        }
    }

    /// A packet of the guest. It knows no connection before it was asked for it.
    fn speak(&mut self, header: &Header) {
        let ends = (header.to_port, header.from_port);
        let mut caller = self.callers.iter_mut().find(|one| one.has(ends));
        let is_guess = caller.is_none() && header.to_port >= FIRST_PORT;
        if is_guess || !self.hub.listens() {
            return;
        }
        let is_ours = (header.from_cid, header.to_cid, header.kind) == (CID, HOST_CID, STREAM);
        if is_ours {
            self.room.insert(ends, (header.buffer, header.passed_on));
        }
        let count = usize::try_from(header.len).unwrap_or(usize::MAX);
        let mut data = None;
        if count <= MAX_DATA_BYTES {
            let from = caller.as_ref().map_or(0, |caller| caller.of_guest);
            let bytes = (from..from + header.len).map(|at| pattern(!ends.1, at));
            data = Some(bytes.collect::<Vec<_>>());
            if header.op == op::DATA
                && is_ours
                && let Some(caller) = &mut caller
            {
                caller.of_guest += header.len;
            }
        }
        self.hub.take(header, data.as_deref());
    }
}

impl Caller {
    fn has(&self, ends: Ends) -> bool {
        (self.host, self.guest) == (Some(ends.0), ends.1)
    }

    fn say(&mut self, count: u8) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let to = self.said + u32::from(count) * 64;
        let words: Vec<u8> = (self.said..to).map(|at| pattern(self.guest, at)).collect();
        let written = stream.write(&words).unwrap_or(0);
        self.said += u32::try_from(written).expect("little");
    }

    /// Whether anything of the guest came.
    fn hear(&mut self, count: u8) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let mut buffer = vec![0; usize::from(count) * 1024];
        let count = stream.read(&mut buffer).unwrap_or(0);
        let before = self.heard;
        for byte in &buffer[..count] {
            if !self.line.ends_with(b"\n") {
                self.line.push(*byte);
                continue;
            }
            assert_eq!(*byte, pattern(!self.guest, self.heard));
            self.heard += 1;
        }
        assert!(self.heard <= self.of_guest);
        if self.line.ends_with(b"\n") {
            let host = self.host.expect("asked for before it is answered");
            assert_eq!(self.line, format!("OK {host}\n").as_bytes());
        }
        self.heard > before
    }
}

fn of_guest((to_port, from_port): Ends) -> Header {
    Header {
        from_cid: CID,
        to_cid: HOST_CID,
        from_port,
        to_port,
        kind: STREAM,
        ..Header::default()
    }
}

/// The byte at this place of what goes to this port.
fn pattern(port: u32, at: u32) -> u8 {
    let [low, high, ..] = at.to_le_bytes();
    low ^ high.wrapping_mul(31) ^ port.to_le_bytes()[0]
}
