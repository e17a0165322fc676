//! What programs read: every command's result with `--json`, and its errors, each one object with just these members.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    process::{Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Runner, lab, limit};
use serde_json::{Value, json};

use super::bench::{Bench, said};

const STATUS: [&str; 22] = [
    "accel",
    "agent_version",
    "boot_id",
    "cpu_time_ms",
    "created_unix_ns",
    "exit",
    "failed_units",
    "kept_as",
    "log",
    "memory_mib",
    "memory_used_bytes",
    "name",
    "namespace",
    "pod",
    "problems",
    "processes",
    "stage",
    "stages",
    "state",
    "system_state",
    "vcpus",
    "volumes",
];
const ERROR: [&str; 3] = ["error", "remedy", "status"];

/// Input that is text in part.
const INPUT: &[u8] = b"some text\n\xc3\xa4 \xff\xfe and more\n";

pub(crate) fn run(runner: &mut Runner, bench: &Bench) {
    const NAME: &str = "life: every command tells results and errors as JSON";
    runner.case(NAME, || {
        results(bench)
            .and_then(|()| bench.nothing_left())
            .and_then(|()| errors(bench))
    });
}

fn results(bench: &Bench) -> Result<()> {
    const INSPECT: [&str; 5] = ["name", "namespace", "paths", "started_with", "status"];
    let started = ask(bench, &["run", &bench.root(), "--name", "j"])?;
    has(&started, &STATUS)?;
    ensure!(
        started["name"] == "j" && started["stage"] == "running",
        "{started}"
    );
    let mut with_usage = STATUS.to_vec();
    with_usage.push("usage");
    has(&ask(bench, &["status", "j"])?, &with_usage)?;
    has(&ask(bench, &["inspect", "j"])?, &INSPECT)?;
    let keys = ask(bench, &["keys", "j"])?;
    has(&keys, &["recipient", "tag_recipient"])?;
    ensure!(keys["recipient"] == "age1tpm1qfake", "{keys}");
    let list = ask(bench, &["ps"])?;
    has(&list[0], &STATUS)?;
    ensure!(list.as_array().is_some_and(|list| list.len() == 1));
    ensure!(ask(bench, &["ps", "--quiet"])? == json!(["j"]));
    // It runs before all that it has logged is there.
    let entries = limit::until("two lines in the log", limit::LOG_LINE, || {
        let text = bench.seed(&["logs", "j", "--json"])?;
        let entries = lines(text.as_bytes())?;
        Ok((entries.len() == 2).then_some(entries))
    })?;
    ensure!(entries[0]["MESSAGE"] == "stub guest is up", "{entries:?}");
    runs(bench)?;
    let grown = ask(bench, &["grow", "j", "--vcpus", "2"])?;
    ensure!(
        grown == json!({"name": "j", "vcpus": 2, "memory_mib": 512}),
        "{grown}"
    );
    has(&ask(bench, &["restart", "j"])?, &STATUS)?;
    let stopped = ask(bench, &["stop", "j"])?;
    has(&stopped, &["kept", "name"])?;
    ensure!(
        stopped["kept"]
            .as_array()
            .is_some_and(|kept| kept.len() == 2)
    );
    kept(bench)?;
    let file = bench.lab.scratch("identity.tar");
    let path = file.to_string_lossy();
    let (saved, restored) = (
        ask(bench, &["tpm", "backup", "j", &path])?,
        ask(bench, &["tpm", "restore", "k", &path])?,
    );
    ensure!(saved == json!({"name": "j", "file": path}), "{saved}");
    ensure!(restored == json!({"name": "k", "file": path}), "{restored}");
    for name in ["j", "k"] {
        let removed = ask(bench, &["rm", name, "--yes"])?;
        has(&removed, &["name", "removed"])?;
        ensure!(removed["name"] == name, "{removed}");
    }
    doctor(bench)
}

/// What a stopped instance keeps is listed, and its log goes first.
fn kept(bench: &Bench) -> Result<()> {
    const KEPT: [&str; 6] = [
        "changed_unix_ns",
        "log_bytes",
        "name",
        "namespace",
        "tpm_bytes",
        "volume_bytes",
    ];
    // What other cases left is on the list, too.
    let of_j = || -> Result<Value> {
        let list = ask(bench, &["ps", "--kept"])?;
        let found = list.as_array().and_then(|all| {
            let mut all = all.iter();
            all.find(|one| one["name"] == "j").cloned()
        });
        found.with_context(|| list.to_string())
    };
    let before = of_j()?;
    has(&before, &KEPT)?;
    ensure!(before["log_bytes"].as_u64() > Some(0), "{before}");
    let pruned = ask(bench, &["prune", "--older-than", "0", "--yes"])?;
    has(&pruned, &["removed"])?;
    let logs = bench.lab.state_dir().join("logs/default/j");
    ensure!(
        pruned["removed"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| *one == json!(logs))),
        "{pruned}"
    );
    let after = of_j()?;
    ensure!(
        after["log_bytes"].is_null() && after["tpm_bytes"] == before["tpm_bytes"],
        "{after}"
    );
    Ok(())
}

