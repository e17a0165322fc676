//! The instance's environment: its bounds, which host and guest check alike, and the names that every
//! instance finds in it whoever starts it.
//!
//! | variable | value | who says it |
//! |---|---|---|
//! | [`INSTANCE`] | the instance's name | the caller; else the shim, for `seed run`; else the closure's `seed.name`; else the container's id |
//! | [`NAMESPACE`] | its namespace | the caller; else the shim: the pod's namespace in Kubernetes, containerd's elsewhere |
//! | [`NODE_IP`] | the address of its host | the caller; else the shim, where the host has a default route |
//! | `SEED_FQDN`, `SEED_ACME_URL`, `SEED_EST_URL`, `SEED_SHOOT_URL` | names and addresses of a platform's services | the platform, as environment of the container |

/// The most bytes that all names and values may have together.
pub const MAX_TOTAL_BYTES: usize = 1024 * 1024;

/// The longest `NAME=value` that `execve(2)` passes on: `MAX_ARG_STRLEN` of `linux/binfmts.h`, less the
/// terminating zero. One that is longer would keep every service with this file from starting.
pub const MAX_ASSIGNMENT_BYTES: usize = 128 * 1024 - 1;

/// The instance's name.
pub const INSTANCE: &str = "SEED_INSTANCE";

/// The instance's namespace.
pub const NAMESPACE: &str = "SEED_NAMESPACE";

/// The address of the host that the instance runs on.
pub const NODE_IP: &str = "SEED_NODE_IP";
