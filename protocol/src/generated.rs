//! The code that `build.rs` generates from `proto/`, and nothing else. Use it through
//! [`kata`](crate::kata) and [`seed`](crate::seed).

#![allow(
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated: the comments are in the .proto files, the style is the generator's"
)]

include!(concat!(env!("OUT_DIR"), "/generated/mod.rs"));

/// Where the generated services look for `google.protobuf.Empty`.
pub mod empty {
    pub use protobuf::well_known_types::empty::*;
}
