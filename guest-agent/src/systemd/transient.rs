//! Transient services: a process with its own cgroup, made over D-Bus and gone when it has ended.
//!
//! A service is referenced (`AddRef`) until its exit status has been read; systemd would forget it
//! otherwise. `CollectMode=inactive-or-failed` makes it go away then, failed or not.
//! Source: `org.freedesktop.systemd1(5)`, "StartTransientUnit"; `systemd.exec(5)`, "Process Exit Codes".

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    select,
    time::{sleep, timeout},
};
use tracing::{debug, warn};
use zbus::{Fd, Variant, proxy::CacheProperties};

use super::{
    Handle, SystemdError, UnitName,
    bus::{Bus, UnitWatch},
    proxy::{ServiceProxy, UnitStateProxy},
    unit::{JobError, finish},
};

/// All transient services of the agent live here.
const SLICE: &str = "seed-exec.slice";

/// What is left of the service's processes when its main process has ended gets SIGTERM, and after this
/// time SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Changes come as signals; this catches one that was lost with a connection.
const POLL: Duration = Duration::from_secs(5);

/// How long a service that could not be started may take to be let go.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(30);

/// The exit status for a service whose end nobody saw: systemd forgot it while the bus was away.
const STATUS_UNKNOWN: i32 = 255;

/// What to run.
#[derive(Debug)]
pub struct ServiceSpec<'a> {
    /// The name; must not be in use.
    pub unit: UnitName,
    /// A line for the journal and for `systemctl`.
    pub description: String,
    /// The file to execute.
    pub program: PathBuf,
    /// The arguments, the zeroth included.
    pub arguments: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Where it starts.
    pub directory: PathBuf,
    /// A user name or number.
    pub user: String,
    /// A group name or number; the user's own for `None`.
    pub group: Option<String>,
    /// Set-user-id programs gain nothing.
    pub no_new_privileges: bool,
    /// Standard input, output and error.
    pub standard: Standard<'a>,
}

/// Where the standard streams go.
#[derive(Debug)]
pub enum Standard<'a> {
    /// Three open files. Input from `/dev/null` for `None`.
    Files {
        /// Read by the process.
        input: Option<BorrowedFd<'a>>,
        /// Written by the process.
        output: BorrowedFd<'a>,
        /// Written by the process.
        error: BorrowedFd<'a>,
    },
    /// A terminal, which becomes the controlling one.
    Terminal(&'a Path),
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The exit status of its main process, or 128 + the signal that killed it.
    pub status: i32,
}

/// A service that was started.
#[derive(Debug)]
pub struct Transient {
    unit: UnitName,
    bus: Arc<Bus>,
    watch: UnitWatch,
}

impl Handle {
    /// Starts a transient service. It runs when this returns: systemd has executed its program. After an error
    /// nothing of it is left. Must run to its end: one that is dropped leaves a service that nobody knows.
    pub async fn start_transient(&self, spec: ServiceSpec<'_>) -> Result<Transient, SystemdError> {
        let bus = self.bus().await?;
        let name = spec.unit.as_str();
        let properties = properties(&spec);
        let watch = bus.watch_unit(name);
        let heard = bus.hear_changes().await;
        heard.map_err(|error| JobError::Refused(error).named("start", name))?;
        let start = bus
            .manager
            .start_transient_unit(name, "fail", &properties, &[]);
        let result = match finish(&bus, start, format!("the start of {name}")).await {
            Ok(result) => result,
            Err(error) => {
                if error.leaves_doubt() {
                    self.give_up(&bus, &spec.unit).await;
                }
                return Err(error.named("start", name));
            }
        };

        // From here on the unit is referenced: it has to be let go.
        let transient = Transient {
            unit: spec.unit,
            bus,
            watch,
        };
        if result == "done" {
            return Ok(transient);
        }
        let error = transient.why_not_started(&result).await;
        transient.release().await;
        Err(error)
    }

