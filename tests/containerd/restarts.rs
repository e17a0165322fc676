//! containerd killed and started again while tasks are made, while a guest boots, with an open exec and while a machine is paused:
//! all is as it was then, or there is nothing. The same with shims that are killed while tasks are made.

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Containerd, containerd::tasks::Tasks, limit, parts::signal};

use crate::{
    bench::{Hold, INIT, RUNTIME, STUB, nothing_left, reach, status, wait_status},
    ctr,
};

/// How many tasks are made at a time.
const TASKS: usize = 8;

/// How much later than the one before it each is begun: the last has hardly begun when the first is about to run.
const APART: Duration = Duration::from_millis(25);

const SIGTERM: u32 = 15;

fn run_beside(containerd: &Containerd, id: &str) -> Result<Child> {
    let mut run = containerd.ctr(&["run", "--detach", "--runtime", RUNTIME, STUB, id, INIT]);
    let run = run.stdout(Stdio::null()).stderr(Stdio::null());
    run.spawn().context("start ctr")
}

/// Begins to make tasks, and does something when each of them has come to another point.
fn made(
    containerd: &mut Containerd,
    act: impl FnOnce(&mut Containerd) -> Result<()>,
) -> Result<Vec<String>> {
    let ids: Vec<_> = (0..TASKS).map(|number| format!("made{number}")).collect();
    let mut runs = Vec::new();
    for id in &ids {
        runs.push(run_beside(containerd, id)?);
        thread::sleep(APART);
    }
    let done = act(containerd);
    for mut run in runs {
        run.wait()?;
    }
    done.map(|()| ids)
}

/// What there is of a task works, and goes when it is removed.
fn is_whole_or_none(containerd: &Containerd, id: &str) -> Result<()> {
    let found = limit::until("a task, or none", limit::COMMAND, || {
        let status = status(containerd, id)?;
        Ok((status.as_deref() != Some("UNKNOWN")).then_some(status))
    })?;
    if found.as_deref() == Some("CREATED") {
        // It may just be starting: then this is refused, and it runs. `ctr` starts only what it has made itself.
        let _ = Tasks::connect(containerd)?.start(id, "");
    }
    if matches!(found.as_deref(), Some("CREATED" | "RUNNING")) {
        wait_status(containerd, id, "RUNNING")?;
        ctr::echo(containerd, id)?;
        containerd.ctr_ok(&["tasks", "kill", "--signal", "SIGTERM", id])?;
        wait_status(containerd, id, "STOPPED")?;
    }
    let _ = containerd.ctr_output(&["tasks", "rm", "--force", id])?;
    // Not even the container may have been made.
    let _ = containerd.ctr_output(&["containers", "rm", id])?;
    let list = containerd.ctr_ok(&["containers", "ls", "-q"])?;
    ensure!(!list.lines().any(|line| line == id), "{id} is left");
    Ok(())
}

fn are_whole_or_none(containerd: &Containerd, ids: &[String]) -> Result<()> {
    for id in ids {
        is_whole_or_none(containerd, id).with_context(|| id.clone())?;
    }
    // A shim whose containerd was killed before it could say what for waits for some minutes: it is told that nobody comes.
    for pid in containerd.shims()? {
        // Or it is just ending.
        let _ = signal(pid, "TERM");
    }
    nothing_left(containerd)
}

pub(crate) fn while_made(containerd: &mut Containerd) -> Result<()> {
    let ids = made(containerd, Containerd::kill)?;
    containerd.run()?;
    are_whole_or_none(containerd, &ids)
}

pub(crate) fn shims_while_made(containerd: &mut Containerd) -> Result<()> {
    let ids = made(containerd, |containerd| {
        for pid in containerd.shims()? {
            // One that has only helped another to its start may be gone.
            let _ = signal(pid, "KILL");
        }
        Ok(())
    })?;
    are_whole_or_none(containerd, &ids)
}

pub(crate) fn while_booting(containerd: &mut Containerd) -> Result<()> {
    let hold = Hold::on(containerd, "hello")?;
    let mut run = run_beside(containerd, "boots")?;
    let before = reach(containerd, "default", "boots", "vmm")?;
    containerd.kill()?;
    run.wait()?;
    containerd.run()?;
    drop(hold);
    wait_status(containerd, "boots", "RUNNING")?;
    let after = reach(containerd, "default", "boots", "running")?;
    ensure!(after == before, "{after:?} in place of {before:?}");
    ctr::echo(containerd, "boots")?;
    ctr::end(containerd, "boots")
}

pub(crate) fn with_an_exec(containerd: &mut Containerd) -> Result<()> {
    ctr::start(containerd, "open")?;
    let (stdin, stdout) = (fifo(containerd, "stdin")?, fifo(containerd, "stdout")?);
    // Both ends, so that opening waits for nobody.
    let open = |path: &Path| File::options().read(true).write(true).open(path);
    let (mut to, mut from) = (open(&stdin)?, open(&stdout)?);
    let mut is_echoed = |text: &str| -> Result<()> {
        to.write_all(text.as_bytes())?;
        let mut echo = vec![0; text.len()];
        from.read_exact(&mut echo)?;
        ensure!(echo == text.as_bytes(), "{text:?} came as {echo:?}");
        Ok(())
    };
    let exec = ("open", "e");
    let tasks = Tasks::connect(containerd)?;
    tasks.exec(exec, "cat", (&stdin, &stdout))?;
    tasks.start(exec.0, exec.1)?;
    is_echoed("before\n")?;
    containerd.kill()?;
    is_echoed("meanwhile\n")?;
    containerd.run()?;
    is_echoed("after\n")?;
    let tasks = Tasks::connect(containerd)?;
    tasks.kill(exec, SIGTERM)?;
    let ended = tasks.wait(exec)?;
    ensure!(ended == 128 + SIGTERM, "its status: {ended}");
    ctr::end(containerd, "open")
}

fn fifo(containerd: &Containerd, name: &str) -> Result<PathBuf> {
    let path = containerd.dir().join(name);
    let status = Command::new("mkfifo").arg(&path).status()?;
    ensure!(status.success(), "mkfifo: {status}");
    Ok(path)
}

pub(crate) fn while_paused(containerd: &mut Containerd) -> Result<()> {
    ctr::start(containerd, "paused")?;
    containerd.ctr_ok(&["tasks", "pause", "paused"])?;
    containerd.kill()?;
    containerd.run()?;
    wait_status(containerd, "paused", "PAUSED")?;
    containerd.ctr_ok(&["tasks", "resume", "paused"])?;
    wait_status(containerd, "paused", "RUNNING")?;
    ctr::echo(containerd, "paused")?;
    ctr::end(containerd, "paused")
}
