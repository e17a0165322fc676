//! An instance that a real containerd runs: its task from beginning to end as `ctr` sees it, what the events say of its end, and
//! what is read of its stdout.
//!
//! What goes wrong with containerd itself is [`super::outage`]'s.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use seed_container::Image;
use serde_json::Value;

use super::{stream::Stream, wire::Wire};
use crate::{
    containerd::Daemon,
    lab::{self, BOOT, COMMAND, Lab, STOP, until},
    left,
    util::Places,
};

const RUNTIME: &str = "io.containerd.seed.v2";
const IMAGE: &str = "localhost/guest:1";
/// What a guest's root starts.
const INIT: &str = "/seed-system/init";
/// containerd's series; the seed of a run picks one.
const SERIES: [&str; 3] = ["1.6", "1.7", "2.1"];
/// As large as `seed run` makes one.
const VOLUME_BYTES: u64 = 64 << 20;
/// Where the guest has a folder of the host, as a pod has a ConfigMap.
const SHARED: &str = "/srv/shared";
/// Kernel parameters of every instance: one that panics does not wait for a person.
pub(super) const PARAMETERS: &str = "panic=-1";

/// A containerd, and whoever listens to its events.
#[derive(Debug)]
pub(super) struct Containerd {
    daemon: Daemon,
    listener: Mutex<Option<Child>>,
    /// Commands so far, each of which has a name of its own.
    execs: AtomicU64,
}

impl Containerd {
    /// One that has the guest's root as an image.
    pub(super) fn start(places: &Places, lab: &Lab, seed: u64) -> Result<Arc<Self>> {
        let one = usize::try_from(seed % 3).unwrap_or_default();
        let daemon = Daemon::start(places, lab, SERIES[one])?;
        let work = daemon.dir().join("image");
        let image = Image {
            name: IMAGE,
            root: lab.guest(),
            entrypoint: &[INIT],
        };
        let archive = image.pack(&work)?;
        daemon.ctr(&["images", "import", &archive.to_string_lossy()], BOOT)?;
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
        let containerd = Self {
            daemon,
            listener: Mutex::new(None),
            execs: AtomicU64::new(0),
        };
        containerd.listen()?;
        Ok(Arc::new(containerd))
    }

    fn listen(&self) -> Result<()> {
        let heard = File::options().create(true).append(true).open(self.heard());
        let mut ctr = self.daemon.ctr_command();
        ctr.arg("events")
            .stdout(heard.context("open the file of events")?)
            .stderr(Stdio::null());
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        *listener = Some(ctr.spawn().context("start ctr")?);
        Ok(())
    }

    fn heard(&self) -> PathBuf {
        self.daemon.dir().join("events")
    }

    /// Its tasks' folders.
    fn bundles(&self) -> PathBuf {
        let state = self.daemon.state_dir();
        state.join("io.containerd.runtime.v2.task/default")
    }

    /// While it runs.
    pub(super) fn pid(&self) -> Result<u32> {
        self.daemon.pid().context("containerd does not run")
    }

    /// SIGKILL.
    pub(super) fn kill(&self) -> Result<()> {
        self.daemon.kill()?;
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut listener) = listener.take() {
            // It ends with its connection, or here.
            let _ = listener.kill();
            listener.wait()?;
        }
        Ok(())
    }

    /// After [`Self::kill`].
    pub(super) fn run(&self) -> Result<()> {
        self.daemon.run()?;
        self.listen()
    }

    /// The end of the run: no task, no snapshot of one, no bundle; then containerd ends.
    pub(super) fn end(&self) -> Result<()> {
        let tasks = self.daemon.ctr(&["tasks", "ls", "--quiet"], COMMAND)?;
        let tasks = String::from_utf8_lossy(&tasks.stdout).into_owned();
        let bundles = left::below(&self.bundles());
        ensure!(
            tasks.trim().is_empty() && bundles.is_empty(),
            "containerd still has tasks {tasks:?} and bundles {bundles:?}"
        );
        self.kill()
    }

    /// The last end of a task that was told: its exit status.
    fn told_end(&self, name: &str) -> Result<Option<u64>> {
        let heard = fs::read_to_string(self.heard()).context("read the events")?;
        let of_task = |line: &&str| line.contains(" /tasks/exit ");
        let ends = heard.lines().rev().filter(of_task).filter_map(|line| {
            let event: Value = serde_json::from_str(&line[line.find('{')?..]).ok()?;
            (event["container_id"] == name && event["id"] == name).then_some(event)
        });
        // A status of 0 is left out.
        let mut statuses = ends.map(|event| event["exit_status"].as_u64().unwrap_or_default());
        Ok(statuses.next())
    }

    fn forget_events(&self) -> Result<()> {
        // The listener appends.
        let heard = File::options().write(true).open(self.heard());
        let heard = heard.context("open the file of events")?;
        heard.set_len(0).context("empty the file of events")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A violation ended the run; the lab's guard does the rest.
        let _ = self.kill();
    }
}

