//! An instance's usage as containerd's metrics, `io.containerd.cgroups.v2.Metrics`.
//!
//! The container is the whole guest, so the figures are the guest's, as the workload sees them: CRI takes
//! memory's working set from `usage` less `inactive_file`. A guest that has never answered has no figures of
//! its own: then they are those of its processes on the host.

use containerd_shim_protos::{
    cgroups_v2::metrics::{CPUStat, IOEntry, IOStat, MemoryStat, Metrics, NetworkStat, PidsStat},
    protobuf::{Message, well_known_types::any::Any},
};

use super::TaskError;
use crate::{
    sandbox::Sandbox,
    usage::{self, Disk, GuestUsage, HostUsage, Link},
};

/// The type, bare, as containerd has it.
const TYPE: &str = "io.containerd.cgroups.v2.Metrics";

const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

/// What the instance uses now.
pub(super) async fn of(sandbox: &Sandbox) -> Result<Any, TaskError> {
    let metrics = match sandbox.guest_usage().await {
        Ok(usage) => guest(usage),
        Err(error) => {
            tracing::warn!(%error, "guest does not say what it uses");
            on_host(sandbox)
        }
    };
    packed(&metrics)
}

/// What an instance's processes and this shim use on the host; the shim alone where there is no instance.
pub(super) fn of_host(sandbox: Option<&Sandbox>) -> Result<Any, TaskError> {
    let metrics = match sandbox {
        Some(sandbox) => on_host(sandbox),
        None => host(&usage::processes(&[]), 0),
    };
    packed(&metrics)
}

fn on_host(sandbox: &Sandbox) -> Metrics {
    host(&sandbox.host_usage(), sandbox.view().size.memory_mib)
}

fn packed(metrics: &Metrics) -> Result<Any, TaskError> {
    let value = metrics.write_to_bytes().map_err(|error| TaskError::File {
        what: TYPE.into(),
        source: error.into(),
    })?;
    Ok(Any {
        type_url: TYPE.into(),
        value,
        ..Any::default()
    })
}

fn guest(usage: GuestUsage) -> Metrics {
    let GuestUsage {
        cpu,
        memory,
        tasks: (current, limit),
        disks,
        links,
    } = usage;
    let (periods, throttled_periods, throttled_ns) = cpu.throttled;
    let detail = |name| memory.detail(name);
    let cpu = CPUStat {
        usage_usec: cpu.total_ns / NANOSECONDS_PER_MICROSECOND,
        user_usec: cpu.user_ns / NANOSECONDS_PER_MICROSECOND,
        system_usec: cpu.system_ns / NANOSECONDS_PER_MICROSECOND,
        nr_periods: periods,
        nr_throttled: throttled_periods,
        throttled_usec: throttled_ns / NANOSECONDS_PER_MICROSECOND,
        ..CPUStat::default()
    };
    let stat = MemoryStat {
        usage: memory.usage,
        usage_limit: memory.limit,
        swap_usage: memory.swap.0,
        swap_limit: memory.swap.1,
        anon: detail("anon"),
        file: detail("file"),
        kernel_stack: detail("kernel_stack"),
        slab: detail("slab"),
        sock: detail("sock"),
        shmem: detail("shmem"),
        file_mapped: detail("file_mapped"),
        file_dirty: detail("file_dirty"),
        file_writeback: detail("file_writeback"),
        anon_thp: detail("anon_thp"),
        inactive_anon: detail("inactive_anon"),
        active_anon: detail("active_anon"),
        inactive_file: detail("inactive_file"),
        active_file: detail("active_file"),
        unevictable: detail("unevictable"),
        slab_reclaimable: detail("slab_reclaimable"),
        slab_unreclaimable: detail("slab_unreclaimable"),
        pgfault: detail("pgfault"),
        pgmajfault: detail("pgmajfault"),
        pgrefill: detail("pgrefill"),
        pgscan: detail("pgscan"),
        pgsteal: detail("pgsteal"),
        pgactivate: detail("pgactivate"),
        pgdeactivate: detail("pgdeactivate"),
        ..MemoryStat::default()
    };
    Metrics {
        pids: Some(PidsStat {
            current,
            limit,
            ..PidsStat::default()
        })
        .into(),
        cpu: Some(cpu).into(),
        memory: Some(stat).into(),
        io: Some(IOStat {
            usage: disks.into_iter().map(disk).collect(),
            ..IOStat::default()
        })
        .into(),
        network: links.into_iter().map(link).collect(),
        ..Metrics::default()
    }
}

fn host(usage: &HostUsage, limit_mib: u32) -> Metrics {
    let cpu = CPUStat {
        usage_usec: u64::try_from(usage.cpu().as_micros()).unwrap_or(u64::MAX),
        ..CPUStat::default()
    };
    let memory = MemoryStat {
        usage: usage.memory_bytes(),
        usage_limit: u64::from(limit_mib) << 20,
        ..MemoryStat::default()
    };
    Metrics {
        cpu: Some(cpu).into(),
        memory: Some(memory).into(),
        ..Metrics::default()
    }
}

fn disk(disk: Disk) -> IOEntry {
    let Disk {
        major,
        minor,
        bytes: (rbytes, wbytes),
        operations: (rios, wios),
    } = disk;
    IOEntry {
        major,
        minor,
        rbytes,
        wbytes,
        rios,
        wios,
        ..IOEntry::default()
    }
}

fn link(link: Link) -> NetworkStat {
    let Link {
        name,
        received: [rx_bytes, rx_packets, rx_errors, rx_dropped],
        sent: [tx_bytes, tx_packets, tx_errors, tx_dropped],
    } = link;
    NetworkStat {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..NetworkStat::default()
    }
}
