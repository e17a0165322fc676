//! A pod, as a CRI engine makes it: one shim for its sandbox and for the container in it. The sandbox is a name
//! and a network namespace, nothing that runs ([`pause`]); the container is a machine, as without a pod.
//! [`service`] answers for the sandbox and passes all else on.

pub mod pause;
pub mod service;
