//! A containerd of a lab's own: its folders below the lab's, its shims with the lab's configuration. It is started, killed
//! and started again as its user likes; the tasks in it are the user's to end.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use seed_container::CONTAINERD_LIMITS;

use super::folder;
use crate::{
    lab::{self, COMMAND, Lab, until},
    util::Places,
};

/// What no lab needs, and what would look for things of the machine.
const DISABLED: [&str; 8] = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
];

/// A containerd that is killed when this is dropped; its shims live on.
#[derive(Debug)]
pub(crate) struct Daemon {
    programs: PathBuf,
    /// The lab's, with its own programs first.
    environment: Vec<(&'static str, String)>,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// Starts one of this series (a folder of [`super::PACKAGES`]), and waits until it answers.
    pub(crate) fn start(places: &Places, lab: &Lab, series: &str) -> Result<Self> {
        let all = folder(places);
        let programs = all.join(series).join("usr/bin");
        let runc = all.join("runc/usr/sbin");
        let mut environment = lab.environment();
        for (_, path) in environment.iter_mut().filter(|(name, _)| *name == "PATH") {
            *path = format!("{}:{}:{path}", programs.display(), runc.display());
        }
        let daemon = Self {
            programs,
            environment,
            dir: lab.dir().join("containerd"),
            child: Mutex::new(None),
        };
        daemon.configure()?;
        daemon.run()?;
        Ok(daemon)
    }

    fn configure(&self) -> Result<()> {
        let path = |name: &str| self.dir.join(name);
        fs::create_dir_all(&self.dir).context("make containerd's folder")?;
        let text = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {DISABLED:?}\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = {:?}\n{CONTAINERD_LIMITS}",
            path("root"),
            self.state_dir(),
            self.socket(),
            path("t.sock"),
            path("opt"),
        );
        fs::write(path("config.toml"), text).context("write containerd's configuration")
    }

    /// Starts it again after [`Self::kill`].
    pub(crate) fn run(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.context("open containerd's log")?;
        let mut containerd = self.command("containerd");
        containerd.arg("--config").arg(self.dir.join("config.toml"));
        containerd.stdout(log.try_clone()?).stderr(log);
        *self.child() = Some(containerd.spawn().context("start containerd")?);
        until("containerd", COMMAND, || {
            if let Some(child) = self.child().as_mut()
                && let Some(status) = child.try_wait()?
            {
                bail!("containerd ended: {status}, see {}", self.log().display());
            }
            let answer = self.try_ctr(&["version"], COMMAND)?;
            Ok(answer.status.success().then_some(()))
        })
    }

    /// SIGKILL, and its end. Nothing when it does not run.
    pub(crate) fn kill(&self) -> Result<()> {
        if let Some(mut child) = self.child().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        // Whoever panicked left a child or none.
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// What it and its shims said.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Everything of it.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bundles, among others.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where it listens, and what its shims' command lines name.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("c.sock")
    }

    /// One of its programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        let environment = self.environment.iter().cloned();
        command.envs(environment).stdin(Stdio::null());
        command
    }

    /// `ctr`, in the namespace `default`, less its words.
    pub(crate) fn ctr_command(&self) -> Command {
        let mut ctr = self.command("ctr");
        ctr.arg("--address").arg(self.socket());
        ctr.env_remove("CONTAINERD_NAMESPACE");
        ctr
    }

    /// Runs `ctr WORDS`, whatever its end.
    pub(crate) fn try_ctr(&self, words: &[&str], limit: Duration) -> Result<Output> {
        lab::run(self.ctr_command().args(words), &[], limit, None)
    }

    /// Runs `ctr WORDS`, which must succeed.
    pub(crate) fn ctr(&self, words: &[&str], limit: Duration) -> Result<Output> {
        let output = self.try_ctr(words, limit)?;
        ensure!(
            output.status.success(),
            "`ctr {}`: {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}
