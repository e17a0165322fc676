//! The log on the host against the journal in the guest.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Instance, limit};
use serde_json::Value;

/// What an entry is, without where it stands: journald numbers entries anew when it flushes `/run` to
/// `/var`, so the guest may count differently than when the entry was pulled.
fn content(mut entry: Value) -> String {
    if let Some(fields) = entry.as_object_mut() {
        for place in ["__CURSOR", "__SEQNUM", "__SEQNUM_ID"] {
            fields.remove(place);
        }
    }
    // The map is sorted by name, so equal entries give equal texts.
    entry.to_string()
}

/// Each content with how often it stands there, up to and including the marker.
fn counted(entries: Vec<Value>, marker: &str) -> Result<BTreeMap<String, usize>> {
    let end = entries.iter().rposition(|entry| entry["MESSAGE"] == marker);
    let end = end.context("the marker is not among the entries")?;
    let mut counts = BTreeMap::new();
    for entry in entries.into_iter().take(end + 1) {
        *counts.entry(content(entry)).or_default() += 1;
    }
    Ok(counts)
}

/// What readers of journals trip over: lines longer than journald's 48 KiB, bytes that are no text, fields that
/// come twice, and a clock that goes back an hour and forth again.
const ODD: &str = r"
set -e
head -c 120000 /dev/zero | tr '\0' x | systemd-cat -t long
printf 'nul \0 and \377\n' | systemd-cat -t bytes
printf 'MESSAGE=twice\nTAG=one\nTAG=two\n' | logger --journald
date -s @$(($(date +%s) - 3600)) >/dev/null
logger -t clock 'an hour back'
journalctl --sync
date -s @$(($(date +%s) + 3600)) >/dev/null
logger -t clock 'and forth'
";

/// Every entry up to a marker is on the host as often as in the guest, and equal field by field.
pub(crate) fn equals_the_guests(instance: &Instance<'_>) -> Result<()> {
    let marker = "the journal case was here";
    instance.sh(ODD)?;
    instance.sh(&format!("logger '{marker}' && journalctl --sync"))?;
    let ours = limit::until("the marker in the log", limit::LOG_LINE, || {
        let log = instance.log(100_000)?;
        Ok(log
            .iter()
            .any(|entry| entry["MESSAGE"] == marker)
            .then_some(log))
    })?;
    let found = counted(ours, marker)?;
    let theirs = instance.sh("journalctl --quiet --boot=all --all -o json")?;
    let theirs = theirs
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let expected = counted(theirs, marker)?;

    for (entry, count) in &expected {
        let held = found.get(entry).copied().unwrap_or_default();
        ensure!(
            held == *count,
            "{held} times in the log, {count} times in the guest: {entry}"
        );
    }
    for entry in found.keys() {
        ensure!(expected.contains_key(entry), "only in the log: {entry}");
    }
    ensure!(found.len() > 100, "only {} entries", found.len());
    for odd in [
        r#""TAG":["one","two"]"#,
        r#""_LINE_BREAK":"line-max""#,
        "an hour back",
    ] {
        let seen = found.keys().any(|entry| entry.contains(odd));
        ensure!(seen, "{odd} is not in the log");
    }
    Ok(())
}

