//! runc's Go shim, started by a containerd of its own: one container on the guest's root, read only, whose output flows
//! into a file as ours flows into segments.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{FLOW, mebibytes};
use crate::{
    containerd::Daemon,
    lab::{self, COMMAND, Lab, until},
    util::{self, Places},
};

/// Which containerd: that of Debian 12.
const VERSION: &str = "1.6";
const CONTAINER: &str = "seed-bench";
const BINARY: &str = "containerd-shim-runc-v2";

/// A running one. Dropping it ends container and containerd.
#[derive(Debug)]
pub(super) struct Shim {
    daemon: Daemon,
    pid: u32,
}

impl Shim {
    pub(super) fn start(places: &Places, lab: &Lab) -> Result<Self> {
        let daemon = Daemon::start(places, lab, VERSION)?;
        let mut shim = Self { daemon, pid: 0 };
        let place = shim.daemon.dir();
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
        shim.daemon.ctr(&words, COMMAND)?;
        shim.pid = until("runc's shim", COMMAND, || Ok(shim.find()))?;
        Ok(shim)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn binary_mebibytes(&self) -> Result<f64> {
        Ok(mebibytes(fs::metadata(self.daemon.program(BINARY))?.len()))
    }

    /// As its program says it.
    pub(super) fn version(&self) -> Result<String> {
        let said = util::read(Command::new(self.daemon.program(BINARY)).arg("-v"))?;
        let mut lines = said.lines().map(str::trim);
        let version = lines.find_map(|line| line.strip_prefix("Version:"));
        let version = version.with_context(|| format!("no version in {said:?}"))?;
        Ok(format!("{BINARY} {}", version.trim()))
    }

    /// Ends it, in order.
    pub(super) fn stop(self) -> Result<()> {
        self.daemon
            .ctr(&["task", "rm", "--force", CONTAINER], COMMAND)?;
        until("the end of runc's shim", COMMAND, || {
            Ok((!lab::alive(self.pid)).then_some(()))
        })
    }

    /// The process whose words name our socket: other containerds may have shims too.
    fn find(&self) -> Option<u32> {
        let ours = |path: &Path| {
            let line = fs::read(path.join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split('\0').collect();
            let socket = self.daemon.socket();
            let socket = socket.to_string_lossy();
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
        let _ = self
            .daemon
            .try_ctr(&["task", "rm", "--force", CONTAINER], COMMAND);
    }
}
