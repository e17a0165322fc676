//! `linux.resources` of the OCI runtime configuration, as far as it decides a machine's size: a container's
//! limits become the VM's processors and memory. The same document comes with Task's Update.
//!
//! Which processors those shall be is the control group's business ([`crate::cgroup`]). What limits a process and not a machine
//! (shares, weights, pids) means nothing here and is left alone.

use serde::Deserialize;

use super::{MemoryMib, Vcpus};
use crate::cgroup::CpuSet;

/// What cgroups take for `period` when it is not said (cgroup-v2.rst, `cpu.max`).
const PERIOD_US: u64 = 100_000;

/// Limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Resources {
    #[serde(default)]
    cpu: Option<Cpu>,
    #[serde(default)]
    memory: Option<Memory>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Cpu {
    #[serde(default)]
    quota: Option<i64>,
    #[serde(default)]
    period: Option<u64>,
    #[serde(default)]
    cpus: String,
    #[serde(default)]
    mems: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Memory {
    #[serde(default)]
    limit: Option<i64>,
}

impl Resources {
    /// Of these limits. Quota and period are microseconds, memory is bytes; 0 and less mean none.
    pub fn new(quota: Option<i64>, period: Option<u64>, memory: Option<i64>) -> Self {
        Self {
            cpu: Some(Cpu {
                quota,
                period,
                ..Cpu::default()
            }),
            memory: Some(Memory { limit: memory }),
        }
    }

    /// These, and where they say nothing `other`.
    pub fn or(&self, other: &Self) -> Self {
        let some = |limit: Option<i64>| limit.is_some_and(|limit| limit > 0);
        let own_cpu = self.cpu.as_ref().is_some_and(|cpu| some(cpu.quota));
        let own_memory = self
            .memory
            .as_ref()
            .is_some_and(|memory| some(memory.limit));
        let (cpu, memory) = (
            if own_cpu { self } else { other },
            if own_memory { self } else { other },
        );
        Self {
            cpu: cpu.cpu.clone(),
            memory: memory.memory.clone(),
        }
    }

    /// The processors that the quota is worth, rounded up; nothing without one.
    pub fn vcpus(&self) -> Result<Option<Vcpus>, String> {
        let cpu = self.cpu.clone().unwrap_or_default();
        // 0 and -1 both say "no limit".
        let Some(quota) = cpu.quota.and_then(|quota| u64::try_from(quota).ok()) else {
            return Ok(None);
        };
        let period = cpu.period.filter(|period| *period > 0).unwrap_or(PERIOD_US);
        match quota {
            0 => Ok(None),
            quota => {
                let count = u32::try_from(quota.div_ceil(period)).unwrap_or(u32::MAX);
                Vcpus::try_from(count).map(Some)
            }
        }
    }

    /// The host's processors and memory nodes that are chosen for it.
    pub fn cpuset(&self) -> Result<CpuSet, String> {
        let cpu = self.cpu.clone().unwrap_or_default();
        CpuSet::parse(&cpu.cpus, &cpu.mems).map_err(|error| error.to_string())
    }

    /// The limit in whole MiB, rounded up; nothing without one.
    pub fn memory(&self) -> Result<Option<MemoryMib>, String> {
        let limit = self.memory.as_ref().and_then(|memory| memory.limit);
        match limit.and_then(|limit| u64::try_from(limit).ok()) {
            None | Some(0) => Ok(None),
            Some(bytes) => {
                let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
                MemoryMib::try_from(mib).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Resources {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn limits_become_whole_processors_and_mebibytes() {
        let limits = parsed(
            r#"{"cpu": {"shares": 512, "quota": 150000, "period": 100000},
                "memory": {"limit": 1073741825, "swap": -1}, "devices": [{"allow": false}]}"#,
        );
        assert_eq!(limits.vcpus(), Ok(Some(Vcpus(2))));
        assert_eq!(limits.memory(), Ok(Some(MemoryMib(1025))));
    }

    #[test]
    fn chosen_processors_are_no_number_of_them() {
        let limits = parsed(r#"{"cpu": {"cpus": "2-3", "mems": ""}}"#);
        assert_eq!(limits.vcpus(), Ok(None));
        assert!(!limits.cpuset().unwrap().is_empty());
        assert!(parsed("{}").cpuset().unwrap().is_empty());
        let wrong = parsed(r#"{"cpu": {"cpus": "all"}}"#).cpuset();
        assert!(wrong.unwrap_err().contains("like 0-3,8"));
    }

    #[test]
    fn no_limit_is_spelled_in_several_ways() {
        for text in [
            "{}",
            r#"{"cpu": null, "memory": null}"#,
            r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}}"#,
            r#"{"cpu": {"quota": 0, "period": 0}, "memory": {"limit": 0}}"#,
        ] {
            let limits = parsed(text);
            assert_eq!(
                (limits.vcpus(), limits.memory()),
                (Ok(None), Ok(None)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_said_is_taken_from_the_pod() {
        let pod = Resources::new(Some(400_000), Some(200_000), Some(1 << 30));
        let both = |own: &Resources| {
            let limits = own.or(&pod);
            (limits.vcpus(), limits.memory())
        };
        let pods = (Ok(Some(Vcpus(2))), Ok(Some(MemoryMib(1024))));
        assert_eq!(both(&Resources::default()), pods);
        assert_eq!(both(&Resources::new(Some(-1), None, Some(0))), pods);
        let own = parsed(r#"{"cpu": {"quota": 300000}}"#);
        assert_eq!(both(&own), (Ok(Some(Vcpus(3))), pods.1));
    }

    #[test]
    fn limits_that_no_machine_can_have_are_named() {
        let small = parsed(r#"{"memory": {"limit": 1048576}}"#);
        assert!(small.memory().unwrap_err().contains("1 MiB"));
        let large = parsed(r#"{"cpu": {"quota": 9223372036854775807}}"#);
        assert!(large.vcpus().is_err());
    }
}
