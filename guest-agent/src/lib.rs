//! The agent inside every Seed guest. The host drives it over one vsock port, in Kata's dialect and in
//! `seed.v1`; the guest needs nothing else to have its environment, volumes, identity, units and logs.
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | flags, kernel command line and `/etc/seed/instance.json` |
//! | [`agent`] | the parts, started in the order below and stopped in reverse |
//! | [`status`] | how far the boot has come, and what went wrong on the way |
//! | [`server`] | the listener, the adapters of both dialects, the one error mapping |
//! | [`sandbox`] | what the host has asked for so far: a pure state machine |
//! | [`env`](mod@env) | `/run/seed/env` |
//! | [`network`] | links, addresses, routes and neighbours |
//! | [`storage`] | volumes: find, make, check, mount, own |
//! | [`copy`] | files that the host copies in, held below one folder |
//! | [`stats`] | what the instance uses, and metrics |
//! | [`oom`], [`freeze`] | kills for lack of memory; pause and resume |
//! | [`identity`] | the age identity that the TPM holds |
//! | [`systemd`] | units, readiness and power over D-Bus |
//! | [`exec`] | processes that the host starts in the guest |
//! | [`console`] | the journal as the container's output, and the log port |
//! | [`ports`](mod@ports) | the host's connections to ports of the guest's loopback |
//! | [`journal`] | batches of journal entries for the host |
//! | [`logging`] | the agent's own lines, on their way to journald |
//! | [`beacon`] | tells the host that the agent listens |
//! | [`sys`] | system calls and `/proc` and `/sys` files |
//!
//! Start: configuration, status board, journal thread, systemd follower, server, beacon. The boot waits
//! (`Type=notify`) until the host has said `StartContainer`, or until it is clear that there is no host.

// Denied and not forbidden: `sys::random` and `sys::descriptors` need it, and say why.
#![deny(unsafe_code)]

pub mod agent;
pub mod beacon;
pub mod config;
pub mod console;
pub mod copy;
pub mod env;
pub mod exec;
pub mod freeze;
pub mod identity;
pub mod journal;
pub mod logging;
pub mod network;
pub mod oom;
pub mod ports;
pub mod sandbox;
pub mod server;
pub mod stats;
pub mod status;
pub mod storage;
pub mod sys;
pub mod systemd;
