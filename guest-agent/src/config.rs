//! What the agent is told at its start: flags, the kernel's command line, and what the closure says
//! about the instance in `/etc/seed/instance.json`. One function builds all of it, and `--check-config`
//! runs the same parser at build time.
//!
//! Kernel parameters: `seed.beacon_port` is ours; `agent.log`, `agent.server_addr` and any other
//! `agent.*` come from a Kata shim (its `src/agent/src/config.rs`). What is not known is left alone.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use age_tpm::held;
use seed_protocol::{paths, ports};
use serde::Deserialize;
use thiserror::Error;

use crate::storage::{
    MountPoint, SpecError, VolumeName,
    owner::{Mode, OwnerNames},
};

/// The largest instance file that is read.
const MAX_INSTANCE_BYTES: u64 = 1024 * 1024;

/// Kata's limit for a device that was just attached.
const HOTPLUG_LIMIT: Duration = Duration::from_secs(3);

/// Network drivers are loaded by udev, which starts beside the agent. A Kata shim waits for up to a minute.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// The longest limit that a host may ask for.
const MAX_HOTPLUG_SECONDS: u32 = 600;

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A flag's value or a kernel parameter's value cannot be meant.
    #[error("{name} cannot be {value:?}: {reason}")]
    Value {
        /// The flag or parameter.
        name: &'static str,
        /// What it was given.
        value: String,
        /// What it should have been.
        reason: &'static str,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The instance file is not of the form that the module writes.
    #[error("{} is not an instance file", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A volume in the instance file cannot be meant.
    #[error("{}: volume {name:?}", path.display())]
    Volume {
        /// The file.
        path: PathBuf,
        /// The volume as it is spelled.
        name: String,
        /// Why.
        source: SpecError,
    },
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A vsock port; only the host may connect.
    Vsock(u32),
    /// A Unix socket, for tests without a VM.
    Unix(PathBuf),
}

/// Whether somebody outside is going to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// The kernel's command line says so. The port is where beacons go.
    Expected {
        /// `seed.beacon_port`; a Kata shim gives none.
        beacon_port: Option<u32>,
    },
    /// A plain VM: the boot goes on with what the closure says.
    Absent,
}

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
            resolv_conf: "/etc/resolv.conf".into(),
            journal_dirs: vec!["/var/log/journal".into(), "/run/log/journal".into()],
            sys_block: "/sys/block".into(),
            dev: "/dev".into(),
            etc: "/etc".into(),
            sys: "/sys".into(),
            proc: "/proc".into(),
            cgroup: "/sys/fs/cgroup".into(),
            termination_log: "/dev/termination-log".into(),
            shared: "/run/kata-containers".into(),
        }
    }
}

/// What the closure says about the instance. Unknown keys are refused: a mistyped one must not pass in
/// silence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// The instance's name, empty when the closure gives none.
    pub name: String,
    /// Volumes by name.
    pub volumes: BTreeMap<VolumeName, BakedVolume>,
    /// The group whose members may decrypt with the instance's identity; root alone without.
    pub key_group: Option<String>,
}

/// A volume as the closure declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BakedVolume {
    /// Where it belongs.
    pub mount_point: MountPoint,
    /// Who owns the mount point.
    pub owner: OwnerNames,
    /// The mount point's mode.
    pub mode: Option<Mode>,
}

/// Everything together.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the server listens.
    pub listen: Listen,
    /// Whether a host is going to call.
    pub host: Host,
    /// More words in the log.
    pub debug: bool,
    /// How long a device that the host has just attached may take to appear.
    pub hotplug_limit: Duration,
    /// How long a link may take to appear before the boot goes on: its driver may be on its way still.
    pub link_limit: Duration,
    /// The vsock port where the log is served, when the host asks for it.
    pub log_port: Option<u32>,
    /// Kernel parameters for a Kata agent that mean nothing here.
    pub ignored: Vec<String>,
    /// Give up capabilities after provisioning.
    pub drop_privileges: bool,
    /// What the closure says.
    pub instance: Instance,
    /// Files and directories.
    pub paths: Paths,
}

/// What the command line asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--listen vsock:PORT` or `--listen unix:PATH`.
    pub listen: Option<Listen>,
    /// `--instance FILE` instead of `/etc/seed/instance.json`.
    pub instance: Option<PathBuf>,
}

