//! One instance, driven through the `seed` command line as its owner would. Stopped and removed when
//! dropped; on a failing case [`Instance::evidence`] prints what is needed to understand it.

use std::{
    path::PathBuf,
    process::Output,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Lab, limit};

/// Names of instances differ within one run, so that one case's leftovers never meet another's.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What `seed run` gets besides root and name.
#[derive(Debug, Default, Clone)]
pub struct Spec {
    /// Flags, each as one word.
    pub flags: Vec<String>,
}

impl Spec {
    /// Adds words to the command line.
    pub fn with<const N: usize>(mut self, words: [&str; N]) -> Self {
        self.flags.extend(words.map(str::to_owned));
        self
    }
}

/// A named instance in the lab.
#[derive(Debug)]
pub struct Instance<'lab> {
    lab: &'lab Lab,
    name: String,
}

impl<'lab> Instance<'lab> {
    /// `seed run`, until systemd is up. A start that fails leaves nothing.
    pub fn run(lab: &'lab Lab, spec: &Spec) -> Result<Self> {
        let instance = Self::named(lab, "t");
        let output = instance.try_run(spec)?;
        if !output.status.success() {
            instance.evidence();
            bail!(
                "seed run: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(instance)
    }

    /// A name that is not running yet.
    pub fn named(lab: &'lab Lab, prefix: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            lab,
            name: format!("{prefix}{number}"),
        }
    }

    /// `seed run` for this name, whatever comes of it.
    pub fn try_run(&self, spec: &Spec) -> Result<Output> {
        let guest = self.lab.guest().to_string_lossy().into_owned();
        let mut args = vec![
            "run".to_owned(),
            guest,
            "--name".to_owned(),
            self.name.clone(),
        ];
        args.extend(spec.flags.iter().cloned());
        self.lab.seed(&args, limit::BOOT)
    }

    /// The lab that it runs in.
    pub fn lab(&self) -> &'lab Lab {
        self.lab
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `<run>/default/<name>`.
    pub fn run_dir(&self) -> PathBuf {
        self.lab.run_dir().join("default").join(&self.name)
    }

    /// `seed status --json`.
    pub fn status(&self) -> Result<Value> {
        let text = self
            .lab
            .seed_ok(&["status", &self.name, "--json"], limit::COMMAND)?;
        serde_json::from_str(&text).with_context(|| format!("seed status --json printed {text:?}"))
    }

    /// The host's pid of a child of the shim (`qemu`, `swtpm`, ...).
    pub fn pid(&self, process: &str) -> Result<u32> {
        let status = self.status()?;
        let processes = status["processes"]
            .as_array()
            .context("status has no processes")?;
        let found = processes.iter().find(|one| one["name"] == process);
        let pid = found
            .and_then(|one| one["pid"].as_u64())
            .and_then(|pid| u32::try_from(pid).ok());
        pid.with_context(|| format!("no process {process} in {status}"))
    }

    /// Runs a command in the guest, whatever its exit status.
    pub fn exec(&self, command: &[&str]) -> Result<Output> {
        let mut args = vec!["exec", self.name.as_str(), "--"];
        args.extend(command);
        self.lab.seed(&args, limit::COMMAND)
    }

    /// Runs a shell line in the guest, which must succeed; its output without the last newline.
    pub fn sh(&self, line: &str) -> Result<String> {
        let output = self.exec(&["/bin/sh", "-c", line])?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`{line}` in the guest: {} {error}",
            output.status
        );
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
    }

    /// `seed keys`.
    pub fn recipient(&self) -> Result<String> {
        Ok(self
            .lab
            .seed_ok(&["keys", &self.name], limit::COMMAND)?
            .trim()
            .to_owned())
    }

    /// `seed restart`.
    pub fn restart(&self) -> Result<()> {
        self.lab
            .seed_ok(&["restart", &self.name], limit::STOP + limit::BOOT)?;
        Ok(())
    }

    /// `seed stop`.
    pub fn stop(&self) -> Result<()> {
        self.lab.seed_ok(&["stop", &self.name], limit::STOP)?;
        Ok(())
    }

    /// Log entries as `journalctl -o json` gives them, oldest first.
    pub fn log(&self, lines: usize) -> Result<Vec<Value>> {
        let lines = lines.to_string();
        let args = ["logs", self.name.as_str(), "--lines", &lines, "--json"];
        let text = self.lab.seed_ok(&args, limit::COMMAND)?;
        text.lines()
            .map(|line| serde_json::from_str(line).context("a log line is no JSON"))
            .collect()
    }

    /// Prints status, the end of the log and the end of the console.
    pub fn evidence(&self) {
        for args in [
            &["status", self.name.as_str()][..],
            &["logs", &self.name, "--lines", "40"],
        ] {
            if let Ok(output) = self.lab.seed(args, limit::COMMAND) {
                println!("--- seed {}", args.join(" "));
                println!("{}", String::from_utf8_lossy(&output.stdout));
                println!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        let console = self.run_dir().join("vm/console.log");
        if let Ok(text) = std::fs::read(&console) {
            let text = String::from_utf8_lossy(&text);
            let tail: Vec<_> = text.lines().rev().take(40).collect();
            println!("--- console");
            tail.iter()
                .rev()
                .for_each(|line| println!("{}", line.escape_debug()));
        }
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        // Best effort: a case that failed may have left it in any state.
        for args in [
            &["stop", self.name.as_str(), "--kill"][..],
            &["rm", &self.name, "--yes"],
        ] {
            let _ = self.lab.seed(args, limit::STOP);
        }
    }
}
