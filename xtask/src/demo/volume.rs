//! Point 5: the volume, and that it outlives a VMM that was killed. That it outlives a restart is checked by
//! [`super::identity`], which restarts anyway.

use anyhow::{Context, Result};
use serde_json::json;

use super::{Demo, NAME, screen::megabytes};
use crate::lab::{self, BOOT, COMMAND, STOP, until};

/// Where it is in the guest.
pub(super) const MOUNT_POINT: &str = "/seed/storage/data";
/// Asked for in boot.json.
const IMAGE_BYTES: u64 = 64 << 20;

pub(super) fn show(demo: &mut Demo) -> Result<()> {
    let status = demo.lab.status(NAME)?;
    let volume = &status["volumes"][0];
    let bytes = volume["size_bytes"].as_u64().unwrap_or_default();
    let made = volume["created"] == true && volume["problem"] == "";
    let shown = format!(
        "{} made on first boot, {} of {} usable",
        volume["filesystem"].as_str().unwrap_or("nothing"),
        megabytes(bytes),
        megabytes(IMAGE_BYTES)
    );
    let fits = bytes > IMAGE_BYTES / 2 && bytes <= IMAGE_BYTES;
    demo.screen
        .fact("volume", "data", &shown, volume.clone(), made && fits);
    let mount = format!("findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS {MOUNT_POINT}");
    let mount = demo.lab.sh(NAME, &mount)?;
    let words: Vec<_> = mount.split_whitespace().collect();
    let guarded = mount.contains("nosuid") && mount.contains("nodev");
    demo.screen
        .text("mount", "mounted", &words.join(" "), guarded);
    let owner = demo
        .lab
        .sh(NAME, &format!("stat -c '%U:%G %a' {MOUNT_POINT}"))?;
    demo.screen
        .text("owner", "owner", &owner, owner == "app:app 750");
    let note = note();
    let line = format!("echo '{note}' > {MOUNT_POINT}/note && sync && cat {MOUNT_POINT}/note");
    let written = demo.lab.sh(NAME, &line)?;
    demo.screen
        .text("written", "written", &written, written == note);
    killed_vmm(demo, &status)?;
    kept(demo, "after_killed_vmm", "after the kill")
}

/// Differs from run to run, so that no older file is taken for it.
fn note() -> String {
    format!("written by run {}", std::process::id())
}

fn killed_vmm(demo: &mut Demo, status: &serde_json::Value) -> Result<()> {
    let qemu = lab::processes(status).get("qemu").copied();
    let qemu = qemu.context("status names no qemu")?;
    let boot = demo
        .lab
        .sh(NAME, "tr -d - < /proc/sys/kernel/random/boot_id")?;
    demo.killed_boot = Some(boot);
    demo.screen.typed(&format!(
        "kill -KILL {qemu}    # qemu; then: seed restart {NAME}"
    ));
    lab::signal(qemu, "KILL")?;
    let exit = until("the end of the VM in its status", COMMAND, || {
        let status = demo.lab.status(NAME)?;
        Ok((status["state"] == "stopped").then(|| status["exit"].clone()))
    })?;
    let reason = exit["reason"].as_str().unwrap_or_default().to_owned();
    let shown = format!("exit status {}: {reason}", exit["status"]);
    demo.screen.fact(
        "exit",
        "status said",
        &shown,
        exit.clone(),
        exit["status"] == 137,
    );
    let seconds = demo
        .lab
        .seed_slowly("restarting", &["restart", NAME], STOP + BOOT)?;
    let shown = format!("running again after {seconds:.1} s");
    demo.screen
        .fact("restart_seconds", "restart", &shown, json!(seconds), true);
    Ok(())
}

/// The file is there, its file system was not made again, and the owner still owns it.
pub(super) fn kept(demo: &mut Demo, key: &str, label: &str) -> Result<()> {
    let text = demo.lab.sh(NAME, &format!("cat {MOUNT_POINT}/note"))?;
    let owner = demo
        .lab
        .sh(NAME, &format!("stat -c '%U:%G %a' {MOUNT_POINT}"))?;
    let volume = demo.lab.status(NAME)?["volumes"][0].clone();
    let ok = text == note() && owner == "app:app 750" && volume["created"] == false;
    demo.screen.show(label, &format!("{text} ({owner})"), ok);
    let value = json!({ "file": text, "owner": owner, "volume": volume });
    demo.screen.keep("volume", key, value, ok);
    Ok(())
}
