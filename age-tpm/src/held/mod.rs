//! A key that a long-running program keeps loaded, and lends over a Unix socket.
//!
//! Loading a key costs several TPM commands and a plugin process does it for each file. A service
//! that holds the key saves them: the plugin asks it for the one multiplication, and goes to the TPM
//! by itself when there is no socket, no answer, or a refusal. So the socket is never needed and
//! never trusted with more than speed: a wrong answer makes decryption fail and nothing else.
//! Whoever may open the socket can use the key; it is for the owner only (0600) unless the service
//! gives it to a group. Keys with PIN are never held.
//!
//! # The dialogue
//!
//! One request and one answer a connection, then both sides close. Request: 5 bytes `AGET1`, the key
//! wanted (compressed point, 33 bytes), the peer's point (uncompressed, 65 bytes). Answer: a status
//! byte; after 0 come the 32 bytes of the shared X
//! coordinate, after 1 (it is another key, or it cannot be used now) nothing.

mod client;
mod server;

use std::path::PathBuf;

pub use self::client::Held;
pub use self::server::{Holder, ServeError, Server, Stopper};

/// Where the agent of a Seed guest listens.
pub const DEFAULT_SOCKET: &str = "/run/seed/tpm.sock";
/// Environment variable that names another socket; empty means: never ask.
pub const SOCKET_ENV: &str = "AGE_TPM_SOCKET";

/// Where to ask for a held key: what [`SOCKET_ENV`] says, else [`DEFAULT_SOCKET`], but nowhere if
/// the user has chosen a TPM: then that one is meant.
pub fn socket_from_env(tpm_is_chosen: bool) -> Option<PathBuf> {
    match std::env::var_os(SOCKET_ENV) {
        Some(path) if path.is_empty() => None,
        Some(path) => Some(path.into()),
        None if tpm_is_chosen => None,
        None => Some(DEFAULT_SOCKET.into()),
    }
}

const MAGIC: &[u8; 5] = b"AGET1";
const COMPRESSED_BYTES: usize = crate::recipient::COMPRESSED_BYTES;
const POINT_BYTES: usize = 65;
const REQUEST_BYTES: usize = MAGIC.len() + COMPRESSED_BYTES + POINT_BYTES;
/// The X coordinate follows.
const GIVEN: u8 = 0;
/// It is another key, or it cannot be used now: go to the TPM.
const REFUSED: u8 = 1;
