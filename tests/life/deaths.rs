//! Every process of an instance killed at every phase of its life; shims that hang; commands that are cut short.
//! The reason is true each time, and nothing is left.

use std::{
    fs,
    process::{Child, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Runner, limit,
    parts::{PARTS, STARTING, kill, signal},
};

use super::bench::{Bench, DIE, HOLD, refused, said};

type Case = fn(&Bench) -> Result<()>;

const CASES: [(&str, Case); 8] = [
    ("life: a part that ends at its start is named", at_its_start),
    (
        "life: a part killed while it starts ends the start",
        while_it_starts,
    ),
    (
        "life: a part killed while it runs ends the instance",
        while_it_runs,
    ),
    (
        "life: a part killed while it powers off",
        while_it_powers_off,
    ),
    ("life: a shim killed at every phase", killed_shims),
    ("life: a shim that hangs at every phase", hung_shims),
    ("life: a start that is cut short", cut_starts),
    ("life: a stop that is cut short", cut_stops),
];

pub(crate) fn run(runner: &mut Runner, bench: &Bench) {
    for (name, case) in CASES {
        runner.case(name, || {
            let done = case(bench);
            if done.is_err() {
                // The next one shall find an empty machine.
                let _ = bench.lab.seed(&["stop", "d", "--kill"], limit::STOP);
            }
            done
        });
    }
}

/// Ends what is there, and looks.
fn gone(bench: &Bench) -> Result<()> {
    bench.seed(&["stop", "d"])?;
    bench.nothing_left()
}

fn at_its_start(bench: &Bench) -> Result<()> {
    for (name, stub) in PARTS {
        let output = bench.run("d", &[(DIE, stub)])?;
        refused(&output, name)?;
        refused(&output, "exit status 3: stub was told to die").context(name)?;
        bench.nothing_left().context(name)?;
    }
    Ok(())
}

fn while_it_starts(bench: &Bench) -> Result<()> {
    for (hold, stage) in STARTING {
        for (name, _) in PARTS {
            let which = || format!("{name} at {stage}");
            let output = beside(bench, hold, stage, |parts| signal(parts[name], "KILL"))?;
            let reason =
                format!("the VM ended before the guest was ready: {name} ended (signal 9)");
            refused(&output, &reason).with_context(which)?;
            bench.nothing_left().with_context(which)?;
        }
    }
    Ok(())
}

/// A start that is held at a stage, and what is done to it there; the end of `seed run`.
fn beside(
    bench: &Bench,
    hold: &str,
    stage: &str,
    act: impl FnOnce(&std::collections::BTreeMap<String, u32>) -> Result<()>,
) -> Result<Output> {
    let mut run = bench.run_beside("d", &[(HOLD, hold)])?;
    let parts = bench.reach("d", stage)?;
    act(&parts)?;
    limit::until("the end of `seed run`", limit::COMMAND, || {
        Ok(run.try_wait()?)
    })?;
    run.wait_with_output().context("read what it said")
}

fn while_it_runs(bench: &Bench) -> Result<()> {
    for (name, _) in PARTS {
        started(bench, &[])?;
        let parts = bench.reach("d", "running")?;
        signal(parts[name], "KILL")?;
        let status = limit::until("the end", limit::COMMAND, || {
            let status = bench.status("d")?.unwrap_or_default();
            Ok((status["state"] == "stopped").then_some(status))
        })?;
        let exit = &status["exit"];
        ensure!(exit["status"] == 137, "{name}: {exit}");
        ensure!(
            exit["reason"] == format!("{name} ended (signal 9)"),
            "{name}: {exit}"
        );
        gone(bench).context(name)?;
    }
    Ok(())
}

fn started(bench: &Bench, variables: &[(&str, &str)]) -> Result<()> {
    let output = bench.run("d", variables)?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}

/// `seed stop`, going on beside the caller.
fn stop_beside(bench: &Bench) -> Result<Child> {
    let mut stop = bench.command(&["stop", "d"], &[]);
    stop.stdout(Stdio::null()).stderr(Stdio::null());
    stop.spawn().context("start seed")
}

fn while_it_powers_off(bench: &Bench) -> Result<()> {
    for (name, _) in PARTS {
        started(bench, &[(HOLD, "poweroff")])?;
        let parts = bench.reach("d", "running")?;
        let mut stop = stop_beside(bench)?;
        limit::until("the poweroff", limit::COMMAND, || {
            let status = bench.status("d")?.unwrap_or_default();
            Ok((status["state"] == "stopping").then_some(()))
        })?;
        signal(parts[name], "KILL")?;
        let ended = limit::until("the end of `seed stop`", limit::COMMAND, || {
            Ok(stop.try_wait()?)
        })?;
        ensure!(ended.success(), "{name}: seed stop: {ended}");
        bench.nothing_left().context(name)?;
    }
    Ok(())
}

fn killed_shims(bench: &Bench) -> Result<()> {
    for (hold, stage) in STARTING {
        let output = beside(bench, hold, stage, |parts| signal(parts["shim"], "KILL"))?;
        ensure!(!output.status.success(), "{stage}: {}", said(&output));
        bench.nothing_left().context(stage)?;
    }
    started(bench, &[])?;
    kill(bench.reach("d", "running")?["shim"])?;
    refused(
        &bench.run("d", &[])?,
        "instance d is left from a shim that died",
    )?;
    gone(bench).context("running")?;
    // And with what it wrote, by a restart.
    started(bench, &[])?;
    kill(bench.reach("d", "running")?["shim"])?;
    bench.seed(&["restart", "d"])?;
    gone(bench).context("restarted")
}

/// `seed stop` says that it hangs; `seed stop --kill` ends shim and VM.
fn hung_shims(bench: &Bench) -> Result<()> {
    for (hold, stage) in STARTING {
        let mut run = bench.run_beside("d", &[(HOLD, hold)])?;
        let parts = bench.reach("d", stage)?;
        signal(parts["shim"], "STOP")?;
        bench.seed(&["stop", "d", "--kill"]).context(stage)?;
        limit::until("the end of `seed run`", limit::COMMAND, || {
            Ok(run.try_wait()?)
        })?;
        bench.nothing_left().context(stage)?;
    }
    started(bench, &[])?;
    let parts = bench.reach("d", "running")?;
    signal(parts["shim"], "STOP")?;
    bench.seed(&["stop", "d", "--kill"]).context("running")?;
    bench.nothing_left().context("running")?;
    // One that has written nothing down yet.
    started(bench, &[])?;
    let parts = bench.reach("d", "running")?;
    signal(parts["shim"], "STOP")?;
    fs::remove_file(bench.lab.run_dir().join("default/d/vm/pids.json"))?;
    bench.seed(&["stop", "d", "--kill"]).context("unrecorded")?;
    bench.nothing_left().context("unrecorded")
}

/// `seed run` is killed after ever longer times. The next one starts, or says truly why not.
fn cut_starts(bench: &Bench) -> Result<()> {
    for ms in (0..160).step_by(8) {
        let mut run = bench.run_beside("d", &[])?;
        thread::sleep(Duration::from_millis(ms));
        // It may have ended by itself.
        run.kill()?;
        run.wait()?;
        let which = || format!("cut after {ms} ms");
        let output = bench.run("d", &[])?;
        let text = said(&output);
        // What the shim had begun it goes on with. What was just being started holds the lock until it runs or ends.
        let begun = [
            "d is running already",
            "d is not up yet",
            "d is just being started or stopped",
        ];
        let truth = output.status.success() || begun.iter().any(|one| text.contains(one));
        ensure!(truth, "{}: {text}", which());
        gone(bench).with_context(which)?;
    }
    Ok(())
}

/// `seed stop` is killed after ever longer times, and another one ends the work.
fn cut_stops(bench: &Bench) -> Result<()> {
    for ms in (0..120).step_by(8) {
        started(bench, &[])?;
        let mut stop = stop_beside(bench)?;
        thread::sleep(Duration::from_millis(ms));
        stop.kill()?;
        stop.wait()?;
        let output = bench.lab.seed(&["stop", "d"], limit::STOP)?;
        let text = said(&output);
        let done = output.status.success() || text.contains("there is no instance d");
        ensure!(done, "cut after {ms} ms: {text}");
        bench
            .nothing_left()
            .with_context(|| format!("cut after {ms} ms"))?;
    }
    Ok(())
}
