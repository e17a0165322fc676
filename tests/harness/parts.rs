//! The processes of an instance, by the names that its status has for them, and their ends by force.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{limit, process::parent};

/// Names in the status of what each instance runs, and the stub that plays the part.
pub const PARTS: [(&str, &str); 4] = [
    ("swtpm", "stub-swtpm"),
    ("virtiofsd", "stub-virtiofsd"),
    ("vsock", "stub-vsock"),
    ("qemu", "stub-qemu"),
];

/// The name of the shim among [`reached`]'s, which the status does not have.
pub const SHIM: &str = "shim";

/// Steps before an instance runs that a stub may keep from coming, and the last stage that is reached without.
pub const STARTING: [(&str, &str); 2] = [("hello", "vmm"), ("orders", "hello")];

/// The pids by their names, [`SHIM`] among them, if the instance of this status (`seed status --json`) has reached a stage.
pub fn reached(status: &Value, stage: &str) -> Option<BTreeMap<String, u32>> {
    let mut stages = status["stages"].as_array()?.iter();
    stages.find(|reached| reached["stage"] == stage)?;
    let all = status["processes"].as_array()?.iter();
    let mut found: BTreeMap<String, u32> = all
        .filter_map(|one| {
            let pid = u32::try_from(one["pid"].as_u64()?).ok()?;
            Some((one["name"].as_str()?.to_owned(), pid))
        })
        .collect();
    let shim = found.get("qemu").and_then(|qemu| parent(*qemu));
    found.extend(shim.map(|pid| (SHIM.to_owned(), pid)));
    Some(found)
}

/// Sends a signal.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    // The shell's own: a small machine has no other.
    let line = format!("kill -{name} {pid}");
    let mut shell = Command::new("sh");
    let status = shell.args(["-c", &line]).stderr(Stdio::null()).status()?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// Kills a process, and waits until it has ended with all of its threads: before that its sockets and locks are held.
pub fn kill(pid: u32) -> Result<()> {
    signal(pid, "KILL")?;
    limit::until(&format!("the end of {pid}"), limit::COMMAND, || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie waits only for its parent.
        let is_zombie = stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"));
        Ok((threads == 0 || threads == 1 && is_zombie).then_some(()))
    })
}
