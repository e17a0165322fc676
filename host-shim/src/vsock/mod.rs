//! The vsock device of a QEMU machine: a program of its own (`containerd-shim-seed-v2 vsock`), behind vhost-user, that leads
//! the guest's vsock to Unix sockets of the host.
//!
//! Ours, because it has to outlive what a machine goes through. The one of the vhost-device project, 0.3.0, ends the
//! thread that moves its packets when the host says anything while the machine stands still, and when a caller that had
//! lost patience is answered; QEMU does not connect to another one then, so the machine would be lost.

mod connection;
mod device;
pub mod hub;
pub mod packet;

use std::{
    io,
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    process::{Resource, Rlimit, setrlimit},
    thread::set_name,
};
use thiserror::Error;
use vhost_user_backend::{VhostUserDaemon, VringEpollHandler};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use crate::{
    paths::{VHOST, VSOCK},
    sys,
};
use device::{Device, OF_HOST};
use hub::Hub;

/// Any number from 3 on: a guest behind a device of its own needs no unique one.
const GUEST_CID: u64 = 3;

/// How often the thread that moves the packets is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Why there is no device any more.
#[derive(Debug, Error)]
pub enum VsockError {
    /// The host's side.
    #[error("vsock socket {VSOCK} cannot be served")]
    Host(#[source] io::Error),
    /// The VMM's side.
    #[error("vhost-user socket {VHOST} cannot be served: {0}")]
    Vmm(String),
    /// The library's thread is gone, for whatever reason.
    #[error("the thread that moves the packets has ended")]
    Thread,
}

/// Serves one VMM on the sockets `vhost` and `sock` in the working directory, until it is gone. To be called by a process that
/// does nothing else: once its guest is there it makes no processes and no threads any more.
pub fn serve() -> Result<(), VsockError> {
    serve_and(Path::new("."), no_more_processes)
}

/// The same in this folder, by a process that may do other things as well. Blocks.
pub fn serve_in(folder: &Path) -> Result<(), VsockError> {
    serve_and(folder, || {})
}

/// `settle` is called before anything of the guest is looked at. Every thread is there by then.
fn serve_and(folder: &Path, settle: fn()) -> Result<(), VsockError> {
    // Each connection is one.
    sys::allow_files(u64::MAX);
    // It is a copy of the shim to whoever looks at names of programs. Where it cannot be told apart nothing is lost.
    let _ = set_name(c"seed-vsock");
    let hub = Hub::listen(GUEST_CID, &folder.join(VSOCK)).map_err(VsockError::Host)?;
    let device = Device::new(GUEST_CID, hub, settle).map_err(VsockError::Host)?;
    let gate = device.gate().map_err(VsockError::Host)?;
    let device = Arc::new(Mutex::new(device));
    let vmm = |error: vhost_user_backend::Error| VsockError::Vmm(error.to_string());
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("vsock".to_owned(), device, memory).map_err(vmm)?;
    let handlers = daemon.get_epoll_handlers();
    for handler in &handlers {
        let events = handler.register_listener(gate.as_raw_fd(), EventSet::IN, OF_HOST);
        events.map_err(VsockError::Host)?;
    }
    let socket = folder.join(VHOST);
    let (tell, told) = channel();
    let _serving = thread::spawn(move || {
        let _ = tell.send(daemon.serve(socket).map_err(vmm));
    });
    loop {
        match told.recv_timeout(LOOK) {
            Ok(end) => return end,
            Err(RecvTimeoutError::Disconnected) => return Err(VsockError::Thread),
            Err(RecvTimeoutError::Timeout) if !handlers.iter().all(is_served) => {
                // With its VMM it ends as well, a moment before that is told.
                return told.recv_timeout(LOOK).unwrap_or(Err(VsockError::Thread));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// The library keeps one of these for itself, one for its thread, and we have one.
fn is_served(handler: &Arc<VringEpollHandler<Arc<Mutex<Device>>>>) -> bool {
    Arc::strong_count(handler) >= 3
}

/// A guest that took the process over leaves none behind that outlives it: it is the only one of its user, and the limit is not
/// raised again without a capability that it does not have. It does not hold root (setrlimit(2)).
fn no_more_processes() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Nproc, none);
}
