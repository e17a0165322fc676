//! Point 7: the guest's journal on the host: the last lines, all of them against the guest's own, and a new one as
//! it comes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Demo, NAME};
use crate::lab::{COMMAND, until};

/// The last line that both sides are compared up to.
const MARKER: &str = "demo: compared up to here";
/// Logged while `seed logs -f` runs.
const FOLLOWED: &str = "demo: seen while following";
/// More than a demo logs.
const ALL: &str = "1000000";
/// Where an entry stands; journald numbers anew when it moves entries from `/run` to `/var`.
const PLACES: [&str; 3] = ["__CURSOR", "__SEQNUM", "__SEQNUM_ID"];
const RESET: &str = "__SEED_RESET";

pub(super) fn show(demo: &mut Demo) -> Result<()> {
    demo.screen.typed(&format!("seed logs {NAME} --lines 5"));
    let text = demo.lab.seed(&["logs", NAME, "--lines", "5"], COMMAND)?;
    demo.screen.quoted(&text);
    let lines: Vec<_> = text.lines().collect();
    demo.screen
        .keep("logs", "last_lines", json!(lines), !lines.is_empty());
    let default = demo.lab.seed(&["logs", NAME], COMMAND)?.lines().count();
    let shown = format!("{default} without --lines");
    demo.screen.fact(
        "default_lines",
        "lines",
        &shown,
        json!(default),
        default == 100,
    );
    whole(demo)?;
    follow(demo)
}

/// Every entry of the guest's journal stands in the log as often as there, equal field by field.
fn whole(demo: &mut Demo) -> Result<()> {
    demo.lab
        .sh(NAME, &format!("logger '{MARKER}' && journalctl --sync"))?;
    let ours = until("the marker in the log", COMMAND, || {
        let text = demo
            .lab
            .seed(&["logs", NAME, "--lines", ALL, "--json"], COMMAND)?;
        Ok(counted(&text).ok())
    })?;
    let theirs = "journalctl --quiet --boot=all --all --output=json";
    let theirs = counted(&demo.lab.sh(NAME, theirs)?)?;
    let mut found = Differences::default();
    for (entry, count) in &theirs {
        match ours.get(entry) {
            None => found.lost.push(entry),
            Some(held) if held < count => found.lost.push(entry),
            Some(held) if held > count => found.doubled.push(entry),
            Some(_) => {}
        }
    }
    let killed = demo.killed_boot.as_deref().unwrap_or_default();
    for entry in ours.keys().filter(|entry| !theirs.contains_key(*entry)) {
        // What a killed guest had not written to its disk yet is on the host alone.
        if !killed.is_empty() && entry.contains(killed) {
            found.saved.push(entry);
        } else {
            found.foreign.push(entry);
        }
    }
    let entries: usize = theirs.values().sum();
    let Differences {
        lost,
        doubled,
        foreign,
        saved,
    } = found;
    let mut shown = format!(
        "{entries} over all boots: {} lost, {} doubled, {} foreign",
        lost.len(),
        doubled.len(),
        foreign.len()
    );
    if !saved.is_empty() {
        shown = format!("{shown}; {} outlived the kill", saved.len());
    }
    let ok = entries > 100 && lost.is_empty() && doubled.is_empty() && foreign.is_empty();
    let value = json!({
        "entries": entries,
        "lost": lost,
        "doubled": doubled,
        "foreign": foreign,
        "saved_from_the_kill": saved.len(),
    });
    demo.screen.fact("entries", "entries", &shown, value, ok);
    Ok(())
}

/// Entries that the two sides do not hold equally often.
#[derive(Default)]
struct Differences<'a> {
    lost: Vec<&'a String>,
    doubled: Vec<&'a String>,
    foreign: Vec<&'a String>,
    saved: Vec<&'a String>,
}

/// Each entry's content with how often it stands there, up to the marker.
fn counted(text: &str) -> Result<BTreeMap<String, usize>> {
    let entries = text.lines().map(serde_json::from_str);
    let entries = entries
        .collect::<Result<Vec<Value>, _>>()
        .context("a line is no JSON")?;
    let end = entries.iter().rposition(|entry| entry["MESSAGE"] == MARKER);
    let end = end.context("the marker is not among the entries")?;
    let mut counts = BTreeMap::new();
    // The host's note that the guest numbers anew, as it does after a kill, is no entry. Its notes of gaps stay in: they
    // must not be.
    let entries = entries.into_iter().take(end + 1);
    for mut entry in entries.filter(|entry| entry[RESET] != true) {
        if let Some(fields) = entry.as_object_mut() {
            fields.retain(|name, _| !PLACES.contains(&name.as_str()));
        }
        *counts.entry(entry.to_string()).or_default() += 1;
    }
    Ok(counts)
}

/// `seed logs -f` shows a line that is logged while it runs.
fn follow(demo: &mut Demo) -> Result<()> {
    let mut command = demo.lab.command("seed");
    command
        .args(["logs", NAME, "-f", "--lines", "1"])
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("start seed logs")?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if sender.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    let logged = demo
        .lab
        .sh(NAME, &format!("logger -t demo '{FOLLOWED}' && date +%s.%N"));
    let returned = Instant::now();
    let seen = logged.and_then(|_| {
        until("the line in `seed logs -f`", COMMAND, || {
            Ok(receiver
                .try_iter()
                .find(|(_, line)| line.contains(FOLLOWED)))
        })
    });
    child.kill()?;
    child.wait()?;
    let (at, line) = seen?;
    // Before zero: the line was on the screen before the command that logged it had returned.
    let shown = match at.checked_duration_since(returned) {
        None => "-f showed a new line before the command that logged it returned".to_owned(),
        Some(late) => format!(
            "-f showed a new line {} ms after the command that logged it",
            late.as_millis()
        ),
    };
    demo.screen
        .fact("followed", "follow", &shown, json!(line), true);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_compared_by_content_and_number_up_to_the_marker() {
        let text = format!(
            "{}\n{}\n{}\n{}\n{}\n{}\n",
            json!({ "MESSAGE": "a", "__SEQNUM": "1", "__CURSOR": "x" }),
            json!({ "__SEQNUM": "2", "MESSAGE": "a" }),
            json!({ RESET: true }),
            json!({ "__SEED_GAP": {} }),
            json!({ "MESSAGE": MARKER }),
            json!({ "MESSAGE": "later" }),
        );
        let counts = counted(&text).expect("counted");
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2, 1, 1]);
        assert!(counted("{}").is_err());
    }
}
