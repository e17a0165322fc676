//! Several instances at once on one machine: started together, logged, exec'ed, stopped, and nothing left.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Memory, Row, row, shim_of};
use crate::{
    lab::{self, Lab, STOP},
    left,
    util::say,
};

/// Several guests on few cores, without KVM.
const BOOTS: Duration = Duration::from_secs(1800);

/// What is left behind of them all.
pub(super) const LEFT: &str = "left behind";

pub(in crate::bench) fn measure(lab: &Lab, names: &[String]) -> Result<Vec<Row>> {
    let count = names.len();
    say(&format!("  {count} instances at once"));
    let guest = lab.guest().to_string_lossy().into_owned();
    let up = together(names, |name| {
        seed(lab, &["run", &guest, "--name", name], BOOTS).map(drop)
    })?;
    let (mut shims, mut all, mut beside) = (0.0, 0.0, 0.0);
    let mut most = 0.0_f64;
    for name in names {
        shims += Memory::of(shim_of(lab, name)?)?.pss;
        let status = lab.status(name)?;
        for pid in lab::processes(&status).values() {
            all += pss(*pid)?;
        }
        let one = overhead(&status)?;
        beside += one;
        most = most.max(one);
    }
    let execs = together(names, |name| {
        let line = format!("echo word-of-{name} | systemd-cat -t bench");
        seed(lab, &["exec", name, "--", "/bin/sh", "-c", &line], BOOTS).map(drop)
    })?;
    let logs = together(names, |name| {
        let word = format!("word-of-{name}");
        lab::until("the word in the log", BOOTS, || {
            let text = seed(lab, &["logs", name, "-n", "all"], BOOTS)?;
            Ok(text.contains(&word).then_some(()))
        })
    })?;
    let stops = together(names, |name| {
        seed(lab, &["stop", name, "--timeout", "600"], BOOTS + STOP).map(drop)
    })?;
    let left = left(lab)?;
    left.iter()
        .for_each(|one| say(&format!("    left behind: {one}")));
    let per = |total: f64| Ok::<_, anyhow::Error>(total / f64::from(u32::try_from(count)?));
    let name = |what: &str| format!("{count} instances at once: {what}");
    Ok(vec![
        row(name("all running"), "s", up, &[]),
        row(name("shim's PSS each"), "MiB", per(shims)?, &[]),
        row(name("VMM and daemons, PSS each"), "MiB", per(all)?, &[]),
        row(name("overhead each"), "MiB", per(beside)?, &[]),
        row(name("the largest overhead"), "MiB", most, &[]),
        row(name("an exec in each"), "s", execs, &[]),
        row(name("its line in each log"), "s", logs, &[]),
        row(name("all stopped"), "s", stops, &[]),
        row(name(LEFT), "", f64::from(u32::try_from(left.len())?), &[]),
    ])
}

fn seed(lab: &Lab, args: &[&str], limit: Duration) -> Result<String> {
    lab.seed(args, limit)
}

/// Does it for all at once; how long until the last was done.
pub(in crate::bench) fn together(
    names: &[String],
    work: impl Fn(&str) -> Result<()> + Sync,
) -> Result<f64> {
    let begin = Instant::now();
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = names
            .iter()
            .map(|name| scope.spawn(move || work(name)))
            .collect();
        for (thread, name) in threads.into_iter().zip(names) {
            match thread.join() {
                Ok(result) => result.with_context(|| name.clone())?,
                Err(_) => bail!("{name}: its thread panicked"),
            }
        }
        Ok(begin.elapsed().as_secs_f64())
    })
}

/// Of one process, MiB.
fn pss(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(super::figure(&rollup, "Pss:")? / 1024.0)
}

/// What an instance takes of the host beyond its guest's memory, as its shim tells it, MiB.
fn overhead(status: &Value) -> Result<f64> {
    let bytes = status["usage"]["overhead_memory_bytes"].as_f64();
    Ok(bytes.context("no overhead in the status")? / f64::from(1 << 20))
}

/// What is left of stopped instances: processes that name something in the lab, mounts in it, run folders, layers.
fn left(lab: &Lab) -> Result<Vec<String>> {
    let processes = left::processes_in(lab.dir())?;
    let mut found: Vec<_> = processes.into_iter().map(|(_, line)| line).collect();
    found.extend(left::mounts_below(lab.dir())?);
    for folder in [
        lab.run_dir().join("default"),
        lab.state_dir().join("layers"),
    ] {
        found.extend(left::below(&folder));
    }
    Ok(found)
}
