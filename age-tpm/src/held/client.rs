//! Asking the service that holds a key.
//!
//! Owns one connection. It treats every trouble alike: the caller then uses the TPM itself.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use p256::PublicKey;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use zeroize::Zeroizing;

use crate::recipient::Recipient;
use crate::unwrap::{KeyAgreement, SharedX};

use super::{GIVEN, MAGIC};

/// How long the service may take; a busy TPM needs a second or two at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The service at `socket`, asked for `key`.
#[derive(Debug)]
pub struct Held<'a> {
    /// Where it listens.
    pub socket: &'a Path,
    /// The public half of the key that is wanted.
    pub key: &'a Recipient,
}

impl KeyAgreement for Held<'_> {
    /// No service, no answer in time, or a refusal (`PermissionDenied`).
    type Error = io::Error;

    fn agree(&mut self, peer: &PublicKey) -> io::Result<SharedX> {
        let mut stream = UnixStream::connect(self.socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let peer = peer.to_encoded_point(false);
        stream.write_all(&[MAGIC, self.key.compressed().as_slice(), peer.as_bytes()].concat())?;
        let mut status = [0];
        stream.read_exact(&mut status)?;
        if status != [GIVEN] {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut shared = Zeroizing::new([0; SharedX::BYTES]);
        stream.read_exact(shared.as_mut())?;
        Ok(SharedX::new(shared))
    }
}
