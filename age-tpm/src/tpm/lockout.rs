//! Dictionary-attack lockout: reading its state and ending it.
//!
//! Owns the TPM properties of the lockout and TPM2_DictionaryAttackLockReset with an empty lockout
//! authorisation. It decides nothing: whether a lockout should be ended is for `provision` to
//! say. Follows TPM 2.0 Library Part 1, section 19.8, and Part 2 (TPM_PT, TPMA_PERMANENT).

use super::{Auth, Command, RH_LOCKOUT, Tpm, TpmError};

const PT_PERMANENT: u32 = 0x200;
const PT_LOCKOUT_COUNTER: u32 = 0x20e;
const PT_MAX_AUTH_FAIL: u32 = 0x20f;
const PT_LOCKOUT_INTERVAL: u32 = 0x210;
/// lockoutAuthSet in TPMA_PERMANENT.
const PERMANENT_LOCKOUT_AUTH_SET: u32 = 1 << 2;
/// inLockout in TPMA_PERMANENT.
const PERMANENT_IN_LOCKOUT: u32 = 1 << 9;

/// The state of the dictionary-attack logic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// Protected keys are refused now.
    pub active: bool,
    /// Somebody set a lockout authorisation, so only they can end a lockout.
    pub auth_set: bool,
    /// Failed tries that count now.
    pub counter: u32,
    /// Failed tries at which the lockout begins.
    pub max_tries: u32,
    /// Seconds after which one failed try is forgotten.
    pub interval_secs: u32,
}

impl Lockout {
    /// Asks the TPM.
    ///
    /// # Errors
    ///
    /// The TPM could not be asked.
    pub fn read(tpm: &mut Tpm) -> Result<Self, TpmError> {
        let permanent = tpm.property(PT_PERMANENT)?;
        Ok(Self {
            active: permanent & PERMANENT_IN_LOCKOUT != 0,
            auth_set: permanent & PERMANENT_LOCKOUT_AUTH_SET != 0,
            counter: tpm.property(PT_LOCKOUT_COUNTER)?,
            max_tries: tpm.property(PT_MAX_AUTH_FAIL)?,
            interval_secs: tpm.property(PT_LOCKOUT_INTERVAL)?,
        })
    }

    /// Wrong PINs that are still allowed.
    pub fn tries_left(&self) -> u32 {
        if self.active {
            0
        } else {
            self.max_tries.saturating_sub(self.counter)
        }
    }
}

/// TPM2_DictionaryAttackLockReset with an empty lockout authorisation.
///
/// Call it only when [`Lockout::auth_set`] is false: a wrong lockout authorisation disables the
/// lockout hierarchy itself for a long time.
///
/// # Errors
///
/// The TPM refused.
pub fn reset(tpm: &mut Tpm) -> Result<(), TpmError> {
    let command = Command::new("TPM2_DictionaryAttackLockReset", 0x139)
        .handle(RH_LOCKOUT)
        .auth(Auth::Empty);
    tpm.execute(command).map(drop)
}
