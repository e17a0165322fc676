//! The guest as a machine: what it uses, its processors and memory, clock and random numbers.

use std::{io, sync::Arc, time::Duration};

use seed_protocol::kata::{agent::*, empty::Empty};
use tokio::{
    task,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use crate::{
    agent::Context,
    freeze,
    sandbox::Container,
    server::error::RequestError,
    stats::{self, Disk, Link, Snapshot, metrics},
    sys::{clock, hotplug, random},
};

/// How long processors may take to appear after the host attached them.
const CPU_LIMIT: Duration = Duration::from_secs(5);

const CPU_POLL: Duration = Duration::from_millis(50);

/// More of the host's random bytes than this add nothing.
const MAX_RANDOM_BYTES: usize = 64 * 1024;

const MICROSECONDS_PER_SECOND: u32 = 1_000_000;

/// Words of the block layer, as container tools know them.
const KINDS: [&str; 3] = ["Read", "Write", "Discard"];

pub(super) async fn stats_container(
    ctx: &Arc<Context>,
    request: StatsContainerRequest,
) -> Result<StatsContainerResponse, RequestError> {
    if let Container::Pause(_) = ctx.sandbox.find(&request.container_id)? {
        return Ok(StatsContainerResponse::default());
    }
    let paths = ctx.config.paths.clone();
    let read = move || stats::read(&paths.proc, &paths.sys, &paths.cgroup);
    Ok(told(blocking("statistics cannot be read", read).await?))
}

pub(super) async fn get_metrics(
    ctx: &Arc<Context>,
    _: GetMetricsRequest,
) -> Result<Metrics, RequestError> {
    let proc = ctx.config.paths.proc.clone();
    let volumes: Vec<_> = ctx
        .status
        .now()
        .volumes
        .into_iter()
        .filter(|volume| volume.size_bytes > 0)
        .map(|volume| volume.mount_point.into())
        .collect();
    let read = move || metrics::read(&proc, &volumes);
    Ok(Metrics {
        metrics: blocking("metrics cannot be read", read).await?,
        ..Default::default()
    })
}

/// Accepted, and the table says why that is all.
pub(super) async fn update_container(
    ctx: &Arc<Context>,
    request: UpdateContainerRequest,
) -> Result<Empty, RequestError> {
    ctx.sandbox.find(&request.container_id)?;
    Ok(Empty::default())
}

pub(super) async fn pause_container(
    ctx: &Arc<Context>,
    request: PauseContainerRequest,
) -> Result<Empty, RequestError> {
    set_frozen(ctx, &request.container_id, true).await
}

pub(super) async fn resume_container(
    ctx: &Arc<Context>,
    request: ResumeContainerRequest,
) -> Result<Empty, RequestError> {
    set_frozen(ctx, &request.container_id, false).await
}

async fn set_frozen(ctx: &Context, id: &str, frozen: bool) -> Result<Empty, RequestError> {
    if let Container::Instance(id) = ctx.sandbox.find(id)? {
        info!(container = %id, frozen, "units are frozen or let go on");
        let cgroup = ctx.config.paths.cgroup.clone();
        let set = move || freeze::set(&cgroup, frozen);
        blocking("units cannot be frozen or let go on", set).await?;
    }
    Ok(Empty::default())
}

/// Everything that is there comes online at once. Processors may still be on their way: these are waited
/// for, by the caller when it says so.
pub(super) async fn online_cpu_mem(
    ctx: &Arc<Context>,
    request: OnlineCPUMemRequest,
) -> Result<Empty, RequestError> {
    let OnlineCPUMemRequest {
        wait,
        nb_cpus,
        cpu_only,
        special_fields: _,
    } = request;
    let sys = ctx.config.paths.sys.clone();
    let online = {
        let sys = sys.clone();
        move || {
            let cpus = hotplug::online_cpus(&sys)?;
            let memory = if cpu_only {
                0
            } else {
                hotplug::online_memory(&sys)?
            };
            Ok((cpus, memory))
        }
    };
    let (cpus, memory) = blocking("processors and memory cannot be brought online", online).await?;
    info!(
        cpus,
        memory_blocks = memory,
        "processors and memory are online"
    );
    if cpus >= nb_cpus {
        return Ok(Empty::default());
    }
    let more = wait_for_cpus(sys, nb_cpus);
    if wait {
        more.await?;
    } else {
        task::spawn(async move {
            if let Err(error) = more.await {
                warn!(%error, "processors are missing");
            }
        });
    }
    Ok(Empty::default())
}

async fn wait_for_cpus(sys: std::path::PathBuf, wanted: u32) -> Result<(), RequestError> {
    let deadline = Instant::now() + CPU_LIMIT;
    loop {
        sleep(CPU_POLL).await;
        let sys = sys.clone();
        let what = "processors cannot be brought online";
        let online = blocking(what, move || hotplug::online_cpus(&sys)).await?;
        if online >= wanted {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let text =
                format!("{online} processors are there, not the {wanted} that are asked for");
            return Err(RequestError::State(text));
        }
    }
}

pub(super) async fn mem_hotplug_by_probe(
    ctx: &Arc<Context>,
    request: MemHotplugByProbeRequest,
) -> Result<Empty, RequestError> {
    let file = hotplug::probe_file(&ctx.config.paths.sys).ok_or_else(|| {
        RequestError::State("this kernel finds memory by itself and takes no probe".to_owned())
    })?;
    let addresses = request.memHotplugProbeAddr;
    let probe = move || hotplug::probe_memory(&file, &addresses);
    blocking("memory cannot be probed", probe).await?;
    Ok(Empty::default())
}

pub(super) async fn set_guest_date_time(
    _: &Arc<Context>,
    request: SetGuestDateTimeRequest,
) -> Result<Empty, RequestError> {
    let SetGuestDateTimeRequest { Sec, Usec, .. } = request;
    let microseconds = u32::try_from(Usec)
        .ok()
        .filter(|microseconds| *microseconds < MICROSECONDS_PER_SECOND && Sec > 0);
    let microseconds = microseconds
        .ok_or_else(|| RequestError::Invalid(format!("{Sec} s and {Usec} us are no time")))?;
    let set = clock::set_realtime(Sec, microseconds);
    set.map_err(|source| RequestError::internal("the clock cannot be set", source))?;
    info!(seconds = Sec, "the host has set the clock");
    Ok(Empty::default())
}

pub(super) async fn reseed_random_dev(
    _: &Arc<Context>,
    request: ReseedRandomDevRequest,
) -> Result<Empty, RequestError> {
    let data = request.data;
    if data.is_empty() || data.len() > MAX_RANDOM_BYTES {
        let text = format!("1 to {MAX_RANDOM_BYTES} bytes reseed, not {}", data.len());
        return Err(RequestError::Invalid(text));
    }
    let reseed = move || random::reseed(&data);
    blocking("the random numbers cannot be reseeded", reseed).await?;
    Ok(Empty::default())
}

/// `/proc` and `/sys` take locks that others may hold, so they are read on a thread of their own.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RequestError> {
    let done = task::spawn_blocking(work).await.map_err(io::Error::from);
    done.flatten()
        .map_err(|source| RequestError::internal(what, source))
}

