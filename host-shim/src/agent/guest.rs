//! Calls of `seed.v1`: what only a guest of ours answers.

use std::time::Duration;

use seed_protocol::seed::v1::{
    ControlUnitRequest, ControlUnitResponse, GetIdentityRequest, GetStatusRequest, GuestStatus,
    Identity, JournalBatch, ListUnitsRequest, ListUnitsResponse, ReadJournalRequest,
    ShowUnitRequest, UnitDetails,
};

use super::{
    Agent, AgentError,
    client::{SHORT, within},
    ports::milliseconds,
};

/// systemd's own default for a job is 90 s; a unit may say more.
const UNIT_JOB: Duration = Duration::from_secs(600);

/// How much later than asked a long poll may be answered.
const LATE: Duration = Duration::from_secs(20);

impl Agent {
    /// `GetStatus`, a long poll of at most `wait`.
    pub async fn status(
        &self,
        after_revision: u64,
        wait: Duration,
    ) -> Result<GuestStatus, AgentError> {
        let wait_ms = milliseconds(wait);
        let request = GetStatusRequest {
            after_revision,
            wait_ms,
            ..Default::default()
        };
        let result = self
            .seed()
            .await?
            .get_status(within(wait + LATE), &request)
            .await;
        self.sorted("GetStatus", result).await
    }

    /// `GetIdentity`.
    pub async fn identity(&self) -> Result<Identity, AgentError> {
        let request = GetIdentityRequest::default();
        let result = self
            .seed()
            .await?
            .get_identity(within(SHORT), &request)
            .await;
        self.sorted("GetIdentity", result).await
    }

    /// `ListUnits`.
    pub async fn list_units(
        &self,
        request: &ListUnitsRequest,
    ) -> Result<ListUnitsResponse, AgentError> {
        let result = self.seed().await?.list_units(within(SHORT), request).await;
        self.sorted("ListUnits", result).await
    }

    /// `ShowUnit`.
    pub async fn show_unit(&self, request: &ShowUnitRequest) -> Result<UnitDetails, AgentError> {
        let result = self.seed().await?.show_unit(within(SHORT), request).await;
        self.sorted("ShowUnit", result).await
    }

    /// `ControlUnit`: waits for the job.
    pub async fn control_unit(
        &self,
        request: &ControlUnitRequest,
    ) -> Result<ControlUnitResponse, AgentError> {
        let result = self
            .seed()
            .await?
            .control_unit(within(UNIT_JOB), request)
            .await;
        self.sorted("ControlUnit", result).await
    }

    /// `ReadJournal`: its limit is the wait that the request asks for, and some more.
    pub async fn read_journal(
        &self,
        request: &ReadJournalRequest,
    ) -> Result<JournalBatch, AgentError> {
        let limit = Duration::from_millis(request.wait_ms.into()) + LATE;
        let result = self
            .seed()
            .await?
            .read_journal(within(limit), request)
            .await;
        self.sorted("ReadJournal", result).await
    }
}
