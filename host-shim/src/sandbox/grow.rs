//! How a running VM grows: what is asked is checked against what it is and may be, the machine gets it, and the
//! guest brings it online. A VM never shrinks while it runs: a guest gives memory back when it likes.

use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::{
    agent::{Agent, AgentError},
    names::ContainerId,
    spec::{MEMORY_STEP_MIB, MemoryMib, Vcpus, VmSpec},
    vmm::{MachineSize, VmmError},
};

/// One question to the guest.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a guest may take to find memory that was added, and how often it is asked.
const MEMORY_LIMIT: Duration = Duration::from_secs(20);
const MEMORY_POLL: Duration = Duration::from_millis(250);

/// What is asked for; nothing leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Processors.
    pub vcpus: Option<Vcpus>,
    /// Memory.
    pub memory: Option<MemoryMib>,
}

/// Why a VM does not get the size that is asked for.
#[derive(Debug, Error)]
pub enum GrowError {
    /// It would have to shrink.
    #[error(
        "the instance has {now} {what} and does not shrink to {wanted} while it runs: start it anew with that size"
    )]
    Shrinks {
        /// `vCPUs` or `MiB of memory`.
        what: &'static str,
        /// What it has.
        now: u32,
        /// What was asked.
        wanted: u32,
    },
    /// It was started without room for it.
    #[error(
        "the instance was started with room for {room} {what}, not {wanted}: start it anew with annotation \
         seed.loom.farm/{key}, or set growth.{key} in the configuration"
    )]
    NoRoom {
        /// `vCPUs` or `MiB of memory`.
        what: &'static str,
        /// What there is room for.
        room: u32,
        /// What was asked.
        wanted: u32,
        /// The setting.
        key: &'static str,
    },
    /// The machine refuses.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The guest does not bring it online.
    #[error("the machine has grown and its guest does not use it")]
    Guest(#[source] AgentError),
    /// The same of memory.
    #[error("the guest did not find the memory that was added within {} s", MEMORY_LIMIT.as_secs())]
    Memory,
    /// There is no machine.
    #[error("the instance has ended")]
    Gone,
}

/// The size that the VM shall have.
pub(super) fn check(
    now: MachineSize,
    wanted: Wanted,
    spec: &VmSpec,
) -> Result<MachineSize, GrowError> {
    let vcpus = wanted.vcpus.map_or(now.vcpus, Vcpus::get);
    let memory = wanted.memory.map_or(now.memory_mib, MemoryMib::get);
    // Memory comes in steps: what is a part of one more counts as one more, and less than that as the same.
    let memory = match memory.checked_sub(now.memory_mib) {
        Some(more) => now.memory_mib + more.next_multiple_of(MEMORY_STEP_MIB),
        None if now.memory_mib - memory < MEMORY_STEP_MIB => now.memory_mib,
        None => memory,
    };
    fits("vCPUs", "max_vcpus", now.vcpus, vcpus, spec.max_vcpus.get())?;
    let room = spec.max_memory.get();
    fits(
        "MiB of memory",
        "max_memory_mib",
        now.memory_mib,
        memory,
        room,
    )?;
    Ok(MachineSize {
        vcpus,
        memory_mib: memory,
    })
}

fn fits(
    what: &'static str,
    key: &'static str,
    now: u32,
    wanted: u32,
    room: u32,
) -> Result<(), GrowError> {
    if wanted < now {
        return Err(GrowError::Shrinks { what, now, wanted });
    }
    if wanted > room {
        return Err(GrowError::NoRoom {
            what,
            room,
            wanted,
            key,
        });
    }
    Ok(())
}

/// The memory that the guest has; what it keeps for its kernel is not in it.
pub(super) async fn guest_memory(agent: &Agent, id: &ContainerId) -> Result<u64, GrowError> {
    let usage = agent.usage(id, ANSWER).await.map_err(GrowError::Guest)?;
    Ok(usage.memory.limit)
}

/// The memory that a guest has at least when all that was added to `before` has arrived. Its kernel keeps a part of
/// what is added for itself, and adds it block by block.
pub(super) fn whole(before: u64, added_mib: u32) -> u64 {
    let added = u64::from(added_mib) << 20;
    before.saturating_add(added - added / 8)
}

/// Returns when the guest uses what was added, and has this much memory.
pub(super) async fn bring_online(
    agent: &Agent,
    id: &ContainerId,
    size: MachineSize,
    memory: u64,
) -> Result<(), GrowError> {
    let until = Instant::now() + MEMORY_LIMIT;
    loop {
        let online = agent.online(size.vcpus, ANSWER).await;
        online.map_err(GrowError::Guest)?;
        if guest_memory(agent, id).await? >= memory {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(GrowError::Memory);
        }
        sleep(MEMORY_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::sample;

    fn asked(vcpus: u32, memory: u32) -> Result<MachineSize, String> {
        let mut spec = sample();
        spec.max_vcpus = 4.try_into().unwrap();
        spec.max_memory = 1024.try_into().unwrap();
        let now = MachineSize {
            vcpus: 2,
            memory_mib: 640,
        };
        let wanted = Wanted {
            vcpus: Vcpus::try_from(vcpus).ok(),
            memory: MemoryMib::try_from(memory).ok(),
        };
        check(now, wanted, &spec).map_err(|error| error.to_string())
    }

    fn size(vcpus: u32, memory_mib: u32) -> Result<MachineSize, String> {
        Ok(MachineSize { vcpus, memory_mib })
    }

    #[test]
    fn what_is_asked_comes_in_whole_steps() {
        assert_eq!(asked(0, 0), size(2, 640));
        assert_eq!(asked(4, 700), size(4, 768));
        assert_eq!(asked(2, 1024), size(2, 1024));
        assert_eq!(asked(2, 600), size(2, 640));
    }

    #[test]
    fn memory_is_there_when_nearly_all_of_it_is() {
        assert_eq!(whole(400 << 20, 0), 400 << 20);
        assert_eq!(whole(400 << 20, 128), 512 << 20);
        assert_eq!(whole(400 << 20, 256), 624 << 20);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_way_out() {
        let error = asked(1, 0).unwrap_err();
        assert!(
            error.contains("has 2 vCPUs and does not shrink to 1"),
            "{error}"
        );
        let error = asked(0, 512).unwrap_err();
        assert!(error.contains("640 MiB of memory"), "{error}");
        let error = asked(5, 0).unwrap_err();
        assert!(error.contains("room for 4 vCPUs, not 5") && error.contains("growth.max_vcpus"));
        let error = asked(0, 1025).unwrap_err();
        assert!(error.contains("seed.loom.farm/max_memory_mib"), "{error}");
    }
}
