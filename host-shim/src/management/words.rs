//! The words for stages and states, the same in every table, message and JSON document.

use seed_protocol::seed::{
    management::{InstanceStatus, Pod, State, Usage},
    v1::Stage,
};
use serde_json::{Value, json};

use super::metrics;

/// The word for a stage of the boot; `none` before the first.
pub fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::STAGE_UNSPECIFIED => "none",
        Stage::STAGE_VMM_STARTED => "vmm",
        Stage::STAGE_KERNEL => "kernel",
        Stage::STAGE_HELLO => "hello",
        Stage::STAGE_PROVISIONED => "provisioned",
        Stage::STAGE_SYSTEM_BUS => "bus",
        Stage::STAGE_RUNNING => "running",
        Stage::STAGE_DEGRADED => "degraded",
    }
}

/// What a stage means, for people.
pub fn stage_meaning(stage: Stage) -> &'static str {
    match stage {
        Stage::STAGE_UNSPECIFIED => "nothing started yet",
        Stage::STAGE_VMM_STARTED => "virtual machine started",
        Stage::STAGE_KERNEL => "kernel runs",
        Stage::STAGE_HELLO => "agent answers",
        Stage::STAGE_PROVISIONED => "environment, volumes and identity ready",
        Stage::STAGE_SYSTEM_BUS => "systemd answers on the bus",
        Stage::STAGE_RUNNING => "all units started",
        Stage::STAGE_DEGRADED => "started, with failures",
    }
}

/// The word for a state.
pub fn state(state: State) -> &'static str {
    match state {
        State::STATE_UNSPECIFIED => "unknown",
        State::STATE_CREATED => "created",
        State::STATE_STARTING => "starting",
        State::STATE_RUNNING => "running",
        State::STATE_STOPPING => "stopping",
        State::STATE_STOPPED => "stopped",
        State::STATE_PAUSED => "paused",
    }
}

/// What an instance uses, as `usage` in `seed status --json`.
pub fn usage_json(usage: &Usage) -> Value {
    let guest = usage.guest.as_ref().map(|guest| {
        json!({
            "cpu_ns": guest.cpu_ns,
            "memory_bytes": guest.memory_bytes,
            "inactive_file_bytes": guest.inactive_file_bytes,
            "memory_total_bytes": guest.memory_total_bytes,
            "tasks": guest.tasks,
        })
    });
    let processes = usage.processes.iter().map(|process| {
        json!({
            "name": process.name,
            "pid": process.pid,
            "cpu_ns": process.cpu_ns,
            "memory_bytes": process.memory_bytes,
            "guest_memory_bytes": process.guest_memory_bytes,
        })
    });
    json!({
        "guest": guest,
        "processes": processes.collect::<Vec<_>>(),
        "overhead_memory_bytes": metrics::overhead(usage),
    })
}

/// A container of a pod as one word.
pub fn pod(pod: &Pod) -> String {
    format!("{}/{}/{}", pod.namespace, pod.name, pod.container)
}

/// A container of a pod, for tests.
#[cfg(test)]
pub(super) fn sample_pod() -> Pod {
    Pod {
        namespace: "prod".into(),
        name: "web-0".into(),
        container: "app".into(),
        ..Default::default()
    }
}

/// Whether the guest is gone.
pub fn has_ended(status: &InstanceStatus) -> bool {
    status.state.enum_value_or_default() == State::STATE_STOPPED
}

/// Running, or degraded because systemd says so. A problem met while provisioning shows as degraded at
/// once, when systemd still starts units: that is not the end of the boot.
pub fn is_up(status: &InstanceStatus) -> bool {
    let stage = status.stage.enum_value_or_default();
    let settled = !matches!(
        status.system_state.as_str(),
        "" | "initializing" | "starting"
    );
    matches!(stage, Stage::STAGE_RUNNING | Stage::STAGE_DEGRADED) && settled
}

/// The status as `seed status --json` prints it.
pub fn json(status: &InstanceStatus) -> Value {
    let stages = status.stages.iter().map(|reached| {
        json!({
            "stage": stage(reached.stage.enum_value_or_default()),
            "since_create_ms": reached.since_create_ms,
        })
    });
    let failed = status
        .failed_units
        .iter()
        .map(|unit| json!({ "name": unit.name, "result": unit.result }));
    let problems = status
        .problems
        .iter()
        .map(|problem| json!({ "subject": problem.subject, "message": problem.message }));
    let volumes = status.volumes.iter().map(|volume| {
        json!({
            "name": volume.name,
            "mount_point": volume.mount_point,
            "filesystem": volume.filesystem,
            "created": volume.created,
            "size_bytes": volume.size_bytes,
            "problem": volume.problem,
        })
    });
    let processes = status
        .processes
        .iter()
        .map(|process| json!({ "name": process.name, "pid": process.pid }));
    let exit = status
        .exit
        .as_ref()
        .map(|exit| json!({ "status": exit.status, "reason": exit.reason, "at": exit.at_unix_ns }));
    let pod = status.pod.as_ref().map(
        |pod| json!({ "namespace": pod.namespace, "name": pod.name, "container": pod.container }),
    );
    json!({
        "namespace": status.namespace,
        "name": status.id,
        "pod": pod,
        "kept_as": status.kept_as,
        "state": state(status.state.enum_value_or_default()),
        "stage": stage(status.stage.enum_value_or_default()),
        "stages": stages.collect::<Vec<_>>(),
        "system_state": status.system_state,
        "failed_units": failed.collect::<Vec<_>>(),
        "problems": problems.collect::<Vec<_>>(),
        "volumes": volumes.collect::<Vec<_>>(),
        "processes": processes.collect::<Vec<_>>(),
        "exit": exit,
        "accel": status.accel,
        "vcpus": status.vcpus,
        "memory_mib": status.memory_mib,
        "agent_version": status.agent_version,
        "boot_id": status.boot_id,
        "created_unix_ns": status.created_unix_ns,
        "cpu_time_ms": status.cpu_time_ms,
        "memory_used_bytes": status.memory_used_bytes,
        "log": {
            "entries": status.log_entries,
            "lag": status.log_lag,
            "missing": status.log_missing,
            "dropped": status.log_dropped,
        },
    })
}
