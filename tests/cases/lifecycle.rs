//! Ends and new beginnings.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use seed_tests::{Instance, limit};

use crate::{journal, storage};

fn kill(pid: u32) -> Result<()> {
    // The shell's own: a small machine has no other.
    let status = Command::new("sh")
        .args(["-c", &format!("kill -KILL {pid}")])
        .status()?;
    ensure!(status.success(), "kill {pid}: {status}");
    Ok(())
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie waits only for its parent.
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

fn names() -> [&'static str; 4] {
    ["qemu", "virtiofsd", "swtpm", "vsock"]
}

fn pids(instance: &Instance<'_>) -> Result<Vec<u32>> {
    names().iter().map(|name| instance.pid(name)).collect()
}

fn all_gone(pids: &[u32]) -> Result<()> {
    limit::until("the end of every helper", limit::COMMAND, || {
        Ok((!pids.iter().any(|&pid| alive(pid))).then_some(()))
    })
}

/// QEMU is killed: the status says so with 137, all helpers end, and a restart finds the volume.
pub(crate) fn a_killed_vmm(instance: &Instance<'_>) -> Result<()> {
    instance.sh(&format!(
        "echo synced > {}/synced && sync",
        storage::MOUNT_POINT
    ))?;
    let recipient = instance.recipient()?;
    let pids = pids(instance)?;
    kill(instance.pid("qemu")?)?;
    let status = limit::until("the end in the status", limit::COMMAND, || {
        let status = instance.status()?;
        Ok((status["state"] == "stopped").then_some(status))
    })?;
    ensure!(status["exit"]["status"] == 137, "exit: {}", status["exit"]);
    let reason = status["exit"]["reason"].as_str().context("no reason")?;
    ensure!(reason.contains("qemu"), "reason: {reason}");
    all_gone(&pids)?;
    instance.restart()?;
    let text = instance.sh(&format!("cat {}/synced", storage::MOUNT_POINT))?;
    ensure!(text == "synced", "the file says {text:?}");
    ensure!(
        instance.recipient()? == recipient,
        "another identity after the kill"
    );
    storage::still_there(instance)
}

/// The shim is killed with -9: its children end with it, and a restart works.
pub(crate) fn a_killed_shim(instance: &Instance<'_>) -> Result<()> {
    let pids = pids(instance)?;
    let qemu = fs::read_to_string(format!("/proc/{}/stat", pids[0]))?;
    let parent = qemu
        .rsplit(") ")
        .next()
        .and_then(|rest| rest.split(' ').nth(1));
    kill(parent.context("no parent of qemu")?.parse()?)?;
    all_gone(&pids)?;
    instance.restart()?;
    storage::still_there(instance)
}

/// Everything below this folder, as sorted relative paths.
fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path.clone());
            }
            let path = path.strip_prefix(root).unwrap_or(&path);
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// An orderly poweroff; then no process, mount, socket or directory of the instance, except what is
/// its owner's.
pub(crate) fn stop_leaves_nothing(instance: &Instance<'_>) -> Result<()> {
    let pids = pids(instance)?;
    journal::flood(instance)?;
    journal::has_flooded(instance, 300)?;
    instance.stop()?;
    all_gone(&pids)?;
    let lab = instance.lab();
    let left: Vec<_> = tree(&lab.run_dir())
        .into_iter()
        .filter(|path| path.contains(instance.name()) || path.starts_with(".s/"))
        .collect();
    ensure!(left.is_empty(), "left in the run directory: {left:?}");
    let state = tree(&lab.state_dir());
    let kept = |path: &String| {
        ["volumes", "tpm", "logs"]
            .iter()
            .any(|part| path.starts_with(part))
            || path == "layers"
            || path == "layers/default"
    };
    let left: Vec<_> = state.iter().filter(|path| !kept(path)).collect();
    ensure!(left.is_empty(), "left in the state directory: {left:?}");
    ensure!(
        state.iter().any(|path| path.ends_with("data.img")),
        "the volume is gone: {state:?}"
    );
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let run = lab.run_dir().to_string_lossy().into_owned();
    ensure!(!mounts.contains(&run), "a mount is left below {run}");
    // What the log holds can be read after the end, and the end was orderly.
    let log = instance.log(100_000)?;
    journal::ends_whole(&log)?;
    let orderly = log
        .iter()
        .any(|entry| entry["UNIT"] == "poweroff.target" && entry["JOB_RESULT"] == "done");
    ensure!(orderly, "no line of an orderly poweroff in the log's end");
    Ok(())
}
