//! The configuration: one TOML file, every key optional, unknown keys refused.
//!
//! Which file: the runtime option `ConfigPath`, or the other runtime options in place of one
//! ([`options`](crate::shim::options)), else the environment variable [`CONFIG_ENV`], else
//! [`DEFAULT_FILE`] where it exists, else the defaults.

use std::{
    env, fs, io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    logs::{pack::Compression, store},
    spec::{KATA_ANNOTATIONS, MemoryMib, Vcpus},
    vmm::VmmKind,
    writes::WritesMib,
};

/// Where the configuration is looked for when nothing else says so.
pub const DEFAULT_FILE: &str = "/etc/seed/shim.toml";

/// Names another configuration file.
pub const CONFIG_ENV: &str = "SEED_CONFIG";

/// Set for what `seed` runs in a user namespace, where an ordinary user is root.
pub const ROOTLESS_ENV: &str = "SEED_ROOTLESS";

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong kind.
    #[error("configuration {}, line {line}: {problem}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's sentence, without the drawing that goes with it.
        problem: String,
    },
    /// A value outside its range.
    #[error("configuration {}: {key} {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// How the VM's processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's own translation.
    Tcg,
}

impl Accel {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Not one of the three words.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("accelerator {0:?} is unknown: use auto, kvm or tcg")]
pub struct AccelError(String);

impl FromStr for Accel {
    type Err = AccelError;
    fn from_str(text: &str) -> Result<Self, AccelError> {
        match text {
            "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "tcg" => Ok(Self::Tcg),
            other => Err(AccelError(other.to_owned())),
        }
    }
}

/// The programs that the shim starts: a name is looked up, a path is taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Programs {
    /// QEMU's system emulator.
    pub qemu: PathBuf,
    /// Cloud Hypervisor.
    pub cloud_hypervisor: PathBuf,
    /// The virtio-fs daemon in Rust (virtio-fs.gitlab.io).
    pub virtiofsd: PathBuf,
    /// The software TPM.
    pub swtpm: PathBuf,
    /// QEMU's vsock device: the shim itself ([`crate::vsock`]).
    pub vsock: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            qemu: "qemu-system-x86_64".into(),
            cloud_hypervisor: "cloud-hypervisor".into(),
            virtiofsd: "virtiofsd".into(),
            swtpm: "swtpm".into(),
            vsock: "/proc/self/exe".into(),
        }
    }
}

/// How long things may take, in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// A daemon's socket after its start.
    pub daemon_seconds: u64,
    /// From the VMM's start to the agent's hello. Under TCG on a busy machine a minute is possible.
    pub hello_seconds: u64,
    /// One lifecycle call to the agent: file systems are made and checked within it.
    pub provision_seconds: u64,
    /// Between the guest's poweroff request and the VMM's end, when SIGTERM was asked for.
    pub poweroff_seconds: u64,
    /// The last pull of the journal.
    pub drain_seconds: u64,
    /// How long the output of an exec may be without a reader until the command is hung up on.
    pub exec_reader_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            daemon_seconds: 15,
            hello_seconds: 180,
            provision_seconds: 180,
            poweroff_seconds: 90,
            drain_seconds: 10,
            exec_reader_seconds: 10,
        }
    }
}

impl Limits {
    /// [`Limits::daemon_seconds`].
    pub fn daemon(&self) -> Duration {
        Duration::from_secs(self.daemon_seconds)
    }
    /// [`Limits::hello_seconds`].
    pub fn hello(&self) -> Duration {
        Duration::from_secs(self.hello_seconds)
    }
    /// [`Limits::provision_seconds`].
    pub fn provision(&self) -> Duration {
        Duration::from_secs(self.provision_seconds)
    }
    /// [`Limits::poweroff_seconds`].
    pub fn poweroff(&self) -> Duration {
        Duration::from_secs(self.poweroff_seconds)
    }
    /// [`Limits::drain_seconds`].
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
    /// [`Limits::exec_reader_seconds`].
    pub fn exec_reader(&self) -> Duration {
        Duration::from_secs(self.exec_reader_seconds)
    }

    fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("limits.daemon_seconds", self.daemon_seconds),
            ("limits.hello_seconds", self.hello_seconds),
            ("limits.provision_seconds", self.provision_seconds),
            ("limits.poweroff_seconds", self.poweroff_seconds),
            ("limits.drain_seconds", self.drain_seconds),
            ("limits.exec_reader_seconds", self.exec_reader_seconds),
        ]
    }
}

/// The longest of the [`Limits`]: an hour. More is a typing error.
pub const MAX_LIMIT_SECONDS: u64 = 3600;

/// How much of an instance's journal is kept, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logs {
    /// A segment is closed before it would grow beyond this.
    pub segment_mib: u64,
    /// A segment is closed when its first batch is older than this, so that old batches can go.
    pub segment_hours: u64,
    /// The oldest segments are deleted when all together are longer.
    pub total_mib: u64,
    /// Segments whose last batch is older than this are deleted; 0: they are of any age.
    pub keep_days: u64,
    /// `none` or `zstd`.
    pub compression: Compression,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            segment_mib: 16,
            segment_hours: 24,
            total_mib: 256,
            keep_days: 0,
            compression: Compression::None,
        }
    }
}

/// What [`Logs`] may say: a TiB, and ten years. More is a typing error.
const LOGS_MIB: RangeInclusive<u64> = 1..=1 << 20;
const LOGS_HOURS: RangeInclusive<u64> = 1..=24 * 3660;
const LOGS_DAYS: RangeInclusive<u64> = 0..=3660;

impl Logs {
    /// As the store wants it.
    pub fn limits(&self) -> store::Limits {
        let days = Duration::from_secs(self.keep_days * 24 * 3600);
        store::Limits {
            segment_bytes: self.segment_mib << 20,
            segment_age: Duration::from_secs(self.segment_hours * 3600),
            total_bytes: self.total_mib << 20,
            total_age: (!days.is_zero()).then_some(days),
            compression: self.compression,
        }
    }

    /// The key that is wrong, and how.
    fn problem(&self) -> Option<(&'static str, String)> {
        let ranges = [
            ("logs.segment_mib", self.segment_mib, LOGS_MIB),
            ("logs.segment_hours", self.segment_hours, LOGS_HOURS),
            ("logs.total_mib", self.total_mib, LOGS_MIB),
            ("logs.keep_days", self.keep_days, LOGS_DAYS),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                let (from, to) = range.into_inner();
                return Some((key, format!("must be from {from} to {to}")));
            }
        }
        let fits = self.total_mib >= 2 * self.segment_mib;
        (!fits).then(|| {
            let problem =
                "must be at least twice logs.segment_mib: one that is full and one that is written";
            ("logs.total_mib", problem.to_owned())
        })
    }
}

/// How far an instance may grow while it runs, unless its annotations say otherwise. 0: not at all. Memory that
/// could be added costs every guest about 4 MiB of what it has; processors cost next to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Growth {
    /// Processors.
    pub max_vcpus: u32,
    /// Memory in MiB.
    pub max_memory_mib: u32,
    /// Ports into which QEMU takes disks, one each, at most [`MAX_DISK_PORTS`].
    pub disk_ports: u32,
}

/// As many functions as a slot of PCI has, which is the one that ports are in.
pub const MAX_DISK_PORTS: u32 = 8;

