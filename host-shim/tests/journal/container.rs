//! A guest's systemd, journald and agent in a container of namespaces ([`seed_container`]). The agent runs as
//! `shipper.service`, not as the unit that a real boot waits for, and listens on a Unix socket.

use std::{
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::Duration,
};

use seed_container::Spec;

/// How long the agent may take to listen, on a busy machine.
const LISTEN_LIMIT: Duration = Duration::from_secs(90);

/// Where the agent listens, inside.
const AGENT_SOCKET: &str = "/run/shipper/agent.sock";

const JOURNALD: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
WatchdogSec=0
";

const SHIPPER: &str = "\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/seed-agent --listen unix:/run/shipper/agent.sock
Restart=always
RestartSec=50ms
RuntimeDirectory=shipper
RuntimeDirectoryPreserve=yes
";

/// Ends with all of its processes and mounts when it is dropped.
pub(crate) struct Container(seed_container::Container);

impl Container {
    /// Boots with this `SystemMaxUse=` and these lines of journald.conf(5), until the journal is on the disk and the agent
    /// listens.
    pub(crate) fn boot(root: &Path, max_use: &str, more: &str) -> Self {
        let limits = format!(
            "[Journal]\nSystemMaxUse={max_use}\nSystemKeepFree=1M\nSystemMaxFileSize=8M\n{more}\n"
        );
        let units = "/etc/systemd/system";
        let spec = Spec::new(root)
            .and_then(|spec| spec.file("/etc/systemd/journald.conf.d/zz-test.conf", limits))
            .and_then(|spec| {
                spec.file(
                    &format!("{units}/systemd-journald.service.d/zz-test.conf"),
                    JOURNALD,
                )
            })
            .and_then(|spec| spec.file(&format!("{units}/shipper.service"), SHIPPER));
        let container = spec.unwrap().boot().unwrap();
        container
            .serve("shipper.service", AGENT_SOCKET, LISTEN_LIMIT)
            .unwrap();
        Self(container)
    }

    /// Where the agent listens.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.0.inside(AGENT_SOCKET)
    }

    /// journald's native socket.
    pub(crate) fn journal_socket(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().unwrap();
        socket
            .connect(self.0.inside("/run/systemd/journal/socket"))
            .unwrap();
        socket
    }

    /// Runs a command in it that must succeed.
    pub(crate) fn run(&self, command: &[&str]) {
        self.0.read(command).unwrap();
    }

    /// Runs a command in it that may fail; true when it did not.
    pub(crate) fn try_run(&self, command: &[&str]) -> bool {
        self.0.read(command).is_ok()
    }

    /// What a command in it prints; it must succeed.
    pub(crate) fn output(&self, command: &[&str]) -> Vec<u8> {
        self.0.read(command).unwrap()
    }
}
