//! The messages that `build.rs` generates from `proto/`, and nothing else.

#![allow(
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    unused,
    nonstandard_style,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated: the comments are in the .proto files, the style is the generator's"
)]

/// CRI's.
pub mod cri {
    include!(concat!(env!("OUT_DIR"), "/cri.rs"));
}

/// Those of containerd's own service for tasks.
pub mod tasks {
    include!(concat!(env!("OUT_DIR"), "/tasks.rs"));
}
