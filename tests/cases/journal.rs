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

fn number(entry: &Value) -> Result<u64> {
    let text = entry["__SEQNUM"]
        .as_str()
        .context("an entry without __SEQNUM")?;
    Ok(text.parse()?)
}

/// Every entry up to a marker is on the host once, and equals the guest's, field by field.
pub(crate) fn equals_the_guests(instance: &Instance<'_>) -> Result<()> {
    let marker = "the journal case was here";
    instance.sh(&format!("logger '{marker}' && journalctl --sync"))?;
    let ours = limit::until("the marker in the log", limit::LOG_LINE, || {
        let log = instance.log(100_000)?;
        let end = log.iter().position(|entry| entry["MESSAGE"] == marker);
        Ok(end.map(|end| log[..=end].to_vec()))
    })?;
    let last = number(ours.last().context("an empty log")?)?;

    let theirs = instance.sh("journalctl --quiet --boot=all --all -o json")?;
    let theirs = theirs
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()?;
    let mut expected = BTreeMap::new();
    for entry in theirs {
        let seqnum = number(&entry)?;
        if seqnum <= last {
            expected.insert(seqnum, entry);
        }
    }
    let mut found = BTreeMap::new();
    for entry in ours {
        let seqnum = number(&entry)?;
        ensure!(
            found.insert(seqnum, entry).is_none(),
            "entry {seqnum} stands twice in the log"
        );
    }
    let missing: Vec<_> = expected
        .keys()
        .filter(|key| !found.contains_key(key))
        .collect();
    let invented: Vec<_> = found
        .keys()
        .filter(|key| !expected.contains_key(key))
        .collect();
    ensure!(
        missing.is_empty() && invented.is_empty(),
        "missing {missing:?}, invented {invented:?}"
    );
    for (seqnum, entry) in &found {
        ensure!(
            entry == &expected[seqnum],
            "entry {seqnum}: {entry} is not {}",
            expected[seqnum]
        );
    }
    ensure!(found.len() > 100, "only {} entries", found.len());
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
