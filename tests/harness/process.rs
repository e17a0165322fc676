//! What `/proc` says of processes (proc(5)): who has started whom, and what a process holds.

use std::fs;

use anyhow::{Context, Result};

/// Who has started this one, if it is there.
pub fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit(')').next()?;
    fields.split_whitespace().nth(1)?.parse().ok()
}

/// Those that this one has started and that are not reaped.
pub fn children(pid: u32) -> Result<Vec<u32>> {
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|child| parent(*child) == Some(pid)).collect())
}

/// How many entries a folder of a process has: `fd`, `task`.
pub fn count(pid: u32, folder: &str) -> Result<usize> {
    let path = format!("/proc/{pid}/{folder}");
    let entries = fs::read_dir(&path).with_context(|| format!("read {path}"))?;
    Ok(entries.count())
}

/// A file of a process.
pub fn file(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}
