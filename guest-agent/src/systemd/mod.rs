//! systemd over D-Bus: units and their jobs, readiness, transient services, power.
//!
//! [`Handle`] is what the rest of the agent sees. Behind it one task ([`follow`]) waits until the system
//! bus is up, which early in boot it is not, keeps one connection to it, and connects again when it goes.
//! Before that every request is answered with [`SystemdError::NotYet`]. Nothing here knows who asks.
//!
//! Interface: `org.freedesktop.systemd1(5)`.

mod bus;
mod follow;
mod jobs;
mod power;
mod proxy;
mod show;
mod text;
mod transient;
mod unit;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::{sync::watch, time::timeout};

use self::{bus::Bus, follow::Follower};
pub use self::{
    bus::HELD_CONNECTION,
    show::Details,
    transient::{Exit, ServiceSpec, Standard, Transient},
    unit::{Action, Unit, UnitName},
};
pub(crate) use self::{text::is_text, unit::complete_patterns};
use crate::{status::Board, sys::descriptors::Keeper};

/// Where the system bus listens, D-Bus specification, "Well-known Message Bus Instances".
pub const SYSTEM_BUS_SOCKET: &str = "/run/dbus/system_bus_socket";

/// Transient services that the agent starts are named with this; their failure says nothing about the
/// health of the system.
pub const EXEC_UNIT_PREFIX: &str = "seed-exec-";

/// How long a request waits for a connection that was lost a moment ago.
const RECONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Why systemd could not be asked, or what it answered.
#[derive(Debug, Error)]
pub enum SystemdError {
    /// The boot has not come as far as the bus.
    #[error("not yet: the system bus of the guest is not up")]
    NotYet,
    /// The bus or systemd's connection to it went away while we waited.
    #[error("the connection to systemd was lost while waiting for {0}")]
    Lost(String),
    /// No unit can have this name.
    #[error("{name:?} is no unit name: {reason}")]
    BadName {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// systemd knows no such unit.
    #[error("unit {0} is not known to systemd")]
    NoSuchUnit(String),
    /// The unit has no process that could get a signal.
    #[error("no process of {0} is left")]
    NoProcess(String),
    /// systemd will not do this now, or never does it to this unit.
    #[error("systemd refuses to {action} {unit}: {reason}")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// The unit.
        unit: String,
        /// systemd's own words.
        reason: String,
    },
    /// The answer or the end of a job did not come in time.
    #[error("{what} has not ended after {} s", limit.as_secs())]
    TimedOut {
        /// What we waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// A transient service could not be started.
    #[error("{unit} did not start: {reason}")]
    NotStarted {
        /// The service.
        unit: String,
        /// What failed, in words.
        reason: String,
        /// The exit status that systemd gave it, `systemd.exec(5)`, "Process Exit Codes"; 0 if none.
        status: i32,
    },
    /// Talking to systemd failed.
    #[error("systemd could not be asked to {action}")]
    Bus {
        /// What was asked for.
        action: &'static str,
        /// Why.
        #[source]
        source: zbus::Error,
    },
    /// Power could not be switched off.
    #[error("power off failed")]
    PowerOff(#[source] io::Error),
}

/// The connection to systemd as it is now.
#[derive(Debug, Clone)]
enum Link {
    /// The boot has not come as far.
    NotYet,
    Up(Arc<Bus>),
    /// There was one, and there is going to be one again, unless the system is going down.
    Lost,
}

/// A handle to systemd. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Handle {
    link: watch::Receiver<Link>,
}

impl Handle {
    /// Starts the task that follows systemd on the system bus and writes what it learns to `board`.
    /// Must be called inside the runtime.
    ///
    /// `keeper` holds the connection for an agent that starts again: systemd forgets an exec that has ended
    /// when nobody refers to it, and a reference is a connection's.
    pub fn spawn(board: Board, keeper: Keeper) -> Self {
        Self::spawn_at(PathBuf::from(SYSTEM_BUS_SOCKET), board, keeper)
    }

    /// The same for a bus that listens elsewhere.
    pub fn spawn_at(socket: PathBuf, board: Board, keeper: Keeper) -> Self {
        let (sender, link) = watch::channel(Link::NotYet);
        tokio::spawn(Follower::new(socket, board, keeper, sender).run());
        Self { link }
    }

    /// Whether systemd can be asked for something: waits a moment where the connection was lost just now.
    pub async fn ready(&self) -> Result<(), SystemdError> {
        self.bus().await.map(drop)
    }

    /// The connection. One that was lost a moment ago (systemd executed itself anew, the bus was
    /// restarted) is waited for.
    async fn bus(&self) -> Result<Arc<Bus>, SystemdError> {
        let link = self.link.borrow().clone();
        match link {
            Link::NotYet => Err(SystemdError::NotYet),
            Link::Up(bus) if !bus.is_closed() => Ok(bus),
            Link::Up(_) | Link::Lost => match timeout(RECONNECT_LIMIT, self.next_bus()).await {
                Ok(bus) => bus,
                Err(_) => Err(SystemdError::Lost("the system bus".to_owned())),
            },
        }
    }

    /// The connection if there is one at this moment.
    fn bus_now(&self) -> Option<Arc<Bus>> {
        match &*self.link.borrow() {
            Link::Up(bus) if !bus.is_closed() => Some(Arc::clone(bus)),
            Link::Up(_) | Link::NotYet | Link::Lost => None,
        }
    }

    /// The connection that is up now or comes up next, however long it takes.
    async fn next_bus(&self) -> Result<Arc<Bus>, SystemdError> {
        let mut link = self.link.clone();
        let up = link
            .wait_for(|link| matches!(link, Link::Up(bus) if !bus.is_closed()))
            .await;
        match up.as_deref() {
            Ok(Link::Up(bus)) => Ok(Arc::clone(bus)),
            // The follower has ended, and so has the runtime.
            Ok(Link::NotYet | Link::Lost) | Err(_) => Err(SystemdError::NotYet),
        }
    }
}
