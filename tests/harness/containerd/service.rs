//! containerd as a service of systemd, with the unit of its own package: what systemd does with its processes and its shims' is what
//! it does on a host of somebody's. What differs is in a drop-in: which program, which configuration, where it logs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use super::Containerd;
use crate::{lab::output, limit};

/// The unit.
pub const UNIT: &str = "containerd.service";

/// Units that are gone with the next boot (systemd.unit(5)).
const UNITS: &str = "/run/systemd/system";

/// Runs `systemctl ARGS`, which must succeed; its standard output.
pub fn systemctl(args: &[&str]) -> Result<String> {
    let mut command = Command::new("systemctl");
    command.args(args);
    let output = output(command, limit::COMMAND)?;
    ensure!(
        output.status.success(),
        "systemctl {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Writes the unit, and waits until it is up.
pub(super) fn start(containerd: &Containerd) -> Result<()> {
    let package = containerd.programs.package(containerd.version);
    let unit = package.join("lib/systemd/system").join(UNIT);
    let dropins = Path::new(UNITS).join(format!("{UNIT}.d"));
    fs::create_dir_all(&dropins)?;
    fs::copy(&unit, Path::new(UNITS).join(UNIT))
        .with_context(|| format!("copy {}", unit.display()))?;
    let program = package.join("bin/containerd");
    let (dir, log) = (containerd.dir().display(), containerd.log_file());
    let mut text = format!(
        "[Service]\nExecStart=\nExecStart={} --config {dir}/containerd.toml\n\
         StandardOutput=append:{}\nStandardError=inherit\n",
        program.display(),
        log.display(),
    );
    for (name, value) in containerd.environment() {
        text.push_str(&format!("Environment=\"{name}={value}\"\n"));
    }
    fs::write(dropins.join("test.conf"), text)?;
    systemctl(&["daemon-reload"])?;
    systemctl(&["start", UNIT]).map(drop)
}

pub(super) fn stop() -> Result<()> {
    systemctl(&["stop", UNIT]).map(drop)
}
