//! The age identity that the TPM holds.

use std::path::PathBuf;

use thiserror::Error;

/// Why there is no identity.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Not provisioned.
    #[error("the identity has not been provisioned")]
    Absent,
}

/// Holds the identity.
#[derive(Debug, Clone)]
pub struct Holder {}

impl Holder {
    /// A holder with nothing in it.
    pub fn new(_file: PathBuf) -> Self {
        Self {}
    }

    /// Makes or finds the identity.
    pub async fn provision(&self) -> Result<(), IdentityError> {
        Err(IdentityError::Absent)
    }
}
