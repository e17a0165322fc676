//! The same and more as Prometheus text (its exposition format 0.0.4), under the names that dashboards for
//! Kata guests know: `kata_guest_*` and `kata_agent_*`.

use std::{
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    optional,
    text::{colon_table, pairs},
};
use crate::sys::mount;

/// Times of `/proc/stat`, in its order.
const CPU_TIMES: [&str; 10] = [
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "irq",
    "softirq",
    "steal",
    "guest",
    "guest_nice",
];

/// Columns of `/proc/net/dev`.
const NET_COLUMNS: [&str; 16] = [
    "recv_bytes",
    "recv_packets",
    "recv_errs",
    "recv_drop",
    "recv_fifo",
    "recv_frame",
    "recv_compressed",
    "recv_multicast",
    "sent_bytes",
    "sent_packets",
    "sent_errs",
    "sent_drop",
    "sent_fifo",
    "sent_colls",
    "sent_carrier",
    "sent_compressed",
];

/// Columns of `/proc/diskstats` behind numbers and name.
const DISK_COLUMNS: [&str; 11] = [
    "reads",
    "reads_merged",
    "sectors_read",
    "time_reading",
    "writes",
    "writes_merged",
    "sectors_written",
    "time_writing",
    "in_progress",
    "time_in_progress",
    "weighted_time_in_progress",
];

/// More mount points than this are not told.
const MAX_MOUNTS: usize = 64;

/// The text as it grows.
struct Page {
    text: String,
}

impl Page {
    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let _ = write!(self.text, "{name}");
        for (at, (key, label)) in labels.iter().enumerate() {
            let open = if at == 0 { '{' } else { ',' };
            let _ = write!(self.text, "{open}{key}=\"{}\"", escaped(label));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }
}

/// All metrics of this moment.
pub fn read(proc: &Path, volumes: &[PathBuf]) -> io::Result<String> {
    let mut page = Page {
        text: String::new(),
    };
    load(&mut page, proc)?;
    cpu(&mut page, proc)?;
    memory(&mut page, proc)?;
    network(&mut page, proc)?;
    disks(&mut page, proc)?;
    filesystems(&mut page, volumes);
    agent(&mut page, proc)?;
    Ok(page.text)
}

fn load(page: &mut Page, proc: &Path) -> io::Result<()> {
    let text = fs::read_to_string(proc.join("loadavg"))?;
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    page.begin("kata_guest_load", "gauge", "Load averages of the guest.");
    for (item, value) in ["load1", "load5", "load15"].iter().zip(&words) {
        page.line("kata_guest_load", &[("item", item)], value);
    }
    page.begin("kata_guest_tasks", "gauge", "Tasks of the guest.");
    if let Some((running, all)) = words.get(3).and_then(|word| word.split_once('/')) {
        page.line("kata_guest_tasks", &[("item", "cur")], running);
        page.line("kata_guest_tasks", &[("item", "max")], all);
    }
    Ok(())
}

fn cpu(page: &mut Page, proc: &Path) -> io::Result<()> {
    const NAME: &str = "kata_guest_cpu_time";
    page.begin(
        NAME,
        "gauge",
        "Time of processors in hundredths of a second.",
    );
    for line in fs::read_to_string(proc.join("stat"))?.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(cpu) = words.next().and_then(|name| name.strip_prefix("cpu")) else {
            continue;
        };
        let cpu = if cpu.is_empty() { "total" } else { cpu };
        for (item, value) in CPU_TIMES.iter().zip(words) {
            page.line(NAME, &[("cpu", cpu), ("item", item)], value);
        }
    }
    Ok(())
}

fn memory(page: &mut Page, proc: &Path) -> io::Result<()> {
    const INFO: &str = "kata_guest_meminfo";
    page.begin(INFO, "gauge", "Memory of the guest in KiB.");
    let text = fs::read_to_string(proc.join("meminfo"))?;
    for (key, value) in colon_table(&text) {
        let item = key.to_ascii_lowercase().replace(['(', ')'], "_");
        page.line(INFO, &[("item", item.trim_end_matches('_'))], value);
    }
    const VM: &str = "kata_guest_vm_stat";
    page.begin(VM, "gauge", "Counters of virtual memory.");
    let text = optional(&proc.join("vmstat"))?;
    for (key, value) in pairs(&text) {
        page.line(VM, &[("item", key)], value);
    }
    Ok(())
}

