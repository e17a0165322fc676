//! Calls of `seed.v1`: what only a guest of ours answers. Its status is kept for as long as it runs and told to everybody
//! who asks, so it is cut to a size: a guest may say anything.

use std::time::Duration;

use seed_protocol::seed::v1::{
    ControlUnitRequest, ControlUnitResponse, FailedUnit, GetIdentityRequest, GetStatusRequest,
    GuestStatus, Identity, JournalBatch, ListUnitsRequest, ListUnitsResponse, Problem,
    ReadJournalRequest, ShowUnitRequest, StageTime, UnitDetails, Volume,
};

use super::{
    Agent, AgentError,
    client::{MESSAGE_CHARS, SHORT, within},
    ports::milliseconds,
};

/// systemd's own default for a job is 90 s; a unit may say more.
const UNIT_JOB: Duration = Duration::from_secs(600);

/// How much later than asked a long poll may be answered.
const LATE: Duration = Duration::from_secs(20);

/// How many of each are taken from a guest's status. An agent of ours has fewer stages, problems and volumes.
const MAX_STAGES: usize = 16;
const MAX_FAILED_UNITS: usize = 256;
const MAX_PROBLEMS: usize = 64;
const MAX_VOLUMES: usize = 64;

/// A unit's name has 255 characters at most (systemd.unit(5)), as a file's has.
const NAME_CHARS: usize = 255;

/// A path's length (`PATH_MAX` of limits.h).
const PATH_CHARS: usize = 4096;

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
        self.sorted("GetStatus", result).await.map(bounded)
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

/// No more of it than an agent of ours has to say.
fn bounded(status: GuestStatus) -> GuestStatus {
    let GuestStatus {
        revision,
        stage,
        stages,
        system_state,
        failed_units,
        problems,
        volumes,
        boot_id,
        agent_version,
        boottime_us,
        hostname,
        special_fields: _,
    } = status;
    GuestStatus {
        revision,
        stage,
        stages: some(stages, MAX_STAGES, |one| StageTime {
            special_fields: Default::default(),
            ..one
        }),
        system_state: cut(&system_state, NAME_CHARS),
        failed_units: some(failed_units, MAX_FAILED_UNITS, |unit| FailedUnit {
            name: cut(&unit.name, NAME_CHARS),
            result: cut(&unit.result, NAME_CHARS),
            ..Default::default()
        }),
        problems: some(problems, MAX_PROBLEMS, |problem| Problem {
            subject: cut(&problem.subject, NAME_CHARS),
            message: cut(&problem.message, MESSAGE_CHARS),
            ..Default::default()
        }),
        volumes: some(volumes, MAX_VOLUMES, |volume| Volume {
            name: cut(&volume.name, NAME_CHARS),
            mount_point: cut(&volume.mount_point, PATH_CHARS),
            filesystem: cut(&volume.filesystem, NAME_CHARS),
            created: volume.created,
            size_bytes: volume.size_bytes,
            problem: cut(&volume.problem, MESSAGE_CHARS),
            ..Default::default()
        }),
        boot_id: cut(&boot_id, NAME_CHARS),
        agent_version: cut(&agent_version, NAME_CHARS),
        boottime_us,
        hostname: cut(&hostname, NAME_CHARS),
        ..Default::default()
    }
}

/// The first of a list, in memory of its own: what the list took is given back.
fn some<T>(list: Vec<T>, most: usize, each: impl Fn(T) -> T) -> Vec<T> {
    let mut kept = Vec::with_capacity(list.len().min(most));
    kept.extend(list.into_iter().take(most).map(each));
    kept
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use protobuf::Message;
    use seed_protocol::seed::v1::Stage;

    use super::*;

    /// What one message of ttrpc may take: the status has to fit into one to be told.
    const MESSAGE_BYTES: usize = 4 << 20;

    fn many<T: Clone>(one: T) -> Vec<T> {
        vec![one; 300]
    }

    #[test]
    fn a_status_is_cut_to_size() {
        // The longest in bytes that so many characters can be.
        let long = "\u{1f331}".repeat(PATH_CHARS + 1);
        let mut status = GuestStatus {
            revision: 7,
            stages: many(StageTime::default()),
            system_state: long.clone(),
            failed_units: many(FailedUnit {
                name: long.clone(),
                result: long.clone(),
                ..Default::default()
            }),
            problems: many(Problem {
                subject: long.clone(),
                message: long.clone(),
                ..Default::default()
            }),
            volumes: many(Volume {
                name: long.clone(),
                mount_point: long.clone(),
                filesystem: long.clone(),
                problem: long.clone(),
                ..Default::default()
            }),
            boot_id: long.clone(),
            agent_version: long.clone(),
            hostname: long,
            ..Default::default()
        };
        let unknown = status.mut_unknown_fields();
        unknown.add_length_delimited(99, vec![0; MESSAGE_BYTES]);
        let status = bounded(status);
        let bytes = status.compute_size();
        assert!(bytes < MESSAGE_BYTES as u64 / 4 * 3, "{bytes} bytes");
        assert_eq!(status.failed_units.len(), MAX_FAILED_UNITS);
        assert_eq!(status.failed_units[0].name.chars().count(), NAME_CHARS);
        assert_eq!(status.problems.len(), MAX_PROBLEMS);
        assert_eq!(status.volumes.len(), MAX_VOLUMES);
        assert_eq!(status.stages.len(), MAX_STAGES);
    }

    #[test]
    fn what_an_agent_of_ours_says_stays_as_it_is() {
        let status = GuestStatus {
            revision: 3,
            stage: Stage::STAGE_DEGRADED.into(),
            stages: vec![StageTime {
                stage: Stage::STAGE_HELLO.into(),
                boottime_us: 42,
                ..Default::default()
            }],
            system_state: "degraded".into(),
            failed_units: vec![FailedUnit {
                name: "app.service".into(),
                result: "exit-code".into(),
                ..Default::default()
            }],
            problems: vec![Problem {
                subject: "volume data".into(),
                message: "it is not there".into(),
                ..Default::default()
            }],
            volumes: vec![Volume {
                name: "data".into(),
                mount_point: "/seed/storage/data".into(),
                filesystem: "ext4".into(),
                created: true,
                size_bytes: 1 << 30,
                problem: "it is full".into(),
                ..Default::default()
            }],
            boot_id: "b".into(),
            agent_version: "1".into(),
            boottime_us: 43,
            hostname: "demo".into(),
            ..Default::default()
        };
        assert_eq!(bounded(status.clone()), status);
    }
}