impl Config {
    /// Reads the kernel's command line and the instance file. A missing instance file is an empty one.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let path = PathBuf::from("/proc/cmdline");
        let cmdline =
            fs::read_to_string(&path).map_err(|source| ConfigError::Read { path, source })?;
        let file = flags
            .instance
            .clone()
            .unwrap_or_else(|| paths::INSTANCE_FILE.into());
        let instance = match Instance::read(&file) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && flags.instance.is_none() =>
            {
                Instance::default()
            }
            other => other?,
        };
        let mut config = Self::from_cmdline(&cmdline, instance)?;
        if let Some(listen) = flags.listen {
            if matches!(listen, Listen::Unix(_)) {
                // Run by hand, on a machine that is no guest: nothing happens until somebody asks.
                config.host = Host::Expected { beacon_port: None };
            }
            config.listen = listen;
        }
        Ok(config)
    }

    /// The configuration that this kernel command line and this instance file make.
    pub fn from_cmdline(cmdline: &str, instance: Instance) -> Result<Self, ConfigError> {
        let mut config = Self {
            listen: Listen::Vsock(ports::AGENT),
            host: Host::Absent,
            debug: false,
            hotplug_limit: HOTPLUG_LIMIT,
            link_limit: LINK_LIMIT,
            log_port: None,
            ignored: Vec::new(),
            drop_privileges: true,
            instance,
            paths: Paths::default(),
        };
        let mut beacon_port = None;
        let mut kata = false;
        for word in cmdline.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            kata |= key.starts_with("agent.");
            match key {
                ports::BEACON_PARAMETER => {
                    let reason = "a port number is wanted";
                    let name = ports::BEACON_PARAMETER;
                    beacon_port = Some(number(name, value, reason)?);
                }
                "agent.log" => config.debug = matches!(value, "debug" | "trace"),
                "agent.server_addr" => {
                    config.listen = server_address(value).ok_or_else(|| ConfigError::Value {
                        name: "agent.server_addr",
                        value: value.to_owned(),
                        reason: "vsock://-1:PORT is wanted",
                    })?;
                }
                "agent.log_vport" => {
                    let port: Option<u32> = value.parse().ok();
                    let reason = "a port number is wanted";
                    config.log_port = match port {
                        // Kata's word for "no such port".
                        Some(0) => None,
                        _ => Some(number("agent.log_vport", value, reason)?),
                    };
                }
                "agent.hotplug_timeout" => {
                    let reason = "a number of seconds is wanted";
                    let seconds = number("agent.hotplug_timeout", value, reason)?;
                    let seconds = seconds.min(MAX_HOTPLUG_SECONDS);
                    config.hotplug_limit = Duration::from_secs(seconds.into());
                }
                // The value may be anything, a secret too; the name says enough.
                _ if key.starts_with("agent.") => config.ignored.push(key.to_owned()),
                _ => {}
            }
        }
        if kata || beacon_port.is_some() {
            config.host = Host::Expected { beacon_port };
        }
        Ok(config)
    }
}

impl Listen {
    /// `vsock:PORT` or `unix:PATH`, as the flag takes them.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if let Some(path) = text
            .strip_prefix("unix:")
            .filter(|path| path.starts_with('/'))
        {
            return Ok(Self::Unix(path.into()));
        }
        let reason = "vsock:PORT or unix:/PATH is wanted";
        match text.strip_prefix("vsock:") {
            Some(port) => Ok(Self::Vsock(number("--listen", port, reason)?)),
            None => Err(ConfigError::Value {
                name: "--listen",
                value: text.to_owned(),
                reason,
            }),
        }
    }
}

