//! The command line that containerd calls: Go's flags, so one dash or two, and `-name value` or
//! `-name=value`.

use std::{ffi::OsString, path::PathBuf};

use thiserror::Error;

use crate::names::{ContainerId, NameError, Namespace};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `-v`.
    Version,
    /// `-info`.
    Info,
    /// `-check-config FILE`: whether the shim would take it.
    CheckConfig(PathBuf),
    /// `start`: make a server and print its address.
    Start(Target),
    /// `delete`: remove what a dead server left.
    Delete(Target),
    /// Our own: be the server.
    Serve(Target),
    /// Our own: be the vsock device of the machine whose folder this is.
    Vsock,
}

/// For whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The containerd namespace.
    pub namespace: Namespace,
    /// The container.
    pub id: ContainerId,
    /// containerd's own address; empty without containerd.
    pub address: String,
    /// The bundle, if it is not the working directory.
    pub bundle: Option<PathBuf>,
    /// More log.
    pub debug: bool,
}

/// Why a command line is not understood.
#[derive(Debug, Error)]
pub enum CliError {
    /// A flag.
    #[error("unknown flag {0}")]
    Flag(String),
    /// A flag without its value.
    #[error("flag -{0} needs a value")]
    Value(String),
    /// Not the one command.
    #[error("one command is needed: start, delete, or the flags -v, -info or -check-config")]
    Command,
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not text.
    #[error("argument {0:?} is not UTF-8")]
    Encoding(OsString),
}

/// Parses the arguments behind the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, CliError> {
    let (mut namespace, mut id) = (String::new(), String::new());
    let (mut address, mut bundle, mut debug) = (String::new(), None, false);
    let mut command = None;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.into_string().map_err(CliError::Encoding)?;
        let Some(flag) = text
            .strip_prefix('-')
            .map(|f| f.strip_prefix('-').unwrap_or(f))
        else {
            if command.replace(text).is_some() {
                return Err(CliError::Command);
            }
            continue;
        };
        let (name, mut given) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || match given.take().map(OsString::from).or_else(|| args.next()) {
            Some(value) => value.into_string().map_err(CliError::Encoding),
            None => Err(CliError::Value(name.to_owned())),
        };
        match name {
            "namespace" => namespace = value()?,
            "id" => id = value()?,
            "address" => address = value()?,
            "bundle" => bundle = Some(PathBuf::from(value()?)),
            // Older containerds publish events through this program; we use TTRPC_ADDRESS.
            "publish-binary" | "socket" => drop(value()?),
            "debug" => debug = true,
            "v" | "version" => return Ok(Command::Version),
            "info" => return Ok(Command::Info),
            "check-config" => return Ok(Command::CheckConfig(PathBuf::from(value()?))),
            _ => return Err(CliError::Flag(text)),
        }
    }
    let target = || -> Result<Target, CliError> {
        Ok(Target {
            namespace: Namespace::try_from(namespace.as_str())?,
            id: ContainerId::try_from(id.as_str())?,
            address,
            bundle,
            debug,
        })
    };
    match command.as_deref() {
        Some("start") => Ok(Command::Start(target()?)),
        Some("delete") => Ok(Command::Delete(target()?)),
        Some("serve") => Ok(Command::Serve(target()?)),
        Some("vsock") => Ok(Command::Vsock),
        _ => Err(CliError::Command),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, CliError> {
        parse(
            line.split(' ')
                .map(|word| if word == "''" { "".into() } else { word.into() }),
        )
    }

    #[test]
    fn containerds_own_command_lines_are_understood() {
        let line = "-namespace k8s.io -address /run/containerd/containerd.sock \
                    -publish-binary /usr/bin/containerd -id abc -debug start";
        let Ok(Command::Start(target)) = parsed(line) else {
            panic!("not a start")
        };
        assert_eq!(target.address, "/run/containerd/containerd.sock");
        assert!(target.debug && target.id.as_str() == "abc");
        let line = "-namespace default -address '' -publish-binary '' -id a -bundle /b delete";
        let Ok(Command::Delete(target)) = parsed(line) else {
            panic!("not a delete")
        };
        assert_eq!(target.bundle, Some(PathBuf::from("/b")));
        assert_eq!(parsed("-v").unwrap(), Command::Version);
        assert_eq!(parsed("--info").unwrap(), Command::Info);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "start",
            "-namespace a -id b",
            "-namespace a -id b start delete",
            "-namespace a -id ../b start",
            "-namespace a -id",
            "-frobnicate",
        ] {
            assert!(parsed(line).is_err(), "{line:?} was taken");
        }
    }
}
