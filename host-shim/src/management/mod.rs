//! The management socket: one Unix socket per instance on which the shim answers the `seed` command
//! line and the seed shell (`seed.management.v1`, see `protocol/proto/seed/management_v1.proto`).
//!
//! [`server`] listens, checks who calls and adapts requests; [`client`] is what callers link, [`words`] the
//! names that they show, [`command`] a command in the guest, [`report`] the screen of one instance, [`metrics`] the figures of all, and [`scrape`]
//! how a scraper gets them: over this socket, too. What the answers say comes from a [`Backend`]: this module knows no VM and no guest.

use std::time::Duration;

use async_trait::async_trait;
use seed_protocol::seed::{
    management::{
        ControlExecRequest, InstanceStatus, Keys, ReadExecRequest, StartExecRequest, Usage,
        WriteExecRequest,
    },
    v1::{
        ControlUnitRequest, ControlUnitResponse, ListUnitsRequest, ListUnitsResponse,
        ShowUnitRequest, UnitDetails,
    },
};
use thiserror::Error;

pub mod client;
pub mod command;
pub mod metrics;
pub mod report;
pub mod scrape;
pub mod server;
pub mod units;
pub mod words;

pub use client::{Client, ClientError};
pub use command::Command;
pub(crate) use server::hidden;
pub use server::{ServeError, Server, serve};

/// The longest that one status call waits for a change.
pub const MAX_STATUS_WAIT: Duration = Duration::from_secs(30);

/// Why the instance cannot answer a question. The text is for the user: one sentence.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum BackendError {
    /// The caller asked for something that cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// What the caller names does not exist in the guest.
    #[error("{0}")]
    NotFound(String),
    /// Right question, wrong moment: the guest is not that far, or has no such thing.
    #[error("{0}")]
    NotReady(String),
    /// The guest does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// Our own failure.
    #[error("{0}")]
    Internal(String),
}

/// The instance behind a management socket.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The status at once when `after_revision` is 0 or not the current revision, else as soon as it
    /// changes, at the latest after `wait` (which the server has cut to [`MAX_STATUS_WAIT`]).
    async fn status(&self, after_revision: u64, wait: Duration) -> InstanceStatus;

    /// What the instance uses now.
    async fn usage(&self) -> Usage;

    /// The recipients of the age identity.
    async fn keys(&self) -> Result<Keys, BackendError>;

    /// Begins to stop the instance and to start it again; one sentence about it.
    async fn restart(&self) -> Result<String, BackendError>;

    /// systemd units in the guest.
    async fn list_units(
        &self,
        request: ListUnitsRequest,
    ) -> Result<ListUnitsResponse, BackendError>;

    /// One of them, as `systemctl status` shows it.
    async fn show_unit(&self, request: ShowUnitRequest) -> Result<UnitDetails, BackendError>;

    /// Starts, stops, restarts... a unit and waits for its job.
    async fn control_unit(
        &self,
        request: ControlUnitRequest,
    ) -> Result<ControlUnitResponse, BackendError>;

    /// Starts a command in the guest; its id. It belongs to whoever then waits for it.
    async fn start_exec(&self, _: StartExecRequest) -> Result<String, BackendError> {
        Err(no_commands())
    }

    /// The next bytes of an output, none at its end. As long as it takes.
    async fn read_exec(&self, _: ReadExecRequest) -> Result<Vec<u8>, BackendError> {
        Err(no_commands())
    }

    /// Input; how many of the bytes were taken. As long as it takes.
    async fn write_exec(&self, _: WriteExecRequest) -> Result<u32, BackendError> {
        Err(no_commands())
    }

    /// The input's end, a signal, or the terminal's size.
    async fn control_exec(&self, _: ControlExecRequest) -> Result<(), BackendError> {
        Err(no_commands())
    }

    /// Its exit status. A future that is dropped before has given the command up.
    async fn wait_exec(&self, _id: String) -> Result<u32, BackendError> {
        Err(no_commands())
    }
}

fn no_commands() -> BackendError {
    BackendError::NotReady("commands cannot be run here".into())
}
