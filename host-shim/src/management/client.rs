//! Asks the management socket of one instance: what `seed` and the seed shell link. Every call has a
//! time limit of its own, so that a shim that hangs never hangs a caller.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use seed_protocol::{
    seed::{
        management::{
            GetKeysRequest, GetStatusRequest, GetUsageRequest, InstanceStatus, Keys,
            RestartRequest, Usage,
        },
        management_ttrpc::ManagementClient,
        v1::{
            ControlUnitRequest, ControlUnitResponse, ListUnitsRequest, ListUnitsResponse,
            ShowUnitRequest, UnitDetails,
        },
    },
    status,
};
use thiserror::Error;
use tokio::net::UnixStream;
use ttrpc::{Code, r#async::transport::Socket, context};

use super::MAX_STATUS_WAIT;

/// How long an answer may take that asks nothing of the guest.
const ANSWER: Duration = Duration::from_secs(5);

/// What the instance uses: the shim waits a few seconds for the guest, then answers without it.
const USAGE_ANSWER: Duration = Duration::from_secs(10);

/// How long a unit's job may take: the agent gives up after ten minutes, and then still has to say so.
const UNIT_JOB_ANSWER: Duration = Duration::from_secs(620);

/// How long the guest may take, which is slow without KVM.
pub(super) const GUEST_ANSWER: Duration = Duration::from_secs(120);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens: the instance does not run.
    #[error("nobody listens on {}", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is another user's.
    #[error("management socket {} belongs to another user", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// Any other failure to connect.
    #[error("management socket {} cannot be used", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The instance refused, in its own words.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: Code,
        /// One sentence.
        message: String,
    },
    /// The connection broke, or the time was over.
    #[error("no answer from the instance")]
    Broken(#[source] ttrpc::Error),
}

/// A connection to one management socket.
#[derive(Clone)]
pub struct Client {
    pub(super) inner: ManagementClient,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// Connects. Must be called inside a tokio runtime.
    pub async fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    ClientError::Absent { path }
                }
                io::ErrorKind::PermissionDenied => ClientError::Denied { path },
                _ => ClientError::Connect { path, source },
            }
        })?;
        let client = ttrpc::r#async::Client::new(Socket::new(stream));
        Ok(Self {
            inner: ManagementClient::new(client),
        })
    }

    /// The status, at once for `after_revision` 0, else when it has changed or `wait` is over.
    pub async fn status(
        &self,
        after_revision: u64,
        wait: Duration,
    ) -> Result<InstanceStatus, ClientError> {
        let wait = wait.min(MAX_STATUS_WAIT);
        let request = GetStatusRequest {
            after_revision,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        self.inner
            .get_status(context::with_duration(wait + ANSWER), &request)
            .await
            .map_err(refusal)
    }

    /// What the instance uses now. A shim that is older than this question says nothing.
    pub async fn usage(&self) -> Result<Usage, ClientError> {
        let limit = context::with_duration(USAGE_ANSWER);
        let request = GetUsageRequest::default();
        let usage = self.inner.get_usage(limit, &request).await;
        match usage.map_err(refusal) {
            Err(ClientError::Refused {
                code: Code::UNIMPLEMENTED,
                ..
            }) => Ok(Usage::default()),
            other => other,
        }
    }

    /// The recipients of the instance's age identity.
    pub async fn keys(&self) -> Result<Keys, ClientError> {
        let request = GetKeysRequest::default();
        self.inner
            .get_keys(context::with_duration(GUEST_ANSWER), &request)
            .await
            .map_err(refusal)
    }

    /// Has the instance stopped and started again, with everything kept. The answer, one sentence, says that it
    /// has begun; the socket then goes away and comes back.
    pub async fn restart(&self) -> Result<String, ClientError> {
        let request = RestartRequest::default();
        let answer = self
            .inner
            .restart(context::with_duration(ANSWER), &request)
            .await
            .map_err(refusal)?;
        Ok(answer.message)
    }

    /// systemd units in the guest that fit the patterns; all loaded ones without patterns.
    pub async fn list_units(
        &self,
        patterns: Vec<String>,
    ) -> Result<ListUnitsResponse, ClientError> {
        let request = ListUnitsRequest {
            patterns,
            ..Default::default()
        };
        self.inner
            .list_units(context::with_duration(GUEST_ANSWER), &request)
            .await
            .map_err(refusal)
    }

    /// One unit in the guest, as `systemctl status` shows it.
    pub async fn show_unit(&self, name: String) -> Result<UnitDetails, ClientError> {
        let request = ShowUnitRequest {
            name,
            ..Default::default()
        };
        self.inner
            .show_unit(context::with_duration(GUEST_ANSWER), &request)
            .await
            .map_err(refusal)
    }

    /// Starts, stops, restarts... a unit and waits for the job's result.
    pub async fn control_unit(
        &self,
        request: &ControlUnitRequest,
    ) -> Result<ControlUnitResponse, ClientError> {
        self.inner
            .control_unit(context::with_duration(UNIT_JOB_ANSWER), request)
            .await
            .map_err(refusal)
    }
}

pub(super) fn refusal(error: ttrpc::Error) -> ClientError {
    match status::of(&error) {
        Some((code, message)) if code != Code::DEADLINE_EXCEEDED => ClientError::Refused {
            code,
            message: message.to_owned(),
        },
        _ => ClientError::Broken(error),
    }
}
