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
mod transient;
mod unit;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::watch;

use self::{bus::Bus, follow::Follower};
pub use self::{
    transient::{Exit, ServiceSpec, Standard, Transient},
    unit::{Action, Unit, UnitName},
};
use crate::status::Board;

/// Where the system bus listens, D-Bus specification, "Well-known Message Bus Instances".
pub const SYSTEM_BUS_SOCKET: &str = "/run/dbus/system_bus_socket";

/// Transient services that the agent starts are named with this; their failure says nothing about the
/// health of the system.
pub const EXEC_UNIT_PREFIX: &str = "seed-exec-";

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

/// A handle to systemd. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Handle {
    bus: watch::Receiver<Option<Arc<Bus>>>,
}

impl Handle {
    /// Starts the task that follows systemd on the system bus and writes what it learns to `board`.
    /// Must be called inside the runtime.
    pub fn spawn(board: Board) -> Self {
        Self::spawn_at(PathBuf::from(SYSTEM_BUS_SOCKET), board)
    }

    /// The same for a bus that listens elsewhere.
    pub fn spawn_at(socket: PathBuf, board: Board) -> Self {
        let (sender, bus) = watch::channel(None);
        tokio::spawn(Follower::new(socket, board, sender).run());
        Self { bus }
    }

    /// The connection, if there is one now.
    fn bus(&self) -> Result<Arc<Bus>, SystemdError> {
        self.bus.borrow().clone().ok_or(SystemdError::NotYet)
    }

    /// Waits for a connection other than `old`.
    async fn another_bus(&self, old: &Arc<Bus>) -> Result<Arc<Bus>, SystemdError> {
        let mut bus = self.bus.clone();
        let found = bus
            .wait_for(|bus| bus.as_ref().is_some_and(|bus| !Arc::ptr_eq(bus, old)))
            .await
            .map_err(|_| SystemdError::NotYet)?;
        found.clone().ok_or(SystemdError::NotYet)
    }
}
