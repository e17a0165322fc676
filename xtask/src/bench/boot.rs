//! `bench boot`: what the agent costs a boot. The same guest boots with it and with its unit masked, in turns, in one run.
//!
//! Both sides are read in the same way and without the agent: PID 1 logs to the kernel's log, the kernel's log goes to the
//! console with the guest's own clock (seconds since the kernel started), and the console is a file on the host.
//! `app.service` is masked on both sides: it cannot start without the agent. The host's side of a boot (`seed status`)
//! is there with the agent only.
//!
//! Volume and identity exist already (a boot that makes them is not counted), and each boot has a fresh layer.
//!
//! Without KVM, QEMU translates each piece of code before it first runs, which costs many times what running it does, and no
//! processor has that cost. So there the boots are done once more, by a clock that counts the guest's instructions
//! ([`Clock::Instructions`]); both stand in the results.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Options, Results, Row, machine, median};
use crate::{
    lab::{BOOT, COMMAND, Lab, STOP, until},
    util::{Places, say},
};

/// The two instances.
const WITH: &str = "with";
const WITHOUT: &str = "without";
/// The column of the other side.
const PEER: &str = "agent masked";
/// kernel-command-line(7): PID 1's log to the kernel's log, none of it dropped, all of it to the console.
const TOLD: [&str; 4] = [
    "systemd.log_target=kmsg",
    "printk.devkmsg=on",
    "loglevel=7",
    "systemd.mask=app.service",
];
const MASKED: &str = "systemd.mask=seed-agent.service";
/// What PID 1 logs, and what it means. The last one ends a boot.
const MARKS: [(&str, &str); 4] = [
    ("running in system mode", "guest: systemd starts"),
    ("Reached target sysinit.target", "guest: sysinit.target"),
    ("Reached target basic.target", "guest: basic.target"),
    (
        "Reached target multi-user.target",
        "guest: multi-user.target",
    ),
];
/// The row that says how long a boot takes, and the one that says it by [`Clock::Instructions`].
pub(super) const LAST: &str = MARKS[MARKS.len() - 1].1;
pub(super) const LAST_BY_INSTRUCTIONS: &str = "guest, by instructions: multi-user.target";
/// QEMU with a clock that goes on by 4 ns with each of the guest's instructions.
const BY_INSTRUCTIONS: &str = "#!/bin/sh\nexec qemu-system-x86_64 \"$@\" -icount shift=2\n";
/// `seed status`, since Create.
const STAGES: [(&str, &str); 6] = [
    ("vmm", "host: VMM started"),
    ("kernel", "host: kernel"),
    ("hello", "host: agent's hello"),
    ("provisioned", "host: provisioned"),
    ("bus", "host: system bus"),
    ("running", "host: running"),
];

/// Samples by row name.
type Samples = BTreeMap<&'static str, Vec<f64>>;

/// What the guest's clock goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clock {
    Wall,
    /// How many instructions were executed: the same wherever QEMU runs, whatever else the machine does.
    Instructions,
}

/// What the boots of one clock came to.
#[derive(Default)]
struct Boots {
    accel: String,
    with: Samples,
    without: Samples,
}

impl Boots {
    fn row(&self, mark: &str, name: &str) -> Result<Row> {
        let of = |samples: &Samples| samples.get(mark).and_then(|values| median(values));
        Ok(Row {
            name: name.to_owned(),
            unit: "s",
            ours: of(&self.with).with_context(|| format!("{name} was never reached"))?,
            peers: of(&self.without)
                .map(|value| (PEER, value))
                .into_iter()
                .collect(),
        })
    }
}

pub(super) fn measure(places: &Places, guest: &Path, options: &Options) -> Result<Results> {
    let boots = boots(places, guest, options, Clock::Wall)?;
    let names = MARKS.iter().chain(&STAGES).map(|(_, name)| *name);
    let mut rows: Vec<_> = names
        .map(|name| boots.row(name, name))
        .collect::<Result<_>>()?;
    if boots.accel == "tcg" {
        say("  by a clock that counts instructions");
        let boots = self::boots(places, guest, options, Clock::Instructions)?;
        rows.push(boots.row(LAST, LAST_BY_INSTRUCTIONS)?);
    }
    let mut machine = machine();
    machine.insert("accel".to_owned(), json!(boots.accel));
    machine.insert("runs".to_owned(), json!(options.runs));
    Ok(Results { machine, rows })
}