/// `seed logs -f`, with the lines that it has printed; killed when dropped.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn begin(instance: &Instance<'_>) -> Result<Self> {
        let mut command = instance.lab().program("seed");
        command
            .args(["logs", instance.name(), "-f", "--lines", "1"])
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let printed = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in printed.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// All lines up to one with this text.
    fn until(&self, text: &str) -> Result<Vec<String>> {
        let mut seen = Vec::new();
        limit::until("the line in `seed logs -f`", limit::LOG_LINE, || {
            for line in self.lines.try_iter() {
                let is_last = line.contains(text);
                seen.push(line);
                if is_last {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })?;
        Ok(seen)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `seed logs -f` shows a line that is logged while it runs.
pub(crate) fn follows(instance: &Instance<'_>) -> Result<()> {
    let following = Following::begin(instance)?;
    let marker = "a line while following";
    instance.sh(&format!("logger -t case '{marker}'"))?;
    let lines = following.until(marker)?;
    let line = lines.last().context("no line")?;
    ensure!(line.contains("case"), "no identifier: {line}");
    Ok(())
}

/// Begins to log some hundred numbered lines a second, and goes on until the last program of systemd kills it.
pub(crate) fn flood(instance: &Instance<'_>) -> Result<()> {
    let script = "while :; do for k in 1 2 3 4 5 6 7 8 9 10; do i=$((i + 1)); echo \"flood $i.\"; done; sleep 0.02; done";
    instance.sh(&format!(
        "systemd-run --quiet --unit=flood --property=DefaultDependencies=no --expand-environment=no sh -c '{script}'"
    ))?;
    Ok(())
}

/// Waits until the log has so many lines of the flood of this boot.
pub(crate) fn has_flooded(instance: &Instance<'_>, lines: u64) -> Result<()> {
    let boot = instance.sh("tr -d - </proc/sys/kernel/random/boot_id")?;
    limit::until("the flood in the log", limit::LOG_LINE, || {
        let log = instance.log(50)?;
        let of_boot = log
            .iter()
            .filter(|entry| entry["_BOOT_ID"] == boot.as_str());
        let last = of_boot
            .filter_map(|entry| number(entry["MESSAGE"].as_str()?))
            .max();
        Ok((last >= Some(lines)).then_some(()))
    })
}

/// What journald says last.
const LAST_WORD: &str = "Journal stopped";

/// The last entry of an orderly end is journald's last, and every number of that boot's flood up to the highest is there
/// once.
pub(crate) fn ends_whole(log: &[Value]) -> Result<()> {
    let last = log.last().context("the log is empty")?;
    ensure!(last["MESSAGE"] == LAST_WORD, "the last entry: {last}");
    let of_boot = log
        .iter()
        .filter(|entry| entry["_BOOT_ID"] == last["_BOOT_ID"]);
    let numbers: Vec<u64> = of_boot
        .filter_map(|entry| number(entry["MESSAGE"].as_str()?))
        .collect();
    let is_next = |pair: &[u64]| pair[1] == pair[0] + 1;
    ensure!(
        numbers.len() > 100,
        "only {} lines of the flood",
        numbers.len()
    );
    ensure!(
        numbers.windows(2).all(is_next),
        "numbers of the flood are missing or come twice"
    );
    Ok(())
}

/// Of a line of the flood.
fn number(line: &str) -> Option<u64> {
    line.split_once("flood ")?.1.strip_suffix('.')?.parse().ok()
}

/// What the guest's journal has on its disk after the machine's end, by the journalctl of the guest's root.
fn on_disk(instance: &Instance<'_>) -> Result<Vec<Value>> {
    let layer = instance
        .lab()
        .state_dir()
        .join("layers/default")
        .join(instance.name());
    let script = "mount --bind \"$1/upper/var/log/journal\" \"$2/mnt\" && exec chroot \"$2\" journalctl -D /mnt/$(ls $1/upper/var/log/journal) -q --no-pager --all -o json";
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .args([&layer, instance.lab().guest()])
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "journalctl: {error}");
    let lines = output.stdout.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.is_empty());
    Ok(lines
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()?)
}

/// The machine powers itself off while it logs as much as it can: the log on the host then holds all that its disk holds. Whoever
/// follows the log goes on over the next start, and is told of it.
pub(crate) fn goes_over_a_restart(instance: &Instance<'_>) -> Result<()> {
    let following = Following::begin(instance)?;
    flood(instance)?;
    following.until("flood 300.")?;
    // Whether this command sees its own end is not the question.
    instance.exec(&["systemctl", "poweroff", "--no-block"])?;
    limit::until("the end", limit::STOP, || {
        let status = instance.status()?;
        Ok((status["state"] == "stopped").then_some(()))
    })?;
    let mut log = instance.log(100_000)?;
    ends_whole(&log)?;
    // What is on the disk ends with the log; of the log's beginning older files may be deleted.
    let mut held = BTreeMap::new();
    for entry in log.drain(..) {
        *held.entry(content(entry)).or_insert(0) += 1;
    }
    let disk = on_disk(instance)?;
    ensure!(disk.len() > 300, "only {} entries on the disk", disk.len());
    for entry in disk.into_iter().map(content) {
        let left = held.get_mut(&entry).filter(|left| **left > 0);
        *left.with_context(|| format!("on the guest's disk alone: {entry}"))? -= 1;
    }

    instance.restart()?;
    let marker = "after the restart";
    instance.sh(&format!("logger -t case '{marker}'"))?;
    let lines = following.until(marker)?;
    let mut starts = lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains("was started again"));
    let (start, _) = starts.next().context("no line about the start")?;
    ensure!(starts.next().is_none(), "two lines about one start");
    ensure!(
        lines[start - 1].contains(LAST_WORD),
        "before the start: {}",
        lines[start - 1]
    );
    let numbers: Vec<u64> = lines.iter().filter_map(|line| number(line)).collect();
    let begins = numbers.first() == Some(&301);
    ensure!(
        begins && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
        "lines of the flood are missing or come twice"
    );
    Ok(())
}
