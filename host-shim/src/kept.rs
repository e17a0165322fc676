//! Under which name an instance keeps what stays: a pod's container runs under its id, and keeps TPM state, volumes and
//! logs under its pod's name. Its run folder says so, for who knows the id alone.

use std::fs;

use crate::{names::ContainerId, paths::InstancePaths};

/// The paths of an instance that is known by its id. Only a name is taken for one.
pub(crate) fn paths(of_id: InstancePaths) -> InstancePaths {
    let kept = fs::read_to_string(of_id.kept_name()).ok();
    match kept.and_then(|name| name.parse::<ContainerId>().ok()) {
        Some(name) => of_id.kept_as(name.as_str()),
        None => of_id,
    }
}
