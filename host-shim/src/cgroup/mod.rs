//! The control group of a pod: where the programs of its machine run, so that the limits, the accounts and the eviction
//! of who made the pod hold for them (Kata Containers' `sandbox_cgroup_only` is the model).
//!
//! The group is the one that `linux.cgroupsPath` of the sandbox names, or of the container where there is no pod. It is
//! made before a machine's first program, each program begins in it, and it is gone when the last has ended. The
//! shim itself stays where its engine has put it: who ends a pod kills what is left in its group, and the shim has to tell of
//! that end.
//!
//! No limits are written: they are the pod's, on the group above, which whoever made it has limited. Those of a container are
//! the size of its machine. What is written are the processors that the container may use, for nobody else would.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux; the OCI runtime specification's
//! `config-linux.md`, "Control groups".

mod group;
mod name;
mod tree;

pub use group::{Group, GroupError};
pub use name::{CpuSet, GroupName, NameError};
pub use tree::Tree;

pub(crate) use group::{forget, restrict};

/// Where the programs of a machine run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The group.
    pub name: GroupName,
    /// The processors and memory nodes of the host that they may use.
    pub cpuset: CpuSet,
}
