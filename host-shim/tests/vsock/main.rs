//! The vsock device, played against from both sides: a guest with rings of its own, and whoever uses its sockets.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod guest;
#[path = "../vhost_user/mod.rs"]
mod vhost_user;

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use guest::{
    BUFFER_BYTES, CREDIT_REQUEST, CREDIT_UPDATE, DATA, Guest, Packet, REQUEST, RESET, RESPONSE,
    SHUTDOWN, header,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use seed_shim::vsock;
use vhost_user::Machine;

const PORT: u32 = 1024;
const LIMIT: Duration = Duration::from_secs(20);
/// Long enough for what should not come.
const A_WHILE: Duration = Duration::from_millis(60);

/// A device and the folder of its sockets. It ends well when its guest is gone.
struct Device {
    dir: tempfile::TempDir,
    thread: thread::JoinHandle<Result<(), vsock::VsockError>>,
}

impl Device {
    fn start() -> (Self, Guest) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().to_owned();
        let thread = thread::spawn(move || vsock::serve_in(&folder));
        let guest = Guest::connect(&dir.path().join("vhost"));
        (Self { dir, thread }, guest)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    fn call(&self) -> UnixStream {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"CONNECT 1024\n").unwrap();
        stream
    }

    /// A connection from the host, and the guest's packets on it.
    fn connected(&self, guest: &mut Guest) -> (UnixStream, Packet) {
        let mut stream = self.call();
        let (request, _) = guest.hear_of(REQUEST);
        assert_eq!(request.guest, PORT);
        guest.send(request.with(RESPONSE), b"");
        assert_eq!(line(&mut stream), format!("OK {}\n", request.host));
        (stream, request)
    }

    fn end(self, guest: Guest) {
        drop(guest);
        self.thread.join().unwrap().unwrap();
    }
}

fn line(stream: &mut UnixStream) -> String {
    let mut line = String::new();
    while !line.ends_with('\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0].into());
    }
    line
}

fn read(stream: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    stream.read_exact(&mut data).unwrap();
    data
}

/// Data of one connection for the guest, so many bytes; it passes all on.
fn hear_bytes(guest: &mut Guest, on: Packet, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let (packet, data) = guest.hear();
        if packet.host == on.host {
            assert_eq!(packet.op, DATA, "after {} bytes", all.len());
            all.extend(data);
        }
    }
    all
}

fn pattern() -> impl Iterator<Item = u8> {
    (0..).map(|number: u32| number.to_le_bytes()[0])
}

/// Sends what the guest may while nobody reads. How much that was, and what the guest was told last.
fn fill(guest: &mut Guest, on: Packet) -> (u32, Packet) {
    guest.send(on.with(CREDIT_REQUEST), b"");
    let mut allowed = guest.hear_of(CREDIT_UPDATE).0;
    let mut sent = 0_u32;
    let mut pattern = pattern();
    while sent - allowed.passed_on < allowed.buffer {
        let data: Vec<u8> = pattern.by_ref().take(4096).collect();
        guest.send(on.with(DATA), &data);
        sent += 4096;
        while let Some((packet, _)) = guest.hear_within(Duration::from_millis(2)) {
            allowed = packet;
        }
    }
    (sent, allowed)
}

#[test]
fn the_host_calls_and_both_speak_and_the_end_is_told() {
    let (device, mut guest) = Device::start();
    let (mut stream, on) = device.connected(&mut guest);
    stream.write_all(b"of the host").unwrap();
    assert_eq!(guest.hear_of(DATA).1, b"of the host");
    guest.send(on.with(DATA), b"of the guest");
    assert_eq!(read(&mut stream, 12), b"of the guest");
    guest.send(on.with(CREDIT_REQUEST), b"");
    assert_eq!(guest.hear_of(CREDIT_UPDATE).0.passed_on, 12);
    // What was said before the end comes before it.
    stream.write_all(b"last words").unwrap();
    drop(stream);
    assert_eq!(guest.hear_of(DATA).1, b"last words");
    assert_eq!(guest.hear().0.with(SHUTDOWN), on.with(SHUTDOWN));
    // The guest's end: what it said arrives, then there is no more.
    let (mut stream, on) = device.connected(&mut guest);
    guest.send(on.with(DATA), b"good bye");
    let both = Packet {
        flags: 3,
        ..on.with(SHUTDOWN)
    };
    guest.send(both, b"");
    assert_eq!(guest.hear().0.op, RESET);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "good bye");
    device.end(guest);
}

