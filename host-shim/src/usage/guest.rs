//! The guest's own figures, as its agent gave them and cut to a size: a guest may say anything.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    agent::{Agent, AgentError},
    names::ContainerId,
};

/// How long a guest may take to say what it uses: containerd asks many, one after the other.
const ANSWER: Duration = Duration::from_secs(3);

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuTime {
    /// All of it.
    pub total_ns: u64,
    /// In programs.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Periods of a quota, those that were cut short, and for how long in nanoseconds.
    pub throttled: (u64, u64, u64),
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is not free, the page cache included.
    pub usage: u64,
    /// What there is.
    pub limit: u64,
    /// Swap space in use, and what there is.
    pub swap: (u64, u64),
    /// Lines of `memory.stat` (Documentation/admin-guide/cgroup-v2.rst).
    pub details: Vec<(String, u64)>,
}

impl Memory {
    /// A line of `memory.stat`; 0 where the guest did not give it.
    pub fn detail(&self, name: &str) -> u64 {
        let found = self.details.iter().find(|(known, _)| known == name);
        found.map_or(0, |(_, value)| *value)
    }
}

/// A disk's traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// The guest kernel's numbers for it.
    pub major: u64,
    /// The second of the two.
    pub minor: u64,
    /// Bytes read and written.
    pub bytes: (u64, u64),
    /// Operations of the same kinds.
    pub operations: (u64, u64),
}

/// A link's traffic: bytes, packets, errors, dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name in the guest.
    pub name: String,
    /// What came.
    pub received: [u64; 4],
    /// What went.
    pub sent: [u64; 4],
}

/// What the guest uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestUsage {
    /// Processors.
    pub cpu: CpuTime,
    /// Memory.
    pub memory: Memory,
    /// Tasks that there are, and the most that there may be.
    pub tasks: (u64, u64),
    /// Disks.
    pub disks: Vec<Disk>,
    /// Links.
    pub links: Vec<Link>,
}

/// Asks one guest what it uses, on a connection of its own, and remembers its last answer. A guest that is
/// frozen or too busy gives none; what it used does not change for that, and its counters never go back.
#[derive(Debug)]
pub struct Meter {
    agent: Agent,
    id: ContainerId,
    last: Mutex<Option<GuestUsage>>,
}

impl Meter {
    /// Asks nobody yet.
    pub fn new(agent: &Agent, id: ContainerId) -> Self {
        Self {
            agent: agent.apart(),
            id,
            last: Mutex::default(),
        }
    }

    /// The guest's answer within [`ANSWER`], else its last one. The error is that of a guest that never gave
    /// one.
    pub async fn ask(&self) -> Result<GuestUsage, AgentError> {
        let answer = self.agent.usage(&self.id, ANSWER).await;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(usage) => {
                *last = Some(usage.clone());
                Ok(usage)
            }
            Err(error) => last.clone().ok_or(error),
        }
    }

    /// Its last answer.
    pub fn last(&self) -> Option<GuestUsage> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clone()
    }
}
