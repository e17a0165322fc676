//! One instance under test: how it is started, what is known of it, and what must be true of it at any time.
//!
//! What goes wrong is [`super::faults`]'. A violation is an error whose text says what was expected and what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    journal,
    writer::{self, FILE, Flood, Writer},
};
use crate::{
    lab::{self, BOOT, COMMAND, Lab, until},
    left,
};

/// Where the guest's unit looks for its secret, and where it puts what it opened.
const SEALED: &str = "/seed/storage/data/secret.age";
const OPENED: &str = "/run/demo-secret";
/// What was logged in the guest stands on the host within this; a pull may be at its own limit when a link comes back.
const PULLED: Duration = Duration::from_secs(90);
/// An instance consists of these on the host, and of its shim.
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
    recipient: String,
    secret: String,
    acknowledged: Arc<AtomicU64>,
    writer: Option<Writer>,
    floods: Vec<Logged>,
    /// Entries that records of loss counted so far.
    missing: u64,
    pub(super) processes: BTreeMap<String, u32>,
}

impl Subject {
    /// Boots it for the first time and gives it a secret.
    pub(super) fn boot(lab: &Lab, name: &str) -> Result<Self> {
        let guest = lab.guest().to_string_lossy().into_owned();
        let words = ["run", &guest, "--name", name, "--kernel-param", "panic=-1"];
        lab.seed(&words, BOOT)?;
        let recipient = lab.seed(&["keys", name], COMMAND)?.trim().to_owned();
        let secret = format!("secret of {name}, {}", std::process::id());
        lab.put(name, SEALED, &lab.encrypt(&recipient, &secret)?)?;
        let mut subject = Self {
            name: name.to_owned(),
            recipient,
            secret,
            acknowledged: Arc::default(),
            writer: None,
            floods: Vec::new(),
            missing: 0,
            processes: BTreeMap::new(),
        };
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
        let status = lab.status(&self.name)?;
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

    /// Sees that a writer runs.
    fn write(&mut self, lab: &Lab) -> Result<()> {
        if self.writer.as_mut().is_some_and(Writer::runs) {
            return Ok(());
        }
        if let Some(writer) = self.writer.take() {
            writer.end();
        }
        self.writer = Some(Writer::start(lab, &self.name, &self.acknowledged)?);
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

    /// Everything that must be true after a fault, when the instance runs again.
    pub(super) fn check(&mut self, lab: &Lab, booted_anew: bool) -> Result<()> {
        // Nothing is written while the file is compared.
        self.rest();
        self.settled(lab)?;
        self.identity(lab, booted_anew)?;
        self.volume(lab)?;
        self.journal(lab, booted_anew)?;
        self.nothing_twice(lab)?;
        self.write(lab)
    }

    /// Up, with nothing failed. What a fault made fail for a moment may be seen for a moment.
    fn settled(&mut self, lab: &Lab) -> Result<()> {
        let mut last = Value::Null;
        let up = until("a guest that is up with nothing failed", BOOT, || {
            last = self.look(lab)?;
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

    /// The same key as at first; the secret opens at boot and now.
    fn identity(&self, lab: &Lab, booted_anew: bool) -> Result<()> {
        let recipient = lab.seed(&["keys", &self.name], COMMAND)?;
        ensure!(
            recipient.trim() == self.recipient,
            "the identity was {}, is {}",
            self.recipient,
            recipient.trim()
        );
        let now = format!("age --decrypt --identity /seed/tpm/age-identity {SEALED}");
        ensure!(
            lab.sh(&self.name, &now)? == self.secret,
            "the secret opened to something else"
        );
        if booted_anew {
            let at_boot = lab.sh(&self.name, &format!("cat {OPENED}"))?;
            ensure!(
                at_boot == self.secret,
                "the unit opened {at_boot:?} at boot"
            );
        }
        Ok(())
    }

    /// Every acknowledged record; one mount. Before the first record there may be no file.
    fn volume(&self, lab: &Lab) -> Result<()> {
        let file = lab.sh(
            &self.name,
            &format!("if [ -e {FILE} ]; then cat {FILE}; fi"),
        )?;
        if let Some(wrong) = writer::missing(&file, self.acknowledged()) {
            bail!(wrong);
        }
        let mounts = lab.sh(
            &self.name,
            "findmnt --noheadings /seed/storage/data | wc -l",
        )?;
        ensure!(mounts.trim() == "1", "the volume is mounted {mounts} times");
        Ok(())
    }

    /// What the guest's journal has is in the log; nothing is there twice; what was acknowledged is whole.
    fn journal(&mut self, lab: &Lab, booted_anew: bool) -> Result<()> {
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
            let text = lab.sh(&self.name, &list)?;
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
            Ok((behind == 0 && whole).then_some(found))
        });
        let found = match pulled {
            Ok(found) => found,
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
        Ok(())
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

    /// Its processes on the host are those that it names, each once.
    fn nothing_twice(&self, lab: &Lab) -> Result<()> {
        ensure!(
            self.processes.len() == HELPERS + 1 || self.processes.len() == HELPERS,
            "{} has {:?}",
            self.name,
            self.processes
        );
        let own = lab.run_dir().join("default").join(&self.name);
        let own = format!("{}/", own.display());
        let known: BTreeSet<u32> = self.processes.values().copied().collect();
        let strange: Vec<_> = left::processes_naming(&own)?
            .into_iter()
            // Its shim works in its folder too.
            .filter(|(_, line)| !line.contains("containerd-shim-seed-v2"))
            .filter(|(pid, _)| !known.contains(pid) && !child_of(*pid, &known))
            .collect();
        ensure!(
            strange.is_empty(),
            "processes that nobody knows: {strange:?}"
        );
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

/// virtiofsd is two processes, one inside a namespace of its own.
fn child_of(pid: u32, known: &BTreeSet<u32>) -> bool {
    lab::parent(pid).is_some_and(|parent| known.contains(&parent))
}
