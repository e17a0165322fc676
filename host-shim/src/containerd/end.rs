//! The end of an instance: the calls that ask its shim for it, and what is done about a shim that is stuck.
//! What is cleaned up afterwards is not decided here.

use std::{path::Path, time::Duration};

use containerd_shim_protos::{
    api::{StateResponse, Status},
    ttrpc::Code,
};
use tokio::time::timeout;

use super::{
    instance::StopOptions,
    task::{TaskClient, TaskError},
};
use crate::{paths::InstancePaths, shim::delete};

/// How long a killed VM may take to be gone.
const KILLED: Duration = Duration::from_secs(30);

/// How long a shim may be silent until it counts as stuck, where it is to be killed anyway.
const PATIENCE: Duration = Duration::from_secs(3);

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// Ends task and shim. [`TaskError::Late`] is a shim that is stuck.
pub(super) async fn orderly(
    task: &TaskClient,
    id: &str,
    options: StopOptions,
) -> Result<(), TaskError> {
    let state = task.state(id);
    let state = if options.kill {
        let late = |_| TaskError::Late("State");
        timeout(PATIENCE, state).await.map_err(late)?
    } else {
        state.await
    };
    let running = match state {
        Ok(state) => !is_stopped(&state),
        Err(error) if error.code() == Some(Code::NOT_FOUND) => false,
        // It is answered from memory.
        Err(error @ TaskError::Late(_)) => return Err(error),
        Err(_) => true,
    };
    if running {
        let wait = task.wait(id, "");
        tokio::pin!(wait);
        let ended = !options.kill
            && signalled(task.kill(id, "", SIGTERM).await)?
            && timeout(options.limit, &mut wait).await.is_ok();
        if !ended && signalled(task.kill(id, "", SIGKILL).await)? {
            let _ = timeout(KILLED, &mut wait).await;
        }
    }
    for result in [task.delete(id, "").await.map(drop), task.shutdown(id).await] {
        match result {
            // Already forgotten, or already gone.
            Err(TaskError::Broken { .. }) | Ok(()) => {}
            Err(error) if error.code() == Some(Code::NOT_FOUND) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Kills a stuck shim and what it runs. Whether they are gone. A shim that is stuck before it wrote down who runs is
/// known by its socket: the kernel names who listens there (unix(7), `SO_PEERCRED`).
pub(super) async fn kill_hung(paths: &InstancePaths, socket: &Path) -> bool {
    let (paths, socket) = (paths.clone(), socket.to_owned());
    let killed = tokio::task::spawn_blocking(move || {
        delete::kill_with_shim(&paths, delete::listener(&socket))
    });
    killed.await.unwrap_or(false)
}

/// Whether the guest has its orders and has not ended.
pub(super) fn is_running(state: &StateResponse) -> bool {
    matches!(
        state.status.enum_value(),
        Ok(Status::RUNNING | Status::PAUSED | Status::PAUSING)
    )
}

/// Whether the task has ended.
pub(super) fn is_stopped(state: &StateResponse) -> bool {
    state.status.enum_value() == Ok(Status::STOPPED)
}

/// Whether there was something to signal. An ended or a never started task is no failure.
fn signalled(result: Result<(), TaskError>) -> Result<bool, TaskError> {
    match result {
        Ok(()) => Ok(true),
        Err(TaskError::Broken { .. }) => Ok(false),
        Err(TaskError::Refused {
            code: Code::NOT_FOUND | Code::FAILED_PRECONDITION,
            ..
        }) => Ok(false),
        // An orderly end that cannot be asked for is followed by the other one.
        Err(TaskError::Refused { .. } | TaskError::Late(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::{fd::OwnedFd, unix::net::UnixListener},
        process::{Command, Stdio},
    };

    use serde_json::json;

    use super::*;
    use crate::{
        config::Config,
        containerd::{
            instance::{Instance, InstanceError},
            record,
            shim::Address,
        },
        paths::Paths,
        sys,
    };

    #[tokio::test]
    async fn a_stuck_shim_is_killed_with_what_it_runs_when_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_dir: dir.path().join("r"),
            state_dir: dir.path().join("s"),
            ..Config::default()
        };
        let instance = Instance::named(
            &Paths::new(&config),
            "default".parse().unwrap(),
            "demo".parse().unwrap(),
        );
        let paths = instance.paths();
        fs::create_dir_all(paths.vm_dir()).unwrap();
        let socket = dir.path().join("task");
        let listener = OwnedFd::from(UnixListener::bind(&socket).unwrap());
        let sleep = |stdin: Stdio| Command::new("sleep").arg("60").stdin(stdin).spawn();
        // It holds the socket, and takes no call from it.
        let mut shim = sleep(listener.into()).unwrap();
        let mut qemu = sleep(Stdio::null()).unwrap();
        let entry =
            |name: &str, pid| json!({"name": name, "pid": pid, "start": sys::start_time(pid)});
        let all = json!([entry("shim", shim.id()), entry("qemu", qemu.id())]);
        fs::write(paths.pids(), all.to_string()).unwrap();
        let mut record = record::tests::sample();
        record.address = Some(Address { socket, version: 2 });
        record.write(&paths.record()).unwrap();

        let mut options = StopOptions {
            kill: false,
            limit: Duration::ZERO,
            keep: false,
        };
        let refused = instance.stop(options).await.unwrap_err();
        assert!(matches!(refused, InstanceError::Hung(_)), "{refused}");
        assert!(qemu.try_wait().unwrap().is_none() && paths.run_dir().exists());

        options.kill = true;
        instance.stop(options).await.unwrap();
        assert!(!paths.run_dir().exists());
        // Had they been waited for, they would have ended well.
        for child in [&mut shim, &mut qemu] {
            assert!(!child.wait().unwrap().success());
        }
    }
}
