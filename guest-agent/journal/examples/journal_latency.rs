//! Follows a live journal and prints as one JSON object how late entries are seen, measured from journald's own
//! time stamp, and what the waiting costs: `journal_latency PARENT MACHINE_ID SECONDS`.
#![forbid(unsafe_code)]

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use seed_journal::{Journal, Mark, Position, Query, parse_id};
use seed_protocol::journal::{BatchDecoder, BatchEncoder};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [parent, id, seconds] = arguments.as_slice() else {
        return Err("usage: journal_latency PARENT MACHINE_ID SECONDS".into());
    };
    let id = parse_id(id).ok_or("a machine id has 32 digits")?;
    let mut journal = Journal::open(&[PathBuf::from(parent)], id);
    let mut position = journal.find_last(&Query::new(), 0);
    let begin = (Instant::now(), cpu_seconds()?);
    let end = begin.0 + Duration::from_secs(seconds.parse()?);
    let mut late_us: Vec<u64> = Vec::new();
    let mut gaps = 0;
    while Instant::now() < end {
        let mut batch = BatchEncoder::new(128 * 1024);
        let outcome = journal.read_after(&position, &mut batch)?;
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
        gaps += outcome.gap.map_or(0, |gap| gap.count());
        if outcome.count > 0 {
            let mark = batch.last().as_ref().map(Mark::from);
            position = Position {
                seqnum_id: outcome.seqnum_id,
                seqnum: outcome.last,
                mark,
            };
            for entry in BatchDecoder::new(&batch.finish())? {
                late_us.push(now.saturating_sub(entry?.head.realtime_us));
            }
        }
        if outcome.caught_up {
            journal.wait_for_change(end.saturating_duration_since(Instant::now()));
        }
    }
    let cpu = cpu_seconds()? - begin.1;
    late_us.sort_unstable();
    let at = |percent: usize| {
        late_us
            .get((late_us.len() * percent / 100).min(late_us.len().saturating_sub(1)))
            .copied()
    };
    let us = |percent: usize| at(percent).unwrap_or(0);
    writeln!(
        io::stdout(),
        "{{\"entries\": {}, \"missing\": {gaps}, \"p50_us\": {}, \"p99_us\": {}, \"max_us\": {}, \
         \"cpu_percent\": {:.2}}}",
        late_us.len(),
        us(50),
        us(99),
        us(100),
        100.0 * cpu / begin.0.elapsed().as_secs_f64(),
    )?;
    Ok(())
}

/// The first field of schedstat is the time on a CPU in nanoseconds.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().ok_or("empty schedstat")?.parse()?;
    Ok(nanoseconds / 1e9)
}
