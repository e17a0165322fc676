//! Point 8: a command in the guest, an orderly end, and that nothing of the instance is left but what is its owner's.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{Demo, NAME};
use crate::{
    lab::{self, COMMAND, STOP, until},
    left::{below, mounts_below},
};

/// Below the state directory, what `seed stop` leaves: it belongs to the instance's owner.
const OWNERS: [&str; 3] = ["volumes", "tpm", "logs"];

pub(super) fn show(demo: &mut Demo) -> Result<()> {
    demo.screen.typed(&format!("seed exec {NAME} -- uname -a"));
    let output = demo.lab.exec(NAME, &["uname", "-a"])?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let ok = output.status.success() && text.starts_with(&format!("Linux {NAME} "));
    demo.screen.text("uname", "exec", &text, ok);
    let output = demo.lab.exec(NAME, &["/bin/sh", "-c", "exit 7"])?;
    let code = output.status.code();
    let shown = format!("`exit 7` in the guest ended with {}", output.status);
    demo.screen.fact(
        "exit_status",
        "exit status",
        &shown,
        json!(code),
        code == Some(7),
    );
    if demo.keep {
        demo.screen
            .show("stop", "left running, as you asked (--keep)", true);
        demo.screen.keep("exec_and_stop", "kept", json!(true), true);
        return Ok(());
    }
    demo.screen.typed(&format!("seed stop {NAME}"));
    // The restarts gave it new processes.
    let processes = lab::processes(&demo.lab.status(NAME)?);
    let shim = processes.get("qemu").and_then(|qemu| lab::parent(*qemu));
    demo.pids.extend(processes.values().copied().chain(shim));
    let begin = Instant::now();
    let said = demo.lab.seed(&["stop", NAME], STOP)?;
    let seconds = begin.elapsed().as_secs_f64();
    let shown = format!("{seconds:.1} s");
    demo.screen.fact(
        "stop_seconds",
        "stopped",
        &shown,
        json!(seconds),
        said.contains("stopped"),
    );
    orderly(demo)?;
    gone(demo)?;
    owners_part(demo)?;
    demo.lab.seed(&["rm", NAME, "--yes"], COMMAND)?;
    let left = below(&demo.lab.state_dir());
    let left: Vec<_> = left
        .iter()
        .filter(|path| path.contains(&format!("/{NAME}/")))
        .collect();
    let shown = if left.is_empty() {
        "`seed rm` removed these too".to_owned()
    } else {
        format!("{left:?}")
    };
    demo.screen
        .fact("after_rm", "removed", &shown, json!(left), left.is_empty());
    Ok(())
}

/// The end of the log says that systemd powered off: systemd-poweroff.service(8) runs when all else has ended.
fn orderly(demo: &mut Demo) -> Result<()> {
    let text = demo
        .lab
        .seed(&["logs", NAME, "--lines", "100", "--json"], COMMAND)?;
    let entries = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let messages = entries.filter_map(|entry: serde_json::Value| {
        let message = entry["MESSAGE"].as_str()?;
        Some(message.to_owned())
    });
    let messages: Vec<_> = messages.collect();
    let powered_off = messages
        .iter()
        .any(|message| message.contains("systemd-poweroff.service"));
    let last = messages.last().map_or("no entry", String::as_str);
    let shown = format!("systemd powered off; the log ends with {last:?}");
    let shown = if powered_off { &shown } else { last };
    demo.screen
        .fact("orderly", "orderly", shown, json!(last), powered_off);
    Ok(())
}

/// No process, mount, socket or directory.
fn gone(demo: &mut Demo) -> Result<()> {
    let pids = demo.pids.clone();
    let gone = until("the end of every process", COMMAND, || {
        Ok((!pids.iter().any(|pid| lab::alive(*pid))).then_some(()))
    });
    let left: Vec<_> = pids.iter().filter(|pid| lab::alive(**pid)).collect();
    let shown = format!("none of {} is left", pids.len());
    demo.screen.fact(
        "processes_left",
        "processes",
        &shown,
        json!(left),
        gone.is_ok(),
    );

    let run = demo.lab.run_dir();
    let mounts = mounts_below(demo.lab.dir())?;
    let shown = if mounts.is_empty() {
        "none is left".to_owned()
    } else {
        mounts.join(", ")
    };
    demo.screen.fact(
        "mounts_left",
        "mounts",
        &shown,
        json!(mounts),
        mounts.is_empty(),
    );

    // The folders that all instances share may stay.
    let shared = [".s".to_owned(), "default".to_owned()];
    let mut left = below(&run);
    left.retain(|path| !shared.contains(path));
    let shown = if left.is_empty() {
        "none is left in the run directory".to_owned()
    } else {
        left.join(", ")
    };
    demo.screen.fact(
        "run_dir_left",
        "sockets, files",
        &shown,
        json!(left),
        left.is_empty(),
    );
    Ok(())
}

/// Volumes, TPM state and logs are there, and nothing else is.
fn owners_part(demo: &mut Demo) -> Result<()> {
    let state = demo.lab.state_dir();
    let there = below(&state);
    let parts = OWNERS.map(|part| {
        let prefix = format!("{part}/default/{NAME}/");
        (part, there.iter().any(|path| path.starts_with(&prefix)))
    });
    let others: Vec<_> = there
        .iter()
        .filter(|path| path.contains(NAME))
        .filter(|path| !OWNERS.iter().any(|part| path.starts_with(part)))
        .collect();
    let ok = parts.iter().all(|(_, there)| *there) && others.is_empty();
    let names: Vec<_> = parts
        .iter()
        .filter(|(_, there)| *there)
        .map(|(part, _)| *part)
        .collect();
    let mut shown = format!("{} stay", names.join(", "));
    if !others.is_empty() {
        shown = format!("{shown}, and so does {others:?}");
    }
    demo.screen
        .fact("kept", "its owner's", &shown, json!(there), ok);
    Ok(())
}
