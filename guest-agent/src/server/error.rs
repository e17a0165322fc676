//! The one mapping from what can go wrong to the status that the host sees. Every adapter of both
//! dialects returns [`RequestError`]; there is no arm for "the rest".

use std::io;

use seed_protocol::status;
use thiserror::Error;
use ttrpc::{Code, error::get_rpc_status};

use crate::{
    agent::sentence,
    copy::CopyError,
    env::EnvError,
    exec::ExecError,
    identity::IdentityError,
    journal::JournalError,
    network::NetworkError,
    ports::PortError,
    sandbox::{ProvisionError, SandboxError},
    storage::{SpecError, device::DeviceError, online::OnlineError, share::ShareError},
    sys::modules::ModuleError,
    systemd::SystemdError,
};

/// The longest message that the host gets.
const MAX_MESSAGE_CHARS: usize = 1000;

/// Why a request was not fulfilled.
#[derive(Debug, Error)]
pub enum RequestError {
    /// A field of the request cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// The request is right and does not fit what there is now.
    #[error("{0}")]
    State(String),
    /// What the request names is not there.
    #[error("{0}")]
    Missing(String),
    /// Our own failure, and what we were about to do.
    #[error("{what}")]
    Internal {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The request does not fit the state of the sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A storage entry that cannot be meant.
    #[error(transparent)]
    Storage(#[from] SpecError),
    /// A process that the host started.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file that the host copies.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Storage that is no disk.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// A volume in use.
    #[error(transparent)]
    Online(#[from] OnlineError),
    /// Links, routes and neighbours.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A connection to a port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Units and power.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A disk at a path of its own.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel module.
    #[error(transparent)]
    Module(#[from] ModuleError),
}

impl From<ProvisionError> for RequestError {
    fn from(error: ProvisionError) -> Self {
        match error {
            ProvisionError::Env(error) => error.into(),
            ProvisionError::Mount(error) => error.into(),
            ProvisionError::Device(error) => error.into(),
            ProvisionError::Thread(source) => Self::internal("mounting", source),
        }
    }
}

impl RequestError {
    /// Our own failure.
    pub fn internal(what: &'static str, source: io::Error) -> Self {
        Self::Internal { what, source }
    }
}

impl From<RequestError> for ttrpc::Error {
    fn from(error: RequestError) -> Self {
        // The causes travel with it: they are sentences, never backtraces.
        let message = bounded(sentence(&error));
        match error {
            RequestError::Invalid(_) => status::invalid(message),
            RequestError::Missing(_) => status::not_found(message),
            RequestError::State(_) => status::failed_precondition(message),
            RequestError::Internal { .. } => status::internal(message),
            RequestError::Sandbox(error) => sandbox(&error, message),
            RequestError::Env(error) => env(&error, message),
            RequestError::Storage(error) => storage(&error, message),
            RequestError::Exec(error) => exec(&error, message),
            RequestError::Identity(error) => identity(&error, message),
            RequestError::Journal(error) => journal(&error, message),
            RequestError::Copy(error) => copy(&error, message),
            RequestError::Share(error) => share(&error, message),
            RequestError::Online(error) => online(&error, message),
            RequestError::Network(error) => network(&error, message),
            RequestError::Port(error) => port(&error, message),
            RequestError::Systemd(error) => systemd(&error, message),
            RequestError::Device(DeviceError::Missing { .. }) => status::unavailable(message),
            RequestError::Device(DeviceError::Link { .. } | DeviceError::Owner { .. }) => {
                status::failed_precondition(message)
            }
            RequestError::Module(error) => module(&error, message),
        }
    }
}

/// A refusal may repeat what came, and what came may be megabytes.
fn bounded(message: String) -> String {
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}...", &message[..end]),
        None => message,
    }
}

fn sandbox(error: &SandboxError, message: String) -> ttrpc::Error {
    match error {
        // To a Kata shim NOT_FOUND means that a process has ended, and a signal for it has done its work.
        SandboxError::Id(_) | SandboxError::NoContainer(_) => status::invalid(message),
        SandboxError::Exists(_) => status::already_exists(message),
        SandboxError::Second { .. }
        | SandboxError::StillProvisioning
        | SandboxError::SandboxInUse
        | SandboxError::Alone
        | SandboxError::OutOfOrder => status::failed_precondition(message),
        SandboxError::Interrupted => status::internal(message),
    }
}

fn env(error: &EnvError, message: String) -> ttrpc::Error {
    match error {
        EnvError::NoAssignment { .. }
        | EnvError::Name { .. }
        | EnvError::Nul { .. }
        | EnvError::TooLong { .. }
        | EnvError::TooMuch { .. } => status::invalid(message),
        EnvError::Write { .. } => status::internal(message),
    }
}

fn storage(error: &SpecError, message: String) -> ttrpc::Error {
    match error {
        SpecError::Driver(_) | SpecError::Filesystem(_) | SpecError::MountKind { .. } => {
            get_rpc_status(Code::UNIMPLEMENTED, message)
        }
        SpecError::Name(_)
        | SpecError::MountPoint { .. }
        | SpecError::Destination { .. }
        | SpecError::Mode(_)
        | SpecError::Option(_)
        | SpecError::NoDevice(_)
        | SpecError::TooMany(_)
        | SpecError::Twice(_) => status::invalid(message),
    }
}

fn exec(error: &ExecError, message: String) -> ttrpc::Error {
    match error {
        ExecError::Invalid { .. } => status::invalid(message),
        // Where container tools look for "the command does not exist".
        ExecError::CommandNotFound(_) | ExecError::NoSuchFile(_) | ExecError::NotExecutable(_) => {
            status::invalid(message)
        }
        ExecError::Exists(_) => status::already_exists(message),
        ExecError::NotFound(_) => status::not_found(message),
        ExecError::Ended(_) | ExecError::InputClosed(_) | ExecError::NoTerminal(_) => {
            status::failed_precondition(message)
        }
        ExecError::TooMany | ExecError::Unread => status::exhausted(message),
        ExecError::TooLong { .. } => status::deadline(message),
        ExecError::TooMuch { .. } => status::exhausted(message),
        ExecError::Systemd(error) => systemd(error, message),
        ExecError::Stream { .. } => status::internal(message),
    }
}

fn identity(error: &IdentityError, message: String) -> ttrpc::Error {
    match error {
        IdentityError::NotYet => status::unavailable(message),
        IdentityError::NoDevice(_) | IdentityError::Failed(_) => {
            status::failed_precondition(message)
        }
    }
}

fn journal(error: &JournalError, message: String) -> ttrpc::Error {
    match error {
        JournalError::Busy => status::exhausted(message),
        JournalError::OutOfTurn => status::failed_precondition(message),
        JournalError::MachineId(_)
        | JournalError::Read(_)
        | JournalError::Journalctl(_)
        | JournalError::Gone => status::internal(message),
    }
}

fn copy(error: &CopyError, message: String) -> ttrpc::Error {
    match error {
        CopyError::Outside { .. }
        | CopyError::Escapes(_)
        | CopyError::Piece(_)
        | CopyError::Kind(_) => status::invalid(message),
        CopyError::TooEarly { .. } => status::failed_precondition(message),
        CopyError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            status::exhausted(message)
        }
        CopyError::Io { .. } => status::internal(message),
    }
}

fn share(error: &ShareError, message: String) -> ttrpc::Error {
    match error {
        ShareError::Mount { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            status::not_found(message)
        }
        ShareError::Mount { .. } => status::internal(message),
        ShareError::Source { .. } | ShareError::Elsewhere { .. } => status::invalid(message),
    }
}

fn online(error: &OnlineError, message: String) -> ttrpc::Error {
    match error {
        OnlineError::Path(_) => status::invalid(message),
        OnlineError::NotMounted(_) => status::not_found(message),
        OnlineError::DeviceTooSmall { .. } | OnlineError::Kind { .. } => {
            status::failed_precondition(message)
        }
        OnlineError::Look { .. } | OnlineError::Command { .. } | OnlineError::Failed { .. } => {
            status::internal(message)
        }
    }
}

fn network(error: &NetworkError, message: String) -> ttrpc::Error {
    match error {
        NetworkError::Value { .. } | NetworkError::TooMany(_) => status::invalid(message),
        NetworkError::NoLink(_) | NetworkError::NoDevice(_) => status::not_found(message),
        // The kernel's words for "this cannot be meant": a gateway that no route leads to, for one.
        NetworkError::Kernel { source, .. }
            if matches!(
                source.kind(),
                io::ErrorKind::InvalidInput
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::HostUnreachable
            ) =>
        {
            status::failed_precondition(message)
        }
        NetworkError::Kernel { .. } | NetworkError::Open(_) => status::internal(message),
    }
}

fn port(error: &PortError, message: String) -> ttrpc::Error {
    match error {
        PortError::Number(_) => status::invalid(message),
        PortError::NotFound(_) => status::not_found(message),
        PortError::Closed { .. } | PortError::Broken { .. } => status::failed_precondition(message),
        PortError::TooMany => status::exhausted(message),
    }
}

fn module(error: &ModuleError, message: String) -> ttrpc::Error {
    match error {
        ModuleError::Name(_) | ModuleError::TooMany(_) => status::invalid(message),
        ModuleError::TooLate { .. } => status::deadline(message),
        ModuleError::Program { .. } | ModuleError::Refused { .. } => {
            status::failed_precondition(message)
        }
    }
}

fn systemd(error: &SystemdError, message: String) -> ttrpc::Error {
    match error {
        SystemdError::NotYet | SystemdError::Lost(_) => status::unavailable(message),
        SystemdError::BadName { .. } => status::invalid(message),
        SystemdError::NoSuchUnit(_) | SystemdError::NoProcess(_) => status::not_found(message),
        SystemdError::Refused { .. } | SystemdError::NotStarted { .. } => {
            status::failed_precondition(message)
        }
        SystemdError::TimedOut { .. } => status::deadline(message),
        SystemdError::Bus { .. } | SystemdError::PowerOff(_) => status::internal(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: impl Into<RequestError>) -> (Code, String) {
        let error = ttrpc::Error::from(error.into());
        let (code, message) = status::of(&error).unwrap();
        (code, message.to_owned())
    }

    #[test]
    fn a_callers_mistake_a_missing_thing_and_our_own_failure_are_told_apart() {
        let (code, message) = told(EnvError::Name {
            name: "1A".to_owned(),
        });
        assert_eq!(code, Code::INVALID_ARGUMENT);
        assert!(message.contains("\"1A\""), "{message}");
        assert_eq!(told(SystemdError::NotYet).0, Code::UNAVAILABLE);
        assert_eq!(told(ExecError::NotFound("x".to_owned())).0, Code::NOT_FOUND);
    }

    #[test]
    fn causes_travel_in_one_line() {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let error = EnvError::Write {
            path: "/run/seed/env".into(),
            source,
        };
        let (code, message) = told(error);
        assert_eq!(code, Code::INTERNAL);
        assert_eq!(message, "/run/seed/env cannot be written: no storage space");
    }
}
