//! Takes the tests of this program to a systemd: a container of namespaces on a guest's root file system,
//! which stays as it is (an overlay in memory takes what is written). `/sys` and `/proc/sys` are read-only and
//! `/dev` has the harmless nodes only, so nothing in there reaches the machine.
//!
//! It runs where `SEED_TEST_GUEST` names such a root and the caller is root. `unshare(1)`, `nsenter(1)`.

use std::{
    env, fs,
    io::Write,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A directory with a Debian or the like in it: systemd, dbus, coreutils.
const ROOT_VARIABLE: &str = "SEED_TEST_GUEST";

/// How long systemd may take to come up, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Where this program is inside.
const PROGRAM: &str = "/opt/guest-tests";

/// Arguments: the guest's root, an empty directory, this program.
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
mkdir -p opt
cp "$3" opt/guest-tests
ln -sf /dev/null etc/systemd/system/seed-agent.service
exec chroot . /usr/bin/env -i container=seed-test /lib/systemd/systemd
"#;

/// The guest's root, where all this is possible.
pub(crate) fn guest_root() -> Option<PathBuf> {
    let root = env::var_os(ROOT_VARIABLE).map(PathBuf::from)?;
    rustix::process::geteuid().is_root().then_some(root)
}

#[test]
fn all_tests_of_this_program_pass_in_a_container() {
    let Some(root) = guest_root().filter(|_| crate::missing().is_some()) else {
        // Inside already, or each test says that it is skipped.
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let container = Container::boot(root, scratch.path().to_owned());
    let output = container.run(&[PROGRAM, "--test-threads=1"]);
    if !output.status.success() {
        std::io::stderr().write_all(&output.stdout).unwrap();
        std::io::stderr().write_all(&output.stderr).unwrap();
        panic!("tests failed in the container: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        !text.contains("SKIPPED") && text.contains("test result: ok"),
        "{text}"
    );
}

/// Ends with all of its processes and mounts when it is dropped.
struct Container {
    unshare: Child,
    init: String,
}

impl Container {
    fn boot(root: PathBuf, scratch: PathBuf) -> Self {
        let unshare = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--uts",
                "--ipc",
            ])
            .args([
                "--cgroup",
                "--net",
                "--fork",
                "--kill-child",
                "--",
                "sh",
                "-c",
                SET_UP,
                "sh",
            ])
            .args([root, scratch, env::current_exe().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut container = Self {
            unshare,
            init: String::new(),
        };
        let begin = Instant::now();
        // `degraded` is as good as `running` here.
        while !container.is_up() {
            let ended = container.unshare.try_wait().unwrap();
            assert!(ended.is_none(), "the container ended: {ended:?}");
            assert!(
                begin.elapsed() < BOOT_LIMIT,
                "systemd does not come up in the container"
            );
            thread::sleep(Duration::from_millis(100));
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
        let state = self
            .run(&["/usr/bin/systemctl", "is-system-running"])
            .stdout;
        matches!(state.trim_ascii(), b"running" | b"degraded")
    }

    fn run(&self, command: &[&str]) -> Output {
        let root = format!("/proc/{}/root", self.init);
        Command::new("nsenter")
            .args([
                "--target", &self.init, "--mount", "--pid", "--uts", "--ipc", "--cgroup",
            ])
            .args([
                "--net",
                &format!("--root={root}"),
                &format!("--wd={root}"),
                "--",
            ])
            .args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended by itself; a drop must not panic.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}
