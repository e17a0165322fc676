//! Units: their names, the list, and jobs with their true result.
//!
//! Names follow `systemd.unit(5)`; short forms are completed as `systemctl` does.

use std::{fmt, future::Future, time::Duration};

use seed_protocol::JournalNamespace;
use tokio::time::timeout;
use tracing::info;
use zbus::OwnedObjectPath;

use super::{Handle, SystemdError, bus::Bus, is_text};

/// The longest wait for the end of a job. A unit's own limits end it sooner: 90 s by default.
const JOB_LIMIT: Duration = Duration::from_mins(10);

/// `UNIT_NAME_MAX` in systemd's `unit-name.h`.
const MAX_NAME_BYTES: usize = 255;

/// The most patterns of one list, and the longest.
const MAX_PATTERNS: usize = 64;

/// Kinds of units, and the D-Bus interface of those that have a `Result`.
const KINDS: [(&str, Option<&str>); 11] = [
    ("service", Some("org.freedesktop.systemd1.Service")),
    ("socket", Some("org.freedesktop.systemd1.Socket")),
    ("target", None),
    ("device", None),
    ("mount", Some("org.freedesktop.systemd1.Mount")),
    ("automount", Some("org.freedesktop.systemd1.Automount")),
    ("swap", Some("org.freedesktop.systemd1.Swap")),
    ("timer", Some("org.freedesktop.systemd1.Timer")),
    ("path", Some("org.freedesktop.systemd1.Path")),
    ("slice", None),
    ("scope", Some("org.freedesktop.systemd1.Scope")),
];

/// The interface that has the `Result` of a unit of this name.
pub(super) fn kind_interface(name: &str) -> Option<&'static str> {
    let (_, suffix) = name.rsplit_once('.')?;
    KINDS
        .iter()
        .find(|(kind, _)| *kind == suffix)
        .and_then(|(_, interface)| *interface)
}

fn has_kind(name: &str) -> bool {
    name.rsplit_once('.')
        .is_some_and(|(_, suffix)| KINDS.iter().any(|(kind, _)| *kind == suffix))
}

/// The full name of a unit, suffix included.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnitName(String);

impl UnitName {
    /// The name as systemd writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<&str> for UnitName {
    type Error = SystemdError;

    /// Takes a full name, or a service without its suffix.
    fn try_from(name: &str) -> Result<Self, SystemdError> {
        let full = if has_kind(name) {
            name.to_owned()
        } else {
            format!("{name}.service")
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
        let reason = if name.is_empty() || full.starts_with('.') {
            "it is empty"
        } else if full.len() > MAX_NAME_BYTES {
            "it is longer than 255 bytes"
        } else if !full.chars().all(allowed) {
            "only letters, digits and :-_.\\@ may be in it"
        } else {
            return Ok(Self(full));
        };
        Err(SystemdError::BadName {
            name: name.chars().take(MAX_NAME_BYTES).collect(),
            reason,
        })
    }
}

/// What can be done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start it, if it does not run.
    Start,
    /// Stop it.
    Stop,
    /// Stop it if it runs, then start it.
    Restart,
    /// Let it read its configuration again.
    Reload,
    /// Forget that it failed, and its start limit.
    ResetFailed,
}

impl Action {
    const fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::ResetFailed => "reset-failed",
        }
    }

    const fn checks_conditions(self) -> bool {
        matches!(self, Self::Start | Self::Restart)
    }
}

/// One loaded unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// Its description.
    pub description: String,
    /// `loaded`, `not-found`, `masked`...
    pub load_state: String,
    /// `active`, `inactive`, `failed`...
    pub active_state: String,
    /// The state in words of the unit's kind: `running`, `exited`, `mounted`...
    pub sub_state: String,
}

