//! The storage root key: which object wraps the age keys of this TPM.
//!
//! Owns the choice between the persistent key at 0x81000001 and the transient one of the Go
//! plugin's template; and the transient one that key files of other tools are made under. It never creates or evicts persistent objects. The layout follows what
//! identities of the Go plugin (v1.0) expect; the handle is the one that the TCG TPM v2.0
//! Provisioning Guidance reserves for it.

use std::borrow::BorrowMut;

use super::public::{MAX_PUBLIC_BYTES, SrkUnique, srk_template};
use super::{Auth, Command, Name, Public, RH_OWNER, Tpm, TpmError, Writer};

/// Where a storage root key lives when somebody made one persistent.
pub const PERSISTENT_SRK: u32 = 0x8100_0001;

/// A storage root key that can be used now.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) handle: u32,
    pub(super) public: Public,
    transient: bool,
}

impl Parent {
    /// The key for new age keys: the persistent one if there is one, else the transient one.
    pub(super) fn for_new_key(tpm: &mut Tpm) -> Result<Self, TpmError> {
        match Self::persistent(tpm)? {
            Some(parent) => Ok(parent),
            None => Self::transient(tpm, SrkUnique::Zeros),
        }
    }

    /// The key with the name that an identity asks for; old identities name none and were always
    /// made under the transient one.
    pub(super) fn named(tpm: &mut Tpm, wanted: Option<&Name>) -> Result<Self, TpmError> {
        let Some(wanted) = wanted else {
            return Self::transient(tpm, SrkUnique::Zeros);
        };
        // Whatever sits there and is not ours, even of a kind unknown to us, is of no interest.
        if let Ok(Some(parent)) = Self::persistent(tpm)
            && parent.public.name() == *wanted
        {
            return Ok(parent);
        }
        let mut parent = Self::transient(tpm, SrkUnique::Zeros)?;
        let found = parent.public.name();
        if found != *wanted {
            parent.release(tpm);
            return Err(TpmError::ForeignParent {
                wanted: *wanted,
                found,
            });
        }
        Ok(parent)
    }

    /// TPM2_ReadPublic of 0x81000001.
    fn persistent(tpm: &mut Tpm) -> Result<Option<Self>, TpmError> {
        let command = Command::new("TPM2_ReadPublic", 0x173).handle(PERSISTENT_SRK);
        let response = match tpm.execute(command) {
            Err(TpmError::Rc { rc, .. }) if rc.is_no_such_handle() => return Ok(None),
            other => other?,
        };
        let raw = response.read(|r| r.sized(MAX_PUBLIC_BYTES, "public area"))?;
        let public = parse(raw)?;
        Ok(Some(Self {
            handle: PERSISTENT_SRK,
            public,
            transient: false,
        }))
    }

    /// TPM2_CreatePrimary in the owner hierarchy: the same key each time.
    pub(super) fn transient(tpm: &mut Tpm, unique: SrkUnique) -> Result<Self, TpmError> {
        let sensitive = Writer::new().sized(&[]).sized(&[]).finish();
        let template = srk_template(unique).finish();
        let command = Command::new("TPM2_CreatePrimary", 0x131)
            .handle(RH_OWNER)
            .auth(Auth::Empty)
            .params(
                Writer::new()
                    .sized(&sensitive)
                    .sized(&template)
                    .sized(&[])
                    .u32(0), // no PCRs
            )
            .yields_handle();
        let response = tpm.execute(command)?;
        let handle = response.handle;
        let public = response
            .read(|r| r.sized(MAX_PUBLIC_BYTES, "public area"))
            .and_then(parse);
        match public {
            Ok(public) => Ok(Self {
                handle,
                public,
                transient: true,
            }),
            Err(e) => {
                // The answer is unusable, yet the object may be there: best effort.
                let _ = tpm.flush(handle);
                Err(e)
            }
        }
    }

    /// Gives the TPM its memory back. Best effort: there is nothing to be done about a failure.
    pub(super) fn release(&mut self, tpm: &mut impl BorrowMut<Tpm>) {
        if self.transient {
            let _ = tpm.borrow_mut().flush(self.handle);
            self.transient = false;
        }
    }
}

fn parse(raw: &[u8]) -> Result<Public, TpmError> {
    Public::parse(raw).map_err(|source| TpmError::Public {
        what: "storage root key",
        source,
    })
}
