//! The network of a pod: its namespace, which the shim enters.

mod namespace;

pub use namespace::{NamespaceError, enter};
