//! Paths in the guest that more than one program knows.

/// The environment that the host gave, as `NAME="value"` lines that both systemd's
/// `EnvironmentFile=` and a POSIX shell read.
pub const ENV_FILE: &str = "/run/seed/env";

/// The age identity: made or found at boot, read by sops-nix and by `age -d -i`.
pub const IDENTITY_FILE: &str = "/seed/tpm/age-identity";

/// What the closure itself says about the instance (name, storage table).
pub const INSTANCE_FILE: &str = "/etc/seed/instance.json";

/// Where volumes are mounted unless their owner says otherwise: `/seed/storage/<name>`.
pub const STORAGE_DIR: &str = "/seed/storage";

/// The TPM's resource-managed device.
pub const TPM_DEVICE: &str = "/dev/tpmrm0";

/// The virtiofs tag of the root file system.
pub const ROOT_TAG: &str = "seedroot";

/// The virtiofs tag of what the host shares with the instance beside its root, as Kata's shims name it.
pub const SHARE_TAG: &str = "kataShared";

/// Where that share is mounted in the guest. Sources of the container's bind mounts are below it.
pub const SHARE_DIR: &str = "/run/kata-containers/shared/containers";
