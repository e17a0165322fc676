//! Does what the plan says, and knows what must come of it: the instance lives on, or it ends for this and no other
//! reason.

use std::{
    fs::{self, File},
    io::Write,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{
    clock::{self, Clock},
    contained, outage,
    plan::{Fault, GuestEnd, Part},
    subject::Subject,
};
use crate::{
    lab::{self, BOOT, COMMAND, Lab, STOP, until},
    left,
};

/// How long the link stands still.
const LINK_CUT: Duration = Duration::from_secs(30);
/// Until a VM has ended whose part has: its helpers have time to end by themselves, and the journal is drained.
pub(super) const ENDED: Duration = Duration::from_secs(270);
/// A guest without KVM takes its time to run out of memory.
const OUT_OF_MEMORY: Duration = Duration::from_secs(540);

/// The status of what was killed.
const KILLED: u64 = 137;

/// What must come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It lives on.
    Lives,
    /// It ended, with this status and these words in the reason.
    Ended(u64, &'static str),
    /// It ended since this process was killed.
    Killed(&'static str),
    /// Its shim is gone, and everything with it.
    ShimGone,
    /// It was restarted as a part of the fault.
    Restarted,
}

/// Whether the instance booted anew.
pub(super) fn apply(lab: &Lab, clock: &Clock, subject: &mut Subject, fault: Fault) -> Result<bool> {
    let before = subject.processes.clone();
    let outcome = hit(lab, clock, subject, fault)?;
    let status = match outcome {
        Outcome::Lives => return Ok(false),
        Outcome::Restarted => return Ok(true),
        Outcome::Ended(status, words) => {
            ended(lab, &subject.name, status, words)?;
            status
        }
        Outcome::Killed(name) => {
            ended(
                lab,
                &subject.name,
                KILLED,
                &format!("{name} ended (signal 9)"),
            )?;
            KILLED
        }
        Outcome::ShimGone => {
            subject.is_dead(lab)?;
            KILLED
        }
    };
    let shim = before.get("shim");
    until("the end of every helper", ENDED, || {
        let left = before.values().filter(|pid| Some(*pid) != shim);
        Ok((!left.into_iter().any(|pid| lab::alive(*pid))).then_some(()))
    })?;
    // Who was away heard nothing.
    let told = !matches!(fault, Fault::EndUnseen(_));
    subject.again(lab, status, told)?;
    Ok(true)
}

fn hit(lab: &Lab, clock: &Clock, subject: &mut Subject, fault: Fault) -> Result<Outcome> {
    match fault {
        Fault::Kill(part) => kill(subject, part),
        Fault::Pause(part, seconds) => pause(subject.process(part)?, Duration::from_secs(seconds)),
        Fault::LinkCut => link_cut(subject),
        Fault::KillUnit(unit) => {
            let before = main_process(lab, subject, unit)?;
            // Over before the command's answer is, when it is the agent that dies.
            subject.exec(lab, &["/bin/sh", "-c", &format!("kill -KILL {before}")])?;
            // What waits for its disk dies when that has answered, and runs for systemd until then.
            until(&format!("another process of {unit}"), COMMAND, || {
                // An agent that is just starting again may not take the command.
                let said = subject.exec(lab, &["systemctl", "show", "-p", "MainPID", unit])?;
                let after = String::from_utf8_lossy(&said.stdout);
                let after = after.trim().strip_prefix("MainPID=");
                let after: Option<u32> = after.and_then(|pid| pid.parse().ok());
                Ok(after.filter(|pid| *pid > 1 && *pid != before))
            })?;
            unit_is_back(lab, subject, unit)
        }
        Fault::PauseUnit(unit, seconds) => {
            let pid = main_process(lab, subject, unit)?;
            // The state stands in a file, since an agent that is stopped runs no command.
            let line = format!(
                "rm -f /run/paused; systemd-run --quiet --collect /bin/sh -c \"kill -STOP {pid}; sleep {seconds}; \
                 cut -d' ' -f3 /proc/{pid}/stat >/run/paused; kill -CONT {pid}\""
            );
            subject.exec(lab, &["/bin/sh", "-c", &line])?;
            thread::sleep(Duration::from_secs(seconds));
            let lives = unit_is_back(lab, subject, unit)?;
            let state = until("the end of a stop", COMMAND, || {
                let state = subject.sh(lab, "cat /run/paused 2>/dev/null || true")?;
                Ok(Some(state.trim().to_owned()).filter(|state| !state.is_empty()))
            })?;
            ensure!(state == "T", "{unit} was {state:?} and not stopped");
            Ok(lives)
        }
        Fault::End(end) => guest_ends(lab, subject, end),
        Fault::OutOfMemory => out_of_memory(lab, subject),
        Fault::VolumeFull => {
            let line = "cd /seed/storage/data; dd if=/dev/zero of=fill bs=64k 2>&1 | grep 'No space' && sleep 2; rm fill";
            let said = subject.sh(lab, line)?;
            ensure!(said.contains("No space"), "the volume was not full: {said}");
            Ok(Outcome::Lives)
        }
        Fault::HostFull(seconds) => host_full(lab, Duration::from_secs(seconds)),
        Fault::ClockStep => guests_clock(lab, subject),
        Fault::HostClock(hours) => hosts_clock(lab, subject, clock, hours),
        Fault::RestartStorm { times, after_ms } => storm(lab, subject, times, after_ms),
        Fault::Restart => {
            subject.restart(lab)?;
            Ok(Outcome::Restarted)
        }
        Fault::ExecStorm(count) => execs(lab, subject, count),
        Fault::EngineKilled { times, away_ms } => {
            outage::kills(subject, times, Duration::from_millis(away_ms))
        }
        Fault::EnginePaused(seconds) => {
            let containerd = &subject.contained()?.containerd;
            pause(containerd.pid()?, Duration::from_secs(seconds))
        }
        Fault::EndUnseen(part) => outage::end_unseen(subject, part),
        Fault::StartCut(after_ms) => outage::start_cut(subject, Duration::from_millis(after_ms)),
    }
}

/// SIGKILL.
pub(super) fn kill(subject: &Subject, part: Part) -> Result<Outcome> {
    lab::signal(subject.process(part)?, "KILL")?;
    Ok(match part {
        Part::Shim => Outcome::ShimGone,
        Part::Helper(name) => Outcome::Killed(name),
    })
}

fn pause(pid: u32, length: Duration) -> Result<Outcome> {
    lab::signal(pid, "STOP")?;
    thread::sleep(length);
    let was_stopped = lab::stopped(pid);
    lab::signal(pid, "CONT")?;
    ensure!(was_stopped, "process {pid} was not stopped");
    Ok(Outcome::Lives)
}

/// Connections of the host to the agent stand still, those on a pod's wire lose what is sent.
fn link_cut(subject: &Subject) -> Result<Outcome> {
    let vsock = subject.process(Part::Helper("vsock"))?;
    let Ok(contained) = subject.contained() else {
        return pause(vsock, LINK_CUT);
    };
    contained.cut(true)?;
    let paused = pause(vsock, LINK_CUT);
    contained.cut(false)?;
    paused
}

/// Which process a service is.
fn main_process(lab: &Lab, subject: &Subject, unit: &str) -> Result<u32> {
    let said = subject.sh(lab, &format!("systemctl show -p MainPID --value {unit}"))?;
    let pid = said
        .trim()
        .parse()
        .with_context(|| format!("{unit} is process {said:?}"))?;
    ensure!(pid > 1, "{unit} has no process");
    Ok(pid)
}

/// The service runs, and the guest answers.
fn unit_is_back(lab: &Lab, subject: &Subject, unit: &str) -> Result<Outcome> {
    until(&format!("{unit} after its end"), COMMAND, || {
        let output = subject.exec(lab, &["systemctl", "is-active", unit])?;
        Ok(output.stdout.starts_with(b"active").then_some(()))
    })?;
    Ok(Outcome::Lives)
}

fn guest_ends(lab: &Lab, subject: &Subject, end: GuestEnd) -> Result<Outcome> {
    let (line, outcome) = match end {
        GuestEnd::Poweroff => (
            "systemctl poweroff",
            Outcome::Ended(0, "the guest powered off"),
        ),
        GuestEnd::Reboot => (
            "systemctl reboot",
            Outcome::Ended(133, "the guest rebooted"),
        ),
        GuestEnd::Panic => (
            "echo c > /proc/sysrq-trigger",
            Outcome::Ended(134, "the guest's kernel panicked"),
        ),
    };
    // The guest may be gone before the answer is.
    subject.exec(lab, &["/bin/sh", "-c", line])?;
    Ok(outcome)
}

/// The end stands in the status, with its true reason.
fn ended(lab: &Lab, name: &str, expected: u64, words: &str) -> Result<()> {
    let exit: Value = until("the end of the VM in its status", ENDED, || {
        let status = lab.status(name)?;
        Ok((status["state"] == "stopped").then(|| status["exit"].clone()))
    })?;
    let reason = exit["reason"].as_str().unwrap_or_default();
    ensure!(
        exit["status"] == expected && reason.contains(words),
        "it should have ended with {expected} and {words:?}, and the status says {exit}"
    );
    Ok(())
}

/// The kernel ends the greedy one, and nothing else.
fn out_of_memory(lab: &Lab, subject: &Subject) -> Result<Outcome> {
    let agent = "seed-agent.service";
    let before = main_process(lab, subject, agent)?;
    let greedy = "perl -e 'my @held; push @held, \"x\" x (1 << 20) while 1'";
    let line =
        format!("systemd-run --quiet -p OOMScoreAdjust=500 --unit=greedy /bin/sh -c {greedy:?}");
    subject.sh(lab, &line)?;
    let begin = Instant::now();
    until("the end of what takes all memory", OUT_OF_MEMORY, || {
        // A guest without memory may need several attempts to say anything.
        let Ok(output) = subject.exec(lab, &["systemctl", "is-active", "greedy.service"]) else {
            return Ok(None);
        };
        let over = !output.stdout.starts_with(b"active") && !output.stdout.is_empty();
        Ok((over && begin.elapsed() > Duration::from_secs(1)).then_some(()))
    })?;
    let result = subject.sh(
        lab,
        "systemctl show -p Result --value greedy.service; systemctl reset-failed greedy.service",
    )?;
    ensure!(
        result.trim() == "oom-kill",
        "the greedy one ended with {result:?}"
    );
    let after = main_process(lab, subject, agent)?;
    ensure!(
        before == after,
        "the agent's process was {before}, is {after}"
    );
    Ok(Outcome::Lives)
}

/// Fills the lab's small disk. A machine whose write finds no room stands still until there is some.
fn host_full(lab: &Lab, length: Duration) -> Result<Outcome> {
    let path = lab.state_dir().join("fill");
    let mut file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let block = vec![0; 1 << 20];
    let full = loop {
        if let Err(error) = file.write_all(&block) {
            break error;
        }
    };
    let is_full = full.kind() == std::io::ErrorKind::StorageFull;
    if is_full {
        thread::sleep(length);
    }
    drop(file);
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    ensure!(is_full, "the disk could not be filled: {full}");
    Ok(Outcome::Lives)
}

/// Sets the guest's clock back, forth and right again.
fn guests_clock(lab: &Lab, subject: &Subject) -> Result<Outcome> {
    for seconds in ["-3600", "+7200", "-3600"] {
        let line = format!("date +%s; date -s @$(($(date +%s) {seconds})) >&2; date +%s");
        let said = subject.sh(lab, &line)?;
        let times: Vec<i64> = said.lines().map(str::parse).collect::<Result<_, _>>()?;
        let moved = times
            .last()
            .zip(times.first())
            .map(|(last, first)| last - first);
        ensure!(
            moved.is_some_and(|moved| moved.abs() > 3000),
            "the clock was not set: {said}"
        );
        thread::sleep(Duration::from_secs(1));
    }
    Ok(Outcome::Lives)
}

/// Steps the host's clock, boots the instance under it, and sets it right.
fn hosts_clock(lab: &Lab, subject: &mut Subject, clock: &Clock, hours: i64) -> Result<Outcome> {
    let seconds = hours * 3600;
    clock.step(seconds)?;
    let booted = subject
        .restart(lab)
        .and_then(|()| subject.is_up(lab))
        .and_then(|()| clock::has_stepped(&subject.sh(lab, "date +%s")?, seconds));
    clock.step(0)?;
    booted?;
    Ok(Outcome::Restarted)
}

/// So many boots are cut, then one is not.
fn storm(lab: &Lab, subject: &mut Subject, times: u64, after_ms: u64) -> Result<Outcome> {
    let name = subject.name.clone();
    let mut qemu = subject.processes.get("qemu").copied();
    lab::signal(qemu.context("there is no qemu")?, "KILL")?;
    for time in 1..=times {
        let old = qemu;
        let mut begun = subject.begin(lab)?;
        // The status is not to be had while the old shim goes and the new one comes.
        let found = until("the next VM of a restart storm", STOP, || {
            let status = lab.status(&name).unwrap_or_default();
            let new = lab::processes(&status).get("qemu").copied();
            let stalled = matches!(begun.try_wait(), Ok(Some(_)));
            ensure!(!stalled || new != old, "restart {time} ended without a VM");
            Ok(new.filter(|_| new != old))
        });
        let next = match found {
            Ok(next) => next,
            Err(error) => {
                begun.kill()?;
                begun.wait()?;
                return Err(error);
            }
        };
        qemu = Some(next);
        thread::sleep(Duration::from_millis(after_ms));
        lab::signal(next, "KILL")?;
        until("the end of a restart's command", BOOT, || {
            Ok(begun.try_wait()?)
        })?;
    }
    // Whatever is left of it now, one more start makes it whole.
    contained::ended_well("the start after a restart storm", subject.begin(lab)?)?;
    let own = lab.run_dir().join("default").join(&name);
    let mut vms = left::processes_in(&own.join("vm"))?;
    vms.retain(|(_, line)| line.contains("chardev=monitor"));
    ensure!(vms.len() == 1, "{} VMs of {name}: {vms:?}", vms.len());
    Ok(Outcome::Restarted)
}

/// Each command's own words and own exit status.
fn execs(lab: &Lab, subject: &Subject, count: u64) -> Result<Outcome> {
    let one = |number: u64| -> Result<()> {
        let (word, status) = (format!("word {number}"), number % 100);
        let line = format!("echo '{word}'; echo 'error {number}' >&2; exit {status}");
        let output = subject.exec(lab, &["/bin/sh", "-c", &line])?;
        let told = (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        let expected = (
            i32::try_from(status).ok(),
            format!("{word}\n"),
            format!("error {number}\n"),
        );
        ensure!(told == expected, "command {number} told {told:?}");
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (1..=count)
            .map(|number| scope.spawn(move || one(number)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| bail!("a thread of an exec storm panicked"))
        })
    })?;
    Ok(Outcome::Lives)
}