impl Growth {
    /// The key that is wrong, and how.
    fn problem(&self) -> Option<(&'static str, String)> {
        let wrong = |key, problem: Option<String>| problem.map(|problem| (key, problem));
        let vcpus = (self.max_vcpus > 0).then(|| Vcpus::try_from(self.max_vcpus).err());
        let memory =
            (self.max_memory_mib > 0).then(|| MemoryMib::try_from(self.max_memory_mib).err());
        let ports = (self.disk_ports > MAX_DISK_PORTS)
            .then(|| format!("must be from 0 to {MAX_DISK_PORTS}"));
        wrong("growth.max_vcpus", vcpus.flatten())
            .or_else(|| wrong("growth.max_memory_mib", memory.flatten()))
            .or_else(|| wrong("growth.disk_ports", ports))
    }
}

/// What a bundle may ask for by annotations, ours and Kata's; 0: whatever a machine can have. What the engine says by
/// the container's limits is not asked for here: the engine accounts for that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnnotationLimits {
    /// Processors, those that may be added included.
    pub max_vcpus: u32,
    /// Memory in MiB, what may be added included.
    pub max_memory_mib: u32,
    /// Memory for what is written to the root, in MiB.
    pub max_root_writes_mib: u32,
}

/// How many users a machine has: QEMU's, swtpm's and the vsock daemon's.
pub const IDS_EACH: u32 = 3;

/// Users and groups under which a root's machines run, so that none has the rights of root or of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Users {
    /// The lowest number. By default the first that systemd leaves to nobody (its `UIDS-GIDS.md`).
    pub first: u32,
    /// How many, three an instance; 0: everything runs as the shim's own user.
    pub count: u32,
}

impl Default for Users {
    fn default() -> Self {
        Self {
            first: 0x7000_0000,
            count: 3 << 16,
        }
    }
}

impl Users {
    /// For how many instances they are enough.
    pub fn instances(&self) -> u32 {
        self.count / IDS_EACH
    }

    /// The key that is wrong, and how.
    fn problem(&self) -> Option<(&'static str, String)> {
        if self.first == 0 {
            return Some(("users.first", "must not be root's, 0".to_owned()));
        }
        if !self.count.is_multiple_of(IDS_EACH) {
            let problem = format!("must be a multiple of {IDS_EACH}: each instance has as many");
            return Some(("users.count", problem));
        }
        // The highest number stands for none (setresuid(2)).
        let fits = self.first.checked_add(self.count).is_some();
        (!fits).then(|| ("users.count", format!("must end below {}", u32::MAX)))
    }
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is gone after the host's reboot: sockets, pids.
    pub run_dir: PathBuf,
    /// What stays: TPM state, volumes, logs.
    pub state_dir: PathBuf,
    /// What runs VMs: `qemu` or `cloud-hypervisor`.
    pub vmm: VmmKind,
    /// How the VM's processor is run; an annotation may override it.
    pub accel: Accel,
    /// Who besides root and the shim's own user may ask management sockets and read logs: the name or number of
    /// a group. Nobody without.
    pub group: Option<String>,
    /// Whether whoever may ask a management socket may also run commands in the guest by it, as its root.
    pub management_exec: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Programs to start.
    pub programs: Programs,
    /// Time limits.
    pub limits: Limits,
    /// The journal on the host.
    pub logs: Logs,
    /// How far instances may grow while they run.
    pub growth: Growth,
    /// What guests write to their roots is kept in memory, at most so many MiB for each; 0: it is not. An annotation may
    /// override it.
    pub root_writes_mib: u32,
    /// Whether the programs of an instance run in the control group that its pod names, so that the pod's limits hold for
    /// them; where the shim runs without.
    pub pod_cgroup: bool,
    /// Users of what runs for instances.
    pub users: Users,
    /// Annotations of Kata Containers that a bundle may carry, without their prefix.
    pub enable_annotations: Vec<String>,
    /// How much annotations may ask for.
    pub annotations: AnnotationLimits,
}

