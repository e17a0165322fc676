//! What the instance uses: processors, memory, processes, disks, network. The container is the whole
//! guest, so the numbers are those of the root control group, and of `/proc` where the root group has no
//! file (`Documentation/admin-guide/cgroup-v2.rst`, `proc(5)`).
//!
//! Everything is read anew at each question; nothing is remembered, nothing asks systemd.

pub mod metrics;
mod text;

use std::{fs, io, path::Path};

use text::{colon_table, keyed, pairs};

/// The kernel counts CPU time for user space in hundredths of a second on every architecture (`USER_HZ`).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

const NANOSECONDS_PER_MICROSECOND: u64 = 1000;

/// `/proc/meminfo` counts in KiB.
const KIB: u64 = 1024;

/// The loopback is nobody's traffic.
const LOOPBACK: &str = "lo";

/// All of it at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Processors.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Tasks that there are.
    pub tasks: u64,
    /// The most tasks that there may be.
    pub max_tasks: u64,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Huge pages, by their size (`2MB`): bytes used and bytes reserved.
    pub huge_pages: Vec<(String, u64, u64)>,
    /// Links.
    pub links: Vec<Link>,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// All of it.
    pub total: u64,
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By processor.
    pub each: Vec<u64>,
    /// Periods of a quota, those that were cut short, and for how long.
    pub throttled: (u64, u64, u64),
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// What is not free, the page cache included.
    pub usage: u64,
    /// What there is.
    pub limit: u64,
    /// The page cache.
    pub cache: u64,
    /// The kernel's own.
    pub kernel: u64,
    /// Swap space in use, and what there is.
    pub swap: (u64, u64),
    /// The lines of `memory.stat`, `inactive_file` among them.
    pub details: Vec<(String, u64)>,
}

/// A disk's traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// The kernel's numbers for it.
    pub major: u64,
    /// The second of the two.
    pub minor: u64,
    /// Bytes read, written, discarded.
    pub bytes: [u64; 3],
    /// Operations of the same kinds.
    pub operations: [u64; 3],
}

/// A link's traffic: bytes, packets, errors, dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What came.
    pub received: [u64; 4],
    /// What went.
    pub sent: [u64; 4],
}

/// Reads everything. Files that this kernel does not have count as zero.
pub fn read(proc: &Path, sys: &Path, cgroup: &Path) -> io::Result<Snapshot> {
    let (tasks, max_tasks) = tasks(proc)?;
    Ok(Snapshot {
        cpu: cpu(proc, cgroup)?,
        memory: memory(proc, cgroup)?,
        tasks,
        max_tasks,
        disks: disks(cgroup)?,
        huge_pages: huge_pages(sys)?,
        links: links(proc)?,
    })
}

fn cpu(proc: &Path, cgroup: &Path) -> io::Result<Cpu> {
    let stat = optional(&cgroup.join("cpu.stat"))?;
    let lines = pairs(&stat);
    let value = |key: &str| keyed(&lines, key).unwrap_or(0);
    let time = |key| value(key).saturating_mul(NANOSECONDS_PER_MICROSECOND);
    Ok(Cpu {
        total: time("usage_usec"),
        user: time("user_usec"),
        system: time("system_usec"),
        each: each_cpu(&fs::read_to_string(proc.join("stat"))?),
        throttled: (
            value("nr_periods"),
            value("nr_throttled"),
            time("throttled_usec"),
        ),
    })
}

/// `cpu0 user nice system idle iowait irq softirq steal guest guest_nice`: all but waiting is use, and the
/// time of guests is in that of user already.
fn each_cpu(stat: &str) -> Vec<u64> {
    let mut each = Vec::new();
    for line in stat.lines() {
        let mut words = line.split_ascii_whitespace();
        let number = words.next().and_then(|name| name.strip_prefix("cpu"));
        if number.is_none_or(|number| number.parse::<u32>().is_err()) {
            continue;
        }
        let ticks: Vec<u64> = words.map(|word| word.parse().unwrap_or(0)).collect();
        let used = [0, 1, 2, 5, 6, 7]
            .iter()
            .filter_map(|at| ticks.get(*at))
            .sum::<u64>();
        each.push(used.saturating_mul(NANOSECONDS_PER_TICK));
    }
    each
}

fn memory(proc: &Path, cgroup: &Path) -> io::Result<Memory> {
    let meminfo = fs::read_to_string(proc.join("meminfo"))?;
    let lines = colon_table(&meminfo);
    let bytes = |key: &str| keyed(&lines, key).unwrap_or(0).saturating_mul(KIB);
    let stat = optional(&cgroup.join("memory.stat"))?;
    let mut details: Vec<_> = pairs(&stat)
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    if details.is_empty() {
        // A kernel without the memory controller still knows this one, and it is what is asked for.
        details.push(("inactive_file".to_owned(), bytes("Inactive(file)")));
    }
    let detail = |key: &str| {
        let found = details.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| *value)
    };
    let swap = bytes("SwapTotal");
    Ok(Memory {
        usage: bytes("MemTotal").saturating_sub(bytes("MemFree")),
        limit: bytes("MemTotal"),
        cache: detail("file").unwrap_or_else(|| bytes("Cached")),
        kernel: detail("kernel").unwrap_or_else(|| bytes("Slab")),
        swap: (swap.saturating_sub(bytes("SwapFree")), swap),
        details,
    })
}

/// `0.10 0.20 0.30 2/345 6789`: the number behind the slash is that of all tasks.
fn tasks(proc: &Path) -> io::Result<(u64, u64)> {
    let load = fs::read_to_string(proc.join("loadavg"))?;
    let all = load
        .split_ascii_whitespace()
        .nth(3)
        .and_then(|word| word.split_once('/'))
        .and_then(|(_, all)| all.parse().ok());
    let most = optional(&proc.join("sys/kernel/threads-max"))?;
    Ok((all.unwrap_or(0), most.trim().parse().unwrap_or(0)))
}

