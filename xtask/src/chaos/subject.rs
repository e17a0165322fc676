//! One instance under test: how it is started, what is known of it, and what must be true of it at any time.
//!
//! What goes wrong is [`super::faults`]'. A violation is an error whose text says what was expected and what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    contained::{Contained, Containerd, PARAMETERS},
    journal,
    plan::Part,
    writer::{self, FILE, Flood, Writer},
};
use crate::{
    lab::{self, BOOT, COMMAND, Lab, STOP, until},
    left,
};

/// Where the guest's unit looks for its secret, and where it puts what it opened.
const SEALED: &str = "/seed/storage/data/secret.age";
const OPENED: &str = "/run/demo-secret";
/// What was logged in the guest stands on the host within this; a pull may be at its own limit when a link comes back.
const PULLED: Duration = Duration::from_secs(270);
/// An instance consists of so many processes on the host, and of its shim; one for whom the host shares something of one more.
const HELPERS: usize = 4;

/// A flood that was started, and what is known of it.
#[derive(Debug)]
struct Logged {
    number: u64,
    lines: u64,
    /// All of it was on the guest's disk.
    acknowledged: bool,
    /// Something hit journald itself, so that lines may have been lost before they were entries.
    before_journald: bool,
}

/// The instance.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    /// Where containerd runs it.
    contained: Option<Contained>,
    recipient: String,
    secret: String,
    acknowledged: Arc<AtomicU64>,
    writer: Option<Writer>,
    floods: Vec<Logged>,
    /// Entries that records of loss counted so far.
    missing: u64,
    pub(super) processes: BTreeMap<String, u32>,
    /// How many descriptors its shim has when it has nothing to do, as seen first.
    descriptors: Option<usize>,
}

impl Subject {
    /// Boots it for the first time and gives it a secret. Without a containerd `seed run` runs it.
    pub(super) fn boot(
        lab: &Lab,
        name: &str,
        containerd: Option<&Arc<Containerd>>,
    ) -> Result<Self> {
        let contained = match containerd {
            Some(containerd) => Some(Contained::run(lab, containerd, name)?),
            None => {
                let guest = lab.guest().to_string_lossy().into_owned();
                let words = ["run", &guest, "--name", name, "--kernel-param", PARAMETERS];
                lab.seed(&words, BOOT)?;
                None
            }
        };
        let mut subject = Self {
            name: name.to_owned(),
            contained,
            recipient: String::new(),
            secret: format!("secret of {name}, {}", std::process::id()),
            acknowledged: Arc::default(),
            writer: None,
            floods: Vec::new(),
            missing: 0,
            processes: BTreeMap::new(),
            descriptors: None,
        };
        subject.is_up(lab)?;
        subject.recipient = lab.seed(&["keys", name], COMMAND)?.trim().to_owned();
        let sealed = lab.encrypt(&subject.recipient, &subject.secret)?;
        let sealed = String::from_utf8(sealed).context("age's armour is no text")?;
        subject.sh(lab, &format!("printf '%s' '{sealed}' > {SEALED} && sync"))?;
        subject.look(lab)?;
        subject.write(lab)?;
        Ok(subject)
    }

    /// How many records are known to be on its volume.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Takes note of its processes; it must run.
    pub(super) fn look(&mut self, lab: &Lab) -> Result<Value> {
        // A machine whose write found no room on the host stands still until its shim has tried it again.
        let status = until("the machine to go on", STOP, || {
            let status = lab.status(&self.name)?;
            Ok((status["state"] != "paused").then_some(status))
        })?;
        ensure!(
            status["state"] == "running",
            "{} is {}, not running: {}",
            self.name,
            status["state"],
            status["exit"]
        );
        self.processes = lab::processes(&status);
        let qemu = self.processes.get("qemu").copied();
        let shim = qemu.and_then(lab::parent).context("qemu has no parent")?;
        self.processes.insert("shim".to_owned(), shim);
        Ok(status)
    }

    /// Runs a command in the guest, whose words are to follow.
    pub(super) fn command(&self, lab: &Lab) -> Command {
        if let Some(contained) = &self.contained {
            return contained.command();
        }
        let mut seed = lab.command("seed");
        seed.args(["exec", &self.name, "--"]);
        seed
    }

    /// Runs a command in the guest; what it printed.
    pub(super) fn exec(&self, lab: &Lab, words: &[&str]) -> Result<Output> {
        lab::run(self.command(lab).args(words), &[], COMMAND, None)
    }

