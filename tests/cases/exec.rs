//! Commands in the guest.

use std::{io::Write, process::Stdio};

use anyhow::{Context, Result, ensure};
use seed_tests::Instance;

/// The exit status passes through, and the two streams do not mix.
pub(crate) fn status_and_streams(instance: &Instance<'_>) -> Result<()> {
    let output = instance.exec(&["/bin/sh", "-c", "echo out; echo err >&2; exit 7"])?;
    ensure!(output.status.code() == Some(7), "status: {}", output.status);
    ensure!(output.stdout == b"out\n", "stdout: {:?}", output.stdout);
    ensure!(output.stderr == b"err\n", "stderr: {:?}", output.stderr);
    let output = instance.exec(&["/bin/sh", "-c", "kill -TERM $$"])?;
    ensure!(
        output.status.code() == Some(143),
        "after SIGTERM: {}",
        output.status
    );
    let output = instance.exec(&["uname", "-r"])?;
    ensure!(
        output.status.success() && !output.stdout.is_empty(),
        "uname: {output:?}"
    );
    Ok(())
}

/// 127 and the name, and nothing was started for it.
pub(crate) fn a_missing_command_fails_at_once(instance: &Instance<'_>) -> Result<()> {
    let output = instance.exec(&["no-such-command"])?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(127),
        "status: {}; {error}",
        output.status
    );
    ensure!(error.contains("no-such-command"), "stderr: {error}");
    let lines = instance.sh("journalctl -qb | grep -c 'exec .*no-such-command' || true")?;
    ensure!(lines == "0", "systemd was asked to start it: {lines} lines");
    Ok(())
}

/// A command that ends at once after much output: the last byte arrives.
pub(crate) fn sixteen_megabytes_arrive_whole(instance: &Instance<'_>) -> Result<()> {
    let output = instance.exec(&["/bin/sh", "-c", "seq -w 0 2097151"])?;
    ensure!(output.status.success(), "status: {}", output.status);
    ensure!(
        output.stdout.len() == 16 << 20,
        "{} bytes",
        output.stdout.len()
    );
    let lines = output.stdout.split(|&byte| byte == b'\n').enumerate();
    for (number, line) in lines.take(2 << 20) {
        ensure!(
            line == format!("{number:07}").as_bytes(),
            "line {number} is {line:?}"
        );
    }
    Ok(())
}

/// What is written to `seed exec` reaches the command, and so does its end.
pub(crate) fn standard_input_reaches_its_end(instance: &Instance<'_>) -> Result<()> {
    let mut command = instance.lab().program("seed");
    command.args(["exec", "-i", instance.name(), "--", "sha256sum"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(&vec![b'x'; 300_000])?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = instance.sh("head -c 300000 /dev/zero | tr '\\0' x | sha256sum")?;
    ensure!(text.trim() == expected, "{text:?} is not {expected:?}");
    Ok(())
}

/// The agent is killed in the middle and starts again: the command, its output and its status go on.
pub(crate) fn a_command_outlives_the_agent(instance: &Instance<'_>) -> Result<()> {
    let script = "seq -w 0 99999; kill -9 $(systemctl show -P MainPID seed-agent); \
                  seq -w 100000 199999; exit 5";
    let output = instance.exec(&["/bin/sh", "-c", script])?;
    ensure!(output.status.code() == Some(5), "status: {}", output.status);
    let expected: Vec<u8> = (0..100_000)
        .map(|number| format!("{number:05}\n"))
        .chain((100_000..200_000).map(|number| format!("{number}\n")))
        .flat_map(String::into_bytes)
        .collect();
    ensure!(
        output.stdout == expected,
        "{} bytes, not the {} that were written",
        output.stdout.len(),
        expected.len()
    );
    let restarts = instance.sh("systemctl show -P NRestarts seed-agent")?;
    ensure!(restarts != "0", "the agent was not killed");
    Ok(())
}
