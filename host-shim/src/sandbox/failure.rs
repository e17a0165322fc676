//! What a person needs when a start has failed: how far it came, and what the console said.

use std::{fs, io, path::PathBuf};

use seed_protocol::seed::v1::Stage;

use crate::{paths::InstancePaths, vmm::console};

/// Lines of the console that go into the message.
const LINES: usize = 5;

/// How much of the console's end is looked at.
const BYTES: usize = 4096;

/// The word for a stage in messages.
pub(crate) fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::STAGE_UNSPECIFIED => "none",
        Stage::STAGE_VMM_STARTED => "vmm started",
        Stage::STAGE_KERNEL => "kernel",
        Stage::STAGE_HELLO => "hello",
        Stage::STAGE_PROVISIONED => "provisioned",
        Stage::STAGE_SYSTEM_BUS => "system bus",
        Stage::STAGE_RUNNING => "running",
        Stage::STAGE_DEGRADED => "degraded",
    }
}

/// Moves the console's log to where it survives, and adds to `reason` the last stage, the place of the
/// log and its last lines. Without a console it adds nothing.
pub(super) fn explain(reason: &str, stage: Stage, paths: &InstancePaths) -> String {
    let console = paths.console_log();
    if !console.exists() {
        return reason.to_owned();
    }
    let place = match keep_console(paths) {
        Ok(kept) => format!("console log kept at {}", kept.display()),
        Err(error) => format!("console log could not be kept: {error}"),
    };
    let mut text = format!("{reason} (last stage: {}), {place}", word(stage));
    let tail = console::tail(&console, BYTES, LINES);
    if !tail.is_empty() {
        text.push_str(&format!(" (its last lines: {})", tail.join(" | ")));
    }
    text
}

/// Copies the console's log to where it survives the VM's folder.
pub(super) fn keep_console(paths: &InstancePaths) -> io::Result<PathBuf> {
    let kept = paths.failed_console_log();
    fs::create_dir_all(paths.logs_dir())?;
    fs::copy(paths.console_log(), &kept)?;
    Ok(kept)
}