impl Handle {
    /// The loaded units that match one of the patterns, by name; all for none.
    pub async fn list_units(&self, patterns: &[String]) -> Result<Vec<Unit>, SystemdError> {
        let patterns = complete_patterns(patterns)?;
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        let bus = self.bus().await?;
        let rows = bus.manager.list_units_by_patterns(&[], &patterns).await;
        let rows = rows.map_err(|source| SystemdError::Bus {
            action: "list units",
            source,
        })?;
        let mut units: Vec<Unit> = rows
            .into_iter()
            .map(
                |(name, description, load_state, active_state, sub_state, ..)| Unit {
                    name,
                    description,
                    load_state,
                    active_state,
                    sub_state,
                },
            )
            .collect();
        units.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(units)
    }

    /// Does something to a unit and waits for the end of the job. The answer is systemd's word: `done`,
    /// `failed`, `timeout`, `dependency`, `canceled`, and `skipped` also where a condition of the unit was
    /// not met, which systemd itself calls done.
    pub async fn control_unit(
        &self,
        unit: &UnitName,
        action: Action,
    ) -> Result<String, SystemdError> {
        let bus = self.bus().await?;
        let (manager, name) = (&bus.manager, unit.as_str());
        let watch = bus.watch_unit(name);
        let heard = bus.hear_changes().await;
        heard.map_err(|error| JobError::Refused(error).named(action.verb(), name))?;
        let mode = "replace";
        let what = || format!("the {} of {unit}", action.verb());
        let result = match action {
            Action::Start => finish(&bus, manager.start_unit(name, mode), what()).await,
            Action::Stop => finish(&bus, manager.stop_unit(name, mode), what()).await,
            Action::Restart => finish(&bus, manager.restart_unit(name, mode), what()).await,
            Action::Reload => finish(&bus, manager.reload_unit(name, mode), what()).await,
            Action::ResetFailed => {
                let reset = manager.reset_failed_unit(name).await;
                reset.map(|()| "done".to_owned()).map_err(JobError::Refused)
            }
        };
        let mut result = result.map_err(|error| error.named(action.verb(), name))?;
        if result == "done" && action.checks_conditions() && watch.conditions_met() == Some(false) {
            "skipped".clone_into(&mut result);
        }
        info!(
            unit = name,
            action = action.verb(),
            result,
            "unit controlled"
        );
        Ok(result)
    }

    /// Which namespace's journal a service logs to; none for the system's, and for what is no service.
    pub async fn log_namespace(&self, unit: &UnitName) -> Option<JournalNamespace> {
        let bus = self.bus().await.ok()?;
        let watch = bus.watch_unit(unit.as_str());
        let name = bus.service(watch.path()).await.ok()?.log_namespace().await;
        JournalNamespace::try_from(name.ok()?.as_str()).ok()
    }

    /// Sends a signal to the main process of a unit, or to all of its processes.
    pub async fn kill_unit(
        &self,
        unit: &UnitName,
        whole: bool,
        signal: i32,
    ) -> Result<(), SystemdError> {
        let whom = if whole { "all" } else { "main" };
        let sent = self
            .bus()
            .await?
            .manager
            .kill_unit(unit.as_str(), whom, signal)
            .await;
        sent.map_err(|error| JobError::Refused(error).named("signal", unit.as_str()))
    }
}

/// Why a job did not come to an end that we know of.
#[derive(Debug)]
pub(super) enum JobError {
    /// systemd did not take it.
    Refused(zbus::Error),
    /// The connection went away; carries what was waited for.
    Lost(String),
    /// It takes longer than [`JOB_LIMIT`]; carries what was waited for.
    TimedOut(String),
}

impl JobError {
    /// Whether the job may be done all the same: systemd itself did not say no.
    pub(super) fn leaves_doubt(&self) -> bool {
        !matches!(self, Self::Refused(zbus::Error::MethodError(..)))
    }

