//! From an instance's view to `seed.management.v1`: the management socket's [`Backend`].

use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use seed_protocol::seed::{
    management::{
        self as wire, ControlExecRequest, Exit, InstanceStatus, Keys, Process, ReadExecRequest,
        StageTime, StartExecRequest, State, Usage, WriteExecRequest,
    },
    v1::{
        ControlUnitRequest, ControlUnitResponse, ListUnitsRequest, ListUnitsResponse, Problem,
        ShowUnitRequest, UnitDetails,
    },
};
use tokio::time::timeout;
use ttrpc::Code;

use super::{
    commands::Commands,
    restart::{RestartError, Restarter},
};
use crate::{
    agent::AgentError,
    logs,
    management::{Backend, BackendError},
    sandbox::{Phase, Sandbox, View, unix_ns},
    spec::{InPod, VmSpec, WRITABLE_ROOT},
    text::chain,
    usage::{self, GuestUsage, ProcessUsage},
};

/// Log figures change without a new view: how often a waiting caller gets them all the same.
const FIGURES: Duration = Duration::from_secs(1);

/// One instance behind its management socket.
#[derive(Debug)]
pub struct Instance {
    sandbox: Sandbox,
    restarter: Restarter,
    commands: Commands,
    created: SystemTime,
}

impl Instance {
    /// The instance of this sandbox, which is made now. `commands`: whether it runs any that are asked for over the
    /// management socket.
    pub fn new(sandbox: Sandbox, restarter: Restarter, commands: bool) -> Self {
        Self {
            commands: Commands::new(sandbox.clone(), commands),
            sandbox,
            restarter,
            created: SystemTime::now(),
        }
    }

    fn ready(&self) -> Result<(), BackendError> {
        let text = match self.sandbox.view().phase {
            Phase::Provisioning | Phase::Running | Phase::PoweringOff => return Ok(()),
            Phase::Created | Phase::Launching | Phase::Booting => {
                "the guest is not up yet: wait until it has said hello"
            }
            Phase::Ending | Phase::Cleaning | Phase::Stopped => "the instance has ended",
        };
        Err(BackendError::NotReady(text.to_owned()))
    }
}

#[async_trait]
impl Backend for Instance {
    async fn status(&self, after_revision: u64, wait: Duration) -> InstanceStatus {
        let until = Instant::now() + wait;
        let mut view = self.sandbox.view();
        // After its end nothing changes any more, and whoever asks is in the way of the shim's own end.
        while view.revision == after_revision
            && view.phase != Phase::Stopped
            && Instant::now() < until
        {
            let left = until.saturating_duration_since(Instant::now()).min(FIGURES);
            if let Ok(changed) = timeout(left, self.sandbox.changed(after_revision)).await {
                view = changed;
            }
        }
        InstanceStatus {
            created_unix_ns: unix_ns(self.created),
            ..status(&self.sandbox, view)
        }
    }

    async fn usage(&self) -> Usage {
        let guest = match self.sandbox.view().phase {
            Phase::Provisioning | Phase::Running | Phase::PoweringOff => {
                self.sandbox.guest_usage().await.ok()
            }
            _ => None,
        };
        let processes = match self.sandbox.view().phase {
            Phase::Stopped => Vec::new(),
            _ => self.sandbox.host_usage().processes,
        };
        told(guest, processes)
    }

    async fn keys(&self) -> Result<Keys, BackendError> {
        self.ready()?;
        let identity = self.sandbox.agent().identity().await.map_err(backend)?;
        Ok(Keys {
            recipient: identity.recipient,
            tag_recipient: identity.tag_recipient,
            ..Keys::default()
        })
    }

    async fn restart(&self) -> Result<String, BackendError> {
        self.restarter.begin().map_err(|error| match error {
            RestartError::Pod { .. } | RestartError::Foreign(_) | RestartError::Begun(_) => {
                BackendError::NotReady(error.to_string())
            }
            _ => BackendError::Internal(chain(&error)),
        })?;
        Ok(format!("instance {} is being restarted", self.restarter.id))
    }

    async fn list_units(
        &self,
        request: ListUnitsRequest,
    ) -> Result<ListUnitsResponse, BackendError> {
        self.ready()?;
        self.sandbox
            .agent()
            .list_units(&request)
            .await
            .map_err(backend)
    }

    async fn show_unit(&self, request: ShowUnitRequest) -> Result<UnitDetails, BackendError> {
        self.ready()?;
        let shown = self.sandbox.agent().show_unit(&request).await;
        shown.map_err(backend)
    }

    async fn control_unit(
        &self,
        request: ControlUnitRequest,
    ) -> Result<ControlUnitResponse, BackendError> {
        self.ready()?;
        self.sandbox
            .agent()
            .control_unit(&request)
            .await
            .map_err(backend)
    }

    async fn start_exec(&self, request: StartExecRequest) -> Result<String, BackendError> {
        self.commands.start(request).await
    }

    async fn read_exec(&self, request: ReadExecRequest) -> Result<Vec<u8>, BackendError> {
        self.commands.read(request).await
    }

    async fn write_exec(&self, request: WriteExecRequest) -> Result<u32, BackendError> {
        self.commands.write(request).await
    }

    async fn control_exec(&self, request: ControlExecRequest) -> Result<(), BackendError> {
        self.commands.control(request).await
    }

