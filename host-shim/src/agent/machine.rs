//! Calls about the guest as a machine: what it uses, and what was attached to it.

use std::time::Duration;

use seed_protocol::kata::agent::{
    BlkioStats, BlkioStatsEntry, GetOOMEventRequest, NetworkStats, OnlineCPUMemRequest,
    StatsContainerRequest, StatsContainerResponse, VolumeStatsRequest,
};

use ttrpc::context::Context;

use super::{
    Agent, AgentError,
    client::{SHORT, within},
};
use crate::{
    names::ContainerId,
    usage::{CpuTime, Disk, GuestUsage, Link, Memory},
    vmm::console::plain,
};

/// More disks or lines of memory statistics than these are not taken from a guest.
const MAX_ENTRIES: usize = 256;

/// Nor more links than these: a guest names them as it likes, and each name becomes a series of the metrics.
const MAX_LINKS: usize = 32;

/// `IFNAMSIZ` less the final zero byte; and no line of `memory.stat` is longer than the second.
const LINK_NAME_CHARS: usize = 15;
const DETAIL_NAME_CHARS: usize = 40;

impl Agent {
    /// `StatsContainer`: what the guest uses.
    pub async fn usage(&self, id: &ContainerId, limit: Duration) -> Result<GuestUsage, AgentError> {
        let request = StatsContainerRequest {
            container_id: id.to_string(),
            ..Default::default()
        };
        let kata = self.kata_within(limit).await?;
        let result = kata.stats_container(within(limit), &request).await;
        self.sorted("StatsContainer", result).await.map(usage)
    }

    /// `OnlineCPUMem`: brings online what was attached, and waits for this many processors.
    pub async fn online(&self, vcpus: u32, limit: Duration) -> Result<(), AgentError> {
        let request = OnlineCPUMemRequest {
            wait: true,
            nb_cpus: vcpus,
            ..Default::default()
        };
        let kata = self.kata_within(limit).await?;
        let result = kata.online_cpu_mem(within(limit), &request).await;
        self.sorted("OnlineCPUMem", result).await.map(drop)
    }

    /// `GetVolumeStats`: has the guest ask the file system that is mounted at `path` something.
    pub async fn look_at(&self, path: &str) -> Result<(), AgentError> {
        let request = VolumeStatsRequest {
            volume_guest_path: path.to_owned(),
            ..Default::default()
        };
        let kata = self.kata_within(SHORT).await?;
        let result = kata.get_volume_stats(within(SHORT), &request).await;
        self.sorted("GetVolumeStats", result).await.map(drop)
    }

    /// `GetOOMEvent`: returns when the guest's kernel has killed a process for lack of memory. No limit but the
    /// connection's life: there may never be one.
    pub async fn killed_for_memory(&self) -> Result<(), AgentError> {
        let request = GetOOMEventRequest::default();
        let kata = self.kata().await?;
        let result = kata.get_oom_event(Context::default(), &request).await;
        self.sorted("GetOOMEvent", result).await.map(drop)
    }
}

fn usage(response: StatsContainerResponse) -> GuestUsage {
    let cgroup = response.cgroup_stats.unwrap_or_default();
    let cpu = cgroup.cpu_stats.unwrap_or_default();
    let (time, throttling) = (
        cpu.cpu_usage.unwrap_or_default(),
        cpu.throttling_data.unwrap_or_default(),
    );
    let memory = cgroup.memory_stats.unwrap_or_default();
    let (used, swap) = (
        memory.usage.unwrap_or_default(),
        memory.swap_usage.unwrap_or_default(),
    );
    let pids = cgroup.pids_stats.unwrap_or_default();
    let details = memory.stats.into_iter().take(MAX_ENTRIES);
    GuestUsage {
        cpu: CpuTime {
            total_ns: time.total_usage,
            user_ns: time.usage_in_usermode,
            system_ns: time.usage_in_kernelmode,
            throttled: (
                throttling.periods,
                throttling.throttled_periods,
                throttling.throttled_time,
            ),
        },
        memory: Memory {
            usage: used.usage,
            limit: used.limit,
            swap: (swap.usage, swap.limit),
            details: details
                .map(|(name, value)| (short(&name, DETAIL_NAME_CHARS), value))
                .collect(),
        },
        tasks: (pids.current, pids.limit),
        disks: disks(&cgroup.blkio_stats.unwrap_or_default()),
        links: response
            .network_stats
            .into_iter()
            .take(MAX_LINKS)
            .map(link)
            .collect(),
    }
}

/// The agent's entries are one a disk and kind of operation.
fn disks(stats: &BlkioStats) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    let mut add = |entries: &[BlkioStatsEntry], bytes: bool| {
        for entry in entries.iter().take(MAX_ENTRIES) {
            let at = disks
                .iter()
                .position(|disk| (disk.major, disk.minor) == (entry.major, entry.minor))
                .unwrap_or_else(|| {
                    disks.push(Disk {
                        major: entry.major,
                        minor: entry.minor,
                        ..Disk::default()
                    });
                    disks.len() - 1
                });
            let disk = &mut disks[at];
            let pair = if bytes {
                &mut disk.bytes
            } else {
                &mut disk.operations
            };
            match entry.op.as_str() {
                "Read" => pair.0 = entry.value,
                "Write" => pair.1 = entry.value,
                _ => {}
            }
        }
    };
    add(&stats.io_service_bytes_recursive, true);
    add(&stats.io_serviced_recursive, false);
    disks
}

fn link(stats: NetworkStats) -> Link {
    Link {
        name: short(&stats.name, LINK_NAME_CHARS),
        received: [
            stats.rx_bytes,
            stats.rx_packets,
            stats.rx_errors,
            stats.rx_dropped,
        ],
        sent: [
            stats.tx_bytes,
            stats.tx_packets,
            stats.tx_errors,
            stats.tx_dropped,
        ],
    }
}

fn short(name: &str, chars: usize) -> String {
    plain(name).chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_one_disk_become_one_disk() {
        let entry = |op: &str, minor, value| BlkioStatsEntry {
            major: 253,
            minor,
            op: op.into(),
            value,
            ..Default::default()
        };
        let stats = BlkioStats {
            io_service_bytes_recursive: vec![
                entry("Read", 0, 10),
                entry("Write", 0, 20),
                entry("Discard", 0, 30),
                entry("Write", 16, 5),
            ],
            io_serviced_recursive: vec![entry("Read", 0, 1), entry("Write", 16, 2)],
            ..Default::default()
        };
        let disk = |minor, bytes, operations| Disk {
            major: 253,
            minor,
            bytes,
            operations,
        };
        assert_eq!(
            disks(&stats),
            [disk(0, (10, 20), (1, 0)), disk(16, (0, 5), (0, 2))]
        );
    }

    #[test]
    fn what_a_guest_says_is_cut_to_size() {
        let response = StatsContainerResponse {
            network_stats: (0..1000)
                .map(|number| NetworkStats {
                    name: format!("a\x1b[2Jvery long name {number}"),
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let usage = usage(response);
        assert_eq!(usage.links.len(), MAX_LINKS);
        assert_eq!(usage.links[0].name, "avery long name");
    }
}
