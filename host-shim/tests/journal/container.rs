//! A guest's systemd, journald and agent in a container of namespaces ([`seed_container`]). The agent runs as
//! `shipper.service`, not as the unit that a real boot waits for, and listens on a Unix socket.

use std::{
    fs,
    io::BufReader,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{ChildStdout, Stdio},
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

/// What it takes to go on until `systemd-shutdown(8)` ends it, as the agent's own unit does.
const TO_THE_END: &str = "[Unit]\nDefaultDependencies=no\n";

/// Ends with all of its processes and mounts when it is dropped.
pub(crate) struct Container(seed_container::Container);

impl Container {
    /// Boots with this `SystemMaxUse=` and these lines of journald.conf(5), until the journal is on the disk and the agent
    /// listens.
    pub(crate) fn boot(root: &Path, max_use: &str, more: &str) -> Self {
        Self::start(spec(root, max_use, more))
    }

    /// Boots with a journal in this folder, an agent that serves until the machine ends, and a unit that is not started.
    pub(crate) fn boot_to_the_end(root: &Path, journal: &Path, unit: (&str, &str)) -> Self {
        let spec = spec(root, "1G", "Storage=persistent")
            .file(
                "/etc/systemd/system/shipper.service.d/zz-test.conf",
                TO_THE_END,
            )
            .and_then(|spec| spec.file(&format!("/etc/systemd/system/{}", unit.0), unit.1));
        Self::start(spec.unwrap().bind(journal, "/var/log/journal"))
    }

    fn start(spec: Spec) -> Self {
        let container = spec.boot().unwrap();
        container
            .serve("shipper.service", AGENT_SOCKET, LISTEN_LIMIT)
            .unwrap();
        Self(container)
    }

    /// A file inside, as text; nothing when it cannot be read.
    pub(crate) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.0.inside(path)).unwrap_or_default()
    }

    /// Blocks until it has ended by itself.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) {
        self.0.wait_for_end(limit).unwrap();
    }

    /// A path of the guest, as the machine sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.0.inside(inside)
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

    /// What is made of a command's output while it prints; it must succeed.
    pub(crate) fn piped<T>(
        &self,
        command: &[&str],
        take: impl FnOnce(BufReader<ChildStdout>) -> T,
    ) -> T {
        let mut command = self.0.command(command);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let taken = take(BufReader::new(child.stdout.take().unwrap()));
        assert!(child.wait().unwrap().success());
        taken
    }

    /// What a command in it prints; it must succeed.
    pub(crate) fn output(&self, command: &[&str]) -> Vec<u8> {
        self.0.read(command).unwrap()
    }
}

fn spec(root: &Path, max_use: &str, more: &str) -> Spec {
    let limits = format!(
        "[Journal]\nSystemMaxUse={max_use}\nSystemKeepFree=1M\nSystemMaxFileSize=8M\n{more}\n"
    );
    [
        ("/etc/systemd/journald.conf.d/zz-test.conf", limits.as_str()),
        (
            "/etc/systemd/system/systemd-journald.service.d/zz-test.conf",
            JOURNALD,
        ),
        ("/etc/systemd/system/shipper.service", SHIPPER),
    ]
    .into_iter()
    .fold(Spec::new(root).unwrap(), |spec, (path, text)| {
        spec.file(path, text).unwrap()
    })
}