    /// Runs a shell line in the guest, which must succeed; its output less the last newline.
    pub(super) fn sh(&self, lab: &Lab, line: &str) -> Result<String> {
        lab::succeeded(line, self.exec(lab, &["/bin/sh", "-c", line])?)
    }

    /// One of its processes.
    pub(super) fn process(&self, part: Part) -> Result<u32> {
        let pid = self.processes.get(match part {
            Part::Shim => "shim",
            Part::Helper(name) => name,
        });
        pid.copied()
            .with_context(|| format!("{} has no process {part}", self.name))
    }

    /// Its task; the plan hits no other with what is containerd's.
    pub(super) fn contained(&self) -> Result<&Contained> {
        let contained = self.contained.as_ref();
        contained.with_context(|| format!("{} is not run by containerd", self.name))
    }

    /// As [`Self::contained`].
    pub(super) fn contained_mut(&mut self) -> Result<&mut Contained> {
        let contained = self.contained.as_mut();
        contained.with_context(|| format!("{} is not run by containerd", self.name))
    }

    /// Whoever runs it says that its shim is gone.
    pub(super) fn is_dead(&self, lab: &Lab) -> Result<()> {
        match &self.contained {
            Some(contained) => contained.over(),
            None => until("a status that says that the shim is gone", STOP, || {
                Ok((lab.status(&self.name)?["state"] == "dead").then_some(()))
            }),
        }
    }

    /// Starts it again after its end, which was one with this status. `told`: containerd was there to hear of it.
    pub(super) fn again(&mut self, lab: &Lab, status: u64, told: bool) -> Result<()> {
        match &mut self.contained {
            Some(contained) => {
                contained.ended_with(status, told)?;
                contained.start()
            }
            None => lab.seed(&["restart", &self.name], STOP + BOOT).map(drop),
        }
    }

    /// An orderly end, and another beginning.
    pub(super) fn restart(&mut self, lab: &Lab) -> Result<()> {
        match &mut self.contained {
            Some(contained) => {
                contained.stop()?;
                contained.start()
            }
            None => lab.seed(&["restart", &self.name], STOP + BOOT).map(drop),
        }
    }

    /// Begins to start it again; its VM has been killed.
    pub(super) fn begin(&mut self, lab: &Lab) -> Result<Child> {
        if let Some(contained) = &mut self.contained {
            contained.over()?;
            return contained.begin();
        }
        let mut seed = lab.command("seed");
        seed.args(["restart", &self.name]);
        seed.stdout(Stdio::null()).stderr(Stdio::piped());
        seed.spawn().context("start seed")
    }

    /// Ends it, and removes all that it had.
    pub(super) fn end(&mut self, lab: &Lab) -> Result<()> {
        self.rest();
        match &mut self.contained {
            Some(contained) => contained.end()?,
            None => drop(lab.seed(&["stop", &self.name], STOP)?),
        }
        lab.seed(&["rm", &self.name, "--yes"], COMMAND).map(drop)
    }

    /// Waits until its guest is up with nothing failed. What a fault made fail for a moment may be seen for a moment.
    pub(super) fn is_up(&self, lab: &Lab) -> Result<()> {
        let mut last = Value::Null;
        let up = until("a guest that is up with nothing failed", BOOT, || {
            last = lab.status(&self.name)?;
            ensure!(
                last["state"] != "stopped",
                "{} ended: {}",
                self.name,
                last["exit"]
            );
            let well = last["stage"] == "running" && last["problems"] == json!([]);
            Ok(well.then_some(()))
        });
        up.with_context(|| {
            format!(
                "{} is {}: problems {}, failed units {}",
                self.name, last["stage"], last["problems"], last["failed_units"]
            )
        })
    }

    /// Sees that a writer runs.
    fn write(&mut self, lab: &Lab) -> Result<()> {
        if self.writer.as_mut().is_some_and(Writer::runs) {
            return Ok(());
        }
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
        self.writer = Some(Writer::start(self.command(lab), &self.acknowledged)?);
        Ok(())
    }

    /// Ends what it does in the background.
    pub(super) fn rest(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
    }

    /// Notes a flood's end.
    pub(super) fn flooded(&mut self, flood: Flood, before_journald: bool) {
        let (number, lines) = (flood.number, flood.lines);
        self.floods.push(Logged {
            number,
            lines,
            acknowledged: flood.end(),
            before_journald,
        });
    }

