//! Our own messages and services, re-exported from the generated code. Their reference manual is the
//! comments of `proto/seed/v1.proto` and `proto/seed/management_v1.proto`.
//!
//! A server implements [`v1_ttrpc::Guest`] or [`management_ttrpc::Management`] and registers the map
//! that the `create_*` function of the same module returns; a caller makes a
//! [`v1_ttrpc::GuestClient`] or a [`management_ttrpc::ManagementClient`].

pub use crate::generated::{
    management_v1 as management, management_v1_ttrpc as management_ttrpc, v1, v1_ttrpc,
};
