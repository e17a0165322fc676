//! One small NV index in the owner hierarchy.
//!
//! Owns define, read, write and undefine of an ordinary index. What is inside is for `provision`
//! to say. Anybody who may use the TPM can read it; writing needs the owner authorisation, which
//! is empty in guests. Follows TPM 2.0 Library Part 3, section 31 (non-volatile storage).

use super::wire::Writer;
use super::{Auth, Command, RH_OWNER, Rc, Tpm, TpmError};

/// OWNERWRITE, OWNERREAD, AUTHREAD, NO_DA: an ordinary index that no failed try can lock.
const ATTRIBUTES: u32 = (1 << 1) | (1 << 17) | (1 << 18) | (1 << 25);
/// Set by the TPM after the first write (TPMA_NV_WRITTEN).
const WRITTEN: u32 = 1 << 29;
const ALG_SHA256: u16 = 0x000b;
/// Most bytes that are moved at once; every TPM2 takes at least 512.
pub const MAX_BYTES: usize = 512;

/// What is known about an index without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvInfo {
    /// Size in bytes.
    pub size: u16,
    /// Whether anything was ever written.
    pub written: bool,
}

/// TPM2_NV_ReadPublic; `None` if there is no such index.
///
/// # Errors
///
/// The TPM refused for another reason.
pub fn info(tpm: &mut Tpm, index: u32) -> Result<Option<NvInfo>, TpmError> {
    let command = Command::new("TPM2_NV_ReadPublic", 0x169).handle(index);
    let response = match tpm.execute(command) {
        Err(TpmError::Rc { rc, .. }) if rc.is_no_such_handle() => return Ok(None),
        other => other?,
    };
    response.read(|r| {
        r.u16("NV public size")?;
        r.u32("NV index")?;
        r.u16("NV name algorithm")?;
        let attributes = r.u32("NV attributes")?;
        r.sized(64, "NV policy")?;
        let size = r.u16("NV size")?;
        Ok(Some(NvInfo {
            size,
            written: attributes & WRITTEN != 0,
        }))
    })
}

/// Reads the first `len` bytes; `None` if the index was defined but never written.
///
/// # Errors
///
/// The TPM refused, for instance because `len` is larger than the index.
pub fn read(tpm: &mut Tpm, index: u32, len: u16) -> Result<Option<Vec<u8>>, TpmError> {
    let command = Command::new("TPM2_NV_Read", 0x14e)
        .handle(index)
        .handle(index)
        .auth(Auth::Empty)
        .params(Writer::new().u16(len).u16(0));
    match tpm.execute(command) {
        Err(TpmError::Rc {
            rc: Rc::NV_UNINITIALIZED,
            ..
        }) => Ok(None),
        other => other?
            .read(|r| r.sized(usize::from(len), "NV data").map(<[u8]>::to_vec))
            .map(Some),
    }
}

/// TPM2_NV_DefineSpace.
///
/// # Errors
///
/// The TPM refused: no space, the index exists, or an owner authorisation is set.
pub fn define(tpm: &mut Tpm, index: u32, size: u16) -> Result<(), TpmError> {
    let public = Writer::new()
        .u32(index)
        .u16(ALG_SHA256)
        .u32(ATTRIBUTES)
        .sized(&[])
        .u16(size)
        .finish();
    let command = Command::new("TPM2_NV_DefineSpace", 0x12a)
        .handle(RH_OWNER)
        .auth(Auth::Empty)
        .params(Writer::new().sized(&[]).sized(&public));
    tpm.execute(command).map(drop)
}

/// TPM2_NV_UndefineSpace: removes the index and what is in it.
///
/// # Errors
///
/// The TPM refused.
pub fn undefine(tpm: &mut Tpm, index: u32) -> Result<(), TpmError> {
    let command = Command::new("TPM2_NV_UndefineSpace", 0x122)
        .handle(RH_OWNER)
        .handle(index)
        .auth(Auth::Empty);
    tpm.execute(command).map(drop)
}

/// TPM2_NV_Write of at most [`MAX_BYTES`] at offset 0; the TPM writes them as one.
///
/// # Errors
///
/// The TPM refused.
pub fn write(tpm: &mut Tpm, index: u32, data: &[u8]) -> Result<(), TpmError> {
    let command = Command::new("TPM2_NV_Write", 0x137)
        .handle(RH_OWNER)
        .handle(index)
        .auth(Auth::Empty)
        .params(Writer::new().sized(data).u16(0));
    tpm.execute(command).map(drop)
}
