//! A guest's systemd, journald and agent in a container of namespaces on a guest's root file system, which
//! stays as it is (an overlay in memory takes what is written). `/sys` and `/proc/sys` are read-only and
//! `/dev` has the harmless nodes only, so nothing in there reaches the machine. The agent runs as
//! `shipper.service`, not as the unit that a real boot waits for, and listens on a Unix socket.

use std::{
    env, fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A guest's root, as `cargo xtask image` makes it.
const ROOT_VARIABLE: &str = "SEED_TEST_GUEST";

/// How long systemd may take to come up, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Arguments: the guest's root, an empty directory, `SystemMaxUse=`.
const SET_UP: &str = r#"
set -e
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
cd "$2/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for node in null zero full random urandom tty; do
    touch "dev/$node"
    mount --bind "/dev/$node" "dev/$node"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
ln -sf /dev/null etc/systemd/system/seed-agent.service
ln -sf /dev/null etc/systemd/system/app.service
mkdir -p etc/systemd/journald.conf.d etc/systemd/system/systemd-journald.service.d
cat > etc/systemd/journald.conf.d/zz-test.conf <<END
[Journal]
SystemMaxUse=$3
SystemKeepFree=1M
SystemMaxFileSize=8M
END
cat > etc/systemd/system/systemd-journald.service.d/zz-test.conf <<END
[Unit]
StartLimitIntervalSec=0
[Service]
WatchdogSec=0
END
cat > etc/systemd/system/shipper.service <<END
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/bin/seed-agent --listen unix:/run/shipper/agent.sock
Restart=always
RestartSec=50ms
RuntimeDirectory=shipper
RuntimeDirectoryPreserve=yes
END
exec chroot . /usr/bin/env -i container=seed-test /lib/systemd/systemd
"#;

/// The guest's root, where all this is possible; else why not.
pub(crate) fn guest_root() -> Result<PathBuf, &'static str> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root");
    }
    env::var_os(ROOT_VARIABLE)
        .map(PathBuf::from)
        .ok_or("SEED_TEST_GUEST names no guest's root")
}

/// Ends with all of its processes and mounts when it is dropped.
pub(crate) struct Container {
    unshare: Child,
    init: String,
    _scratch: tempfile::TempDir,
}

impl Container {
    /// Boots, until the journal is on the disk and the agent listens.
    pub(crate) fn boot(root: &Path, max_use: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let unshare = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--pid", "--uts"])
            .args(["--ipc", "--cgroup", "--net", "--fork", "--kill-child"])
            .args(["--", "sh", "-c", SET_UP, "sh"])
            .args([root, scratch.path()])
            .arg(max_use)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut container = Self {
            unshare,
            init: String::new(),
            _scratch: scratch,
        };
        let begin = Instant::now();
        while !container.is_up() {
            let ended = container.unshare.try_wait().unwrap();
            assert!(ended.is_none(), "the container ended: {ended:?}");
            assert!(begin.elapsed() < BOOT_LIMIT, "systemd does not come up");
            thread::sleep(Duration::from_millis(100));
        }
        container.run(&["systemctl", "start", "shipper.service"]);
        while !container.agent_socket().exists() {
            assert!(begin.elapsed() < BOOT_LIMIT, "the agent does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        container
    }

    fn is_up(&mut self) -> bool {
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let Some(init) = children.split_whitespace().next() else {
            return false;
        };
        let comm = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
        if comm.trim() != "systemd" {
            return false;
        }
        init.clone_into(&mut self.init);
        self.inside("/run/systemd/journal/flushed").exists()
            && matches!(
                self.output(&["systemctl", "is-system-running"])
                    .trim_ascii(),
                b"running" | b"degraded"
            )
    }

    /// A path of the guest, as the host sees it.
    pub(crate) fn inside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// Where the agent listens.
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.inside("/run/shipper/agent.sock")
    }

    /// journald's native socket.
    pub(crate) fn journal_socket(&self) -> UnixDatagram {
        let socket = UnixDatagram::unbound().unwrap();
        socket
            .connect(self.inside("/run/systemd/journal/socket"))
            .unwrap();
        socket
    }

    /// Runs a command in it that must succeed.
    pub(crate) fn run(&self, command: &[&str]) {
        self.command(command, |status, _| {
            assert!(status.success(), "{command:?}: {status}");
        });
    }

    /// What a command in it prints.
    pub(crate) fn output(&self, command: &[&str]) -> Vec<u8> {
        self.command(command, |_, output| output)
    }

    fn command<T>(
        &self,
        command: &[&str],
        then: impl FnOnce(std::process::ExitStatus, Vec<u8>) -> T,
    ) -> T {
        let root = format!("/proc/{}/root", self.init);
        let output = Command::new("nsenter")
            .args(["--target", &self.init, "--mount", "--pid", "--uts"])
            .args(["--ipc", "--cgroup", "--net"])
            .args([&format!("--root={root}"), &format!("--wd={root}"), "--"])
            .args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(command)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        then(output.status, output.stdout)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended by itself; a drop must not panic.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}
