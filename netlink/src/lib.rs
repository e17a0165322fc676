//! One rtnetlink conversation (`rtnetlink(7)`): a socket, a request, its answers. What the messages say is
//! the business of those who have it. Every call blocks for as long as the kernel takes, at most [`LIMIT`].

#![forbid(unsafe_code)]

use std::{io, os::fd::OwnedFd, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::{
    io::retry_on_intr,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
        socket_with, sockopt,
    },
};

/// How long the kernel may take: it answers at once, but behind a lock of its own.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest datagram that the kernel makes of a dump (`NLMSG_GOODSIZE` is at most 32 KiB).
const BUFFER_BYTES: usize = 64 * 1024;

/// A dump is given up after so many messages: no guest has as many links or routes.
const MAX_MESSAGES: usize = 65_536;

/// How often a dump is asked for that changes under way, and what it says then.
const MAX_DUMPS: u32 = 10;
const CHANGED: io::ErrorKind = io::ErrorKind::Interrupted;

/// A conversation with the kernel about links, addresses, routes and neighbours.
#[derive(Debug)]
pub struct Conversation {
    socket: OwnedFd,
    sequence: u32,
}

impl Conversation {
    /// Opens the socket.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // Protocol 0 is NETLINK_ROUTE.
            None,
        )?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LIMIT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Asks for a change and waits until it is made. `flags` are those of the request beside
    /// `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive().map(drop)
    }

    /// Asks for all objects of one kind. What changed while it was told is asked for again.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut tries = 1;
        loop {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            match self.receive() {
                Err(error) if error.kind() == CHANGED && tries < MAX_DUMPS => tries += 1,
                other => return other,
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &bytes, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Reads up to the acknowledgement or the end of the dump.
    fn receive(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let (mut found, mut interrupted) = (Vec::new(), false);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            // With a time limit on the socket the kernel starts no read again that a signal woke (signal(7)).
            let (_, length) =
                retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC))?;
            let mut rest = buffer.get(..length).ok_or_else(malformed)?;
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let (header, payload) = message.into_parts();
                let changed = header.flags & NLM_F_DUMP_INTR != 0;
                // Messages are padded to four bytes.
                let step = usize::try_from(header.length).map_err(|_| malformed())?;
                let step = step.next_multiple_of(4).min(rest.len());
                if step == 0 {
                    return Err(malformed());
                }
                rest = &rest[step..];
                if header.sequence_number != self.sequence {
                    // The answer to a request that was given up.
                    continue;
                }
                interrupted |= changed;
                match payload {
                    NetlinkPayload::InnerMessage(message) if found.len() < MAX_MESSAGES => {
                        found.push(message);
                    }
                    NetlinkPayload::InnerMessage(_) => return Err(malformed()),
                    // No code is an acknowledgement.
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) if interrupted => return Err(changed_meanwhile()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Overrun(_) => return Err(malformed()),
                    _ => {}
                }
            }
        }
    }
}

fn changed_meanwhile() -> io::Error {
    io::Error::new(CHANGED, "the kernel's tables changed while it told them")
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use netlink_packet_core::DoneMessage;
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    /// A conversation whose kernel is the other end.
    fn pair() -> (Conversation, UnixDatagram) {
        let (ours, kernels) = UnixDatagram::pair().unwrap();
        let socket = OwnedFd::from(ours);
        let sequence = 0;
        (Conversation { socket, sequence }, kernels)
    }

    fn say(kernel: &UnixDatagram, flags: u16, payload: NetlinkPayload<RouteNetlinkMessage>) {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        kernel.send(&bytes).unwrap();
    }

    fn link() -> NetlinkPayload<RouteNetlinkMessage> {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage::default()))
    }

    fn done(code: i32) -> NetlinkPayload<RouteNetlinkMessage> {
        let mut done = DoneMessage::default();
        done.code = code;
        NetlinkPayload::Done(done)
    }

    #[test]
    fn a_dump_that_ends_with_an_error_is_an_error() {
        let (mut conversation, kernel) = pair();
        say(&kernel, 0, link());
        say(&kernel, 0, done(0));
        assert_eq!(conversation.receive().unwrap().len(), 1);
        say(&kernel, 0, link());
        say(&kernel, 0, done(-1));
        let error = conversation.receive().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1), "EPERM: {error}");
    }

    #[test]
    fn a_dump_during_which_the_tables_changed_is_none() {
        let (mut conversation, kernel) = pair();
        say(&kernel, 0, link());
        say(&kernel, NLM_F_DUMP_INTR, link());
        say(&kernel, 0, done(0));
        let error = conversation.receive().unwrap_err();
        assert_eq!(error.kind(), CHANGED, "{error}");
        // What comes next is whole again.
        say(&kernel, 0, link());
        say(&kernel, 0, done(0));
        assert_eq!(conversation.receive().unwrap().len(), 1);
    }
}