/// One task.
#[derive(Debug)]
pub(super) struct Contained {
    pub(super) containerd: Arc<Containerd>,
    name: String,
    /// Its volume's image, on the small disk.
    volume: PathBuf,
    /// Its control group, below each tree's root: of this run alone, unlike the one that `ctr` would name.
    group: PathBuf,
    /// What the host shares with it.
    shared: PathBuf,
    /// What stands in the file there: a number of its own each time that it is looked at.
    looked: u64,
    pub(super) stream: Stream,
    wire: Wire,
}

impl Contained {
    /// Runs it for the first time.
    pub(super) fn run(lab: &Lab, containerd: &Arc<Containerd>, name: &str) -> Result<Self> {
        let run = lab.dir().file_name().context("the lab has no name")?;
        let contained = Self {
            group: Path::new("default").join(format!("{}-{name}", run.to_string_lossy())),
            containerd: Arc::clone(containerd),
            name: name.to_owned(),
            volume: lab.state_dir().join(format!("{name}.img")),
            shared: lab.dir().join(format!("{name}.shared")),
            looked: 0,
            stream: Stream::make(&lab.dir().join(format!("{name}.stdout")))?,
            wire: Wire::lay(lab, name)?,
        };
        let volume = File::create(&contained.volume).and_then(|image| image.set_len(VOLUME_BYTES));
        volume.with_context(|| format!("make {}", contained.volume.display()))?;
        let volume = contained.volume.display();
        let mount = format!("type=ext4,src={volume},dst=/seed/storage/data,options=rw");
        fs::create_dir(&contained.shared).context("make what the host shares")?;
        contained.share()?;
        let shared = contained.shared.display();
        let share = format!("type=bind,src={shared},dst={SHARED},options=rbind:ro");
        let parameters = format!("seed.loom.farm/kernel_params={PARAMETERS}");
        let network = format!("network:{}", contained.wire.namespace().display());
        let mut ctr = contained.containerd.daemon.ctr_command();
        ctr.args(["run", "--detach", "--runtime", RUNTIME, "--cgroup"])
            .arg(Path::new("/").join(&contained.group))
            .args(["--annotation", &parameters, "--with-ns", &network])
            .args(["--mount", &mount, "--mount", &share])
            .arg("--log-uri")
            .arg(contained.stream.path())
            .args([IMAGE, name, INIT]);
        succeed(ctr)?;
        Ok(contained)
    }

    /// Begins to start it again; its task must have ended. The command ends when containerd has started it.
    pub(super) fn begin(&mut self) -> Result<Child> {
        self.clear()?;
        self.stream.renew()?;
        let mut ctr = self.containerd.daemon.ctr_command();
        ctr.args(["tasks", "start", "--detach", "--log-uri"])
            .arg(self.stream.path())
            .arg(&self.name);
        ctr.stdout(Stdio::null()).stderr(Stdio::piped());
        ctr.spawn().context("start ctr")
    }

    /// Starts it again.
    pub(super) fn start(&mut self) -> Result<()> {
        let begun = self.begin()?;
        ended_well("ctr tasks start", begun)
    }

    /// Its folder in containerd, in which its shim works.
    pub(super) fn bundle(&self) -> PathBuf {
        self.containerd.bundles().join(&self.name)
    }

    /// The task's status as containerd has it; nothing when it has none.
    pub(super) fn status(&self) -> Result<Option<String>> {
        Ok(self.listed()?.map(|(_, status)| status))
    }

    fn listed(&self) -> Result<Option<(String, String)>> {
        let list = self.containerd.daemon.ctr(&["tasks", "ls"], COMMAND)?;
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let mut lines = list.lines().map(|line| line.split_whitespace());
        Ok(lines.find_map(|mut words| {
            (words.next()? == self.name).then_some(())?;
            Some((words.next()?.to_owned(), words.next()?.to_owned()))
        }))
    }

    /// Waits until the task has ended, or is gone.
    pub(super) fn over(&self) -> Result<()> {
        until("the end of a task in containerd", STOP, || {
            let status = self.status()?;
            Ok(status
                .is_none_or(|status| status == "STOPPED")
                .then_some(()))
        })
    }

    /// Its end is what containerd says of it, where it still can: to who asks, and to who listens (`told`).
    pub(super) fn ended_with(&self, expected: u64, told: bool) -> Result<()> {
        self.over()?;
        if told {
            let mut last = None;
            let heard = until("the event of an end", COMMAND, || {
                last = self.containerd.told_end(&self.name)?;
                Ok((last == Some(expected)).then_some(()))
            });
            heard.with_context(|| format!("it should tell {expected}, the last was {last:?}"))?;
        }
        if let Some(status) = self.remove()? {
            ensure!(
                status == expected,
                "containerd says that the task ended with {status}, not {expected}"
            );
        }
        Ok(())
    }