#[test]
fn the_guest_calls_whoever_listens() {
    let (device, mut guest) = Device::start();
    let listener = UnixListener::bind(device.dir.path().join("sock_1030")).unwrap();
    let call = |host, guest| {
        let packet = Packet {
            host,
            guest,
            ..Packet::default()
        };
        packet.with(REQUEST)
    };
    guest.send(call(1030, 7), b"");
    let (mut stream, _) = listener.accept().unwrap();
    let on = guest.hear().0;
    assert_eq!((on.op, on.host, on.guest), (RESPONSE, 1030, 7));
    guest.send(on.with(DATA), b"beacon");
    assert_eq!(read(&mut stream, 6), b"beacon");
    for nobody in [1031, 2, 1 << 30, u32::MAX] {
        guest.send(call(nobody, 7), b"");
        let refused = guest.hear().0;
        assert_eq!((refused.op, refused.host), (RESET, nobody));
    }
    // Nobody takes these in; that ends before the host's memory does.
    let mut calls = (8..1000).map(|port| {
        guest.send(call(1030, port), b"");
        guest.hear().0.op
    });
    assert!(calls.any(|answer| answer == RESET));
    device.end(guest);
}

#[test]
fn a_machine_that_stands_still_loses_nothing_that_is_said_meanwhile() {
    let (device, mut guest) = Device::start();
    let (mut stream, on) = device.connected(&mut guest);
    let (mut other, on_other) = device.connected(&mut guest);
    let (mut to_guest, mut to_host) = (0, 0);
    for round in 0..30_u8 {
        let before = [round; 3000];
        stream.write_all(&before).unwrap();
        // Some of it is on its way when the rings are taken away, and a packet of the guest's is, too.
        let early = Packet {
            passed_on: to_guest,
            ..on.with(DATA)
        };
        assert!(guest.try_send(early, b"early", round % 2 == 0));
        let (late, impatient) = guest.stand_still(|guest| {
            stream.write_all(&[round; 2000]).unwrap();
            other.write_all(&[round]).unwrap();
            let (late, impatient) = (device.call(), device.call());
            impatient.shutdown(Shutdown::Both).unwrap();
            // A kick of this one is for nobody.
            assert!(guest.try_send(on_other.with(DATA), b"quiet", false));
            thread::sleep(A_WHILE);
            (late, impatient)
        });
        drop(impatient);
        let mut called = None;
        let (mut first, mut second) = (0, 0);
        while first < 5000 || second < 1 || called.is_none() {
            let (packet, data) = guest.hear();
            assert!(data.iter().all(|byte| *byte == round));
            match packet.op {
                DATA if packet.host == on.host => first += data.len(),
                DATA => second += data.len(),
                REQUEST => called = Some(packet),
                RESET | CREDIT_UPDATE => {}
                other => panic!("a packet of kind {other}"),
            }
        }
        assert_eq!((first, second), (5000, 1));
        (to_guest, to_host) = (to_guest + 5000, to_host + 5);
        assert_eq!(read(&mut stream, 5), b"early");
        assert_eq!(read(&mut other, 5), b"quiet");
        let room = Packet {
            passed_on: to_guest,
            ..on.with(CREDIT_UPDATE)
        };
        guest.send(room, b"");
        drop(late);
    }
    guest.send(on.with(CREDIT_REQUEST), b"");
    loop {
        let (packet, _) = guest.hear_of(CREDIT_UPDATE);
        if packet.host == on.host {
            assert_eq!(packet.passed_on, to_host);
            break;
        }
    }
    device.end(guest);
}

