//! Settings of the guest's kernel that an engine asks for: `linux.sysctl` of a bundle, and of a pod those of its sandbox. The
//! guest's kernel takes them from its command line before any program runs (Linux 5.8, `sysctl.*` in
//! Documentation/admin-guide/kernel-parameters.txt). What the closure sets by sysctl.d(5) comes later, and so has the last word.
//!
//! What the guest's kernel does not know it says on its console; nothing here knows its settings.

use std::collections::BTreeMap;

use thiserror::Error;

/// Why a setting cannot be passed on.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SysctlError {
    /// It would be another word of the command line, or none.
    #[error(
        "sysctl {0:?} has a name that a kernel's command line cannot hold: write it as net.ipv4.tcp_syncookies"
    )]
    Name(String),
    /// The same of its value.
    #[error("sysctl {name}: a kernel's command line cannot hold the value {value:?}")]
    Value {
        /// Its name.
        name: String,
        /// The value.
        value: String,
    },
}

/// The words of the command line.
pub(super) fn parameters(all: &BTreeMap<String, String>) -> Result<Vec<String>, SysctlError> {
    all.iter().map(|(name, value)| word(name, value)).collect()
}

fn word(name: &str, value: &str) -> Result<String, SysctlError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(plain) {
        return Err(SysctlError::Name(name.to_owned()));
    }
    // Several numbers are separated by tabs where they were read from a kernel.
    let parts: Vec<&str> = value.split_whitespace().collect();
    let fits = |part: &&str| part.chars().all(|c| plain(c) || ",:".contains(c));
    if parts.is_empty() || !parts.iter().all(fits) {
        return Err(SysctlError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    let quote = if parts.len() > 1 { "\"" } else { "" };
    Ok(format!("sysctl.{name}={quote}{}{quote}", parts.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_ask_for_fits_a_command_line() {
        for (name, value, wanted) in [
            (
                "net.ipv4.ip_unprivileged_port_start",
                "0",
                "sysctl.net.ipv4.ip_unprivileged_port_start=0",
            ),
            (
                "net.ipv4.ping_group_range",
                "0 2147483647",
                "sysctl.net.ipv4.ping_group_range=\"0 2147483647\"",
            ),
            (
                "net/ipv4/tcp_rmem",
                "4096\t131072\t6291456\n",
                "sysctl.net/ipv4/tcp_rmem=\"4096 131072 6291456\"",
            ),
            ("vm.x", "-1", "sysctl.vm.x=-1"),
        ] {
            assert_eq!(word(name, value).as_deref(), Ok(wanted));
        }
    }

    #[test]
    fn what_would_be_another_parameter_is_refused_by_name() {
        for (name, value) in [
            ("kernel.x init", "1"),
            ("", "1"),
            (".x", "1"),
            ("kernel.x=1", "1"),
            ("kernel.core_pattern", "|/bin/sh"),
            ("kernel.x", "1\" init=\"/bin/sh"),
            ("kernel.x", "a init=/bin/sh"),
            ("kernel.x", " "),
            ("kernel.x", "\u{7}"),
        ] {
            let error = word(name, value).unwrap_err().to_string();
            let named = error.contains(&format!("{name:?}")) || error.contains(name);
            assert!(named && error.starts_with("sysctl "), "{error}");
        }
    }
}
