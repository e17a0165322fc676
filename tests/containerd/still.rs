//! Shims that stand still or hang while containerd is killed and started again: one that goes on in time is found again or has left
//! nothing, one that never does is got rid of with all that it runs. With containerd's own limits, which give a shim five seconds.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Cri, Runner, Version,
    containerd::{Options, Programs},
    cri::api::ContainerState,
    limit,
    parts::signal,
};

use crate::{
    bench::{self, nothing_left, status},
    ctr, group,
    pod::{end, run_again, started, state},
};

/// The name of [`hung`] among the cases.
pub(crate) const HUNG: &str = "shim_that_hangs_is_got_rid_of";

/// How long a shim of the first case stands still when containerd looks for it.
const STILL: Duration = Duration::from_secs(1);

/// Stops this containerd's shims, and kills it.
fn stop(containerd: &mut Containerd) -> Result<Vec<u32>> {
    let shims = containerd.shims()?;
    ensure!(!shims.is_empty(), "no shim");
    shims.iter().try_for_each(|pid| signal(*pid, "STOP"))?;
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
            shims.iter().try_for_each(|pid| signal(*pid, "CONT"))
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

/// It hangs as one does whose call of the kernel does not come back: it looks as if it slept, and only SIGKILL reaches it.
pub(crate) fn hung(containerd: &mut Containerd) -> Result<()> {
    ctr::start(containerd, "still")?;
    let frozen = Frozen::make(&containerd.shims()?)?;
    containerd.kill()?;
    containerd.run()?;
    given_up(containerd)?;
    frozen.remove()
}

/// A control group in which nobody goes on (cgroups(7), v2).
struct Frozen(PathBuf);

impl Frozen {
    fn make(pids: &[u32]) -> Result<Self> {
        ensure!(!pids.is_empty(), "no shim");
        let root = group::freezing().context("nothing freezes here")?;
        let frozen = Self(root.join(format!("seed-test-frozen-{}", std::process::id())));
        fs::create_dir(&frozen.0)?;
        for pid in pids {
            fs::write(frozen.0.join("cgroup.procs"), pid.to_string())?;
        }
        fs::write(frozen.0.join(group::FREEZE), "1")?;
        limit::until("the standstill", limit::COMMAND, || {
            let events = fs::read_to_string(frozen.0.join("cgroup.events"))?;
            Ok(events.contains("frozen 1").then_some(()))
        })?;
        Ok(frozen)
    }

    /// Whoever was in it is gone. The kernel lets go of them a little later than the table of processes.
    fn remove(&self) -> Result<()> {
        limit::until("the end of the group", limit::COMMAND, || {
            Ok(fs::remove_dir(&self.0).ok())
        })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // Of a case that failed: those in it shall go on, and be ended.
        let _ = fs::write(self.0.join(group::FREEZE), "0");
    }
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
