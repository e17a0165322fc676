//! One rtnetlink conversation (`rtnetlink(7)`): a socket, a request, its answers. What the messages say is
//! the business of those who have it. Every call blocks for as long as the kernel takes, at most [`LIMIT`].

#![forbid(unsafe_code)]

use std::{io, os::fd::OwnedFd, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, sendto,
    socket_with, sockopt,
};

/// How long the kernel may take: it answers at once, but behind a lock of its own.
const LIMIT: Duration = Duration::from_secs(10);

/// The longest datagram that the kernel makes of a dump (`NLMSG_GOODSIZE` is at most 32 KiB).
const BUFFER_BYTES: usize = 64 * 1024;

/// A dump is given up after so many messages: no guest has as many links or routes.
const MAX_MESSAGES: usize = 65_536;

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

    /// Asks for all objects of one kind.
    pub fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.receive()
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
        let mut found = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let (_, length) = recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC)?;
            let mut rest = buffer.get(..length).ok_or_else(malformed)?;
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                let (header, payload) = message.into_parts();
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
                match payload {
                    NetlinkPayload::InnerMessage(message) if found.len() < MAX_MESSAGES => {
                        found.push(message);
                    }
                    NetlinkPayload::InnerMessage(_) => return Err(malformed()),
                    // No code is an acknowledgement.
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Overrun(_) => return Err(malformed()),
                    _ => {}
                }
            }
        }
    }
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
