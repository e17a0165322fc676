//! Every path that the agent reads or writes, so that tests can have their own.

use std::path::PathBuf;

use age_tpm::held;
use seed_protocol::paths;

/// Every path that the agent reads or writes, so that tests can have their own.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The environment, for systemd and shells.
    pub env_file: PathBuf,
    /// The age identity.
    pub identity_file: PathBuf,
    /// Where the identity's key is lent to `age-plugin-tpm`.
    pub key_socket: PathBuf,
    /// What has been done at this boot, for an agent that starts again.
    pub record_file: PathBuf,
    /// What runs because the host asked for it, for an agent that starts again.
    pub exec_dir: PathBuf,
    /// The resolver's configuration.
    pub resolv_conf: PathBuf,
    /// Where journal files are looked for.
    pub journal_dirs: Vec<PathBuf>,
    /// The kernel's block devices.
    pub sys_block: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
    /// Users and groups: `passwd` and `group` in this directory.
    pub etc: PathBuf,
    /// udev's rules of this boot.
    pub udev_rules: PathBuf,
    /// `sysfs`.
    pub sys: PathBuf,
    /// `procfs`.
    pub proc: PathBuf,
    /// The root of the control groups.
    pub cgroup: PathBuf,
    /// Where Kubernetes lets a container leave its last words.
    pub termination_log: PathBuf,
    /// What the host shares or copies for the container, and nothing else, is below this.
    pub shared: PathBuf,
}

impl Paths {
    /// A file of ours that does not outlive this boot, either.
    pub fn of_this_boot(&self, name: &str) -> PathBuf {
        self.record_file.with_file_name(name)
    }

    /// The kernel's tree of devices.
    pub fn sys_devices(&self) -> PathBuf {
        self.sys.join("devices")
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            env_file: paths::ENV_FILE.into(),
            identity_file: paths::IDENTITY_FILE.into(),
            key_socket: held::DEFAULT_SOCKET.into(),
            record_file: "/run/seed/agent.json".into(),
            exec_dir: "/run/seed/execs".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            journal_dirs: vec!["/var/log/journal".into(), "/run/log/journal".into()],
            sys_block: "/sys/block".into(),
            dev: "/dev".into(),
            etc: "/etc".into(),
            udev_rules: "/run/udev/rules.d".into(),
            sys: "/sys".into(),
            proc: "/proc".into(),
            cgroup: "/sys/fs/cgroup".into(),
            termination_log: "/dev/termination-log".into(),
            shared: "/run/kata-containers".into(),
        }
    }
}