    /// Removes the task, if there is one: its exit status.
    fn remove(&self) -> Result<Option<u64>> {
        if self.status()?.is_none() {
            return Ok(None);
        }
        let daemon = &self.containerd.daemon;
        let removed = daemon.ctr(&["tasks", "rm", "--force", &self.name], STOP)?;
        let said = String::from_utf8_lossy(&removed.stderr).into_owned();
        // It warns of a status that is not 0.
        let status = said.rsplit_once("non-zero exit code ").map(|(_, rest)| {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().context(said.clone())
        });
        status.unwrap_or(Ok(0)).map(Some)
    }

    /// Ends and removes the task, whatever its state.
    pub(super) fn clear(&self) -> Result<()> {
        self.remove()?;
        self.left_nothing()?;
        self.containerd.forget_events()
    }

    /// Nothing of a machine that is removed is on its network or in the tree of control groups.
    fn left_nothing(&self) -> Result<()> {
        self.wire.is_bare()?;
        let mut groups = Vec::new();
        let gone = until("the end of a control group", COMMAND, || {
            groups = left::groups(&self.group)?;
            Ok(groups.is_empty().then_some(()))
        });
        gone.with_context(|| format!("control groups are left: {groups:?}"))
    }

    /// Powers it off and removes the task.
    pub(super) fn stop(&self) -> Result<()> {
        let daemon = &self.containerd.daemon;
        let words = ["tasks", "kill", "--signal", "SIGTERM", &self.name];
        daemon.ctr(&words, COMMAND)?;
        self.ended_with(0, true)
    }

    /// Removes everything of it in containerd.
    pub(super) fn end(&mut self) -> Result<()> {
        self.stop()?;
        let daemon = &self.containerd.daemon;
        daemon.ctr(&["containers", "rm", &self.name], COMMAND)?;
        self.stream.finish()?;
        self.left_nothing()?;
        fs::remove_file(&self.volume).context("remove a volume's image")?;
        self.wire.take_away()
    }

    /// While it runs, containerd says so and names the VM's process, and a command by way of it does what it does.
    pub(super) fn runs(&self, vmm: Option<u32>) -> Result<()> {
        let listed = self.listed()?;
        let expected = vmm.map(|pid| (pid.to_string(), "RUNNING".to_owned()));
        ensure!(
            listed == expected,
            "containerd lists {listed:?}, and the instance's status says {expected:?}"
        );
        let line = "echo by way of containerd; exit 7";
        let mut command = self.command();
        let output = lab::run(command.args(["/bin/sh", "-c", line]), &[], COMMAND, None)?;
        ensure!(
            output.status.code() == Some(7) && output.stdout == b"by way of containerd\n",
            "an exec by way of containerd: {output:?}"
        );
        Ok(())
    }

    /// The guest sees what the host shares with it, as it is now.
    pub(super) fn shares(&mut self) -> Result<()> {
        self.looked += 1;
        self.share()?;
        let line = format!("cat {SHARED}/looked");
        let mut said = String::new();
        let seen = until("what the host shares, in the guest", COMMAND, || {
            let mut cat = self.command();
            let output = lab::run(cat.args(["/bin/sh", "-c", &line]), &[], COMMAND, None)?;
            said = lab::succeeded(&line, output)?;
            Ok((said == self.looked.to_string()).then_some(()))
        });
        seen.with_context(|| format!("it says {said:?}, not {}", self.looked))
    }

    fn share(&self) -> Result<()> {
        let file = self.shared.join("looked");
        fs::write(file, self.looked.to_string()).context("write what the host shares")
    }

    /// The guest is on its pod's wire.
    pub(super) fn wired(&self) -> Result<()> {
        self.wire.carries(self.command())
    }

    /// Cuts its pod's wire, or mends it.
    pub(super) fn cut(&self, cut: bool) -> Result<()> {
        self.wire.cut(cut)
    }

    /// Runs a command in the guest, whose words are to follow.
    pub(super) fn command(&self) -> Command {
        let number = self.containerd.execs.fetch_add(1, Ordering::Relaxed);
        let mut ctr = self.containerd.daemon.ctr_command();
        ctr.args(["tasks", "exec", "--exec-id", &format!("chaos-{number}")]);
        ctr.arg(&self.name);
        ctr
    }
}

/// Runs a command to its end.
fn succeed(mut command: Command) -> Result<()> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().context("start ctr")?;
    ended_well("ctr run", child)
}

/// Waits for a command that starts a VM. What it says of a failure fits a pipe.
pub(super) fn ended_well(what: &str, mut child: Child) -> Result<()> {
    if let Err(error) = until(what, BOOT, || Ok(child.try_wait()?)) {
        child.kill()?;
        child.wait()?;
        return Err(error);
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {}", output.status, said.trim());
    }
    Ok(())
}