    /// Ends a service of which nobody knows whether it was started.
    async fn give_up(&self, bus: &Bus, unit: &UnitName) {
        let end = async {
            let next = match bus.is_closed() {
                true => self.next_bus().await.ok(),
                false => None,
            };
            let manager = &next.as_deref().unwrap_or(bus).manager;
            if let Err(error) = manager.stop_unit(unit.as_str(), "replace").await {
                debug!(%unit, %error, "a service that did not start cannot be stopped");
            }
            if let Err(error) = manager.unref_unit(unit.as_str()).await {
                debug!(%unit, %error, "a service that did not start cannot be released");
            }
        };
        if timeout(GIVE_UP_LIMIT, end).await.is_err() {
            warn!(%unit, "a service that did not start may be left");
        }
    }

    /// A service that an earlier agent started. Waits for the connection, however long; `None` when none comes
    /// any more.
    pub async fn adopt(&self, unit: UnitName) -> Option<Transient> {
        let bus = self.next_bus().await.ok()?;
        let watch = hold(&bus, &unit).await;
        Some(Transient { unit, bus, watch })
    }
}

/// Takes a reference to a service that runs, and watches it. Where that fails it is asked for now and then ([`POLL`]).
async fn hold(bus: &Bus, unit: &UnitName) -> UnitWatch {
    let watch = bus.watch_unit(unit.as_str());
    if let Err(error) = bus.manager.ref_unit(unit.as_str()).await {
        debug!(%unit, %error, "exec could not be held");
    }
    if let Err(error) = bus.hear_changes().await {
        debug!(%unit, %error, "exec cannot be watched");
    }
    watch
}

impl Transient {
    /// The name of the unit.
    pub const fn unit(&self) -> &UnitName {
        &self.unit
    }

    /// Waits until the service has ended, all of its processes included. Until it is released, systemd
    /// remembers how it ended. Survives the loss of the connection; `systemd` is asked for a new one.
    pub async fn ended(&mut self, systemd: &Handle) -> Exit {
        loop {
            match self.exit().await {
                Ok(Some(exit)) => return exit,
                Ok(None) => {}
                Err(error) if is_gone(&error) => {
                    warn!(unit = %self.unit, "systemd forgot an exec before its exit status was read");
                    return Exit {
                        status: STATUS_UNKNOWN,
                    };
                }
                Err(error) => debug!(unit = %self.unit, error = %error, "exec cannot be watched"),
            }
            select! {
                () = self.watch.changed() => {}
                () = sleep(POLL) => {}
                () = self.bus.closed() => self.move_to_another_bus(systemd).await,
            }
        }
    }

    /// systemd counts references by connection: the lost one's has to be taken again.
    async fn move_to_another_bus(&mut self, systemd: &Handle) {
        let Ok(bus) = systemd.next_bus().await else {
            return;
        };
        self.watch = hold(&bus, &self.unit).await;
        self.bus = bus;
    }

    /// How it ended, or `None` while anything of it runs.
    async fn exit(&self) -> zbus::Result<Option<Exit>> {
        let unit = UnitStateProxy::builder(&self.bus.connection)
            .path(self.watch.path())
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        if !matches!(unit.active_state().await?.as_str(), "inactive" | "failed") {
            return Ok(None);
        }
        let service = self.service().await?;
        let (code, status) = (
            service.exec_main_code().await?,
            service.exec_main_status().await?,
        );
        Ok(Some(Exit {
            status: exit_status(code, status),
        }))
    }

    async fn service(&self) -> zbus::Result<ServiceProxy<'_>> {
        self.bus.service(self.watch.path()).await
    }

    async fn why_not_started(&self, job_result: &str) -> SystemdError {
        let unit = self.unit.to_string();
        let (status, result) = match self.service().await {
            Ok(service) => (
                service.exec_main_status().await.unwrap_or_default(),
                service.result().await.unwrap_or_default(),
            ),
            Err(_) => (0, String::new()),
        };
        let reason = match spawn_failure(status) {
            Some(reason) => reason.to_owned(),
            None if result.is_empty() => format!("the job ended as {job_result}"),
            None => format!("the job ended as {job_result}, the service as {result}"),
        };
        SystemdError::NotStarted {
            unit,
            reason,
            status,
        }
    }

    /// Lets systemd forget it.
    pub async fn release(self) {
        if let Err(error) = self.bus.manager.unref_unit(self.unit.as_str()).await {
            debug!(unit = %self.unit, error = %error, "exec could not be released");
        }
    }
}