    /// Everything that must be true after a fault, when the instance runs again. `shim_killed`: by the fault.
    pub(super) fn check(&mut self, lab: &Lab, booted_anew: bool, shim_killed: bool) -> Result<()> {
        // Nothing is written while the file is compared.
        self.rest();
        self.is_up(lab)?;
        self.look(lab)?;
        self.identity(lab, booted_anew)?;
        self.volume(lab)?;
        let log = self.journal(lab, booted_anew)?;
        if let Some(contained) = &mut self.contained {
            contained.runs(self.processes.get("qemu").copied())?;
            contained.wired()?;
            contained.shares()?;
            until(
                "the log's entries in the container's stdout",
                PULLED,
                || {
                    let agrees = contained.stream.agrees(&log, shim_killed)?;
                    Ok(agrees.then_some(()))
                },
            )?;
        }
        self.nothing_twice(lab)?;
        self.nothing_held(booted_anew)?;
        self.write(lab)
    }

    /// The same key as at first; the secret opens at boot and now.
    fn identity(&self, lab: &Lab, booted_anew: bool) -> Result<()> {
        // On a busy machine a guest that has just gone on may need longer than one call may take.
        let mut said = String::new();
        let recipient = until("the identity", STOP, || {
            let keys = lab.seed(&["keys", &self.name], COMMAND);
            Ok(keys.map_err(|error| said = format!("{error:#}")).ok())
        });
        let recipient = recipient.context(said)?;
        ensure!(
            recipient.trim() == self.recipient,
            "the identity was {}, is {}",
            self.recipient,
            recipient.trim()
        );
        let now = format!("age --decrypt --identity /seed/tpm/age-identity {SEALED}");
        ensure!(
            self.sh(lab, &now)? == self.secret,
            "the secret opened to something else"
        );
        if booted_anew {
            let at_boot = self.sh(lab, &format!("cat {OPENED}"))?;
            ensure!(
                at_boot == self.secret,
                "the unit opened {at_boot:?} at boot"
            );
        }
        Ok(())
    }

    /// Every acknowledged record; one mount. Before the first record there may be no file.
    fn volume(&self, lab: &Lab) -> Result<()> {
        let file = self.sh(lab, &format!("if [ -e {FILE} ]; then cat {FILE}; fi"))?;
        if let Some(wrong) = writer::missing(&file, self.acknowledged()) {
            bail!(wrong);
        }
        let mounts = self.sh(lab, "findmnt --noheadings /seed/storage/data | wc -l")?;
        ensure!(mounts.trim() == "1", "the volume is mounted {mounts} times");
        Ok(())
    }

    /// What the guest's journal has is in the log; nothing is there twice; what was acknowledged is whole. The log.
    fn journal(&mut self, lab: &Lab, booted_anew: bool) -> Result<String> {
        let last = self.floods.iter().rev().take(2);
        let pattern = last.map(|flood| format!("^{} ", flood.number));
        let pattern = pattern.collect::<Vec<_>>().join("|");
        let list = format!(
            "journalctl --sync && journalctl --quiet --boot=all -t {} -o cat | grep -E '{pattern}' || true",
            journal::IDENTIFIER
        );
        let theirs: BTreeSet<_> = if pattern.is_empty() {
            BTreeSet::new()
        } else {
            let text = self.sh(lab, &list)?;
            text.lines().filter_map(journal::line).collect()
        };
        let mut behind = 0;
        let pulled = until("the guest's entries in the log", PULLED, || {
            let log = lab.seed(&["logs", &self.name, "--lines", "all", "--json"], COMMAND)?;
            let found = journal::read(&log);
            let has = |(flood, line): &(u64, u64)| {
                found
                    .floods
                    .get(flood)
                    .is_some_and(|lines| lines.contains(line))
            };
            behind = theirs.iter().filter(|entry| !has(entry)).count();
            let whole =
                |flood: &&Logged| !flood.acknowledged || found.count(flood.number) == flood.lines;
            let whole = self.floods.iter().all(|flood| whole(&flood));
            Ok((behind == 0 && whole).then_some((found, log)))
        });
        let (found, log) = match pulled {
            Ok(pulled) => pulled,
            Err(error) => return Err(self.incomplete(lab, behind)?.context(error)),
        };
        ensure!(
            found.doubled.is_empty(),
            "{} entries stand in the log twice, the first is {:?}",
            found.doubled.len(),
            found.doubled.first()
        );
        let before_journald = |number: u64| {
            let mut floods = self.floods.iter();
            floods.any(|flood| flood.number == number && flood.before_journald)
        };
        let hole = found.holes.iter().find(|hole| !before_journald(hole.0));
        if let Some((flood, line, count)) = hole {
            bail!(
                "{count} lines before line {line} of flood {flood} are missing, and no record says so"
            );
        }
        // Only a machine that ended without notice, or a journald that did, can lose what was logged.
        let may_miss = booted_anew
            || self
                .floods
                .last()
                .is_some_and(|flood| flood.before_journald);
        ensure!(
            may_miss || found.missing == self.missing,
            "{} entries are recorded as missing, {} were before, though neither the machine nor journald ended",
            found.missing,
            self.missing
        );
        self.missing = found.missing;
        Ok(log)
    }

