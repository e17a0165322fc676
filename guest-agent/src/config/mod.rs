//! What the agent is told at its start: flags, the kernel's command line, and what the closure says
//! about the instance in `/etc/seed/instance.json`. One function builds all of it, and `--check-config`
//! runs the same parser at build time.

mod cmdline;
mod instance;
mod paths;

use std::{fs, io, path::PathBuf, time::Duration};

use seed_protocol::paths::INSTANCE_FILE;
use thiserror::Error;

pub use instance::{BakedVolume, Instance};
pub use paths::Paths;

use crate::{storage::SpecError, sys::descriptors::Keeper};

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A flag's value cannot be meant.
    #[error("{name} cannot be {value:?}: {reason}")]
    Value {
        /// The flag.
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
    /// Kernel parameters whose values cannot be meant, a sentence each.
    pub mistakes: Vec<String>,
    /// Who holds descriptors for an agent that starts again.
    pub keeper: Keeper,
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
            .unwrap_or_else(|| INSTANCE_FILE.into());
        let instance = match Instance::read(&file) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && flags.instance.is_none() =>
            {
                Instance::default()
            }
            other => other?,
        };
        let mut config = Self::from_cmdline(&cmdline, instance);
        if let Some(listen) = flags.listen {
            if matches!(listen, Listen::Unix(_)) {
                // Run by hand, on a machine that is no guest: nothing happens until somebody asks.
                config.host = Host::Expected { beacon_port: None };
            }
            config.listen = listen;
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
        let port = text.strip_prefix("vsock:").and_then(positive);
        port.map(Self::Vsock).ok_or_else(|| ConfigError::Value {
            name: "--listen",
            value: text.to_owned(),
            reason,
        })
    }
}

/// A number above 0.
fn positive(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
