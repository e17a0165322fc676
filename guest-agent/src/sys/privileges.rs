//! Capabilities (`capabilities(7)`): what the agent keeps once it has provisioned the instance.
//!
//! A capability belongs to a thread. This runs on the runtime's own thread, from which every later
//! thread and program inherits; the unit's `CapabilityBoundingSet=` is the limit for the whole process.

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

/// What is left to do after provisioning: stop the machine at once (`SYS_BOOT`), signal PID 1 and
/// processes (`KILL`), reach the TPM and the journal whoever owns them (`DAC_*`), hand a terminal to its
/// user (`CHOWN`, `FOWNER`), mount or grow a volume that is attached later (`SYS_ADMIN`, `SYS_RESOURCE`:
/// ext4 asks for it), set links and routes (`NET_ADMIN`) and the clock (`SYS_TIME`) when the host says so.
const KEPT: [Capability; 10] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_TIME,
    Capability::CAP_SYS_BOOT,
    Capability::CAP_KILL,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_CHOWN,
    Capability::CAP_FOWNER,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_RESOURCE,
];

/// Gives up every capability of this thread that is not kept. Doing it twice is harmless.
pub fn drop_after_provisioning() -> Result<(), CapsError> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    let effective = caps::read(None, CapSet::Effective)?;
    if effective.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    let permitted = caps::read(None, CapSet::Permitted)?;
    let left: CapsHashSet = permitted.intersection(&kept).copied().collect();
    caps::clear(None, CapSet::Inheritable)?;
    caps::set(None, CapSet::Effective, &left)?;
    caps::set(None, CapSet::Permitted, &left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_kept_is_left_and_once_more_changes_nothing() {
        // On a thread of its own: the test runner keeps what it has.
        std::thread::spawn(|| {
            for _ in 0..2 {
                drop_after_provisioning().unwrap();
                let left = caps::read(None, CapSet::Permitted).unwrap();
                assert!(
                    left.iter().all(|capability| KEPT.contains(capability)),
                    "{left:?}"
                );
            }
        })
        .join()
        .unwrap();
    }
}