impl Instance {
    /// Reads and checks an instance file: what `--check-config` does.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if metadata.len() > MAX_INSTANCE_BYTES {
            return Err(unreadable(io::ErrorKind::FileTooLarge.into()));
        }
        let text = fs::read(path).map_err(unreadable)?;
        Self::parse(&text, path)
    }

    /// Checks the text of an instance file. `path` is for the error.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, ConfigError> {
        let file: InstanceFile =
            serde_json::from_slice(text).map_err(|source| ConfigError::Json {
                path: path.to_owned(),
                source,
            })?;
        let InstanceFile {
            name,
            storage,
            identity,
        } = file;
        let mut volumes = BTreeMap::new();
        for (name, entry) in storage {
            let (key, volume) = entry
                .into_volume(&name)
                .map_err(|source| ConfigError::Volume {
                    path: path.to_owned(),
                    name,
                    source,
                })?;
            volumes.insert(key, volume);
        }
        Ok(Self {
            name,
            volumes,
            key_group: identity.group,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceFile {
    #[serde(default)]
    name: String,
    #[serde(default)]
    storage: BTreeMap<String, StorageEntry>,
    #[serde(default)]
    identity: IdentityEntry,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityEntry {
    group: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct StorageEntry {
    mount_point: String,
    user: Option<String>,
    group: Option<String>,
    mode: Option<String>,
}

impl StorageEntry {
    fn into_volume(self, name: &str) -> Result<(VolumeName, BakedVolume), SpecError> {
        let Self {
            mount_point,
            user,
            group,
            mode,
        } = self;
        let volume = BakedVolume {
            mount_point: MountPoint::try_from(mount_point.as_str())?,
            owner: OwnerNames { user, group },
            mode: mode.as_deref().map(Mode::try_from).transpose()?,
        };
        Ok((VolumeName::try_from(name)?, volume))
    }
}

/// Kata's spelling: `vsock://-1:1024` or `vsock://CID:PORT`; the context id is always our own.
fn server_address(text: &str) -> Option<Listen> {
    let (_cid, port) = text.strip_prefix("vsock://")?.split_once(':')?;
    port.parse().ok().map(Listen::Vsock)
}

fn number(name: &'static str, value: &str, reason: &'static str) -> Result<u32, ConfigError> {
    let error = || ConfigError::Value {
        name,
        value: value.to_owned(),
        reason,
    };
    value
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Instance, ConfigError> {
        Instance::parse(text.as_bytes(), Path::new("instance.json"))
    }

    #[test]
    fn our_host_is_known_by_its_beacon_port_and_a_kata_shim_by_its_parameters() {
        let host = |cmdline| {
            Config::from_cmdline(cmdline, Instance::default())
                .unwrap()
                .host
        };
        assert_eq!(host("root=fstab ro quiet"), Host::Absent);
        let ours = Host::Expected {
            beacon_port: Some(1030),
        };
        assert_eq!(host("console=ttyS0 seed.beacon_port=1030 init=/x"), ours);
        let kata = Host::Expected { beacon_port: None };
        assert_eq!(
            host("systemd.unit=kata-containers.target agent.log=debug"),
            kata
        );
    }

    #[test]
    fn a_kata_shims_parameters_are_heard_or_named() {
        let parse = |cmdline| Config::from_cmdline(cmdline, Instance::default());
        let config = parse(
            "systemd.unit=kata-containers.target systemd.mask=systemd-networkd.service agent.log=debug \
             agent.log_vport=1025 agent.hotplug_timeout=7 agent.https_proxy=http://u:p@h/ agent.devmode",
        )
        .unwrap();
        assert!(config.debug);
        assert_eq!(config.log_port, Some(1025));
        assert_eq!(config.hotplug_limit, Duration::from_secs(7));
        // By name alone: a value may be a secret.
        assert_eq!(config.ignored, ["agent.https_proxy", "agent.devmode"]);
        assert_eq!(parse("agent.log_vport=0").unwrap().log_port, None);
        for bad in ["agent.log_vport=x", "agent.hotplug_timeout=0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_kata_server_address_moves_the_port() {
        let config =
            Config::from_cmdline("agent.server_addr=vsock://-1:2048", Instance::default()).unwrap();
        assert_eq!(config.listen, Listen::Vsock(2048));
        let bad = Config::from_cmdline("agent.server_addr=tcp://x", Instance::default());
        assert!(
            bad.unwrap_err()
                .to_string()
                .starts_with("agent.server_addr")
        );
    }

    #[test]
    fn a_beacon_port_that_is_no_port_is_named() {
        let error = Config::from_cmdline("seed.beacon_port=soon", Instance::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "seed.beacon_port cannot be \"soon\": a port number is wanted"
        );
    }

    #[test]
    fn the_modules_instance_file_is_understood() {
        let instance = parse(
            r#"{"name":"demo","storage":{"data":{"mountPoint":"/seed/storage/data","user":"app","group":"app","mode":"0750"}}}"#,
        )
        .unwrap();
        assert_eq!(instance.name, "demo");
        let volume = &instance.volumes[&VolumeName::try_from("data").unwrap()];
        assert_eq!(
            volume.mount_point.as_path(),
            Path::new("/seed/storage/data")
        );
        assert_eq!(volume.owner.user.as_deref(), Some("app"));
        assert_eq!(volume.mode.unwrap().bits(), 0o750);
    }

    #[test]
    fn the_key_is_roots_unless_a_group_is_named() {
        assert_eq!(parse("{}").unwrap().key_group, None);
        let named = parse(r#"{"identity":{"group":"secrets"}}"#).unwrap();
        assert_eq!(named.key_group.as_deref(), Some("secrets"));
        assert!(parse(r#"{"identity":{"gruop":"secrets"}}"#).is_err());
    }

    #[test]
    fn a_mistyped_key_and_a_mount_over_the_system_are_refused() {
        let error = parse(r#"{"nmae":"demo"}"#).unwrap_err();
        assert!(matches!(error, ConfigError::Json { .. }));
        let error = parse(r#"{"storage":{"data":{"mountPoint":"/proc"}}}"#).unwrap_err();
        assert_eq!(error.to_string(), "instance.json: volume \"data\"");
    }

    #[test]
    fn the_listen_flag_takes_both_forms() {
        assert_eq!(Listen::parse("vsock:1024").unwrap(), Listen::Vsock(1024));
        assert_eq!(
            Listen::parse("unix:/a/b").unwrap(),
            Listen::Unix("/a/b".into())
        );
        assert!(Listen::parse("unix:relative").is_err());
        assert!(Listen::parse("tcp:1").is_err());
    }
}