    /// Why the log is not whole, in figures.
    fn incomplete(&self, lab: &Lab, behind: usize) -> Result<anyhow::Error> {
        let log = lab.seed(&["logs", &self.name, "--lines", "all", "--json"], COMMAND)?;
        let found = journal::read(&log);
        let short = self
            .floods
            .iter()
            .filter(|flood| flood.acknowledged && found.count(flood.number) != flood.lines)
            .map(|flood| {
                let count = found.count(flood.number);
                format!("flood {}: {count} of {}", flood.number, flood.lines)
            });
        let short: Vec<_> = short.collect();
        Ok(anyhow::anyhow!(
            "{behind} entries of the guest's journal are not in the log; acknowledged floods that are not whole: [{}]; recorded as missing: {}",
            short.join(", "),
            found.missing
        ))
    }

    /// Its processes on the host are those that it names and the second one of virtiofsd, which is in a namespace of its own;
    /// each once, and none is missing. One that is just ending has time for it.
    fn nothing_twice(&self, lab: &Lab) -> Result<()> {
        ensure!(
            self.processes.len() == HELPERS + 1 + usize::from(self.contained.is_some()),
            "{} has {:?}",
            self.name,
            self.processes
        );
        let own = lab.run_dir().join("default").join(&self.name);
        let bundle = self.contained.as_ref().map(Contained::bundle);
        let mut strange = Vec::new();
        let none = until("no process that nobody knows", COMMAND, || {
            strange.clear();
            for folder in [Some(&own), bundle.as_ref()].into_iter().flatten() {
                strange.extend(left::processes_in(folder)?);
            }
            strange.retain(|(pid, _)| !is_known(*pid, &self.processes));
            Ok(strange.is_empty().then_some(()))
        });
        none.with_context(|| format!("processes that nobody knows: {strange:?}"))
    }

    /// Its shim holds no more descriptors than it did when it first had nothing to do.
    fn nothing_held(&mut self, booted_anew: bool) -> Result<()> {
        let shim = self.process(Part::Shim)?;
        let first = self.descriptors.filter(|_| !booted_anew);
        let mut now = Vec::new();
        let held = until("a shim that has let go of what it had", COMMAND, || {
            now = left::descriptors(shim)?;
            Ok(first.is_none_or(|first| now.len() <= first).then_some(()))
        });
        held.with_context(|| format!("it had {first:?} descriptors, now {}: {now:?}", now.len()))?;
        self.descriptors = Some(first.unwrap_or(now.len()));
        Ok(())
    }

    /// While another one was hit: the same processes as before.
    pub(super) fn undisturbed(&mut self, lab: &Lab) -> Result<()> {
        let before = self.processes.clone();
        self.look(lab)?;
        ensure!(
            self.processes == before,
            "{} was not hit, but its processes were {before:?} and are {:?}",
            self.name,
            self.processes
        );
        Ok(())
    }
}

/// Whether a process is one of those, or the second one of a virtiofsd among them.
fn is_known(pid: u32, processes: &BTreeMap<String, u32>) -> bool {
    let parent = lab::parent(pid);
    let is_second = |name: &str, first| name.starts_with("virtiofsd") && parent == Some(first);
    let mut known = processes.iter();
    known.any(|(name, known)| *known == pid || is_second(name, *known))
}

#[cfg(test)]
mod tests {
    use std::process;

    use super::*;

    #[test]
    fn virtiofsd_alone_may_have_a_process_beside_it() {
        let mut sleep = Command::new("sleep");
        let mut child = sleep.arg("60").spawn().expect("started");
        let known =
            |name: &str, pid| is_known(child.id(), &BTreeMap::from([(name.to_owned(), pid)]));
        let own = process::id();
        assert!(known("swtpm", child.id()));
        assert!(known("virtiofsd", own) && known("virtiofsd-share", own));
        assert!(!known("shim", own) && !known("qemu", own));
        child.kill().expect("killed");
        child.wait().expect("ended");
    }
}
