//! The VMM's side of a vhost-user device, as far as a file server needs it: one region of memory, one queue, one request at a time
//! (QEMU: `docs/interop/vhost-user.rst`; virtio 1.2, section 2.7). Memory is read and written as a file, so that nothing
//! here is unsafe.

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
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

/// The protocol's version, in each message's flags.
const VERSION: u32 = 1;

/// `VIRTIO_F_VERSION_1`, and that there are protocol features; of which none is wanted.
const FEATURES: u64 = 1 << 32 | 1 << 30;

/// The queue for requests; the one before it is for what may not wait.
const QUEUE: u32 = 1;
const ENTRIES: u16 = 16;

/// Where the memory is, for guest and VMM alike, and what is where in it.
const BASE: u64 = 0x1000_0000;
const BYTES: u64 = 1 << 20;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
const REQUEST: u64 = 0x4000;
const ANSWER: u64 = 0x40000;
const ANSWER_BYTES: u32 = 0x20000;

/// Flags of descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// For the server's start, and for each of its answers.
const LIMIT: Duration = Duration::from_secs(20);

/// A guest's side of the device.
#[derive(Debug)]
pub(crate) struct Queue {
    _socket: UnixStream,
    memory: File,
    kick: OwnedFd,
    call: OwnedFd,
    sent: u16,
}

impl Queue {
    /// Connects to a server that comes up, and gives it memory and the queue.
    pub(crate) fn connect(socket: &Path) -> Self {
        let until = Instant::now() + LIMIT;
        let mut stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < until, "no file server: {error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let memory = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&memory, BYTES).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let (kick, call) = (event(), event());

        say(&stream, SET_OWNER, &[], None);
        let offered = ask(&mut stream, GET_FEATURES);
        assert_eq!(offered & FEATURES, FEATURES, "the server's features");
        say(&stream, SET_FEATURES, &[FEATURES], None);
        ask(&mut stream, GET_PROTOCOL_FEATURES);
        say(&stream, SET_PROTOCOL_FEATURES, &[0], None);
        let region = [1, BASE, BYTES, BASE, 0];
        say(&stream, SET_MEM_TABLE, &region, Some(memory.as_fd()));
        let of_queue = |value: u64| [u64::from(QUEUE) | value << 32];
        say(&stream, SET_VRING_NUM, &of_queue(ENTRIES.into()), None);
        say(&stream, SET_VRING_BASE, &of_queue(0), None);
        let rings = [u64::from(QUEUE), BASE, BASE + USED, BASE + AVAILABLE, 0];
        say(&stream, SET_VRING_ADDR, &rings, None);
        say(&stream, SET_VRING_CALL, &of_queue(0), Some(call.as_fd()));
        say(&stream, SET_VRING_KICK, &of_queue(0), Some(kick.as_fd()));
        say(&stream, SET_VRING_ENABLE, &of_queue(1), None);
        // Answered behind all of these: a kick of a queue that is not yet enabled would be lost.
        ask(&mut stream, GET_FEATURES);
        Self {
            _socket: stream,
            memory: memory.into(),
            kick,
            call,
            sent: 0,
        }
    }

    /// The answer to one request.
    pub(crate) fn call(&mut self, request: &[u8]) -> Vec<u8> {
        let length = u32::try_from(request.len()).unwrap();
        assert!(REQUEST + u64::from(length) <= ANSWER);
        self.memory.write_all_at(request, REQUEST).unwrap();
        let descriptors = [
            descriptor(BASE + REQUEST, length, NEXT, 1),
            descriptor(BASE + ANSWER, ANSWER_BYTES, WRITE, 0),
        ];
        self.memory.write_all_at(&descriptors.concat(), 0).unwrap();
        // The ring's entry is the first descriptor's number, and then comes how many there were.
        let place = AVAILABLE + 4 + 2 * u64::from(self.sent % ENTRIES);
        self.memory.write_all_at(&[0, 0], place).unwrap();
        self.sent = self.sent.wrapping_add(1);
        let count = self.sent.to_le_bytes();
        self.memory.write_all_at(&count, AVAILABLE + 2).unwrap();
        write(&self.kick, &1_u64.to_ne_bytes()).unwrap();
        while self.used() != self.sent {
            self.wait();
        }
        let mut length = [0; 4];
        self.memory.read_exact_at(&mut length, ANSWER).unwrap();
        let length = u32::from_le_bytes(length).min(ANSWER_BYTES);
        let mut answer = vec![0; usize::try_from(length).unwrap()];
        self.memory.read_exact_at(&mut answer, ANSWER).unwrap();
        answer
    }

    fn used(&self) -> u16 {
        let mut count = [0; 2];
        self.memory.read_exact_at(&mut count, USED + 2).unwrap();
        u16::from_le_bytes(count)
    }

    fn wait(&self) {
        let limit = Timespec::try_from(LIMIT).unwrap();
        let mut called = [PollFd::new(&self.call, PollFlags::IN)];
        let heard = poll(&mut called, Some(&limit)).unwrap();
        assert_eq!(heard, 1, "the file server does not answer");
        read(&self.call, &mut [0; 8]).unwrap();
    }
}

fn descriptor(address: u64, bytes: u32, flags: u16, next: u16) -> Vec<u8> {
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
fn ask(stream: &mut UnixStream, request: u32) -> u64 {
    say(stream, request, &[], None);
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).unwrap();
    u64::from_le_bytes(answer[12..].try_into().unwrap())
}
