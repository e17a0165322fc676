//! The programs beside the VMM: swtpm on the instance's TPM state, virtiofsd on its root and on what is shared
//! beside it, and, for QEMU, vhost-device-vsock. All start at once, and each is waited for.
//!
//! virtiofsd and swtpm end by themselves when their VMM is gone; vhost-device-vsock has to be told.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    ProcessInfo, VmmError,
    helpers::{self, Cache},
    process::{Ended, Launch, Supervised, wait_socket},
    programs::Found,
};
use crate::{
    spec::VmSpec,
    sys,
    tpm::{self, StateDir},
};

const SWTPM: &str = "swtpm";
const VIRTIOFSD: &str = "virtiofsd";
/// The second virtiofsd, for what is shared beside the root.
const SHARE: &str = "virtiofsd-share";
const VSOCK: &str = "vhost-device-vsock";

/// How long the daemons may take to end by themselves after their VMM, before they are killed.
const GRACE: Duration = Duration::from_secs(2);

/// The running ones. Dropping it kills them.
#[derive(Debug)]
pub(super) struct Daemons(Vec<Supervised>);

impl Daemons {
    /// Starts all that the spec wants, and returns when each listens, or at the end of the first that ends.
    pub(super) async fn start(
        spec: &VmSpec,
        tpm: &StateDir,
        found: &Found,
        limit: Duration,
        (ends, ended): (
            &mpsc::UnboundedSender<Ended>,
            &mut mpsc::UnboundedReceiver<Ended>,
        ),
    ) -> Result<Self, VmmError> {
        let paths = &spec.paths;
        let mut wanted: Vec<(&'static str, &Path, PathBuf, Vec<_>)> = Vec::new();
        // A swtpm that somebody else runs is not ours to start.
        if spec.tpm_socket.is_none() {
            let socket = paths.tpm_socket();
            let args = tpm::args(tpm.path(), &socket);
            wanted.push((SWTPM, &found.swtpm, socket, args));
        }
        let socket = paths.virtiofs_socket();
        let args = helpers::virtiofsd(&socket, &spec.rootfs, Cache::Always);
        wanted.push((VIRTIOFSD, &found.virtiofsd, socket, args));
        if let Some(program) = &found.vhost_device_vsock {
            let socket = paths.vhost_socket();
            let args = helpers::vsock(&socket, &paths.vsock_socket());
            wanted.push((VSOCK, program, socket, args));
        }
        if !spec.shared.is_empty() {
            let socket = paths.share_socket();
            let args = helpers::virtiofsd(&socket, &paths.share_dir(), Cache::Auto);
            wanted.push((SHARE, &found.virtiofsd, socket, args));
        }
        let mut daemons = Self(Vec::new());
        let mut sockets = Vec::new();
        for (name, program, socket, args) in wanted {
            let launch = Launch {
                name,
                program,
                args,
                log: paths.helper_log(name),
                pipe_stdout: false,
                inherited: Vec::new(),
            };
            daemons.0.push(Supervised::spawn(launch, ends)?.0);
            sockets.push((name, socket));
        }
        for (name, socket) in sockets {
            wait_socket(name, &socket, &paths.helper_log(name), limit, ended).await?;
        }
        Ok(daemons)
    }

    /// One has ended.
    pub(super) fn forget(&mut self, name: &str) {
        self.0.retain(|daemon| daemon.info().name != name);
    }

    /// Returns when none is left. Their ends arrive on `ended`.
    pub(super) async fn stop(&mut self, ended: &mut mpsc::UnboundedReceiver<Ended>) {
        for daemon in self.0.iter().filter(|one| one.info().name == VSOCK) {
            daemon.signal(Signal::TERM);
        }
        let until = Instant::now() + GRACE;
        // The first that ended, if it was a daemon, is still in the list: its pid tells.
        self.only_living();
        while !self.0.is_empty() {
            match timeout_at(until, ended.recv()).await {
                Ok(Some(ended)) => self.forget(ended.name),
                Ok(None) | Err(_) => break,
            }
        }
        for daemon in &self.0 {
            tracing::warn!(process = daemon.info().name, "daemon had to be killed");
            daemon.signal(Signal::KILL);
        }
        let until = Instant::now() + GRACE;
        while !self.0.is_empty() && Instant::now() < until {
            self.only_living();
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn only_living(&mut self) {
        self.0
            .retain(|daemon| sys::start_time(daemon.info().pid).is_some());
    }

    /// The VMM and these; written down for a clean-up after a crash of the shim.
    pub(super) fn record(
        &self,
        vmm: &Supervised,
        spec: &VmSpec,
    ) -> Result<Vec<ProcessInfo>, VmmError> {
        let entry =
            |name: &str, pid: u32| json!({"name": name, "pid": pid, "start": sys::start_time(pid)});
        let all = [vmm].into_iter().chain(&self.0);
        let processes: Vec<ProcessInfo> = all.map(|child| child.info().clone()).collect();
        let mut written = vec![entry("shim", std::process::id())];
        written.extend(processes.iter().map(|one| entry(one.name, one.pid)));
        let path = spec.paths.pids();
        match fs::write(&path, json!(written).to_string()) {
            Ok(()) => Ok(processes),
            Err(source) => Err(VmmError::File { path, source }),
        }
    }
}
