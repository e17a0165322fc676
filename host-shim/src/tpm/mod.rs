//! The virtual TPM: its state on the host, which is the instance's identity, and swtpm's command line.
//! Nothing here knows what the guest keeps in it.

mod archive;
mod backup;
mod owner;
mod state_dir;
mod swtpm;

pub use archive::ArchiveError;
pub use backup::{BackupError, load, pack, save, unpack};
pub(crate) use owner::open_plain;
pub(crate) use state_dir::reclaim;
pub use state_dir::{StateDir, StateDirError};
pub use swtpm::{Asked, Control, args};
