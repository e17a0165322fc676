//! Versions that one side tells the other.

/// The version of this workspace, as `Health.Version` and `GuestStatus.agent_version` give it.
pub const SEED: &str = env!("CARGO_PKG_VERSION");

/// What `Health.Version` answers as the API's version: Kata's agent says the same.
pub const KATA_API: &str = "0.0.1";

/// [`crate::seed::v1::Beacon::version`].
pub const BEACON: u32 = 1;
