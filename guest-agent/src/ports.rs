//! Connections to TCP ports of the guest's own loopback, which the host asks for: what `kubectl port-forward`
//! reaches. A service that listens for the guest alone is reached as well as one that listens everywhere.
//!
//! Bytes go in calls both ways, each with its own limit, so that one connection that stands still holds up nobody;
//! nothing is buffered here beyond what the kernel does. Connections do not outlive the agent. One that no call
//! names for [`UNUSED`] is closed: its host has gone away without a word.
//!
//! What is closed before the host has said that nothing more comes is reset: a service shall not take what broke off for
//! the whole.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{Shutdown, shutdown, sockopt::set_socket_linger},
};
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::debug;

use crate::sys::clock;

/// How many there may be at a time.
const MAX_OPEN: usize = 128;

/// How long a service may take to accept. Only one with a full queue takes any time.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection without a call for so long is closed.
const UNUSED: Duration = Duration::from_secs(90);

/// The most bytes of one read.
const MAX_READ_BYTES: usize = 64 * 1024;

/// The longest wait of one call.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Where a port may be listened on: first where most services are.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Why there is no connection, or no more.
#[derive(Debug, Error)]
pub enum PortError {
    /// No such port can be.
    #[error("{0} is no port")]
    Number(u32),
    /// Nobody takes a connection to it.
    #[error("port {port} of the guest's loopback cannot be reached")]
    Closed {
        /// Which.
        port: u16,
        /// Why not over IPv4.
        source: io::Error,
    },
    /// It was closed, or never was.
    #[error("there is no connection {0} to a port")]
    NotFound(u64),
    /// The service ended it.
    #[error("connection {id} to port {port} is broken")]
    Broken {
        /// Which.
        id: u64,
        /// To where.
        port: u16,
        /// How.
        source: io::Error,
    },
    /// Too many.
    #[error("{MAX_OPEN} connections to ports are open already")]
    TooMany,
}

/// The connections that are open.
#[derive(Debug, Default)]
pub struct Table(Mutex<Open>);

#[derive(Debug)]
struct Open {
    next: u64,
    /// How many are being made.
    making: usize,
    all: HashMap<u64, Arc<Connection>>,
}

impl Default for Open {
    /// Numbers begin with the time, so that the next agent of this boot gives out others.
    fn default() -> Self {
        Self {
            next: clock::boottime_us(),
            making: 0,
            all: HashMap::new(),
        }
    }
}

#[derive(Debug)]
struct Connection {
    id: u64,
    port: u16,
    stream: TcpStream,
    used: Mutex<Instant>,
    /// The service was told that nothing more comes.
    ended: AtomicBool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = set_socket_linger(&self.stream, Some(Duration::ZERO)) {
            debug!(id = self.id, %error, "connection to a port is closed in place of a reset");
        }
    }
}

/// Room for one that is being made, given back when this is dropped.
struct Room<'a>(&'a Table);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.lock().making -= 1;
    }
}

