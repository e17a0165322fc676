//! Between the words of containerd's Task API and ours. Nothing here waits or keeps anything.

use containerd_shim_protos::api::{CreateTaskRequest, StateResponse, Status};

use super::{TaskError, events::timestamp, task::Stdio};
use crate::{
    cgroup::CpuSet,
    rootfs::RootMount,
    sandbox::{Ended, Kill, Phase, Wanted},
    spec::Resources,
};

/// Signals that mean "power off" to an instance: TERM, INT, QUIT, PWR, and systemd's RTMIN+3 and RTMIN+4 (halt and
/// poweroff). Images name one of them as their stop signal, and an engine that cannot send it never ends the container.
const TERMINATE: [u32; 6] = [15, 2, 3, 30, 37, 38];
const SIGKILL: u32 = 9;

/// The highest number that a signal can have (signal(7)).
const LAST_SIGNAL: u32 = 64;

/// The mounts that make up the root.
pub(super) fn mounts(request: &CreateTaskRequest) -> Vec<RootMount> {
    request
        .rootfs
        .iter()
        .map(|mount| RootMount {
            kind: mount.type_.clone(),
            source: mount.source.clone(),
            target: mount.target.clone(),
            options: mount.options.clone(),
        })
        .collect()
}

fn wrong_resources(problem: String) -> TaskError {
    TaskError::Invalid(format!("resources: {problem}"))
}

/// An OCI `LinuxResources` document.
pub(super) fn resources(document: &[u8]) -> Result<Resources, TaskError> {
    serde_json::from_slice(document).map_err(|error| wrong_resources(error.to_string()))
}

/// The size that limits ask for.
pub(super) fn wanted(resources: &Resources) -> Result<Wanted, TaskError> {
    let wrong = wrong_resources;
    Ok(Wanted {
        vcpus: resources.vcpus().map_err(wrong)?,
        memory: resources.memory().map_err(wrong)?,
    })
}

/// The processors of the host that they choose.
pub(super) fn cpuset(resources: &Resources) -> Result<CpuSet, TaskError> {
    resources.cpuset().map_err(wrong_resources)
}

/// The state that containerd is told.
pub(super) fn status(phase: Phase, paused: bool) -> Status {
    match phase {
        Phase::Created | Phase::Launching | Phase::Booting | Phase::Provisioning => Status::CREATED,
        Phase::Running if paused => Status::PAUSED,
        // Until its end is known it runs: containerd takes "stopped" for "the status is final".
        Phase::Running | Phase::PoweringOff | Phase::Ending | Phase::Cleaning => Status::RUNNING,
        Phase::Stopped => Status::STOPPED,
    }
}

/// Fills in where output and input are.
pub(super) fn stdio_of(response: &mut StateResponse, stdio: &Stdio) {
    response.stdin = stdio.stdin.clone();
    response.stdout = stdio.stdout.clone();
    response.stderr = stdio.stderr.clone();
    response.terminal = stdio.terminal;
}

/// Fills in how it ended.
pub(super) fn ended_of(response: &mut StateResponse, ended: &Ended) {
    response.exit_status = ended.exit.status;
    response.exited_at = timestamp(ended.at);
}

/// What a signal to a machine asks for; nothing where it means nothing to one. That is no error, as it is none for a process
/// that ignores it: an image may name any of them as its stop signal, and CRI comes to SIGKILL only where that could be sent.
pub(super) fn meaning(signal: u32) -> Result<Option<Kill>, TaskError> {
    match signal {
        SIGKILL => Ok(Some(Kill::Now)),
        signal if TERMINATE.contains(&signal) => Ok(Some(Kill::Terminate)),
        1..=LAST_SIGNAL => {
            tracing::info!(
                signal,
                "signal means nothing to a machine: SIGTERM powers it off, SIGKILL ends it"
            );
            Ok(None)
        }
        signal => Err(TaskError::Invalid(format!(
            "{signal} is no signal: use SIGTERM or SIGKILL"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_powers_off_ends_or_means_nothing_and_others_are_refused() {
        for signal in TERMINATE {
            assert_eq!(meaning(signal).unwrap(), Some(Kill::Terminate), "{signal}");
        }
        assert_eq!(meaning(SIGKILL).unwrap(), Some(Kill::Now));
        for signal in [1, 10, 18, 28, LAST_SIGNAL] {
            assert_eq!(meaning(signal).unwrap(), None, "{signal}");
        }
        for none in [0, LAST_SIGNAL + 1] {
            let refused = meaning(none).unwrap_err().to_string();
            assert!(refused.contains("use SIGTERM or SIGKILL"), "{refused}");
        }
    }
}
