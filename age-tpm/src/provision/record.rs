//! The identity's blob inside an NV index.
//!
//! Owns the record's layout: 8 bytes magic, 16-bit big-endian payload length, SHA-256 of the
//! payload, payload (an identity's payload as in its text). The TPM writes so few bytes as one,
//! yet a torn or altered record is still told from a whole one by length and checksum.

use sha2::{Digest, Sha256};

use crate::identity::Identity;
use crate::tpm::wire::{Reader, WireError, Writer};
use crate::tpm::{Tpm, TpmError, nv};

use super::Step;

const MAGIC: &[u8; 8] = b"AGE-TPM1";
const HEADER_BYTES: usize = MAGIC.len() + 2 + 32;

/// What an index holds.
#[derive(Debug)]
pub(super) enum Stored {
    /// There is no such index.
    Absent,
    /// It was defined and never written.
    Blank,
    /// A whole record.
    Identity(Box<Identity>),
    /// A record of ours that is not whole.
    Damaged { reason: String },
    /// Somebody else's data.
    Foreign { len: u16 },
}

/// Reads and judges an index.
pub(super) fn read(tpm: &mut Tpm, index: u32) -> Result<Stored, TpmError> {
    let Some(info) = nv::info(tpm, index)? else {
        return Ok(Stored::Absent);
    };
    if !info.written {
        return Ok(Stored::Blank);
    }
    if usize::from(info.size) > nv::MAX_BYTES {
        return Ok(Stored::Foreign { len: info.size });
    }
    let Some(bytes) = nv::read(tpm, index, info.size)? else {
        return Ok(Stored::Blank);
    };
    Ok(parse(&bytes, info.size))
}

fn parse(bytes: &[u8], len: u16) -> Stored {
    let Some(record) = bytes.strip_prefix(MAGIC) else {
        return Stored::Foreign { len };
    };
    let payload = (|| {
        let mut r = Reader::new(record);
        let len = usize::from(r.u16("record length")?);
        let digest: [u8; 32] = r.array("record checksum")?;
        let payload = r.bytes(len, "record payload")?;
        Ok::<_, WireError>((digest, payload))
    })();
    let reason = match payload {
        Ok((digest, payload)) if <[u8; 32]>::from(Sha256::digest(payload)) == digest => {
            match Identity::from_bytes(payload) {
                Ok(identity) => return Stored::Identity(Box::new(identity)),
                Err(e) => e.to_string(),
            }
        }
        Ok(_) => "its checksum is wrong".to_owned(),
        Err(e) => e.to_string(),
    };
    Stored::Damaged { reason }
}

fn encode(identity: &Identity) -> Writer {
    let payload = identity.to_bytes();
    Writer::new()
        .bytes(MAGIC)
        .u16(u16::try_from(payload.len()).expect("an identity's parts are bounded to 2 KiB"))
        .bytes(&Sha256::digest(&payload))
        .bytes(&payload)
}

/// Writes a record, removing first what `before` says is in the way.
pub(super) fn write(
    tpm: &mut Tpm,
    index: u32,
    identity: &Identity,
    before: &Stored,
    observer: &mut dyn FnMut(Step),
) -> Result<(), TpmError> {
    let record = encode(identity);
    let bytes = record.as_slice();
    let too_long = WireError::TooLong {
        field: "the identity",
        len: bytes.len().saturating_sub(HEADER_BYTES),
        limit: nv::MAX_BYTES - HEADER_BYTES,
    };
    let size = u16::try_from(bytes.len())
        .ok()
        .filter(|size| usize::from(*size) <= nv::MAX_BYTES)
        .ok_or(TpmError::Wire {
            command: "TPM2_NV_Write",
            source: too_long,
        })?;
    if !matches!(before, Stored::Absent) {
        // The size of an index cannot be changed, and old contents are of no use any more.
        nv::undefine(tpm, index)?;
        observer(Step::NvRemoved);
    }
    nv::define(tpm, index, size)?;
    observer(Step::NvDefined);
    nv::write(tpm, index, bytes)?;
    observer(Step::NvWritten);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_record_is_read_back_and_each_torn_one_is_noticed() {
        let identity = testing::identity();
        let record = encode(&identity).finish();
        let len = u16::try_from(record.len()).unwrap();
        assert!(matches!(parse(&record, len), Stored::Identity(i) if *i == identity));
        for cut in MAGIC.len()..record.len() {
            let mut torn = record.to_vec();
            torn[cut..].fill(0xff);
            assert!(
                !matches!(parse(&torn, len), Stored::Identity(_)),
                "torn at {cut}"
            );
            assert!(
                matches!(parse(&record[..cut], len), Stored::Damaged { .. }),
                "cut at {cut}"
            );
        }
        assert!(matches!(
            parse(&[0xff; 300], 300),
            Stored::Foreign { len: 300 }
        ));
    }
}