/// `253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn disks(cgroup: &Path) -> io::Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for line in optional(&cgroup.join("io.stat"))?.lines() {
        let mut words = line.split_ascii_whitespace();
        let numbers = words.next().and_then(|word| word.split_once(':'));
        let Some((Ok(major), Ok(minor))) = numbers.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        let values: Vec<(&str, u64)> = words
            .filter_map(|word| word.split_once('='))
            .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
            .collect();
        let all = |keys: [&str; 3]| keys.map(|key| keyed(&values, key).unwrap_or(0));
        disks.push(Disk {
            major,
            minor,
            bytes: all(["rbytes", "wbytes", "dbytes"]),
            operations: all(["rios", "wios", "dios"]),
        });
    }
    Ok(disks)
}

fn huge_pages(sys: &Path) -> io::Result<Vec<(String, u64, u64)>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(sys.join("kernel/mm/hugepages")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name
            .strip_prefix("hugepages-")
            .and_then(|name| name.strip_suffix("kB"));
        let Some(kib) = size.and_then(|size| size.parse::<u64>().ok()) else {
            continue;
        };
        let read = |file: &str| -> io::Result<u64> {
            let text = optional(&entry.path().join(file))?;
            Ok(text.trim().parse().unwrap_or(0))
        };
        let (all, free) = (read("nr_hugepages")?, read("free_hugepages")?);
        let bytes = |pages: u64| pages.saturating_mul(kib).saturating_mul(KIB);
        let label = match kib / 1024 {
            0 => format!("{kib}KB"),
            mib if mib >= 1024 => format!("{}GB", mib / 1024),
            mib => format!("{mib}MB"),
        };
        found.push((label, bytes(all.saturating_sub(free)), bytes(all)));
    }
    found.sort();
    Ok(found)
}

/// `  eth0: bytes packets errs drop fifo frame compressed multicast bytes packets errs drop ...`
fn links(proc: &Path) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    for line in fs::read_to_string(proc.join("net/dev"))?.lines() {
        let Some((name, values)) = line.split_once(':') else {
            continue;
        };
        let values: Vec<u64> = values
            .split_ascii_whitespace()
            .map(|word| word.parse().unwrap_or(0))
            .collect();
        let name = name.trim();
        if name == LOOPBACK || values.len() < 12 {
            continue;
        }
        links.push(Link {
            name: name.to_owned(),
            received: [values[0], values[1], values[2], values[3]],
            sent: [values[8], values[9], values[10], values[11]],
        });
    }
    Ok(links)
}

/// A file that not every kernel has.
fn optional(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_files_are_understood() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for (name, text) in [
            (
                "proc/stat",
                "cpu  9 9 9 9\ncpu0 1 2 3 99 99 4 5 6 7 8\ncpu1 10 0 0 9\nintr 5\n",
            ),
            (
                "proc/meminfo",
                "MemTotal: 1000 kB\nMemFree: 400 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n",
            ),
            ("proc/loadavg", "0.10 0.20 0.30 2/345 6789\n"),
            ("proc/sys/kernel/threads-max", "4000\n"),
            (
                "proc/net/dev",
                "Inter-|\n face |bytes\n    lo: 1 1 1 1 0 0 0 0 1 1 1 1 0 0 0 0\n  eth0:11 12 13 14 0 0 0 0 21 22 23 24 0 0 0 0\n",
            ),
            (
                "cg/cpu.stat",
                "usage_usec 30\nuser_usec 20\nsystem_usec 10\n",
            ),
            (
                "cg/memory.stat",
                "anon 5\nfile 7000\nkernel 9\ninactive_file 4096\n",
            ),
            (
                "cg/io.stat",
                "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 \n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
                "3\n",
            ),
            (
                "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
                "1\n",
            ),
        ] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), text).unwrap();
        }
        let now = read(&at("proc"), &at("sys"), &at("cg")).unwrap();
        assert_eq!(
            (now.cpu.total, now.cpu.user, now.cpu.system),
            (30_000, 20_000, 10_000)
        );
        assert_eq!(now.cpu.each, [210_000_000, 100_000_000]);
        assert_eq!(
            (now.memory.usage, now.memory.limit),
            (600 * KIB, 1000 * KIB)
        );
        assert_eq!(now.memory.swap, (30 * KIB, 50 * KIB));
        assert!(
            now.memory
                .details
                .contains(&("inactive_file".to_owned(), 4096))
        );
        assert_eq!((now.tasks, now.max_tasks), (345, 4000));
        assert_eq!(now.disks[0].bytes, [1, 2, 5]);
        assert_eq!(now.disks[0].operations, [3, 4, 6]);
        assert_eq!(
            now.disks[1],
            Disk {
                major: 8,
                minor: 16,
                ..Disk::default()
            }
        );
        assert_eq!(now.huge_pages, [("2MB".to_owned(), 4 << 20, 6 << 20)]);
        assert_eq!(now.links.len(), 1);
        assert_eq!(now.links[0].received, [11, 12, 13, 14]);
        assert_eq!(now.links[0].sent, [21, 22, 23, 24]);
    }

    #[test]
    fn this_machine_uses_something() {
        let root = |path: &'static str| Path::new(path);
        let now = read(root("/proc"), root("/sys"), root("/sys/fs/cgroup")).unwrap();
        assert!(now.memory.usage > 0 && now.memory.usage < now.memory.limit);
        assert!(!now.cpu.each.is_empty() && now.tasks > 0);
        assert!(
            now.memory
                .details
                .iter()
                .any(|(key, _)| key == "inactive_file")
        );
    }
}
