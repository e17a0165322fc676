//! All connections of one guest: Unix sockets on one side, packets on the other. Whoever connects to our socket and says
//! `CONNECT <port>` gets the guest's port and is told `OK <number>` (Firecracker's `docs/vsock.md`); whom the guest
//! calls at a port of the host listens on our socket's name with `_<port>` behind it.
//!
//! It knows of no rings: packets come in by [`Hub::take`] and are asked for by [`Hub::next`], at whatever time there is
//! room for them. Until then what the host says stays in its sockets, so that a machine that stands still loses nothing.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, ErrorKind, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    str,
};

use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    net::{RecvFlags, recv},
};

use super::{
    connection::{Connection, FromHost, Ports, State},
    packet::{BOTH_WAYS, HOST_CID, Header, STREAM, op},
};
use crate::sockets::connect_at_once;

/// The most connections, callers that have not said where to included.
const MAX_CONNECTIONS: usize = 4096;

/// The most connections that the guest called: nobody may be there to read what it sends, and of each a few hundred KiB
/// are kept, by us and by the kernel.
const MAX_CALLS: usize = 128;

/// The most packets that wait for room, before the guest is listened to no more.
const MAX_REPLIES: usize = 1024;

/// The longest `CONNECT <port>` with its newline.
const MAX_CALL_BYTES: usize = 32;

/// The first port of the host's own calls: those below are for services.
const FIRST_PORT: u32 = 1 << 30;

/// No port: our socket and its callers, as events name them.
const NO_PORT: u32 = u32::MAX;

/// How many events are taken at once.
const EVENTS: usize = 64;

#[derive(Debug)]
struct Caller {
    stream: UnixStream,
    said: Vec<u8>,
}

/// The connections of one guest.
#[derive(Debug)]
pub struct Hub {
    cid: u64,
    socket: PathBuf,
    listener: UnixListener,
    /// It could not accept, for lack of files or memory: it is asked again at the next [`Hub::look`].
    listener_rests: bool,
    epoll: OwnedFd,
    callers: HashMap<u32, Caller>,
    last_caller: u32,
    last_port: u32,
    connections: HashMap<Ports, Connection>,
    /// Those that may have data for the guest.
    queue: VecDeque<Ports>,
    /// Packets without data.
    replies: VecDeque<Header>,
}

impl Hub {
    /// Listens on `socket`, for the guest with this address.
    pub fn listen(cid: u64, socket: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let of_ours = token(NO_PORT, NO_PORT);
        epoll::add(&epoll, &listener, of_ours, EventFlags::IN | ONCE)?;
        Ok(Self {
            cid,
            socket: socket.to_owned(),
            listener,
            listener_rests: false,
            epoll,
            callers: HashMap::new(),
            last_caller: 0,
            last_port: FIRST_PORT,
            connections: HashMap::new(),
            queue: VecDeque::new(),
            replies: VecDeque::new(),
        })
    }

    /// Readable when something happened on the host.
    pub(super) fn happened(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Whether somebody may want in whom no event tells of any more.
    pub(super) fn rests(&self) -> bool {
        self.listener_rests
    }

    /// Does what happened on the host ask for. Never blocks.
    pub fn look(&mut self) -> io::Result<()> {
        let none = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [none; EVENTS];
        if self.listener_rests {
            self.listen_on();
        }
        loop {
            let count = match epoll::wait(&self.epoll, &mut events, Some(&Timespec::default())) {
                Err(rustix::io::Errno::INTR) => continue,
                count => count?,
            };
            for event in &events[..count] {
                let (flags, data) = (event.flags, event.data.u64());
                match ports(data) {
                    (NO_PORT, NO_PORT) => self.accept(),
                    (NO_PORT, caller) => self.hear(caller),
                    (host, guest) => self.stir(Ports { host, guest }, flags),
                }
            }
            if count < events.len() {
                return Ok(());
            }
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                // Closed at once, as a port that nobody listens on is.
                Ok(_) if self.callers.len() + self.connections.len() >= MAX_CONNECTIONS => {}
                Ok((stream, _)) => self.greet(stream),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    self.listener_rests = error.kind() != ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        if !self.listener_rests {
            self.listen_on();
        }
    }

    fn listen_on(&mut self) {
        let of_ours = token(NO_PORT, NO_PORT);
        let again = epoll::modify(&self.epoll, &self.listener, of_ours, EventFlags::IN | ONCE);
        self.listener_rests = again.is_err();
    }

    fn greet(&mut self, stream: UnixStream) {
        self.last_caller = (self.last_caller + 1) % NO_PORT;
        let (number, said) = (self.last_caller, Vec::new());
        let events = EventFlags::IN | ONCE;
        let listened_to = stream.set_nonblocking(true).is_ok()
            && epoll::add(&self.epoll, &stream, token(NO_PORT, number), events).is_ok();
        if listened_to {
            self.callers.insert(number, Caller { stream, said });
        }
    }

    /// A caller said something: where to, when it is a whole line. One that says anything else is hung up on.
    fn hear(&mut self, number: u32) {
        let Some(mut caller) = self.callers.remove(&number) else {
            return;
        };
        match caller.line() {
            Ok(None) => {
                let (id, events) = (token(NO_PORT, number), EventFlags::IN | ONCE);
                if epoll::modify(&self.epoll, &caller.stream, id, events).is_ok() {
                    self.callers.insert(number, caller);
                }
            }
            Ok(Some(guest)) => {
                let host = self.free_port(guest);
                let ports = Ports { host, guest };
                let mut connection = Connection::new(caller.stream, State::Asked, ports);
                let id = token(host, guest);
                // Whether it goes away is all that is of interest until the guest has answered.
                if epoll::modify(&self.epoll, &connection.stream, id, ONCE).is_ok() {
                    self.replies
                        .push_back(connection.header(self.cid, op::REQUEST));
                    self.connections.insert(ports, connection);
                }
            }
            Err(_) => {}
        }
    }

    /// There are fewer connections than ports.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            self.last_port = match self.last_port.wrapping_add(1) {
                NO_PORT | 0..FIRST_PORT => FIRST_PORT,
                port => port,
            };
            let host = self.last_port;
            if !self.connections.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Something happened to a connection's stream.
    fn stir(&mut self, ports: Ports, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&ports) else {
            return;
        };
        connection.hung_up |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if connection.state == State::Asked {
            // The caller did not wait.
            return self.reset(ports);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            enqueue(&mut self.queue, ports, connection);
        }
        connection.flush();
        self.settle(ports);
    }