fn network(page: &mut Page, proc: &Path) -> io::Result<()> {
    const NAME: &str = "kata_guest_netdev_stat";
    page.begin(NAME, "gauge", "Traffic of links.");
    for line in fs::read_to_string(proc.join("net/dev"))?.lines() {
        let Some((link, values)) = line.split_once(':') else {
            continue;
        };
        for (item, value) in NET_COLUMNS.iter().zip(values.split_ascii_whitespace()) {
            page.line(NAME, &[("interface", link.trim()), ("item", item)], value);
        }
    }
    Ok(())
}

fn disks(page: &mut Page, proc: &Path) -> io::Result<()> {
    const NAME: &str = "kata_guest_diskstat";
    page.begin(NAME, "gauge", "Traffic of disks.");
    for line in optional(&proc.join("diskstats"))?.lines() {
        let mut words = line.split_ascii_whitespace().skip(2);
        let Some(disk) = words.next() else {
            continue;
        };
        if disk.starts_with("loop") || disk.starts_with("ram") {
            continue;
        }
        for (item, value) in DISK_COLUMNS.iter().zip(words) {
            page.line(NAME, &[("disk", disk), ("item", item)], value);
        }
    }
    Ok(())
}

fn filesystems(page: &mut Page, volumes: &[PathBuf]) {
    let root = PathBuf::from("/");
    let usage: Vec<_> = std::iter::once(&root)
        .chain(volumes)
        .take(MAX_MOUNTS)
        // A volume that is not mounted now has nothing to tell.
        .filter_map(|path| Some((path.to_string_lossy(), mount::usage(path).ok()?)))
        .collect();
    for (name, help) in [
        (
            "kata_guest_filesystem_bytes",
            "Room of file systems in bytes.",
        ),
        ("kata_guest_filesystem_inodes", "Inodes of file systems."),
    ] {
        page.begin(name, "gauge", help);
        for (path, usage) in &usage {
            let room = if name.ends_with("bytes") {
                usage.bytes
            } else {
                usage.inodes
            };
            for (item, value) in [
                ("size", room.total),
                ("used", room.used),
                ("available", room.available),
            ] {
                page.line(name, &[("mount", path), ("item", item)], value);
            }
        }
    }
}

/// Of this process.
fn agent(page: &mut Page, proc: &Path) -> io::Result<()> {
    let status = fs::read_to_string(proc.join("self/status"))?;
    let lines = colon_table(&status);
    for (name, key, factor, help) in [
        ("kata_agent_threads", "Threads", 1, "Threads of the agent."),
        (
            "kata_agent_total_rss",
            "VmRSS",
            1024,
            "Memory of the agent in bytes.",
        ),
        (
            "kata_agent_total_vm",
            "VmSize",
            1024,
            "Address space of the agent in bytes.",
        ),
    ] {
        page.begin(name, "gauge", help);
        let value = super::text::keyed(&lines, key).unwrap_or(0);
        page.line(name, &[], value.saturating_mul(factor));
    }
    Ok(())
}

fn escaped(label: &str) -> String {
    let mut text = String::with_capacity(label.len());
    for c in label.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_a_name_that_was_announced_and_a_number() {
        let text = read(Path::new("/proc"), &[]).unwrap();
        let mut announced = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                announced = rest.split(' ').next().unwrap().to_owned();
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let (head, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(head.split('{').next().unwrap(), announced, "{line}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
        for wanted in [
            "kata_guest_load{item=\"load1\"}",
            "kata_guest_meminfo{item=\"memtotal\"}",
            "kata_guest_meminfo{item=\"inactive_file\"}",
            "kata_guest_cpu_time{cpu=\"total\",item=\"user\"}",
            "kata_guest_filesystem_bytes{mount=\"/\",item=\"size\"}",
            "kata_agent_total_rss ",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
    }

    #[test]
    fn a_label_cannot_break_its_line() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
