//! The VMM's side of a vhost-user device (QEMU: `docs/interop/vhost-user.rst`; virtio 1.2, section 2.7): one region of
//! memory, and rings in it that can be given and taken away. Memory is read and written as a file, so that nothing here
//! is unsafe.

use std::{
    fs::File,
    io::{IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::{MemfdFlags, ftruncate, memfd_create},
    io::{read, write},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

/// Requests.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
#[allow(dead_code, reason = "a file server's rings are never taken away")]
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

/// The protocol's version, in each message's flags.
const VERSION: u32 = 1;

/// `VIRTIO_F_VERSION_1`, and that there are protocol features; of which none is wanted.
const FEATURES: u64 = 1 << 32 | 1 << 30;

/// How many entries a ring has.
pub(crate) const ENTRIES: u16 = 16;

/// Where the memory is, for guest and VMM alike.
pub(crate) const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 1 << 20;

/// Where the parts of a ring are, from its place on.
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;

/// Flags of descriptors.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

/// For the server's start, and for each of its answers.
const LIMIT: Duration = Duration::from_secs(20);

/// A machine with a device.
#[derive(Debug)]
pub(crate) struct Machine {
    socket: UnixStream,
    pub(crate) memory: File,
}

/// One of its rings.
#[derive(Debug)]
pub(crate) struct Ring {
    number: u32,
    place: u64,
    kick: OwnedFd,
    call: OwnedFd,
    /// How many entries were made available.
    pub(crate) sent: u16,
}

impl Machine {
    /// Connects to a server that comes up, and gives it memory.
    pub(crate) fn connect(socket: &Path) -> Self {
        let until = Instant::now() + LIMIT;
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "no server: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, BYTES).unwrap();
        say(&stream, SET_OWNER, &[], None);
        let offered = ask(&mut stream, GET_FEATURES, &[]);
        assert_eq!(offered & FEATURES, FEATURES, "the server's features");
        say(&stream, SET_FEATURES, &[FEATURES], None);
        ask(&mut stream, GET_PROTOCOL_FEATURES, &[]);
        say(&stream, SET_PROTOCOL_FEATURES, &[0], None);
        let mut machine = Self {
            socket: stream,
            memory: memory.into(),
        };
        machine.give_memory();
        machine
    }

    /// The table of its memory, as a VMM says it before it gives rings.
    fn give_memory(&mut self) {
        let region = [1, BASE, BYTES, BASE, 0];
        let memory = Some(self.memory.as_fd());
        say(&self.socket, SET_MEM_TABLE, &region, memory);
    }

    /// Gives the server a ring that lies here, of which `sent` entries were made available and used.
    pub(crate) fn give(&mut self, number: u32, place: u64, sent: u16) -> Ring {
        self.give_with(number, place, sent, event())
    }

    /// The same, where this file tells of entries.
    pub(crate) fn give_with(&mut self, number: u32, place: u64, sent: u16, kick: OwnedFd) -> Ring {
        let call = event();
        let of_ring = |value: u64| [u64::from(number) | value << 32];
        let stream = &self.socket;
        say(stream, SET_VRING_NUM, &of_ring(ENTRIES.into()), None);
        say(stream, SET_VRING_BASE, &of_ring(sent.into()), None);
        let at = BASE + place;
        let parts = [u64::from(number), at, at + USED, at + AVAILABLE, 0];
        say(stream, SET_VRING_ADDR, &parts, None);
        let numbered = [u64::from(number)];
        say(stream, SET_VRING_CALL, &numbered, Some(call.as_fd()));
        say(stream, SET_VRING_KICK, &numbered, Some(kick.as_fd()));
        say(stream, SET_VRING_ENABLE, &of_ring(1), None);
        // Answered behind all of these: a kick of a ring that is not yet enabled would be lost.
        ask(&mut self.socket, GET_FEATURES, &[]);
        Ring {
            number,
            place,
            kick,
            call,
            sent,
        }
    }

    /// Takes it away, as a machine that stops does.
    #[allow(dead_code, reason = "a file server's rings are never taken away")]
    pub(crate) fn take(&mut self, ring: &Ring) -> u16 {
        let state = ask(&mut self.socket, GET_VRING_BASE, &[u64::from(ring.number)]);
        u16::try_from(state >> 32).unwrap()
    }

    /// Gives it back.
    #[allow(dead_code, reason = "a file server's rings are never taken away")]
    pub(crate) fn give_back(&mut self, ring: &mut Ring, base: u16) {
        self.give_memory();
        let sent = ring.sent;
        *ring = self.give(ring.number, ring.place, base);
        ring.sent = sent;
    }
}

impl Ring {
    /// Makes the chain that begins with this descriptor available.
    pub(crate) fn send(&mut self, memory: &File, first: u16) {
        let place = self.place + AVAILABLE + 4 + 2 * u64::from(self.sent % ENTRIES);
        memory.write_all_at(&first.to_le_bytes(), place).unwrap();
        self.sent = self.sent.wrapping_add(1);
        let count = self.sent.to_le_bytes();
        let place = self.place + AVAILABLE + 2;
        memory.write_all_at(&count, place).unwrap();
    }

    pub(crate) fn kick(&self) {
        write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
    }

    /// How many entries came back.
    pub(crate) fn used(&self, memory: &File) -> u16 {
        let mut count = [0; 2];
        let place = self.place + USED + 2;
        memory.read_exact_at(&mut count, place).unwrap();
        u16::from_le_bytes(count)
    }

    /// Until the server calls, or `limit` is over. False then.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).unwrap();
        let mut called = [PollFd::new(&self.call, PollFlags::IN)];
        let heard = poll(&mut called, Some(&limit)).unwrap();
        heard == 1 && read(&self.call, &mut [0; 8]).is_ok()
    }

    /// Until all that was sent came back.
    #[allow(dead_code, reason = "a vsock device's guest goes on meanwhile")]
    pub(crate) fn wait_for_all(&self, memory: &File) {
        while self.used(memory) != self.sent {
            assert!(self.wait(LIMIT), "the server does not answer");
        }
    }
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

pub(crate) fn descriptor(address: u64, bytes: u32, flags: u16, next: u16) -> Vec<u8> {
    [
        &address.to_le_bytes()[..],
        &bytes.to_le_bytes(),
        &flags.to_le_bytes(),
        &next.to_le_bytes(),
    ]
    .concat()
}

fn say(mut stream: &UnixStream, request: u32, words: &[u64], file: Option<BorrowedFd<'_>>) {
    let body: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let length = u32::try_from(body.len()).unwrap();
    let head = [request, VERSION, length].map(u32::to_le_bytes).concat();
    let message = [head, body].concat();
    let Some(file) = file else {
        return stream.write_all(&message).unwrap();
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    let files = [file];
    assert!(with.push(SendAncillaryMessage::ScmRights(&files)));
    let sent = sendmsg(
        stream,
        &[IoSlice::new(&message)],
        &mut with,
        SendFlags::empty(),
    );
    assert_eq!(sent.unwrap(), message.len());
}

/// A request whose answer is one number.
fn ask(stream: &mut UnixStream, request: u32, words: &[u64]) -> u64 {
    say(stream, request, words, None);
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    u64::from_le_bytes(answer[12..].try_into().unwrap())
}
