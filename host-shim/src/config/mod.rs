//! The configuration: one TOML file, every key optional, unknown keys refused.
//!
//! Which file: the runtime option `ConfigPath`, or the other runtime options in place of one
//! ([`options`](crate::shim::options)), else the environment variable [`CONFIG_ENV`], else
//! [`DEFAULT_FILE`] where it exists, else the defaults.

pub mod file;
mod tables;

use std::{
    env,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use self::file::ConfigError;
pub use self::tables::{
    AnnotationLimits, Growth, IDS_EACH, Limits, Logs, MAX_DISK_PORTS, MAX_LIMIT_SECONDS, Programs,
    Users,
};
use crate::{spec::KATA_ANNOTATIONS, vmm::VmmKind, writes::WritesMib};

/// Where the configuration is looked for when nothing else says so.
pub const DEFAULT_FILE: &str = "/etc/seed/shim.toml";

/// Names another configuration file.
pub const CONFIG_ENV: &str = "SEED_CONFIG";

/// Set for what `seed` runs in a user namespace, where an ordinary user is root.
pub const ROOTLESS_ENV: &str = "SEED_ROOTLESS";

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
        Self::parse(&file::read(path)?, path)
    }

    /// Parses the text of `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = file::parse(text, path)?;
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
    use std::time::Duration;

    use super::*;
    use crate::logs::{pack::Compression, store};

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
        let readme = include_str!("../../README.md");
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