    /// A packet of the guest; without data where that is not what the header says.
    pub fn take(&mut self, header: &Header, data: Option<&[u8]>) {
        if header.from_cid != self.cid || header.to_cid != HOST_CID {
            return;
        }
        let ports = Ports {
            host: header.to_port,
            guest: header.from_port,
        };
        if header.kind != STREAM {
            return self.refuse(header);
        }
        let Some(connection) = self.connections.get_mut(&ports) else {
            return match header.op {
                op::REQUEST => self.call(ports, header),
                _ => self.refuse(header),
            };
        };
        connection.hear_of_room(header);
        match (header.op, connection.state) {
            (_, State::Forgotten) => return self.refuse(header),
            (op::RESET, State::Closing) => connection.state = State::Forgotten,
            (op::RESET | op::REQUEST, _) => return self.forget(ports, header.op == op::REQUEST),
            (op::RESPONSE, State::Asked) => {
                connection.state = State::Open;
                connection.say(format!("OK {}\n", ports.host).as_bytes());
            }
            (_, State::Asked) => return self.reset(ports),
            (op::DATA, State::Open | State::Over) => {
                let fits = data.is_some_and(|data| connection.take(data));
                if !fits {
                    return self.reset(ports);
                }
            }
            (op::CREDIT_REQUEST, _) => {
                let update = connection.header(self.cid, op::CREDIT_UPDATE);
                self.replies.push_back(update);
            }
            (op::SHUTDOWN, State::Over) => return self.reset(ports),
            // One way only is not passed on.
            (op::SHUTDOWN, _) if connection.hear_of_end(header.flags) => {
                connection.state = State::Closing;
            }
            // The rest tells of room, or is out of turn.
            _ => {}
        }
        self.settle(ports);
    }

    /// What follows from a connection's state: its end, room for the guest, and what is waited for.
    fn settle(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else {
            return;
        };
        let is_last = matches!(connection.state, State::Closing | State::Forgotten);
        if is_last && !connection.has_waiting() {
            let tell = connection.state == State::Closing;
            return self.forget(ports, tell);
        }
        if connection.owes_room() && connection.state != State::Forgotten {
            let update = connection.header(self.cid, op::CREDIT_UPDATE);
            self.replies.push_back(update);
        }
        if connection.starved {
            enqueue(&mut self.queue, ports, connection);
        }
        if connection.hung_up || connection.state == State::Over {
            return;
        }
        let mut events = ONCE;
        // Who is in the queue is read from there.
        let is_read = connection.state == State::Open && !connection.queued;
        events.set(EventFlags::IN, is_read);
        events.set(EventFlags::OUT, connection.has_waiting());
        let id = token(ports.host, ports.guest);
        if epoll::modify(&self.epoll, &connection.stream, id, events).is_err() {
            self.reset(ports);
        }
    }

    /// The guest calls a port of the host.
    fn call(&mut self, ports: Ports, header: &Header) {
        let is_full = self.callers.len() + self.connections.len() >= MAX_CONNECTIONS;
        let calls = self.connections.keys().filter(|one| one.host < FIRST_PORT);
        if ports.host >= FIRST_PORT || is_full || calls.count() >= MAX_CALLS {
            return self.refuse(header);
        }
        let Ok(stream) = self.dial(ports.host) else {
            return self.refuse(header);
        };
        let mut connection = Connection::new(stream, State::Open, ports);
        connection.hear_of_room(header);
        let id = token(ports.host, ports.guest);
        if epoll::add(&self.epoll, &connection.stream, id, EventFlags::IN | ONCE).is_err() {
            return self.refuse(header);
        }
        let response = connection.header(self.cid, op::RESPONSE);
        self.replies.push_back(response);
        self.connections.insert(ports, connection);
    }

