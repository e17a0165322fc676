//! How long a process was on a CPU, as the kernel accounts for it (proc_pid_stat(5)): in ticks of 10 ms, which is little beside
//! what is measured with them.

use std::{fs, process::Child, time::Duration};

use anyhow::{Context, Result};

/// Of a tick: USER_HZ is 100 on x86-64.
const TICK_MS: u64 = 10;
/// Where `utime` and `stime` of a process (with threads that have ended) stand, and those of its children that have ended
/// and were waited for; counted from field 3.
const OF_PROCESS: usize = 11;
const OF_CHILDREN: usize = 13;

/// Of a child that was not waited for yet.
pub(crate) fn of(child: &Child) -> Result<Duration> {
    read(&child.id().to_string(), OF_PROCESS)
}

/// Of all children of this process that were waited for.
pub(crate) fn of_children() -> Result<Duration> {
    read("self", OF_CHILDREN)
}

fn read(process: &str, skip: usize) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks(&text, skip).with_context(|| format!("no times in {path}"))?;
    Ok(Duration::from_millis(ticks * TICK_MS))
}

/// The sum of two fields. The name of the program, in brackets, may hold anything; behind it stands field 3.
fn ticks(text: &str, skip: usize) -> Option<u64> {
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(skip);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_stand_behind_a_name_that_may_hold_anything() {
        let text = "7 (a) 1 (b) S 1 7 7 0 -1 4194304 95 0 0 0 12 30 500 6 20 0 1 0 90 0 0";
        assert_eq!(ticks(text, OF_PROCESS), Some(42));
        assert_eq!(ticks(text, OF_CHILDREN), Some(506));
        assert_eq!(ticks("7 (a) S", OF_PROCESS), None);
    }
}