impl Table {
    /// Connects to a port; the connection's number.
    pub async fn open(self: &Arc<Self>, port: u32) -> Result<u64, PortError> {
        let known = u16::try_from(port).ok().filter(|port| *port > 0);
        let port = known.ok_or(PortError::Number(port))?;
        let room = self.room()?;
        let stream = connect(port).await?;
        let id = {
            let mut open = self.lock();
            let id = open.next;
            open.next += 1;
            let used = Mutex::new(Instant::now());
            let connection = Connection {
                id,
                port,
                stream,
                used,
                ended: AtomicBool::new(false),
            };
            open.all.insert(id, Arc::new(connection));
            id
        };
        drop(room);
        debug!(id, port, "connected to a port for the host");
        let table = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(until) = table.upgrade().and_then(|table| table.needed_until(id)) {
                sleep_until(until).await;
            }
        });
        Ok(id)
    }

    /// The next bytes, at most `max`, and whether they are the last. None when `wait` is over.
    pub async fn read(
        &self,
        id: u64,
        max: usize,
        wait: Duration,
    ) -> Result<(Vec<u8>, bool), PortError> {
        let connection = self.find(id)?;
        if max == 0 {
            return Ok((Vec::new(), false));
        }
        let read = connection.read(max.min(MAX_READ_BYTES));
        let Ok(read) = timeout(wait.min(MAX_WAIT), read).await else {
            return Ok((Vec::new(), false));
        };
        let data = read.map_err(|source| connection.broken(source))?;
        connection.touch();
        let end = data.is_empty();
        Ok((data, end))
    }

    /// Passes on as many bytes as are taken before `wait` is over, and after all of them, where `end` says so, that
    /// there are no more. How many were taken.
    pub async fn write(
        &self,
        id: u64,
        data: &[u8],
        end: bool,
        wait: Duration,
    ) -> Result<usize, PortError> {
        let connection = self.find(id)?;
        let until = Instant::now() + wait.min(MAX_WAIT);
        let broken = |source| connection.broken(source);
        let mut written = 0;
        while written < data.len() {
            match timeout_at(until, connection.write(&data[written..])).await {
                Ok(count) => written += count.map_err(broken)?,
                Err(_) => break,
            }
        }
        if end && written == data.len() {
            match shutdown(&connection.stream, Shutdown::Write) {
                // A service that has gone needs no word.
                Ok(()) | Err(Errno::NOTCONN) => {}
                Err(error) => return Err(broken(error.into())),
            }
            connection.ended.store(true, Ordering::Relaxed);
        }
        connection.touch();
        Ok(written)
    }

    /// Closes a connection. One that is not there is fine.
    pub fn close(&self, id: u64) {
        self.lock().all.remove(&id);
    }

    fn room(&self) -> Result<Room<'_>, PortError> {
        let mut open = self.lock();
        if open.all.len() + open.making >= MAX_OPEN {
            return Err(PortError::TooMany);
        }
        open.making += 1;
        Ok(Room(self))
    }

    fn find(&self, id: u64) -> Result<Arc<Connection>, PortError> {
        let found = self.lock().all.get(&id).cloned();
        let connection = found.ok_or(PortError::NotFound(id))?;
        connection.touch();
        Ok(connection)
    }

    /// When to look again whether it is still used; `None` when it is closed, now or before.
    fn needed_until(&self, id: u64) -> Option<Instant> {
        let mut open = self.lock();
        let until = open.all.get(&id)?.used() + UNUSED;
        if until > Instant::now() {
            return Some(until);
        }
        debug!(id, "connection to a port is closed: nobody uses it");
        open.all.remove(&id);
        None
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn used(&self) -> Instant {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Given up, it takes nothing with it. Nothing is the end.
    async fn read(&self, max: usize) -> io::Result<Vec<u8>> {
        loop {
            self.stream.readable().await?;
            let mut data = Vec::with_capacity(max);
            match self.stream.try_read_buf(&mut data) {
                Ok(_) => return Ok(data),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Given up, it has written nothing.
    async fn write(&self, data: &[u8]) -> io::Result<usize> {
        loop {
            self.stream.writable().await?;
            match self.stream.try_write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn broken(&self, source: io::Error) -> PortError {
        PortError::Broken {
            id: self.id,
            port: self.port,
            source,
        }
    }
}

async fn connect(port: u16) -> Result<TcpStream, PortError> {
    let mut first = None;
    for address in LOOPBACK {
        let connected = timeout(CONNECT, TcpStream::connect((address, port))).await;
        let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match connected.and_then(to_another) {
            Ok(stream) => {
                // The host's pieces are whole writes of its client.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Err(error) => first = first.or(Some(error)),
        }
    }
    let source = first.unwrap_or_else(|| io::ErrorKind::NotFound.into());
    Err(PortError::Closed { port, source })
}

/// Refuses a connection to itself: TCP makes one where nobody listens and the kernel happens to give the caller the
/// very port that it asks for.
fn to_another(stream: TcpStream) -> io::Result<TcpStream> {
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    async fn pair(table: &Arc<Table>, address: &str) -> (u64, TcpStream) {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (id, accepted) = tokio::join!(table.open(port.into()), listener.accept());
        (id.unwrap(), accepted.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_and_ends_go_both_ways() {
        let table = Arc::new(Table::default());
        let (id, mut service) = pair(&table, "127.0.0.1").await;
        assert_eq!(table.write(id, b"question", true, SOON).await.unwrap(), 8);
        let mut asked = String::new();
        service.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "question");
        // The other half is still open.
        service.write_all(b"answer").await.unwrap();
        let read = table.read(id, 3, SOON).await.unwrap();
        assert_eq!(read, (b"ans".to_vec(), false));
        drop(service);
        assert_eq!(table.read(id, 9, SOON).await.unwrap().0, b"wer");
        for _ in 0..2 {
            assert_eq!(table.read(id, 9, SOON).await.unwrap(), (Vec::new(), true));
        }
        for _ in 0..2 {
            table.close(id);
            let gone = table.read(id, 9, SOON).await.unwrap_err();
            assert!(matches!(gone, PortError::NotFound(_)), "{gone}");
        }
    }

    #[tokio::test]
    async fn a_service_that_does_not_read_takes_no_more_than_fits_and_loses_nothing() {
        let table = Arc::new(Table::default());
        let (id, mut service) = pair(&table, "127.0.0.1").await;
        let much: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
        let wait = Duration::from_millis(50);
        let taken = table.write(id, &much, true, wait).await.unwrap();
        assert!(taken > 0 && taken < much.len(), "{taken}");
        let rest = async {
            let mut taken = taken;
            while taken < much.len() {
                taken += table.write(id, &much[taken..], true, SOON).await.unwrap();
            }
        };
        let mut seen = Vec::new();
        let (_, read) = tokio::join!(rest, service.read_to_end(&mut seen));
        read.unwrap();
        assert!(seen == much, "{} bytes", seen.len());
    }

    #[tokio::test]
    async fn a_wait_ends_and_takes_nothing_with_it() {
        let table = Arc::new(Table::default());
        let (id, mut service) = pair(&table, "127.0.0.1").await;
        let short = Duration::from_millis(5);
        assert_eq!(table.read(id, 9, short).await.unwrap(), (Vec::new(), false));
        service.write_all(b"later").await.unwrap();
        assert_eq!(table.read(id, 9, SOON).await.unwrap().0, b"later");
    }

    #[tokio::test]
    async fn what_is_closed_before_its_end_is_reset() {
        let table = Arc::new(Table::default());
        let whole = (true, Ok(0));
        let broken_off = (false, Err(io::ErrorKind::ConnectionReset));
        for (end, wanted) in [whole, broken_off] {
            let (id, mut service) = pair(&table, "127.0.0.1").await;
            table.write(id, b"a part", end, SOON).await.unwrap();
            let mut part = [0; 6];
            service.read_exact(&mut part).await.unwrap();
            table.close(id);
            let next = service.read(&mut part).await;
            assert_eq!(next.map_err(|error| error.kind()), wanted);
        }
    }

    #[tokio::test]
    async fn a_service_of_ipv6_alone_is_reached() {
        if TcpListener::bind(("::1", 0)).await.is_err() {
            let text = "SKIPPED a_service_of_ipv6_alone_is_reached: there is no IPv6 here\n";
            io::Write::write_all(&mut io::stderr(), text.as_bytes()).unwrap();
            return;
        }
        let table = Arc::new(Table::default());
        let (id, mut service) = pair(&table, "::1").await;
        table.write(id, b"x", false, SOON).await.unwrap();
        assert_eq!(service.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn ports_that_cannot_be_reached_are_named() {
        let table = Arc::new(Table::default());
        // Taken, so that it is nobody else's, and not listened on.
        let silent = TcpSocket::new_v4().unwrap();
        silent.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = silent.local_addr().unwrap().port();
        let refused = table.open(port.into()).await.unwrap_err();
        assert!(matches!(refused, PortError::Closed { port: p, .. } if p == port));
        for port in [0, 65_536, u32::MAX] {
            let refused = table.open(port).await.unwrap_err();
            assert!(matches!(refused, PortError::Number(_)), "{refused}");
        }
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_and_again_when_some_are_closed() {
        let table = Arc::new(Table::default());
        let mut all = Vec::new();
        for _ in 0..MAX_OPEN {
            all.push(pair(&table, "127.0.0.1").await);
        }
        let refused = table.open(1).await.unwrap_err();
        assert!(matches!(refused, PortError::TooMany), "{refused}");
        table.close(all[0].0);
        let (id, _) = pair(&table, "127.0.0.1").await;
        assert!(all.iter().all(|(other, _)| *other != id));
    }

    #[tokio::test]
    async fn a_connection_to_itself_is_none() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let own = socket.local_addr().unwrap();
        let stream = socket.connect(own).await.unwrap();
        let refused = to_another(stream).unwrap_err().kind();
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn one_that_nobody_uses_is_closed_and_one_in_use_is_not() {
        let table = Arc::new(Table::default());
        let (left, _service) = pair(&table, "127.0.0.1").await;
        let (used, _other) = pair(&table, "127.0.0.1").await;
        tokio::time::pause();
        for _ in 0..4 {
            tokio::time::advance(UNUSED / 3).await;
            table.read(used, 0, Duration::ZERO).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(table.lock().all.len(), 1);
        assert!(table.find(left).is_err());
        table.find(used).unwrap();
    }
}
