//! Versions that one side tells the other.

/// The version of this workspace, as `Health.Version` and `GuestStatus.agent_version` give it.
pub const SEED: &str = env!("CARGO_PKG_VERSION");

/// The commit that this was built from, where whoever built it said so (`SEED_COMMIT`): releases do. Nix does not, so that a
/// commit that changes no program changes no store path.
pub const COMMIT: Option<&str> = option_env!("SEED_COMMIT");

/// What a program says to `--version`: one line, with the commit where it is known.
pub fn line(program: &str) -> String {
    match COMMIT {
        Some(commit) => format!("{program} {SEED} ({commit})\n"),
        None => format!("{program} {SEED}\n"),
    }
}

/// What `Health.Version` answers as the API's version: Kata's agent says the same.
pub const KATA_API: &str = "0.0.1";

/// [`crate::seed::v1::Beacon::version`].
pub const BEACON: u32 = 1;