#[test]
fn who_is_answered_too_late_is_gone_and_the_others_are_served() {
    let (device, mut guest) = Device::start();
    let impatient = device.call();
    let (request, _) = guest.hear();
    drop(impatient);
    assert_eq!(guest.hear().0.op, RESET);
    guest.send(request.with(RESPONSE), b"");
    assert_eq!(guest.hear().0.op, RESET);
    // At the same moment.
    for _ in 0..200 {
        let impatient = device.call();
        let (request, _) = guest.hear_of(REQUEST);
        let hurry = thread::spawn(move || drop(impatient));
        guest.send(request.with(RESPONSE), b"");
        hurry.join().unwrap();
        loop {
            let (packet, _) = guest.hear();
            if matches!(packet.op, RESET | SHUTDOWN) && packet.host == request.host {
                break;
            }
        }
    }
    for nonsense in [&b"HELLO\n"[..], b"CONNECT\n", b"CONNECT -1\n", &[b'a'; 100]] {
        let mut stream = UnixStream::connect(device.socket()).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        // Closed, with or without having been read.
        assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
    }
    let mut slow = UnixStream::connect(device.socket()).unwrap();
    for part in ["CONN", "ECT 10", "24\n"] {
        slow.write_all(part.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(guest.hear_of(REQUEST).0.guest, PORT);
    device.connected(&mut guest);
    device.end(guest);
}

#[test]
fn each_side_sends_no_more_than_the_other_has_room_for() {
    let (device, mut guest) = Device::start();
    let (stream, on) = device.connected(&mut guest);
    let writer = thread::spawn({
        let mut stream = stream.try_clone().unwrap();
        move || stream.write_all(&vec![7; 1 << 20]).unwrap()
    });
    let room = usize::try_from(BUFFER_BYTES).unwrap();
    hear_bytes(&mut guest, on, room);
    assert_eq!(guest.hear_within(A_WHILE), None);
    // The rest as the guest makes room; its numbers pass over nothing here.
    let mut all = room;
    while all < 1 << 20 {
        let passed_on = u32::try_from(all).unwrap();
        let update = Packet {
            passed_on,
            ..on.with(CREDIT_UPDATE)
        };
        guest.send(update, b"");
        all += hear_bytes(&mut guest, on, room.min((1 << 20) - all)).len();
    }
    writer.join().unwrap();

    // The other way: nobody reads, until what is allowed is full.
    let (mut reader, on) = device.connected(&mut guest);
    let (sent, mut allowed) = fill(&mut guest, on);
    let count = usize::try_from(sent).unwrap();
    let came = read(&mut reader, count);
    assert!(came.into_iter().eq(pattern().take(count)));
    // All of it was passed on, and the guest hears of it by itself.
    while allowed.passed_on + allowed.buffer / 2 < sent {
        allowed = guest.hear_of(CREDIT_UPDATE).0;
    }
    // More than that costs the connection.
    let mut more = 0;
    let end = loop {
        if let Some((packet, _)) = guest.hear_within(Duration::ZERO)
            && packet.op == RESET
        {
            break packet;
        }
        assert!(more < 4 << 20, "the guest may send without an end");
        guest.send(on.with(DATA), &[0; 4096]);
        more += 4096;
    };
    assert_eq!(end.host, on.host);
    device.end(guest);
}

#[test]
fn a_device_that_moves_no_packets_any_more_ends() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_owned();
    let device = thread::spawn(move || vsock::serve_in(&folder));
    let mut machine = Machine::connect(&dir.path().join("vhost"));
    // What can be waited for and not be read ends the library's thread: the end of a process.
    let mut child = Command::new("true").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    machine.give_with(0, 0, 0, ended);
    let error = device.join().unwrap().unwrap_err().to_string();
    assert_eq!(error, "the thread that moves the packets has ended");
    child.wait().unwrap();
}

#[test]
fn a_device_whose_guest_is_there_makes_no_process_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Command::new(env!("CARGO_BIN_EXE_containerd-shim-seed-v2"))
        .arg("vsock")
        .current_dir(dir.path())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", device.id());
    let may_make_none = || {
        let limits = fs::read_to_string(&limits).unwrap();
        let mut lines = limits.lines().map(str::split_whitespace);
        lines.any(|words| words.take(4).eq(["Max", "processes", "0", "0"]))
    };
    assert!(!may_make_none());
    let mut guest = Guest::connect(&dir.path().join("vhost"));
    // It serves as before, and is settled with the first packet: the guest says when it comes. It ends with its guest.
    let mut call = UnixStream::connect(dir.path().join("sock")).unwrap();
    call.write_all(b"CONNECT 1024\n").unwrap();
    guest.hear_of(REQUEST);
    assert!(may_make_none());
    drop(guest);
    assert!(device.wait().unwrap().success());
}

