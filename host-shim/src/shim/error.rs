//! What can go wrong behind the Task API, and the one place that turns it into a ttrpc status.

use seed_protocol::status;
use thiserror::Error;

use super::state_file::StateFileError;
use crate::{
    access::AccessError,
    agent::AgentError,
    apart::ApartError,
    cgroup::GroupError,
    logs::fifo::OutputError,
    management::ServeError,
    names::NameError,
    net::{HoldError, NamespaceError, NetError},
    rootfs::RootfsError,
    sandbox::{FreezeError, GrowError, StartError},
    share::ShareError,
    spec::{BundleError, SpecError},
    text::chain,
    tpm::StateDirError,
    vmm::VmmError,
};

/// Why a call failed.
#[derive(Debug, Error)]
pub enum TaskError {
    /// A name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The root file system.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The TPM's state.
    #[error(transparent)]
    Tpm(#[from] StateDirError),
    /// The pod's network.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The wires to it.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Files of the host that do not answer.
    #[error(transparent)]
    Apart(#[from] ApartError),
    /// What is shared beside the root.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The VMM.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The container's stdout.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The management socket.
    #[error(transparent)]
    Management(#[from] ServeError),
    /// The group's access.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A freeze, or its end.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// The control group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Another size.
    #[error(transparent)]
    Grow(#[from] GrowError),
    /// The guest's agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// What `start` wrote.
    #[error(transparent)]
    Started(#[from] StateFileError),
    /// A file of ours.
    #[error("{what} cannot be used")]
    File {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// What was asked cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// What the caller names does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// What the caller wants to make exists.
    #[error("{0} exists already")]
    Exists(String),
    /// Right request, wrong moment.
    #[error("{0}")]
    State(String),
    /// A method that we do not do.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

impl From<TaskError> for ttrpc::Error {
    fn from(error: TaskError) -> Self {
        let text = chain(&error);
        match error {
            TaskError::Name(_)
            | TaskError::Bundle(_)
            | TaskError::Spec(_)
            | TaskError::Output(_)
            | TaskError::Invalid(_) => status::invalid(text),
            TaskError::NotFound(_) => status::not_found(text),
            TaskError::Exists(_) => status::already_exists(text),
            TaskError::Tpm(StateDirError::InUse(_))
            | TaskError::Net(NetError::Hold(HoldError::Taken { .. }))
            | TaskError::State(_)
            | TaskError::Grow(
                GrowError::Shrinks { .. } | GrowError::NoRoom { .. } | GrowError::Gone,
            )
            | TaskError::Group(GroupError::NoTree | GroupError::NoCpuSet | GroupError::NoGroup)
            | TaskError::Freeze(FreezeError::Gone)
            | TaskError::Vmm(VmmError::Program(_) | VmmError::Unsupported { .. }) => {
                status::failed_precondition(text)
            }
            TaskError::Freeze(FreezeError::Silent(_))
            | TaskError::Apart(ApartError::Late { .. }) => status::deadline(text),
            TaskError::Unsupported(method) => status::unimplemented(method),
            // The guest's own refusal is the answer; its silence is ours to name.
            TaskError::Agent(error) => match error.code() {
                Some(code) => ttrpc::error::get_rpc_status(code, text),
                None => status::unavailable(text),
            },
            TaskError::Tpm(_)
            | TaskError::Apart(_)
            | TaskError::Group(_)
            | TaskError::Grow(_)
            | TaskError::Vmm(_)
            | TaskError::Rootfs(_)
            | TaskError::Namespace(_)
            | TaskError::Started(_)
            | TaskError::Net(_)
            | TaskError::Share(_)
            | TaskError::Management(_)
            | TaskError::Access(_)
            | TaskError::Start(_)
            | TaskError::File { .. } => status::internal(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use ttrpc::Code;

    use super::*;

    fn code(error: TaskError) -> Code {
        let error = ttrpc::Error::from(error);
        status::of(&error).unwrap().0
    }

    #[test]
    fn what_containerd_acts_on_is_told_apart() {
        assert_eq!(
            code(TaskError::NotFound("container a".into())),
            Code::NOT_FOUND
        );
        assert_eq!(
            code(TaskError::Exists("container a".into())),
            Code::ALREADY_EXISTS
        );
        assert_eq!(
            code(TaskError::Unsupported("Checkpoint")),
            Code::UNIMPLEMENTED
        );
        let in_use = StateDirError::InUse("/var/lib/seed/tpm/default/a".into());
        assert_eq!(code(TaskError::Tpm(in_use)), Code::FAILED_PRECONDITION);
        assert_eq!(
            code(TaskError::Start(StartError::Failed("x".into()))),
            Code::INTERNAL
        );
    }
}