fn is_gone(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::FDO(error) => matches!(**error, zbus::fdo::Error::UnknownObject(_)),
        zbus::Error::MethodError(name, ..) => *name == "org.freedesktop.systemd1.NoSuchUnit",
        _ => false,
    }
}

/// `CLD_EXITED` is 1, `CLD_KILLED` 2 and `CLD_DUMPED` 3: `asm-generic/siginfo.h`.
fn exit_status(code: i32, status: i32) -> i32 {
    match code {
        1 => status,
        2 | 3 => 128 + status,
        _ => STATUS_UNKNOWN,
    }
}

/// What systemd could not do between fork and exec: `systemd.exec(5)`, "Process Exit Codes".
const fn spawn_failure(status: i32) -> Option<&'static str> {
    match status {
        200 => Some("its working directory does not exist or cannot be entered"),
        203 => Some("its program cannot be executed"),
        208 => Some("its standard input could not be set up"),
        209 | 222 => Some("its standard output or error could not be set up"),
        216 => Some("its group is not known"),
        217 => Some("its user is not known"),
        _ => None,
    }
}

fn properties<'a>(spec: &'a ServiceSpec<'_>) -> Vec<(&'static str, Variant<'a>)> {
    // `no-env-expand`: `$` in an argument is a `$`.
    let command = (
        spec.program.to_string_lossy().into_owned(),
        spec.arguments.clone(),
        vec!["no-env-expand"],
    );
    let stop_limit_us = u64::try_from(STOP_LIMIT.as_micros()).unwrap_or(u64::MAX);
    let mut properties: Vec<(&'static str, Variant<'a>)> = vec![
        ("Description", spec.description.as_str().into()),
        ("Type", "exec".into()),
        ("ExecStartEx", vec![command].into()),
        ("Environment", spec.environment.clone().into()),
        (
            "WorkingDirectory",
            spec.directory.to_string_lossy().into_owned().into(),
        ),
        ("User", spec.user.as_str().into()),
        ("Slice", SLICE.into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("AddRef", true.into()),
        ("TimeoutStopUSec", stop_limit_us.into()),
        ("NoNewPrivileges", spec.no_new_privileges.into()),
        // An exec is for looking into a boot that hangs, too: it waits for no target, and yet ends with
        // the others at shutdown.
        ("DefaultDependencies", false.into()),
        ("Conflicts", vec!["shutdown.target"].into()),
        ("Before", vec!["shutdown.target"].into()),
    ];
    if let Some(group) = &spec.group {
        properties.push(("Group", group.as_str().into()));
    }
    match &spec.standard {
        Standard::Files {
            input,
            output,
            error,
        } => {
            if let Some(input) = input {
                properties.push(("StandardInputFileDescriptor", Fd::from(*input).into()));
            }
            properties.push(("StandardOutputFileDescriptor", Fd::from(*output).into()));
            properties.push(("StandardErrorFileDescriptor", Fd::from(*error).into()));
        }
        Standard::Terminal(path) => {
            properties.push(("StandardInput", "tty".into()));
            properties.push(("StandardOutput", "tty".into()));
            properties.push(("StandardError", "tty".into()));
            properties.push(("TTYPath", path.to_string_lossy().into_owned().into()));
            // Shells ignore SIGTERM; the end of a terminal is a hangup.
            properties.push(("SendSIGHUP", true.into()));
        }
    }
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_status_is_the_plain_code_or_128_and_the_signal() {
        assert_eq!(exit_status(1, 0), 0);
        assert_eq!(exit_status(1, 7), 7);
        assert_eq!(exit_status(2, 9), 137);
        assert_eq!(exit_status(3, 6), 134);
        assert_eq!(exit_status(0, 0), STATUS_UNKNOWN);
    }
}
