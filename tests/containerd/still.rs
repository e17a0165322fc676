//! Shims that stand still while containerd is killed and started again: one that goes on in time is found again or has left
//! nothing, one that never does is got rid of with all that it runs. With containerd's own limits, which give a shim five seconds.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use seed_tests::{
    Containerd, Cri, Runner, Version,
    containerd::{Options, Programs},
    cri::api::ContainerState,
    limit,
};

use crate::{
    bench::{self, nothing_left, status},
    ctr,
    pod::{end, run_again, started, state},
};

/// How long a shim of the first case stands still when containerd looks for it.
const STILL: Duration = Duration::from_secs(1);

fn signal(pids: &[u32], signal: Signal) -> Result<()> {
    for &pid in pids {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no pid")?, signal)?;
    }
    Ok(())
}

/// Stops this containerd's shims, and kills it.
fn stop(containerd: &mut Containerd) -> Result<Vec<u32>> {
    let shims = containerd.shims()?;
    ensure!(!shims.is_empty(), "no shim");
    signal(&shims, Signal::STOP)?;
    containerd.kill()?;
    Ok(shims)
}

/// It is continued while containerd waits for its answer.
pub(crate) fn continued(containerd: &mut Containerd) -> Result<()> {
    ctr::start(containerd, "still")?;
    let shims = stop(containerd)?;
    thread::scope(|scope| {
        let late = scope.spawn(|| {
            thread::sleep(STILL);
            signal(&shims, Signal::CONT)
        });
        containerd.run()?;
        late.join().map_err(|_| anyhow::anyhow!("panicked"))?
    })?;
    let found = limit::until("a task, or none", limit::COMMAND, || {
        let status = status(containerd, "still")?;
        Ok((status.as_deref() != Some("UNKNOWN")).then_some(status))
    })?;
    if found.as_deref() == Some("RUNNING") {
        ensure!(containerd.shims()? == shims, "another shim");
        ctr::echo(containerd, "still")?;
        return ctr::end(containerd, "still");
    }
    given_up(containerd)
}

/// Nobody continues it.
pub(crate) fn never_continued(containerd: &mut Containerd) -> Result<()> {
    ctr::start(containerd, "still")?;
    stop(containerd)?;
    containerd.run()?;
    given_up(containerd)
}

fn given_up(containerd: &Containerd) -> Result<()> {
    limit::until("the end of the task", limit::COMMAND, || {
        let status = status(containerd, "still")?;
        Ok(status.is_none_or(|it| it == "STOPPED").then_some(()))
    })?;
    let _ = containerd.ctr_output(&["tasks", "rm", "--force", "still"]);
    containerd.ctr_ok(&["containers", "rm", "still"])?;
    nothing_left(containerd)
}

/// The same with a pod, by CRI.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let name = format!("pods_{version}_whose_shim_stands_still_are_got_rid_of");
    runner.case(&name, || pod(programs, version));
}

fn pod(programs: &Programs, version: Version) -> Result<()> {
    let options = Options {
        network: true,
        own_limits: true,
        ..Options::default()
    };
    let mut containerd = bench::stubs(programs, version, &options)?;
    containerd.import_busybox()?;
    let cri = Cri::connect(&containerd)?;
    let (_, pod, id) = started(&containerd, &cri, "still")?;
    stop(&mut containerd)?;
    let cri = run_again(&mut containerd, &pod)?;
    limit::until("the end of both", limit::COMMAND, || {
        let gone = state(&cri, &id)? == ContainerState::EXITED && cri.pod_status(&pod)?.state == 1;
        Ok(gone.then_some(()))
    })?;
    ensure!(cri.status(&id)?.exit_code != 0, "it was no success");
    end(&containerd, &cri, &pod)
}
