//! A pod, as a CRI engine makes it: one shim for its sandbox and for the container in it. The sandbox is a name
//! and a network namespace, nothing that runs ([`pause`]); the container is a machine, as without a pod.
//!
//! The engine asks for the sandbox in one of two ways: as a pause container over the Task API ([`service`], which passes
//! on what is about the machine), or over the Sandbox API ([`sandbox`]; containerd 2 with `sandboxer = "shim"`).
//! Whoever connects to the loopback of its network is connected to the guest's ([`forward`]).

mod config;
mod forward;
pub mod pause;
mod sandbox;
pub mod service;
