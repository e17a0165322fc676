//! The processes of an instance on the host: their CPU time and their memory.

use std::{fs, time::Duration};

use crate::vmm::ProcessInfo;

/// The kernel counts CPU time for user space in hundredths of a second on every architecture (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Lines of `/proc/PID/smaps_rollup`. The guest's memory is the one memfd there is.
const PSS: &str = "Pss:";
const PSS_SHMEM: &str = "Pss_Shmem:";

/// What one process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessUsage {
    /// `qemu`, `shim`...
    pub name: &'static str,
    /// Its pid.
    pub pid: u32,
    /// CPU time of all its threads since its start.
    pub cpu: Duration,
    /// Its share of memory in bytes.
    pub memory_bytes: u64,
    /// Of that, memory that is shared between processes: the guest's own.
    pub guest_memory_bytes: u64,
}

/// What all processes use together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// One by one, those that were there.
    pub processes: Vec<ProcessUsage>,
}

impl HostUsage {
    /// CPU time of all.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(|process| process.cpu).sum()
    }

    /// Memory of all in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.processes.iter().map(|one| one.memory_bytes).sum()
    }
}

/// Reads the figures of these processes and of this shim. A process that is gone is left out.
///
/// Reading the memory of a VM walks its page tables, which takes milliseconds.
pub fn processes(of: &[ProcessInfo]) -> HostUsage {
    let shim = ProcessInfo {
        name: "shim",
        pid: std::process::id(),
    };
    let processes = of.iter().chain([&shim]).filter_map(usage).collect();
    HostUsage { processes }
}

/// CPU time and resident memory of one process: cheaper than [`processes`], and memory that is shared with
/// others counts whole.
pub fn resident(pid: u32) -> Option<(Duration, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&stat, u64::try_from(rustix::param::page_size()).ok()?)
}

fn usage(process: &ProcessInfo) -> Option<ProcessUsage> {
    let ProcessInfo { name, pid } = *process;
    let (cpu, resident) = resident(pid)?;
    // Another user's memory map is not to be had; its resident set is.
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Some(ProcessUsage {
        name,
        pid,
        cpu,
        memory_bytes: kibibytes(&rollup, PSS).unwrap_or(resident),
        guest_memory_bytes: kibibytes(&rollup, PSS_SHMEM).unwrap_or(0),
    })
}

/// Fields 14 and 15 of `/proc/PID/stat`, time in user and kernel mode, and field 24, resident pages. The name
/// in parentheses may hold anything, so counting begins behind it.
fn parse(stat: &str, page_bytes: u64) -> Option<(Duration, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    let pages: u64 = fields.nth(8)?.parse().ok()?;
    Some((
        TICK * user + TICK * system,
        pages.saturating_mul(page_bytes),
    ))
}

/// The value of `KEY   123 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_moves_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 4 0 99 1 2 3";
        assert_eq!(parse(stat, 4096), Some((Duration::from_secs(3), 2 * 4096)));
        assert_eq!(parse("7 (short) S 1", 4096), None);
    }

    #[test]
    fn memory_is_the_proportional_share() {
        let rollup =
            "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss:   12 kB\nPss_Anon: 3 kB\n";
        assert_eq!(kibibytes(rollup, PSS), Some(12 * 1024));
        assert_eq!(kibibytes(rollup, PSS_SHMEM), None);
    }

    #[test]
    fn this_process_is_counted_and_one_that_is_gone_is_not() {
        let gone = ProcessInfo {
            name: "qemu",
            pid: u32::MAX,
        };
        let usage = processes(&[gone]);
        let names: Vec<_> = usage.processes.iter().map(|process| process.name).collect();
        assert_eq!(names, ["shim"]);
        assert!(usage.memory_bytes() > 0);
    }
}