fn boots(places: &Places, guest: &Path, options: &Options, clock: Clock) -> Result<Boots> {
    let lab = Lab::make(
        places,
        guest.to_path_buf(),
        &options.accel,
        &[WITH, WITHOUT],
    )?;
    if clock == Clock::Instructions {
        let qemu = lab.dir().join("qemu");
        fs::write(&qemu, BY_INSTRUCTIONS).context("write a start of QEMU")?;
        fs::set_permissions(&qemu, Permissions::from_mode(0o755))?;
        // As root: the folder is closed to QEMU's own user.
        lab.configure(&format!(
            "[users]\ncount = 0\n[programs]\nqemu = {qemu:?}\n"
        ))?;
    }
    let mut boots = Boots {
        accel: boot_with(&lab, &mut Samples::new()).context("the first boot")?,
        ..Boots::default()
    };
    for run in 1..=options.runs {
        // Whoever boots second must not always be the same.
        if run % 2 == 1 {
            boot_with(&lab, &mut boots.with)?;
            boot_without(&lab, &mut boots.without)?;
        } else {
            boot_without(&lab, &mut boots.without)?;
            boot_with(&lab, &mut boots.with)?;
        }
        let of = |samples: &Samples| samples[LAST].last().copied().unwrap_or_default();
        say(&format!(
            "  run {run} of {}: multi-user.target after {:.1} s, {:.1} s without the agent",
            options.runs,
            of(&boots.with),
            of(&boots.without)
        ));
    }
    lab.seed(&["rm", WITH, "--yes"], COMMAND)?;
    lab.remove()?;
    Ok(boots)
}

/// Words for `seed run`.
fn words<'a>(guest: &'a str, name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["run", guest, "--name", name];
    for parameter in TOLD.iter().chain(more) {
        words.extend(["--kernel-param", parameter]);
    }
    words
}

/// One boot with the agent; the accelerator.
fn boot_with(lab: &Lab, samples: &mut Samples) -> Result<String> {
    let guest = lab.guest().to_string_lossy().into_owned();
    lab.seed(&words(&guest, WITH, &[]), BOOT)?;
    wait_for_console(lab, WITH, samples)?;
    let status = lab.status(WITH)?;
    ensure!(
        status["problems"] == json!([]) && status["stage"] == "running",
        "not a boot to measure: {status}"
    );
    for stage in status["stages"].as_array().into_iter().flatten() {
        let known = STAGES.iter().find(|(word, _)| stage["stage"] == *word);
        if let (Some((_, name)), Some(ms)) = (known, stage["since_create_ms"].as_f64()) {
            samples.entry(name).or_default().push(ms / 1000.0);
        }
    }
    lab.seed(&["stop", WITH], STOP)?;
    let accel = status["accel"].as_str().unwrap_or("unknown");
    Ok(accel.to_owned())
}

/// One boot without: `seed run` waits in vain for a hello, so the console alone says when it is over.
fn boot_without(lab: &Lab, samples: &mut Samples) -> Result<()> {
    let guest = lab.guest().to_string_lossy().into_owned();
    let mut run = lab.command("seed");
    run.args(words(&guest, WITHOUT, &[MASKED]));
    run.stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().context("start seed")?;
    let booted = wait_for_console(lab, WITHOUT, samples);
    let stopped = lab.seed(&["stop", WITHOUT, "--kill"], STOP);
    until("the end of `seed run`", STOP, || Ok(run.try_wait()?))?;
    booted?;
    stopped?;
    lab.seed(&["rm", WITHOUT, "--yes"], COMMAND).map(drop)
}

/// Waits until the last mark is on the console, and takes the times of all.
fn wait_for_console(lab: &Lab, name: &str, samples: &mut Samples) -> Result<()> {
    let console = lab
        .run_dir()
        .join("default")
        .join(name)
        .join("vm/console.log");
    let times = until("multi-user.target on the console", BOOT, || {
        // Not there at first; the guest may write anything.
        let text = fs::read(&console).unwrap_or_default();
        let times = marks(&String::from_utf8_lossy(&text));
        if times.is_none() {
            thread::sleep(Duration::from_millis(200));
        }
        Ok(times)
    })?;
    for ((_, row), time) in MARKS.iter().zip(times) {
        samples.entry(row).or_default().push(time);
    }
    Ok(())
}

/// The guest's time at each mark, when all are there.
fn marks(console: &str) -> Option<Vec<f64>> {
    let time = |mark: &str| {
        let line = console
            .lines()
            .find(|line| line.contains(" systemd[1]: ") && line.contains(mark))?;
        let stamp = line.split_once('[')?.1.split_once(']')?.0;
        stamp.trim().parse().ok()
    };
    MARKS.iter().map(|(mark, _)| time(mark)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_from_the_guests_clock_and_only_when_all_are_there() {
        let mut console = "\
[    0.000000] Command line: init=/x systemd.mask=seed-agent.service
[    3.044927] systemd[1]: systemd 257.13 running in system mode (+PAM)\r
[   16.655792] systemd[1]: Reached target sysinit.target - System Initialization.\r
[   16.720126] systemd[1]: Reached target basic.target - Basic System.
"
        .to_owned();
        assert_eq!(marks(&console), None);
        console.push_str("[  122.147777] systemd[1]: Reached target multi-user.target - Multi\n");
        assert_eq!(
            marks(&console),
            Some(vec![3.044927, 16.655792, 16.720126, 122.147777])
        );
    }
}