#[test]
fn a_slow_reader_gets_all_of_a_guest_that_lost_patience() {
    let (device, mut guest) = Device::start();
    let (mut reader, on) = device.connected(&mut guest);
    let (sent, _) = fill(&mut guest, on);
    // One way after the other, and then what Linux does when that has no answer in eight seconds.
    for flags in [1, 2] {
        let shutdown = on.with(SHUTDOWN);
        guest.send(Packet { flags, ..shutdown }, b"");
    }
    guest.send(on.with(RESET), b"");
    guest.send(on.with(CREDIT_REQUEST), b"");
    assert_eq!(guest.hear_of(RESET).0.host, on.host);
    let mut came = Vec::new();
    reader.read_to_end(&mut came).unwrap();
    let count = usize::try_from(sent).unwrap();
    assert!(came.into_iter().eq(pattern().take(count)));
    device.connected(&mut guest);
    device.end(guest);
}

#[test]
fn whatever_a_guest_sends_the_others_are_served() {
    let (device, mut guest) = Device::start();
    let (mut stream, on) = device.connected(&mut guest);
    // An ordinary generator of numbers (Knuth): the same packets in each run.
    let mut state = 1_u64;
    let mut random = move |below: u32| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u32::try_from(state >> 33).unwrap() % below
    };
    for _ in 0..4000 {
        let packet = Packet {
            op: u16::try_from(random(10)).unwrap(),
            host: [1030, 5, on.host + 1, u32::MAX][usize::try_from(random(4)).unwrap()],
            guest: random(4),
            flags: random(5),
            buffer: random(u32::MAX),
            passed_on: random(u32::MAX),
        };
        let mut head = header(packet, usize::try_from(random(200)).unwrap());
        match random(8) {
            0 => head.truncate(usize::try_from(random(44)).unwrap()),
            1 => head[usize::try_from(random(44)).unwrap()] ^= 0xff,
            _ => {}
        }
        let data = vec![1; usize::try_from(random(300)).unwrap()];
        while !guest.send_bytes(&head, &data, true) {
            while guest.hear_within(Duration::from_millis(1)).is_some() {}
        }
    }
    while guest.hear_within(A_WHILE).is_some() {}
    stream.write_all(b"still").unwrap();
    assert_eq!(hear_bytes(&mut guest, on, 5), b"still");
    guest.send(on.with(DATA), b"here");
    assert_eq!(read(&mut stream, 4), b"here");
    device.end(guest);
}

#[test]
fn a_stream_whose_packet_is_cut_ends() {
    let (device, mut guest) = Device::start();
    for length in [5, 1 << 17] {
        let (mut stream, on) = device.connected(&mut guest);
        guest.send(on.with(DATA), b"good");
        assert!(guest.send_bytes(&header(on.with(DATA), length), b"bad", true));
        assert_eq!(guest.hear_of(RESET).0.host, on.host);
        let mut came = String::new();
        stream.read_to_string(&mut came).unwrap();
        assert_eq!(came, "good");
    }
    device.end(guest);
}

#[test]
fn a_ring_that_cannot_be_keeps_nobody_busy() {
    let (device, mut guest) = Device::start();
    let (mut stream, on) = device.connected(&mut guest);
    guest.mislead();
    stream.write_all(b"still").unwrap();
    assert_eq!(guest.hear_of(DATA).1, b"still");
    guest.send(on.with(DATA), b"here");
    assert_eq!(read(&mut stream, 4), b"here");
    device.end(guest);
}
