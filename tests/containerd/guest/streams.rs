//! What a person does in a pod whose guest has booted: talks to a command in it, opens a terminal, reads its log.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Cri,
    cri::{
        api::PodSandboxConfig,
        stream::{self, Stream},
    },
    limit,
};

use crate::pod;

/// Ends when the terminal has the size that was asked for, and says its name.
const TERMINAL: &str = "until test \"$(stty size)\" = '43 132'; do sleep 0.1; done; tty";
const RESIZE: &[u8] = br#"{"Width":132,"Height":43}"#;

/// `kubectl exec -i`, `exec -it` and `logs`.
pub(super) fn are_the_guests(cri: &Cri, id: &str, pod: &PodSandboxConfig) -> Result<()> {
    let mut command = Stream::open(&cri.exec_url(id, &["/bin/cat"])?)?;
    for line in ["there\n", "and back\n"] {
        command.send(stream::STDIN, line.as_bytes())?;
        let text = command.read_until(stream::STDOUT, "\n", limit::COMMAND)?;
        ensure!(text.ends_with(line), "exec: {text:?} after {line:?}");
    }
    drop(command);

    let mut failed = Stream::open(&cri.exec_url(id, &["/bin/sh", "-c", "exit 9"])?)?;
    let status = failed.read_until(stream::ERROR, "ExitCode", limit::COMMAND)?;
    ensure!(status.contains("\"9\""), "status: {status}");

    let mut terminal = Stream::open(&cri.terminal_url(id, &["/bin/bash", "-c", TERMINAL])?)?;
    terminal.send(stream::RESIZE, RESIZE)?;
    let text = terminal
        .read_until(stream::STDOUT, "\n", limit::COMMAND)
        .context("a terminal of the size that was asked for")?;
    ensure!(text.starts_with("/dev/pts/"), "a terminal: {text:?}");

    let line = "a line for whoever reads the pod's log";
    cri.exec_sync(id, &["/usr/bin/logger", "-t", "probe", line])?;
    let log = Path::new(&pod.log_directory).join("app.log");
    pod::log_has(&log, &["stdout F", line])
}