/// Where instances are: the machine's folders for root, the user's own for an ordinary user (XDG base directories).
fn folders(rootless: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> (PathBuf, PathBuf) {
    let system = (PathBuf::from("/run/seed"), PathBuf::from("/var/lib/seed"));
    if !rootless {
        return system;
    }
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    let run = absolute("XDG_RUNTIME_DIR").map(|dir| dir.join("seed"));
    // Not `seed`: that is where a developer's guests are built, and what is below would be taken for instances.
    let run = run.or_else(|| Some(absolute("HOME")?.join(".cache/seed-run")));
    (
        run.unwrap_or(system.0),
        state.map_or(system.1, |dir| dir.join("seed")),
    )
}

impl Default for Config {
    fn default() -> Self {
        let inside = env::var_os(ROOTLESS_ENV).is_some();
        let rootless = inside || !rustix::process::geteuid().is_root();
        let (run_dir, state_dir) = folders(rootless, |name| env::var_os(name).map(PathBuf::from));
        Self {
            run_dir,
            state_dir,
            vmm: VmmKind::Qemu,
            accel: Accel::Auto,
            group: None,
            management_exec: false,
            log_level: "info".into(),
            programs: Programs::default(),
            limits: Limits::default(),
            logs: Logs::default(),
            growth: Growth::default(),
            root_writes_mib: 0,
            pod_cgroup: true,
            users: Users::default(),
            enable_annotations: ["default_vcpus", "default_memory"]
                .map(str::to_owned)
                .into(),
            annotations: AnnotationLimits::default(),
        }
    }
}

impl Config {
    /// Loads the file that `chosen` names, or the one that the environment names, or the default one.
    pub fn load(chosen: Option<&Path>) -> Result<Self, ConfigError> {
        let from_env = env::var_os(CONFIG_ENV)
            .filter(|p| !p.is_empty())
            .map(PathBuf::from);
        match chosen.map(Path::to_path_buf).or(from_env) {
            Some(path) => Self::read(&path),
            None if Path::new(DEFAULT_FILE).exists() => Self::read(Path::new(DEFAULT_FILE)),
            None => Ok(Self::default()),
        }
    }

    /// Loads one file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses the text of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            ConfigError::Parse {
                path: path.to_owned(),
                line: before.map_or(1, |before| before.matches('\n').count() + 1),
                problem: error.message().trim_end().replace('\n', ", "),
            }
        })?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                problem,
            })
        };
        for (key, dir) in [("run_dir", &self.run_dir), ("state_dir", &self.state_dir)] {
            if !dir.is_absolute() {
                return wrong(key, format!("{} is no absolute path", dir.display()));
            }
            // swtpm's options have no way to write a comma, and a line break would end a line of a table.
            let bad = |c: char| c == ',' || c.is_control();
            if dir.to_string_lossy().contains(bad) {
                let problem = format!("{dir:?} has a comma or a control character in it");
                return wrong(key, problem);
            }
        }
        for (key, seconds) in self.limits.named() {
            if !(1..=MAX_LIMIT_SECONDS).contains(&seconds) {
                return wrong(key, format!("must be from 1 to {MAX_LIMIT_SECONDS}"));
            }
        }
        let problem = self.logs.problem().or_else(|| self.growth.problem());
        if let Some((key, problem)) = problem.or_else(|| self.users.problem()) {
            return wrong(key, problem);
        }
        if let Err(problem) = WritesMib::parse(self.root_writes_mib) {
            return wrong("root_writes_mib", problem);
        }
        let unknown = |name: &&String| !KATA_ANNOTATIONS.contains(&name.as_str());
        if let Some(name) = self.enable_annotations.iter().find(unknown) {
            let known = KATA_ANNOTATIONS.join(", ");
            return wrong("enable_annotations", format!("{name:?} is none of {known}"));
        }
        if self.log_level.parse::<tracing::Level>().is_err() {
            return wrong("log_level", format!("{:?} is unknown", self.log_level));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_users_instances_are_in_the_users_folders() {
        let ann = |name: &str| match name {
            "HOME" => Some(PathBuf::from("/home/ann")),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".into()),
            _ => None,
        };
        let (run, state) = folders(true, ann);
        assert_eq!(run, Path::new("/run/user/1000/seed"));
        assert_eq!(state, Path::new("/home/ann/.local/state/seed"));
        assert_eq!(folders(false, ann).0, Path::new("/run/seed"));
        let (run, _) = folders(true, |name| ann(name).filter(|_| name == "HOME"));
        assert_eq!(run, Path::new("/home/ann/.cache/seed-run"));
        assert_eq!(folders(true, |_| None).1, Path::new("/var/lib/seed"));
    }

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("/etc/seed/shim.toml"))
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
    }

    #[test]
    fn the_readme_has_every_key_with_its_default() {
        let readme = include_str!("../README.md");
        let (_, rest) = readme.split_once("```toml shim\n").unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        let told: toml::Value = toml::from_str(block).unwrap();
        let mut defaults = Config::default();
        (defaults.run_dir, defaults.state_dir) = folders(false, |_| None);
        assert_eq!(told, toml::Value::try_from(defaults).unwrap());
        assert!(
            block.contains("\n#group ="),
            "a key without a default is told, too"
        );
    }

    #[test]
    fn keys_override_one_by_one() {
        let config =
            parse("vmm = 'cloud-hypervisor'\naccel = 'tcg'\n[programs]\nswtpm = '/opt/swtpm'\n")
                .unwrap();
        assert_eq!(config.vmm, VmmKind::CloudHypervisor);
        assert_eq!(config.accel, Accel::Tcg);
        assert_eq!(config.programs.swtpm, Path::new("/opt/swtpm"));
        assert_eq!(config.programs.qemu, Programs::default().qemu);
    }

    #[test]
    fn what_is_said_of_logs_is_what_the_store_gets() {
        assert_eq!(Logs::default().limits(), store::Limits::DEFAULT);
        let text = "[logs]\nsegment_mib = 4\nsegment_hours = 1\ntotal_mib = 64\nkeep_days = 7\ncompression = 'zstd'\n";
        let expected = store::Limits {
            segment_bytes: 4 << 20,
            segment_age: Duration::from_secs(3600),
            total_bytes: 64 << 20,
            total_age: Some(Duration::from_secs(7 * 86_400)),
            compression: Compression::Zstd,
        };
        assert_eq!(parse(text).unwrap().logs.limits(), expected);
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused_with_their_name() {
        for (text, said) in [
            ("acel = 'tcg'", "acel"),
            ("[limits]\nhello = 3", "hello"),
            ("run_dir = 'run'", "run_dir"),
            ("run_dir = '/run/a,b'", "comma"),
            ("state_dir = \"/a\\nb\"", "control character"),
            ("[limits]\nhello_seconds = 0", "limits.hello_seconds"),
            ("[limits]\ndrain_seconds = 3601", "limits.drain_seconds"),
            ("[logs]\nsegment_mib = 0", "logs.segment_mib"),
            ("[logs]\nkeep_days = -1", "line 2"),
            ("[logs]\nsegment_hours = 100000", "logs.segment_hours"),
            ("[logs]\ntotal_mib = 31", "logs.total_mib"),
            ("[logs]\ncompression = 'lz4'", "lz4"),
            ("log_level = 'loud'", "log_level"),
            ("[growth]\nmax_vcpus = 65", "growth.max_vcpus"),
            ("[growth]\nmax_memory_mib = 1", "growth.max_memory_mib"),
            ("[growth]\ndisk_ports = 9", "growth.disk_ports"),
            ("[users]\nfirst = 0", "users.first"),
            ("[users]\ncount = 4", "users.count"),
            ("[users]\nfirst = 4294967294\ncount = 3", "users.count"),
            ("enable_annotations = ['kernel']", "enable_annotations"),
            ("root_writes_mib = 1048577", "root_writes_mib"),
            ("accel = 'hax'", "hax"),
            ("vmm = 'kvmtool'", "kvmtool"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
