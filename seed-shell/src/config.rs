//! The configuration: one TOML file, every key optional, unknown keys refused.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use seed_shim::config::{ConfigError, file};
use serde::Deserialize;

/// Where the configuration is looked for when nothing else says so.
pub const DEFAULT_FILE: &str = "/etc/seed/shell.toml";

/// More of anything than this is a typing error.
const MAX_COUNT: usize = 100_000;

/// The longest time that can be asked for: a week.
const MAX_SECONDS: u64 = 7 * 86_400;

/// How much one may have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address: an IPv4 address, or the /64 of an IPv6 one.
    pub connections_per_address: usize,
    /// Connections in all that have not authenticated yet.
    pub half_open: usize,
    /// The same from one address.
    pub half_open_per_address: usize,
    /// New connections in a minute from one address; so many may come at once.
    pub new_per_minute: u32,
    /// Channels at once on one connection.
    pub channels: usize,
    /// How long authentication may take.
    pub login_seconds: u64,
    /// How long a connection without a channel, a dashboard without a key press, and a client that reads nothing of
    /// what is sent are kept.
    pub idle_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            connections_per_address: 64,
            half_open: 256,
            half_open_per_address: 16,
            new_per_minute: 120,
            channels: 8,
            login_seconds: 20,
            idle_seconds: 3600,
        }
    }
}

impl Limits {
    /// [`Limits::login_seconds`].
    pub fn login(&self) -> Duration {
        Duration::from_secs(self.login_seconds)
    }

    /// [`Limits::idle_seconds`].
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds)
    }
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// The host key and the registry.
    pub state_dir: PathBuf,
    /// The shim's configuration, where it is not the default one: it says where instances are.
    pub shim_config: Option<PathBuf>,
    /// Whether owners may run commands in their instances.
    pub exec: bool,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Limits.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0u16; 8], 22))],
            state_dir: "/var/lib/seed-shell".into(),
            shim_config: None,
            exec: false,
            log_level: "info".into(),
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Loads the file that is named, or the default one where it exists.
    pub fn load(chosen: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        match chosen {
            None if matches!(default.try_exists(), Ok(false)) => Ok(Self::default()),
            _ => {
                let path = chosen.unwrap_or(default);
                Self::parse(&file::read(path)?, path)
            }
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = file::parse(text, path)?;
        config.check(path)?;
        Ok(config)
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        let wrong = |key, problem: String| {
            Err(ConfigError::Value {
                path: path.into(),
                key,
                problem,
            })
        };
        if self.listen.is_empty() {
            return wrong("listen", "names no address".into());
        }
        if !self.state_dir.is_absolute() {
            return wrong("state_dir", "must be absolute".into());
        }
        if self.log_level.parse::<tracing::Level>().is_err() {
            return wrong("log_level", format!("{:?} is unknown", self.log_level));
        }
        let limits = &self.limits;
        let counts = [
            ("limits.connections", limits.connections),
            (
                "limits.connections_per_address",
                limits.connections_per_address,
            ),
            ("limits.half_open", limits.half_open),
            ("limits.half_open_per_address", limits.half_open_per_address),
            (
                "limits.new_per_minute",
                usize::try_from(limits.new_per_minute).unwrap_or(usize::MAX),
            ),
            ("limits.channels", limits.channels),
        ];
        for (key, count) in counts {
            if !(1..=MAX_COUNT).contains(&count) {
                return wrong(key, format!("must be from 1 to {MAX_COUNT}"));
            }
        }
        let times = [
            ("limits.login_seconds", limits.login_seconds),
            ("limits.idle_seconds", limits.idle_seconds),
        ];
        for (key, seconds) in times {
            if !(1..=MAX_SECONDS).contains(&seconds) {
                return wrong(key, format!("must be from 1 to {MAX_SECONDS}"));
            }
        }
        Ok(())
    }

    /// The registry.
    pub fn registry(&self) -> PathBuf {
        self.state_dir.join("registry.db")
    }

    /// The host's private key.
    pub fn host_key(&self) -> PathBuf {
        self.state_dir.join("host_ed25519_key")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new(DEFAULT_FILE))
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_exec_is_off() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        assert!(!config.exec);
    }

    #[test]
    fn the_readme_has_every_key_with_its_default() {
        let readme = include_str!("../README.md");
        let (_, rest) = readme.split_once("```toml shell\n").unwrap();
        let (block, _) = rest.split_once("```").unwrap();
        let told: toml::Value = toml::from_str(block).unwrap();
        assert_eq!(told, toml::Value::try_from(Config::default()).unwrap());
        assert!(
            block.contains("\n#shim_config ="),
            "a key without a default is told, too"
        );
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_refused_with_their_name() {
        for (text, said) in [
            ("\nlistn = []", "line 2: unknown field `listn`"),
            ("listen = []", "listen"),
            ("listen = ['localhost']", "socket address"),
            ("state_dir = 'x'", "state_dir"),
            ("[limits]\nchannels = 0", "limits.channels"),
            ("[limits]\nlogin_seconds = 0", "limits.login_seconds"),
            ("log_level = 'loud'", "log_level"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
