//! Random bytes and one-time keys from the kernel.
//!
//! Owns the only entry to randomness. It keeps no generator of its own: a plugin needs a few dozen
//! bytes in its life. Follows getrandom(2), which blocks until the kernel's pool is ready.

use std::io;

use p256::SecretKey;
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

/// Fills `buffer` whole.
pub(crate) fn fill(buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        filled += match getrandom(&mut buffer[filled..], GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => 0,
            other => other?,
        };
    }
    Ok(())
}

/// A fresh P-256 key.
pub(crate) fn p256_secret() -> io::Result<SecretKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    loop {
        fill(bytes.as_mut())?;
        // Fails for zero and for values beyond the group order: about once in 2^32 draws.
        if let Ok(key) = SecretKey::from_slice(bytes.as_ref()) {
            return Ok(key);
        }
    }
}
