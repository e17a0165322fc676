//! Batches of journal entries for the host.

use std::path::PathBuf;

/// The journal's reader.
#[derive(Debug, Clone)]
pub struct Service {}

impl Service {
    /// Starts the reader's thread.
    pub fn spawn(_directories: Vec<PathBuf>) -> Self {
        Self {}
    }
}
