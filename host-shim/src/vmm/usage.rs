//! What a process has used of the host, from procfs (proc_pid_stat(5)). Never asks the guest.

use std::{fs, time::Duration};

/// Clock ticks in a second as procfs counts them: `USER_HZ`, which Linux fixes at 100 on every architecture
/// that a VMM runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Time on processors, of all threads, in the kernel and outside.
    pub cpu: Duration,
    /// Memory that is resident now.
    pub memory_bytes: u64,
}

/// What the process of this pid has used; nothing when there is none.
pub fn of(pid: u32) -> Usage {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse(&stat, rustix::param::page_size() as u64).unwrap_or_default()
}

fn parse(stat: &str, page_bytes: u64) -> Option<Usage> {
    // The name in parentheses may hold anything, so count from its end: state is field 3.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut number = || fields.next()?.parse::<u64>().ok();
    let ticks = number()? + number()?;
    let pages: u64 = fields.nth(8)?.parse().ok()?;
    Some(Usage {
        cpu: Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND)),
        memory_bytes: pages.saturating_mul(page_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_counted_from_the_end_of_the_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 900 0 0 0 150 50 0 0 20 0 3 0 1000 1234567 321 18446744073709551615 1";
        let usage = parse(stat, 4096).unwrap();
        assert_eq!(usage.cpu, Duration::from_secs(2));
        assert_eq!(usage.memory_bytes, 321 * 4096);
        assert_eq!(of(u32::MAX), Usage::default());
        assert!(of(std::process::id()).memory_bytes > 0);
    }
}
