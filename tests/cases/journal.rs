//! The log on the host against the journal in the guest.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Stdio,
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

/// `seed logs -f` shows a line that is logged while it runs.
pub(crate) fn follows(instance: &Instance<'_>) -> Result<()> {
    let mut command = instance.lab().program("seed");
    command
        .args(["logs", instance.name(), "-f", "--lines", "1"])
        .stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let marker = "a line while following";
    let seen = instance
        .sh(&format!("logger -t case '{marker}'"))
        .and_then(|_| {
            limit::until("the line in `seed logs -f`", limit::LOG_LINE, || {
                Ok(receiver.try_iter().find(|line| line.contains(marker)))
            })
        });
    child.kill()?;
    child.wait()?;
    let line = seen?;
    ensure!(line.contains("case"), "no identifier: {line}");
    Ok(())
}
