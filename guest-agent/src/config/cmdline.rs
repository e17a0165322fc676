//! The kernel's command line: what our host and a Kata shim say on it.
//!
//! `seed.beacon_port` is ours; `agent.log`, `agent.server_addr` and any other `agent.*` come from a Kata shim
//! (its `src/agent/src/config.rs`). What is not known is left alone.

use std::time::Duration;

use seed_protocol::ports;

use crate::sys::descriptors::Keeper;

use super::{Config, ConfigError, Host, Instance, Listen, Paths, number};

/// Kata's limit for a device that was just attached.
const HOTPLUG_LIMIT: Duration = Duration::from_secs(3);

/// Network drivers are loaded by udev, which starts beside the agent. A Kata shim waits for up to a minute.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// The longest limit that a host may ask for.
const MAX_HOTPLUG_SECONDS: u32 = 600;

impl Config {
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
            keeper: Keeper::Systemd,
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

/// Kata's spelling: `vsock://-1:1024` or `vsock://CID:PORT`; the context id is always our own.
fn server_address(text: &str) -> Option<Listen> {
    let (_cid, port) = text.strip_prefix("vsock://")?.split_once(':')?;
    port.parse().ok().map(Listen::Vsock)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
