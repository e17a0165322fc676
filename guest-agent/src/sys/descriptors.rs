//! Descriptors that the runtime watches, and descriptors that outlive this process: systemd holds a copy of each and hands them to the next one
//! (`sd_notify(3)`, "FDSTORE"; `sd_listen_fds(3)`).

#![allow(
    unsafe_code,
    reason = "the runtime watches descriptors by number and systemd hands them over by number: that one is \
              whose it is thought to be takes a promise"
)]

use std::{
    collections::HashMap,
    env,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg_addr, socket_with,
};
use tokio::io::unix::AsyncFd;

/// Where the manager listens, `sd_notify(3)`.
const SOCKET: &str = "NOTIFY_SOCKET";

/// Has the runtime watch a pipe or a terminal. Must be called inside the runtime.
pub fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor keeps its number until it is dropped, and `AsyncFd` ends its registration
    // before it drops what it owns.
    let watched = unsafe { AsyncFd::register(descriptor) };
    watched.map_err(|error| error.into_parts().1)
}

/// The descriptors by name.
pub type Held = HashMap<String, OwnedFd>;

/// Who holds them.
#[derive(Debug, Clone)]
pub enum Keeper {
    /// The manager that started this process; nobody, when there is none.
    Systemd,
    /// This process, for tests.
    Memory(Arc<Mutex<Held>>),
}

impl Keeper {
    /// Gives a copy away. A name stands for one descriptor.
    pub fn hold(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            // Without polling: a pipe whose writers are gone still has what they wrote.
            Self::Systemd => {
                let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
                notify(&text, &[descriptor])
            }
            Self::Memory(held) => {
                let copy = descriptor.try_clone_to_owned()?;
                lock(held).insert(name.to_owned(), copy);
                Ok(())
            }
        }
    }

    /// Takes the copy back.
    pub fn let_go(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Systemd => notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[]),
            Self::Memory(held) => {
                lock(held).remove(name);
                Ok(())
            }
        }
    }

    /// What an earlier process gave away. Once: later there is nothing.
    pub fn handed_over(&self) -> io::Result<Held> {
        match self {
            Self::Systemd => from_systemd(),
            Self::Memory(held) => {
                let copies = lock(held);
                let copies = copies.iter().map(|(name, descriptor)| {
                    let copy = descriptor.try_clone()?;
                    Ok((name.clone(), copy))
                });
                copies.collect()
            }
        }
    }
}

/// Tells the manager, if there is one.
fn notify(text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let Some(path) = env::var_os(SOCKET) else {
        return Ok(());
    };
    let path = path.as_bytes();
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg_addr(socket, &address, &text, &mut control, SendFlags::empty())?;
    Ok(())
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn from_systemd() -> io::Result<Held> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Held::new());
    }
    let numbers = sd_notify::listen_fds_with_names()?;
    Ok(numbers
        .map(|(number, name)| {
            // SAFETY: the manager opened this descriptor for this process (`LISTEN_PID` was compared), and
            // nobody else owns it: it is taken once in the life of the process.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            (name, descriptor)
        })
        .collect())
}