    /// Who does not listen, or not fast enough, is not waited for.
    fn dial(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.socket.clone().into_os_string();
        path.push(format!("_{port}"));
        connect_at_once(Path::new(&path))
    }

    /// The answer to a packet that belongs nowhere. One that says just that has none.
    fn refuse(&mut self, header: &Header) {
        if header.op == op::RESET {
            return;
        }
        self.replies.push_back(Header {
            from_cid: header.to_cid,
            to_cid: header.from_cid,
            from_port: header.to_port,
            to_port: header.from_port,
            kind: header.kind,
            op: op::RESET,
            ..Header::default()
        });
    }

    fn reset(&mut self, ports: Ports) {
        self.forget(ports, true);
    }

    /// Ends a connection; `tell` says whether the guest does not know of it.
    fn forget(&mut self, ports: Ports, tell: bool) {
        let Some(mut connection) = self.connections.remove(&ports) else {
            return;
        };
        let asks = |one: &Header| one.op == op::REQUEST && is_of(one, ports);
        let unsent = match connection.state {
            State::Asked => self.replies.iter().position(asks),
            _ => None,
        };
        if let Some(at) = unsent {
            // The guest never hears of it: a guest that takes nothing for long is not owed ever more.
            self.replies.remove(at);
        } else if tell {
            let reset = connection.header(self.cid, op::RESET);
            self.replies.push_back(reset);
        }
    }

    /// Whether the guest is to be listened to: what it says may want an answer.
    pub fn listens(&self) -> bool {
        self.replies.len() < MAX_REPLIES
    }

    /// Whether there may be a packet for the guest.
    pub fn may_speak(&self) -> bool {
        !(self.replies.is_empty() && self.queue.is_empty())
    }

    /// The next packet for the guest, with at most as much data as `buffer` takes, at its start.
    pub fn next(&mut self, buffer: &mut [u8]) -> Option<Header> {
        if let Some(reply) = self.replies.pop_front() {
            return Some(reply);
        }
        while let Some(ports) = self.queue.pop_front() {
            let Some(connection) = self.connections.get_mut(&ports) else {
                continue;
            };
            connection.queued = false;
            connection.starved = false;
            if connection.state != State::Open {
                continue;
            }
            match connection.read(buffer) {
                FromHost::Data(count) => {
                    let mut header = connection.header(self.cid, op::DATA);
                    header.len = u32::try_from(count).unwrap_or(u32::MAX);
                    // Behind the others: none waits for one that never ends.
                    enqueue(&mut self.queue, ports, connection);
                    return Some(header);
                }
                FromHost::Nothing => self.settle(ports),
                FromHost::NoRoom => connection.starved = true,
                FromHost::End => {
                    connection.finish();
                    let mut header = connection.header(self.cid, op::SHUTDOWN);
                    header.flags = BOTH_WAYS;
                    return Some(header);
                }
            }
        }
        // What became of the last of them.
        self.replies.pop_front()
    }
}

impl Caller {
    /// The port, if the line is whole. What follows the line is left for the guest.
    fn line(&mut self) -> io::Result<Option<u32>> {
        let mut buffer = [0; MAX_CALL_BYTES];
        let (seen, _) = recv(&self.stream, &mut buffer, RecvFlags::PEEK)?;
        let newline = buffer[..seen].iter().position(|byte| *byte == b'\n');
        let count = newline.map_or(seen, |at| at + 1);
        self.stream.read_exact(&mut buffer[..count])?;
        self.said.extend(&buffer[..count]);
        let wrong = || io::Error::from(ErrorKind::InvalidData);
        if seen == 0 || self.said.len() > MAX_CALL_BYTES {
            return Err(wrong());
        }
        if newline.is_none() {
            return Ok(None);
        }
        let line = str::from_utf8(&self.said).map_err(|_| wrong())?;
        let port = line.trim_end().strip_prefix("CONNECT ").ok_or_else(wrong)?;
        port.parse().map(Some).map_err(|_| wrong())
    }
}

/// An event comes once, and then when it is asked for again: what cannot be done yet keeps nobody busy.
const ONCE: EventFlags = EventFlags::ONESHOT;

fn enqueue(queue: &mut VecDeque<Ports>, ports: Ports, connection: &mut Connection) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(ports);
    }
}

fn is_of(header: &Header, ports: Ports) -> bool {
    header.from_port == ports.host && header.to_port == ports.guest
}

/// What an event names.
fn token(host: u32, guest: u32) -> EventData {
    EventData::new_u64(u64::from(host) << 32 | u64::from(guest))
}

fn ports(token: u64) -> (u32, u32) {
    let low = u32::try_from(token & u64::from(u32::MAX)).unwrap_or(NO_PORT);
    let high = u32::try_from(token >> 32).unwrap_or(NO_PORT);
    (high, low)
}
