//! runc's Go shim, started by a containerd of its own: one container on the guest's root, read only, whose output flows
//! into a file as ours flows into segments.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{FLOW, mebibytes};
use crate::{
    containerd,
    lab::{self, COMMAND, Lab, until},
    util::Places,
};

/// Which containerd: that of Debian 12.
const VERSION: &str = "1.6";
const CONTAINER: &str = "seed-bench";
const BINARY: &str = "containerd-shim-runc-v2";

/// A running one. Dropping it ends container and containerd.
#[derive(Debug)]
pub(super) struct Shim {
    programs: PathBuf,
    socket: PathBuf,
    path: String,
    containerd: Child,
    pid: u32,
}

impl Shim {
    pub(super) fn start(places: &Places, lab: &Lab) -> Result<Self> {
        let folder = containerd::folder(places);
        let programs = folder.join(VERSION).join("usr/bin");
        let path = format!(
            "{}:{}:{}",
            programs.display(),
            folder.join("runc/usr/sbin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let place = lab.dir().join("containerd");
        fs::create_dir_all(&place).context("make containerd's folder")?;
        let config = place.join("config.toml");
        let (root, state) = (place.join("root"), place.join("state"));
        let socket = place.join("containerd.sock");
        let text = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n"
        );
        fs::write(&config, text).context("write containerd's configuration")?;
        let log = fs::File::create(place.join("log")).context("make containerd's log")?;
        let mut containerd = Command::new(programs.join("containerd"));
        containerd.arg("--config").arg(&config).env("PATH", &path);
        containerd
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let containerd = containerd.spawn().context("start containerd")?;
        let mut shim = Self {
            programs,
            socket,
            path,
            containerd,
            pid: 0,
        };
        until("containerd", COMMAND, || {
            Ok(shim.ctr(&["version"])?.status.success().then_some(()))
        })?;
        let uri = format!("file://{}", place.join("container.log").display());
        let root = lab.guest().to_string_lossy().into_owned();
        let mut words = vec![
            "run",
            "--detach",
            "--rootfs",
            "--read-only",
            "--log-uri",
            &uri,
        ];
        words.extend([&root, CONTAINER, "/bin/sh", "-c", FLOW]);
        let output = shim.ctr(&words)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctr run: {}", error.trim());
        shim.pid = until("runc's shim", COMMAND, || Ok(shim.find()))?;
        Ok(shim)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn binary_mebibytes(&self) -> Result<f64> {
        Ok(mebibytes(fs::metadata(self.programs.join(BINARY))?.len()))
    }

    /// Ends it, in order.
    pub(super) fn stop(self) -> Result<()> {
        let killed = self.ctr(&["task", "rm", "--force", CONTAINER])?;
        ensure!(killed.status.success(), "ctr task rm: {killed:?}");
        until("the end of runc's shim", COMMAND, || {
            Ok((!lab::alive(self.pid)).then_some(()))
        })
    }

    fn ctr(&self, words: &[&str]) -> Result<std::process::Output> {
        let mut ctr = Command::new(self.programs.join("ctr"));
        ctr.arg("--address")
            .arg(&self.socket)
            .env("PATH", &self.path);
        ctr.args(words).stdin(Stdio::null());
        lab::run(&mut ctr, &[], COMMAND, None)
    }

    /// The process whose words name our socket: other containerds may have shims too.
    fn find(&self) -> Option<u32> {
        let ours = |path: &Path| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            let socket = self.socket.to_string_lossy();
            words.first().is_some_and(|word| word.ends_with(BINARY)) && words.contains(&&*socket)
        };
        let entries = fs::read_dir("/proc").ok()?.flatten();
        let mut found = entries.filter(|entry| ours(&entry.path()));
        found.next()?.file_name().to_str()?.parse().ok()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Where it was stopped there is nothing to remove any more.
        let _ = self.ctr(&["task", "rm", "--force", CONTAINER]);
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
    }
}