    async fn wait_exec(&self, id: String) -> Result<u32, BackendError> {
        self.commands.wait(&id).await
    }
}

fn told(guest: Option<GuestUsage>, processes: Vec<ProcessUsage>) -> Usage {
    let guest = guest.map(|usage| wire::GuestUsage {
        cpu_ns: usage.cpu.total_ns,
        memory_bytes: usage.memory.usage,
        inactive_file_bytes: usage.memory.detail("inactive_file"),
        memory_total_bytes: usage.memory.limit,
        tasks: usage.tasks.0,
        links: usage
            .links
            .into_iter()
            .map(|link| wire::guest_usage::Link {
                name: link.name,
                received_bytes: link.received[0],
                sent_bytes: link.sent[0],
                ..Default::default()
            })
            .collect(),
        disks: usage
            .disks
            .into_iter()
            .map(|disk| wire::guest_usage::Disk {
                major: disk.major,
                minor: disk.minor,
                read_bytes: disk.bytes.0,
                written_bytes: disk.bytes.1,
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    let process = |process: ProcessUsage| wire::ProcessUsage {
        name: process.name.to_owned(),
        pid: process.pid,
        cpu_ns: u64::try_from(process.cpu.as_nanos()).unwrap_or(u64::MAX),
        memory_bytes: process.memory_bytes,
        guest_memory_bytes: process.guest_memory_bytes,
        ..Default::default()
    };
    Usage {
        guest: guest.into(),
        processes: processes.into_iter().map(process).collect(),
        ..Usage::default()
    }
}

pub(super) fn backend(error: AgentError) -> BackendError {
    let AgentError::Refused { code, message, .. } = error else {
        return BackendError::Unavailable(chain(&error));
    };
    match code {
        Code::INVALID_ARGUMENT => BackendError::Invalid(message),
        Code::NOT_FOUND => BackendError::NotFound(message),
        Code::FAILED_PRECONDITION => BackendError::NotReady(message),
        Code::UNAVAILABLE => BackendError::Unavailable(message),
        _ => BackendError::Internal(message),
    }
}

fn status(sandbox: &Sandbox, view: View) -> InstanceStatus {
    let spec = sandbox.spec();
    let log = |figure: fn(&logs::Counters) -> u64| sandbox.log_figures().map_or(0, figure);
    let guest = view.guest.clone().unwrap_or_default();
    let vmm = view.processes.first();
    let (cpu, memory_bytes) = vmm
        .and_then(|vmm| usage::resident(vmm.pid))
        .unwrap_or_default();
    InstanceStatus {
        revision: view.revision,
        namespace: spec.namespace.to_string(),
        id: spec.id.to_string(),
        state: state(&view).into(),
        stage: view.stage().into(),
        stages: view
            .stages
            .iter()
            .map(|(stage, at)| StageTime {
                stage: (*stage).into(),
                since_create_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
                ..StageTime::default()
            })
            .collect(),
        system_state: guest.system_state,
        failed_units: guest.failed_units,
        problems: guest.problems.into_iter().chain(problems(spec)).collect(),
        volumes: guest.volumes,
        accel: spec.accel.as_str().to_owned(),
        processes: view
            .processes
            .iter()
            .map(|p| Process {
                name: p.name.to_owned(),
                pid: p.pid,
                ..Process::default()
            })
            .collect(),
        exit: view
            .ended
            .as_ref()
            .map(|ended| Exit {
                status: ended.exit.status,
                reason: ended.exit.reason.clone(),
                at_unix_ns: unix_ns(ended.at),
                ..Exit::default()
            })
            .into(),
        agent_version: guest.agent_version,
        boot_id: view.boot_id,
        vcpus: view.size.vcpus,
        memory_mib: view.size.memory_mib,
        log_entries: log(logs::Counters::entries),
        log_lag: log(logs::Counters::lag),
        log_missing: log(logs::Counters::missing),
        log_dropped: log(logs::Counters::dropped),
        cpu_time_ms: u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX),
        memory_used_bytes: memory_bytes,
        pod: InPod::of(&spec.annotations).map(pod).into(),
        kept_as: spec.paths.kept_under().to_string_lossy().into_owned(),
        ..InstanceStatus::default()
    }
}

/// What the host has not done as the bundle wants it.
fn problems(spec: &VmSpec) -> impl Iterator<Item = Problem> {
    let root = spec.wants_read_only_root.then(|| Problem {
        subject: "root".to_owned(),
        message: WRITABLE_ROOT.to_owned(),
        ..Problem::default()
    });
    root.into_iter()
}

fn pod(in_pod: InPod<'_>) -> wire::Pod {
    wire::Pod {
        namespace: in_pod.namespace.to_owned(),
        name: in_pod.pod.to_owned(),
        container: in_pod.container.to_owned(),
        ..wire::Pod::default()
    }
}

fn state(view: &View) -> State {
    match view.phase {
        Phase::Running if view.paused => State::STATE_PAUSED,
        Phase::Created => State::STATE_CREATED,
        Phase::Launching | Phase::Booting | Phase::Provisioning => State::STATE_STARTING,
        Phase::Running => State::STATE_RUNNING,
        Phase::PoweringOff | Phase::Ending | Phase::Cleaning => State::STATE_STOPPING,
        Phase::Stopped => State::STATE_STOPPED,
    }
}
