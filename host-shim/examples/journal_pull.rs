//! Pulls the journal of an agent that listens on a Unix socket into segments, as the shim does, and prints as
//! one JSON object what that cost: `journal_pull SOCKET DIRECTORY SECONDS [one-at-a-time | zstd]`. It ends so many seconds after
//! it has caught up; entries of that time give the latency from journald's time stamp to the host's segment. What the segments hold
//! in the end, also of earlier runs, is told beside what was pulled. `one-at-a-time`
//! plays a guest that knows no turns, so that one request is under way and not two; `zstd` packs the segments.
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use containerd_shim_protos::ttrpc;
use seed_protocol::seed::{v1::ReadJournalRequest, v1_ttrpc::GuestClient};
use seed_shim::logs::{
    JournalSource, Reading, SourceError,
    entry::{Record, for_each},
    pack::Compression,
    puller::spawn_with,
    reader::{Item, Reader},
    store::Limits,
};
use tokio::sync::OnceCell;

/// More than any corpus needs: nothing is deleted.
const LIMITS: Limits = Limits {
    total_bytes: 64 << 30,
    ..Limits::DEFAULT
};

#[derive(Clone)]
struct Agent {
    socket: PathBuf,
    turns: bool,
    client: Arc<OnceCell<GuestClient>>,
}

impl JournalSource for Agent {
    fn read(&mut self, request: ReadJournalRequest) -> Reading {
        let address = format!("unix://{}", self.socket.display());
        let (client, turns) = (Arc::clone(&self.client), self.turns);
        Box::pin(async move {
            let unreachable = |error: ttrpc::Error| SourceError::Unreachable(error.to_string());
            let connect = async || {
                let client = ttrpc::r#async::Client::connect(&address).await?;
                Ok(GuestClient::new(client))
            };
            let client = client.get_or_try_init(connect).await;
            let wait = Duration::from_millis(request.wait_ms.into()) + Duration::from_secs(20);
            let context = ttrpc::context::with_duration(wait);
            let batch = client
                .map_err(unreachable)?
                .read_journal(context, &request)
                .await;
            let mut batch = batch.map_err(unreachable)?;
            if !turns {
                batch.turn = 0;
            }
            Ok(batch)
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (socket, dir, seconds, how) = match arguments.as_slice() {
        [socket, dir, seconds] => (socket, dir, seconds, ""),
        [socket, dir, seconds, how] if how == "one-at-a-time" || how == "zstd" => {
            (socket, dir, seconds, how.as_str())
        }
        _ => {
            let usage = "usage: journal_pull SOCKET DIRECTORY SECONDS [one-at-a-time | zstd]";
            return Err(usage.into());
        }
    };
    let source = Agent {
        socket: socket.into(),
        turns: how != "one-at-a-time",
        client: Arc::default(),
    };
    let limits = if how == "zstd" {
        Limits {
            compression: Compression::Zstd,
            ..LIMITS
        }
    } else {
        LIMITS
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(pull(
        source,
        limits,
        Path::new(dir),
        Duration::from_secs(seconds.parse()?),
    ))
}

async fn pull(
    source: Agent,
    limits: Limits,
    dir: &Path,
    more: Duration,
) -> Result<(), Box<dyn Error>> {
    let begin = (Instant::now(), cpu_seconds()?);
    let handle = spawn_with(source, dir, None, limits);
    let counters = handle.counters();
    let mut last = (0, Instant::now());
    // Caught up: nothing came for a while.
    while last.0 == 0 || last.1.elapsed() < Duration::from_millis(300) {
        if counters.entries() != last.0 {
            last = (counters.entries(), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let pulled = last.0;
    let wall = last.1.duration_since(begin.0).as_secs_f64();
    let cpu = cpu_seconds()? - begin.1;
    let live_from = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let live = (Instant::now(), cpu_seconds()?);
    tokio::time::sleep(more).await;
    let live_cpu = cpu_seconds()? - live.1;
    let live_wall = live.0.elapsed().as_secs_f64().max(1e-6);
    let private = private_kib()?;
    let missing = counters.missing();
    handle.drain(Duration::from_secs(10)).await;
    let held = held(dir, live_from)?;
    let late_us = held.late_us;
    let at = |percent: usize| {
        let last = late_us.len().saturating_sub(1);
        let us = late_us.get((late_us.len() * percent / 100).min(last));
        us.copied().unwrap_or(0)
    };
    writeln!(
        io::stdout(),
        "{{\"entries\": {pulled}, \"missing\": {missing}, \"wall_s\": {wall:.3}, \"cpu_s\": {cpu:.3}, \"private_kib\": {private}, \
         \"held\": {}, \"held_missing\": {}, \"last\": {}, \"live\": {}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, \"live_cpu_percent\": {:.2}}}",
        held.entries,
        held.missing,
        held.last,
        late_us.len(),
        at(50),
        at(99),
        at(100),
        100.0 * live_cpu / live_wall,
    )?;
    Ok(())
}

/// What segments hold.
#[derive(Default)]
struct Held {
    entries: u64,
    /// Numbers that gaps state.
    missing: u64,
    /// The last entry's number.
    last: u64,
    /// From journald's stamp to the moment in which the host had the batch and appended it, sorted; of live entries.
    late_us: Vec<u64>,
}

fn held(dir: &Path, live_from_us: u64) -> Result<Held, Box<dyn Error>> {
    let mut reader = Reader::from_start(dir);
    let mut held = Held::default();
    while let Some(item) = reader.next()? {
        let Item::Frame(frame) = item else { continue };
        held.last = frame.last;
        let Ok(()) = for_each(&frame, |record| {
            match record {
                Record::Entry(entry) => {
                    held.entries += 1;
                    let stamp = entry.head.realtime_us;
                    if stamp.min(frame.received_unix_us) >= live_from_us {
                        held.late_us
                            .push(frame.received_unix_us.saturating_sub(stamp));
                    }
                }
                Record::Gap { gap, .. } => held.missing += gap.count(),
                _ => {}
            }
            Ok::<(), Infallible>(())
        });
    }
    held.late_us.sort_unstable();
    Ok(held)
}

/// The first field of schedstat is the time on a CPU in nanoseconds; there is one thread.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().ok_or("empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}

fn private_kib() -> Result<u64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("no Anonymous")?.parse()?)
}
