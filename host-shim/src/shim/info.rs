//! `-v` and `-info`: what this program is. Neither needs a bundle.

use containerd_shim_protos::{
    protobuf::{Error, Message},
    types::introspection::{RuntimeInfo, RuntimeVersion},
};
use seed_protocol::version::{COMMIT, SEED};

/// The runtime's name in containerd's configuration.
const NAME: &str = "io.containerd.seed.v2";

/// What `-v` prints.
pub fn version() -> String {
    let revision = COMMIT.map_or_else(String::new, |commit| format!("  Revision: {commit}\n"));
    format!("containerd-shim-seed-v2:\n  Version: {SEED}\n{revision}")
}

/// What `-info` prints: a `RuntimeInfo`.
pub fn run() -> Result<Vec<u8>, Error> {
    let version = RuntimeVersion {
        version: SEED.to_owned(),
        revision: COMMIT.unwrap_or_default().to_owned(),
        ..RuntimeVersion::default()
    };
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(version).into(),
        ..RuntimeInfo::default()
    };
    info.write_to_bytes()
}
