//! A guest that logs 20,000 entries a second while containerd is killed and started again. What must hold: the instance's log has
//! every entry once and in order, it grows while there is no containerd, and the container's log goes on where
//! it was but for what the killed containerd had in its hands.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use seed_tests::{Containerd, Cri, lab, limit};

use crate::pod::{end, run_again, started};

/// Entries of the stub's flood.
const FLOOD: u64 = 200_000;

/// How often containerd is killed.
const KILLS: u64 = 2;

/// So much of a stream may be within containerd: what io.Copy and the logger behind it hold.
const IN_HANDS_BYTES: u64 = 64 << 10;

/// The numbers of the flood's lines in a text, in their order.
fn numbers(text: &str) -> Vec<u64> {
    let number = |line: &str| line.rsplit_once("flood ")?.1.parse().ok();
    text.lines().filter_map(number).collect()
}

/// The flood as the instance's log has it: its last lines, or all.
fn held(containerd: &Containerd, lines: &str) -> Result<Vec<u64>> {
    let mut seed = containerd.ours("seed");
    seed.args(["--namespace", "k8s.io", "logs", "test_flood_app"])
        .args(["--lines", lines]);
    let output = lab::output(seed, limit::COMMAND)?;
    ensure!(output.status.success(), "seed logs: {output:?}");
    Ok(numbers(&String::from_utf8_lossy(&output.stdout)))
}

fn wait_for(containerd: &Containerd, number: u64) -> Result<()> {
    limit::until(&format!("entry {number}"), limit::COMMAND, || {
        let last = held(containerd, "1")?.last().copied().unwrap_or_default();
        Ok((last >= number).then_some(()))
    })
}

pub(crate) fn containerd_killed(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let (config, pod, id) = started(containerd, cri, "flood")?;
    ensure!(cri.exec_sync(&id, &["flood"])?.exit_code == 0, "exec");
    let mut again = None;
    for kill in 0..KILLS {
        wait_for(containerd, 1 + kill * FLOOD / (KILLS + 1))?;
        containerd.kill()?;
        // Nobody takes the container's output, and the log goes on.
        wait_for(containerd, (kill + 1) * FLOOD / (KILLS + 1))?;
        again = Some(run_again(containerd, &pod)?);
    }
    let cri = again.context("containerd was never killed")?;
    wait_for(containerd, FLOOD)?;
    ensure!(
        held(containerd, "all")? == (1..=FLOOD).collect::<Vec<_>>(),
        "the instance's log has not each entry once and in order"
    );
    let log = Path::new(&config.log_directory).join("app.log");
    let text = limit::until("the end of the container's log", limit::COMMAND, || {
        let text = fs::read_to_string(&log)?;
        Ok((numbers(&text).last() == Some(&FLOOD)).then_some(text))
    })?;
    let shown = numbers(&text);
    ensure!(
        shown.is_sorted_by(|one, next| one < next),
        "the container's log has lines twice or in another order"
    );
    let line = "2023-11-14T22:13:20.000000Z stub: flood 200000\n".len() as u64;
    let missing = (FLOOD - shown.len() as u64) * line;
    ensure!(
        missing <= KILLS * IN_HANDS_BYTES,
        "{missing} bytes are missing in the container's log"
    );
    end(containerd, &cri, &pod)
}
