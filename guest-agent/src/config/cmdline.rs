//! The kernel's command line: what our host and a Kata shim say on it.
//!
//! `seed.beacon_port` is ours; `agent.log`, `agent.server_addr` and any other `agent.*` come from a Kata shim
//! (its `src/agent/src/config.rs`). What is not known is left alone.

use std::time::Duration;

use seed_protocol::ports;

use crate::sys::descriptors::Keeper;

use super::{Config, Host, Instance, Listen, Paths, positive};

/// Kata's limit for a device that was just attached.
const HOTPLUG_LIMIT: Duration = Duration::from_secs(3);

/// Network drivers are loaded by udev, which starts beside the agent. A Kata shim waits for up to a minute.
const LINK_LIMIT: Duration = Duration::from_secs(15);

/// The longest limit that a host may ask for.
const MAX_HOTPLUG_SECONDS: u32 = 600;

/// How much of a value is told.
const MAX_VALUE_CHARS: usize = 64;

impl Config {
    /// The configuration that this kernel command line and this instance file make. A value that cannot be meant
    /// changes nothing and becomes one of [`Config::mistakes`]: no word of the host's keeps a guest from booting.
    pub fn from_cmdline(cmdline: &str, instance: Instance) -> Self {
        let mut config = Self {
            listen: Listen::Vsock(ports::AGENT),
            host: Host::Absent,
            debug: false,
            hotplug_limit: HOTPLUG_LIMIT,
            link_limit: LINK_LIMIT,
            log_port: None,
            ignored: Vec::new(),
            mistakes: Vec::new(),
            keeper: Keeper::Systemd,
            drop_privileges: true,
            instance,
            paths: Paths::default(),
        };
        let mut beacon_port = None;
        let mut expected = false;
        for word in cmdline.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            expected |= key.starts_with("agent.") || key == ports::BEACON_PARAMETER;
            let port = "a port number is wanted";
            let taken = match key {
                ports::BEACON_PARAMETER => positive(value)
                    .map(|number| beacon_port = Some(number))
                    .ok_or(port),
                "agent.log" => {
                    config.debug = matches!(value, "debug" | "trace");
                    Ok(())
                }
                "agent.server_addr" => server_address(value)
                    .map(|listen| config.listen = listen)
                    .ok_or("vsock://-1:PORT is wanted"),
                // Kata's word for "no such port".
                "agent.log_vport" if value == "0" => {
                    config.log_port = None;
                    Ok(())
                }
                "agent.log_vport" => positive(value)
                    .map(|number| config.log_port = Some(number))
                    .ok_or(port),
                "agent.hotplug_timeout" => positive(value)
                    .map(|seconds| {
                        let seconds = seconds.min(MAX_HOTPLUG_SECONDS);
                        config.hotplug_limit = Duration::from_secs(seconds.into());
                    })
                    .ok_or("a number of seconds is wanted"),
                // The value may be anything, a secret too; the name says enough.
                _ if key.starts_with("agent.") => {
                    config.ignored.push(key.to_owned());
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(wanted) = taken {
                let value: String = value.chars().take(MAX_VALUE_CHARS).collect();
                let sentence = format!("{key} cannot be {value:?}: {wanted}");
                config.mistakes.push(sentence);
            }
        }
        if expected {
            config.host = Host::Expected { beacon_port };
        }
        config
    }
}

/// Kata's spelling: `vsock://-1:1024` or `vsock://CID:PORT`; the context id is always our own.
fn server_address(text: &str) -> Option<Listen> {
    let (_cid, port) = text.strip_prefix("vsock://")?.split_once(':')?;
    positive(port).map(Listen::Vsock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_host_is_known_by_its_beacon_port_and_a_kata_shim_by_its_parameters() {
        let host = |cmdline| Config::from_cmdline(cmdline, Instance::default()).host;
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
        );
        assert!(config.debug);
        assert_eq!(config.log_port, Some(1025));
        assert_eq!(config.hotplug_limit, Duration::from_secs(7));
        // By name alone: a value may be a secret.
        assert_eq!(config.ignored, ["agent.https_proxy", "agent.devmode"]);
        assert_eq!(parse("agent.log_vport=0").log_port, None);
        assert!(config.mistakes.is_empty());
    }

    #[test]
    fn a_kata_server_address_moves_the_port() {
        let config = Config::from_cmdline("agent.server_addr=vsock://-1:2048", Instance::default());
        assert_eq!(config.listen, Listen::Vsock(2048));
    }

    #[test]
    fn a_value_that_cannot_be_meant_is_told_and_changes_nothing() {
        let plain = Config::from_cmdline("agent.log=info", Instance::default());
        for (parameter, sentence) in [
            (
                "agent.server_addr=tcp://x",
                "agent.server_addr cannot be \"tcp://x\": vsock://-1:PORT is wanted",
            ),
            (
                "agent.server_addr=vsock://-1:0",
                "agent.server_addr cannot be \"vsock://-1:0\": vsock://-1:PORT is wanted",
            ),
            (
                "agent.log_vport=x",
                "agent.log_vport cannot be \"x\": a port number is wanted",
            ),
            (
                "agent.log_vport=4294967296",
                "agent.log_vport cannot be \"4294967296\": a port number is wanted",
            ),
            (
                "agent.hotplug_timeout=0",
                "agent.hotplug_timeout cannot be \"0\": a number of seconds is wanted",
            ),
            (
                "seed.beacon_port=soon",
                "seed.beacon_port cannot be \"soon\": a port number is wanted",
            ),
        ] {
            let config = Config::from_cmdline(parameter, Instance::default());
            assert_eq!(config.mistakes, [sentence]);
            // Somebody outside is going to call all the same.
            assert_eq!(config.host, plain.host);
            assert_eq!(
                (config.listen, config.log_port, config.hotplug_limit),
                (plain.listen.clone(), plain.log_port, plain.hotplug_limit)
            );
        }
    }
}