/// The pieces of a command's output together are what it printed, and its status is the last.
fn runs(bench: &Bench) -> Result<()> {
    let input = bench.lab.scratch("input");
    fs::write(&input, INPUT)?;
    let mut command = bench.command(&["exec", "j", "--json", "-i", "--", "cat"], &[]);
    command.stdin(File::open(&input)?);
    let output = lab::output(command, limit::COMMAND)?;
    let mut pieces = lines(&output.stdout).with_context(|| said(&output))?;
    ensure!(pieces.pop() == Some(json!({"status": 0})), "{pieces:?}");
    let mut bytes = Vec::new();
    for piece in &pieces {
        has(piece, &["stdout"])?;
        match &piece["stdout"] {
            Value::String(text) => bytes.extend(text.bytes()),
            array => bytes.extend(serde_json::from_value::<Vec<u8>>(array.clone())?),
        }
    }
    ensure!(bytes == INPUT, "{pieces:?}");
    let failed = bench
        .lab
        .seed(&["--json", "exec", "j", "--", "false"], limit::COMMAND)?;
    let told = lines(&failed.stdout)?;
    ensure!(
        failed.status.code() == Some(3) && told == [json!({"status": 3})],
        "{}",
        said(&failed)
    );
    fails(bench, &["exec", "j", "--", "nonesuch"], 127)?;
    // Output that cannot be written is no success.
    for json in [&["--json"][..], &[]] {
        let words = [&["exec", "j", "-i"][..], json, &["--", "cat"]].concat();
        let mut seed = bench.command(&words, &[]);
        seed.stdin(File::open(&input)?)
            .stdout(File::create("/dev/full")?);
        let mut run = seed.stderr(Stdio::piped()).spawn()?;
        limit::until("the end of `seed exec`", limit::COMMAND, || {
            Ok(run.try_wait()?)
        })?;
        let ended = run.wait_with_output()?;
        ensure!(ended.status.code() == Some(125), "{}", said(&ended));
        ensure!(said(&ended).contains("some of its output is lost: No space left"));
    }
    Ok(())
}

fn doctor(bench: &Bench) -> Result<()> {
    // What this machine lacks is its own affair.
    let output = bench.lab.seed(&["doctor", "--json"], limit::COMMAND)?;
    let found = serde_json::from_slice::<Value>(&output.stdout).with_context(|| said(&output))?;
    has(&found, &["findings", "pods", "ready"])?;
    ensure!(found["ready"] == output.status.success(), "{found}");
    let words = ["doctor", "--pods", "--json"];
    let for_pods = bench.lab.seed(&words, limit::COMMAND)?;
    let again = serde_json::from_slice::<Value>(&for_pods.stdout)?;
    let is_ready = again["pods"] == true;
    ensure!(is_ready == for_pods.status.success(), "{again}");
    let findings = found["findings"].as_array().context("no findings")?;
    ensure!(!findings.is_empty());
    let each = ["found", "remedy", "verdict", "what"];
    findings.iter().try_for_each(|finding| has(finding, &each))
}

fn errors(bench: &Bench) -> Result<()> {
    for words in [
        &["run", "/nonexistent"][..],
        &["status", "j"],
        &["inspect", "j"],
        &["logs", "j"],
        &["units", "j"],
        &["unit", "j", "app"],
        &["keys", "j"],
        &["restart", "j"],
        &["stop", "j"],
        &["rm", "j", "--yes"],
        &["grow", "j", "--vcpus", "2"],
        &["tpm", "backup", "j", "/nonexistent/file"],
        &["tpm", "restore", "j", "/nonexistent/file"],
    ] {
        fails(bench, words, 1)?;
    }
    fails(bench, &["exec", "j", "--", "true"], 125)?;
    for words in [
        &["frobnicate"][..],
        &["ps", "extra"],
        &["prune", "--yes"],
        &["exec", "-t", "j", "--", "true"],
        &["tpm", "backup", "j", "-"],
        &["metrics"],
        &["man"],
        &["completions", "bash"],
    ] {
        fails(bench, words, 2)?;
    }
    Ok(())
}

/// With `--json` it prints nothing but an error, one object, and ends with this status.
fn fails(bench: &Bench, words: &[&str], status: i32) -> Result<()> {
    let mut all = vec!["--json"];
    all.extend(words);
    let output = bench.lab.seed(&all, limit::COMMAND)?;
    let told = lines(&output.stderr).with_context(|| format!("{words:?}: {}", said(&output)))?;
    let [error] = &told[..] else {
        anyhow::bail!("{words:?}: {}", said(&output));
    };
    has(error, &ERROR)?;
    ensure!(
        error["status"] == status && output.status.code() == Some(status),
        "{words:?}: {}, not {status}: {error}",
        output.status
    );
    let silent = ["error", "remedy"].map(|key| error[key].as_str().is_none_or(str::is_empty));
    ensure!(
        output.stdout.is_empty() && silent == [false; 2],
        "{}",
        said(&output)
    );
    Ok(())
}

/// The one object that a command prints, which must succeed.
fn ask(bench: &Bench, words: &[&str]) -> Result<Value> {
    let mut all = words.to_vec();
    all.push("--json");
    one(bench.lab.seed(&all, limit::COMMAND)?).with_context(|| format!("{words:?}"))
}

fn one(output: Output) -> Result<Value> {
    ensure!(output.status.success(), "{}", said(&output));
    let mut all = lines(&output.stdout).with_context(|| said(&output))?;
    ensure!(all.len() == 1, "{}", said(&output));
    Ok(all.remove(0))
}

fn lines(text: &[u8]) -> Result<Vec<Value>> {
    let text = std::str::from_utf8(text)?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}")))
        .collect()
}

/// Fails unless it is an object with just these members.
fn has(value: &Value, members: &[&str]) -> Result<()> {
    let found = value.as_object().into_iter().flatten();
    let found: BTreeSet<&str> = found.map(|(key, _)| key.as_str()).collect();
    let wanted = members.iter().copied().collect();
    ensure!(found == wanted, "{found:?}, not {wanted:?}: {value}");
    Ok(())
}