    /// The error for the caller, who knows which unit it was about.
    pub(super) fn named(self, action: &'static str, unit: &str) -> SystemdError {
        let error = match self {
            Self::Lost(what) => return SystemdError::Lost(what),
            Self::TimedOut(what) => {
                return SystemdError::TimedOut {
                    what,
                    limit: JOB_LIMIT,
                };
            }
            Self::Refused(error) => error,
        };
        match &error {
            zbus::Error::MethodError(name, reason, _) => match name.as_str() {
                "org.freedesktop.systemd1.NoSuchUnit" => SystemdError::NoSuchUnit(unit.to_owned()),
                "org.freedesktop.systemd1.NoSuchProcess" => {
                    SystemdError::NoProcess(unit.to_owned())
                }
                // Masked, destructive while shutting down, not applicable, manual start refused...
                name if name.starts_with("org.freedesktop.systemd1.") => SystemdError::Refused {
                    action,
                    unit: unit.to_owned(),
                    reason: reason.clone().unwrap_or_else(|| name.to_owned()),
                },
                _ => SystemdError::Bus {
                    action,
                    source: error,
                },
            },
            _ => SystemdError::Bus {
                action,
                source: error,
            },
        }
    }
}

/// Asks for a job and waits for its end.
pub(super) async fn finish(
    bus: &Bus,
    ask: impl Future<Output = zbus::Result<OwnedObjectPath>>,
    what: String,
) -> Result<String, JobError> {
    let intent = bus.jobs.intend();
    let job = ask.await.map_err(JobError::Refused)?;
    match timeout(JOB_LIMIT, intent.claim(job.as_str())).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err(JobError::Lost(what)),
        Err(_) => Err(JobError::TimedOut(what)),
    }
}

/// Patterns as systemd takes them: a word without a kind is a service.
pub(crate) fn complete_patterns(patterns: &[String]) -> Result<Vec<String>, SystemdError> {
    let bad = |pattern: &str, reason| SystemdError::BadName {
        name: pattern.chars().take(MAX_NAME_BYTES).collect(),
        reason,
    };
    if let Some(beyond) = patterns.get(MAX_PATTERNS) {
        return Err(bad(beyond, "more than 64 patterns at once"));
    }
    let complete = |pattern: &String| {
        if pattern.is_empty() || pattern.len() > MAX_NAME_BYTES || pattern.contains('\0') {
            return Err(bad(pattern, "a pattern has 1 to 255 bytes and no NUL"));
        }
        if !is_text(pattern) {
            return Err(bad(pattern, "a pattern has characters only"));
        }
        let as_it_is = has_kind(pattern) || pattern.contains(['*', '?', '[']);
        Ok(if as_it_is {
            pattern.clone()
        } else {
            format!("{pattern}.service")
        })
    };
    patterns.iter().map(complete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_suffix_is_a_service() {
        assert_eq!(UnitName::try_from("app").unwrap().as_str(), "app.service");
        assert_eq!(
            UnitName::try_from("getty@tty1").unwrap().as_str(),
            "getty@tty1.service"
        );
        assert_eq!(UnitName::try_from("a.b").unwrap().as_str(), "a.b.service");
        assert_eq!(
            UnitName::try_from("data.mount").unwrap().as_str(),
            "data.mount"
        );
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "a b",
            "../x",
            "é",
            "a\n",
            ".service",
            "x\0",
            &"x".repeat(256),
        ] {
            assert!(UnitName::try_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_are_completed_and_bounded() {
        let completed = complete_patterns(&["app".into(), "se*".into(), "a.timer".into()]).unwrap();
        assert_eq!(completed, ["app.service", "se*", "a.timer"]);
        for bad in ["", "a\0", "\u{ffff}*"] {
            assert!(complete_patterns(&[bad.to_owned()]).is_err(), "{bad:?}");
        }
        assert!(complete_patterns(&vec!["a".to_owned(); MAX_PATTERNS + 1]).is_err());
    }

    #[test]
    fn kinds_with_a_result_have_an_interface() {
        assert_eq!(
            kind_interface("a.service"),
            Some("org.freedesktop.systemd1.Service")
        );
        assert_eq!(kind_interface("a.target"), None);
        assert_eq!(kind_interface("a.unknown"), None);
    }
}
