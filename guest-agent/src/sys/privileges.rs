//! Capabilities (`capabilities(7)`): what the agent keeps once it has provisioned the instance.
//!
//! A capability belongs to a thread, and a thread inherits those of the one that starts it. The runtime's own
//! thread has all of the unit's (`CapabilityBoundingSet=`) until the instance is provisioned; every other
//! thread gives them up at its start, whether it comes before that or after. The one exception is the thread
//! that loads kernel modules, which ends with its work.

use std::{io, thread};

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use tracing::warn;

/// What is left to do after provisioning: stop the machine at once (`SYS_BOOT`), signal PID 1 and
/// processes (`KILL`), reach the TPM and the journal whoever owns them (`DAC_*`), hand a terminal to its
/// user (`CHOWN`, `FOWNER`), copy files with their modes (`FSETID`), mount or grow a volume that is attached later (`SYS_ADMIN`, `SYS_RESOURCE`:
/// ext4 asks for it), set links and routes (`NET_ADMIN`) and the clock (`SYS_TIME`) when the host says so.
const KEPT: [Capability; 11] = [
    Capability::CAP_FSETID,
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

/// Starts a thread that has what is kept, and no more.
pub fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(|| {
        at_start_of_thread();
        work();
    })
}

/// What every thread but the runtime's own does first.
pub fn at_start_of_thread() {
    if let Err(error) = drop_after_provisioning() {
        warn!(%error, "a thread could not drop capabilities");
    }
}

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
