//! Power off: orderly through systemd, or at once.
//!
//! `Manager.PowerOff` is not used: it skips the orderly stop of units (`org.freedesktop.systemd1(5)`).

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::system::{RebootCommand, reboot};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Handle, SystemdError};

const POWER_OFF_TARGET: &str = "poweroff.target";

/// No later job may undo it: what `systemctl poweroff` asks for.
const JOB_MODE: &str = "replace-irreversibly";

/// How long systemd may take to accept it over the bus before we go the other way.
const ACCEPT_LIMIT: Duration = Duration::from_secs(5);

/// Where `systemctl` may be: NixOS, then other distributions. It talks to PID 1 without a bus.
const SYSTEMCTL: [&str; 3] = [
    "/run/current-system/sw/bin/systemctl",
    "/usr/bin/systemctl",
    "/bin/systemctl",
];

impl Handle {
    /// Asks systemd for an orderly power-off and returns as soon as it is on its way. Works before the bus
    /// is up, too.
    pub async fn power_off(&self) -> Result<(), SystemdError> {
        if let Some(bus) = self.bus_now() {
            let start = bus.manager.start_unit(POWER_OFF_TARGET, JOB_MODE);
            match timeout(ACCEPT_LIMIT, start).await {
                Ok(Ok(_)) => {
                    info!("power off asked for over the bus");
                    return Ok(());
                }
                Ok(Err(error)) => warn!(error = %error, "power off was refused over the bus"),
                Err(_) => warn!("power off was not answered over the bus"),
            }
        }
        let asked = tokio::task::spawn_blocking(ask_systemctl).await;
        asked.map_err(|error| SystemdError::PowerOff(io::Error::other(error)))??;
        info!("power off asked for without the bus");
        Ok(())
    }

    /// Switches the machine off at once: nothing is stopped, nothing is written.
    pub fn kill_now(&self) -> Result<(), SystemdError> {
        warn!("switching off at once");
        reboot(RebootCommand::PowerOff).map_err(|error| SystemdError::PowerOff(error.into()))
    }
}

fn ask_systemctl() -> Result<(), SystemdError> {
    let systemctl = SYSTEMCTL.iter().find(|path| Path::new(path).exists());
    let systemctl = systemctl.ok_or_else(|| {
        SystemdError::PowerOff(io::Error::new(
            io::ErrorKind::NotFound,
            "systemctl was not found",
        ))
    })?;
    let output = Command::new(systemctl)
        .args([
            "--no-block",
            "--job-mode",
            JOB_MODE,
            "start",
            POWER_OFF_TARGET,
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(SystemdError::PowerOff)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(SystemdError::PowerOff(io::Error::other(format!(
        "systemctl: {reason}"
    ))))
}