fn told(snapshot: Snapshot) -> StatsContainerResponse {
    let Snapshot {
        cpu,
        memory,
        tasks,
        max_tasks,
        disks,
        huge_pages,
        links,
    } = snapshot;
    let usage = CpuUsage {
        total_usage: cpu.total,
        percpu_usage: cpu.each,
        usage_in_kernelmode: cpu.system,
        usage_in_usermode: cpu.user,
        ..Default::default()
    };
    let (periods, throttled_periods, throttled_time) = cpu.throttled;
    let throttling = ThrottlingData {
        periods,
        throttled_periods,
        throttled_time,
        ..Default::default()
    };
    let bytes = |usage, limit| {
        Some(MemoryData {
            usage,
            limit,
            ..Default::default()
        })
    };
    let memory = MemoryStats {
        cache: memory.cache,
        usage: bytes(memory.usage, memory.limit).into(),
        swap_usage: bytes(memory.swap.0, memory.swap.1).into(),
        kernel_usage: bytes(memory.kernel, 0).into(),
        use_hierarchy: true,
        stats: memory.details.into_iter().collect(),
        ..Default::default()
    };
    let hugetlb = huge_pages.into_iter().map(|(size, usage, max_usage)| {
        let stats = HugetlbStats {
            usage,
            max_usage,
            ..Default::default()
        };
        (size, stats)
    });
    let cgroup = CgroupStats {
        cpu_stats: Some(CpuStats {
            cpu_usage: Some(usage).into(),
            throttling_data: Some(throttling).into(),
            ..Default::default()
        })
        .into(),
        memory_stats: Some(memory).into(),
        pids_stats: Some(PidsStats {
            current: tasks,
            limit: max_tasks,
            ..Default::default()
        })
        .into(),
        blkio_stats: Some(BlkioStats {
            io_service_bytes_recursive: entries(&disks, |disk| disk.bytes),
            io_serviced_recursive: entries(&disks, |disk| disk.operations),
            ..Default::default()
        })
        .into(),
        hugetlb_stats: hugetlb.collect(),
        ..Default::default()
    };
    StatsContainerResponse {
        cgroup_stats: Some(cgroup).into(),
        network_stats: links.into_iter().map(link).collect(),
        ..Default::default()
    }
}

fn entries(disks: &[Disk], values: fn(&Disk) -> [u64; 3]) -> Vec<BlkioStatsEntry> {
    let of_disk = |disk: &Disk| {
        let (major, minor) = (disk.major, disk.minor);
        let one = move |(op, value): (&str, u64)| BlkioStatsEntry {
            major,
            minor,
            op: op.to_owned(),
            value,
            ..Default::default()
        };
        KINDS.into_iter().zip(values(disk)).map(one)
    };
    disks.iter().flat_map(of_disk).collect()
}

fn link(link: Link) -> NetworkStats {
    let Link {
        name,
        received: [rx_bytes, rx_packets, rx_errors, rx_dropped],
        sent: [tx_bytes, tx_packets, tx_errors, tx_dropped],
    } = link;
    NetworkStats {
        name,
        rx_bytes,
        rx_packets,
        rx_errors,
        rx_dropped,
        tx_bytes,
        tx_packets,
        tx_errors,
        tx_dropped,
        ..Default::default()
    }
}
