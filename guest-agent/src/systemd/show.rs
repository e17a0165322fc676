//! One unit as `systemctl status` shows it. It asks as `systemctl show` does: for all properties of the unit at once,
//! so that they are of one moment. systemd loads the unit for that where it is not loaded; nothing else changes.
//!
//! Source: `org.freedesktop.systemd1(5)`; which time is the state's own: `print_status_info()` in `systemctl-show.c`.

use std::collections::HashMap;

use zbus::{Variant, fdo};

use super::{
    Handle, SystemdError,
    unit::{JobError, Unit, UnitName},
};

/// What is known of one unit. What is of no kind of it is 0, empty or `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// Name, description and states.
    pub unit: Unit,
    /// The file that it is from.
    pub fragment_path: String,
    /// `enabled`, `static`, `transient`...
    pub file_state: String,
    /// When it came into its active state, microseconds since the epoch.
    pub since_realtime_us: u64,
    /// How it last ended or failed: `success`, `exit-code`, `signal`...
    pub result: String,
    /// The main process, 0 while none runs.
    pub main_pid: u32,
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`; 0 while the main process did not end.
    pub exec_main_code: i32,
    /// Its exit status or the signal.
    pub exec_main_status: i32,
    /// How often systemd started it again by itself.
    pub restarts: u32,
    /// Bytes of memory that its control group has now.
    pub memory_bytes: Option<u64>,
    /// Tasks in it.
    pub tasks: Option<u64>,
    /// CPU time of this run, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// The job that waits or runs for it, 0 for none.
    pub job_id: u32,
}

impl Handle {
    /// What systemd knows of a unit now.
    pub async fn show_unit(&self, unit: &UnitName) -> Result<Details, SystemdError> {
        let bus = self.bus().await?;
        let answer = bus.unit_properties(unit.as_str()).await;
        let named = |error| refused(error, unit);
        let answer = answer.map_err(named)?;
        let body = answer.body();
        let properties = body.deserialize().map(Properties);
        let details = properties.map_err(named)?.details();
        // A unit whose file was removed while it ran is still a unit.
        if details.unit.load_state == "not-found" && details.unit.active_state == "inactive" {
            return Err(SystemdError::NoSuchUnit(unit.to_string()));
        }
        Ok(details)
    }
}

fn refused(error: zbus::Error, unit: &UnitName) -> SystemdError {
    match &error {
        zbus::Error::FDO(known) if matches!(**known, fdo::Error::InvalidArgs(_)) => {
            SystemdError::BadName {
                name: unit.to_string(),
                reason: "systemd has no unit of such a name; a template needs its instance",
            }
        }
        _ => JobError::Refused(error).named("show", unit.as_str()),
    }
}

/// The properties of all of a unit's interfaces.
struct Properties<'m>(HashMap<&'m str, Variant<'m>>);

impl Properties<'_> {
    fn details(&self) -> Details {
        let unit = Unit {
            name: self.text("Id"),
            description: self.text("Description"),
            load_state: self.text("LoadState"),
            active_state: self.text("ActiveState"),
            sub_state: self.text("SubState"),
        };
        Details {
            since_realtime_us: self.long(since(&unit.active_state)),
            unit,
            fragment_path: self.text("FragmentPath"),
            file_state: self.text("UnitFileState"),
            result: self.text("Result"),
            main_pid: self.word("MainPID"),
            exec_main_code: self.number("ExecMainCode"),
            exec_main_status: self.number("ExecMainStatus"),
            restarts: self.word("NRestarts"),
            memory_bytes: self.counted("MemoryCurrent"),
            tasks: self.counted("TasksCurrent"),
            cpu_ns: self.counted("CPUUsageNSec"),
            job_id: self.job(),
        }
    }

    fn text(&self, name: &str) -> String {
        match self.0.get(name) {
            Some(Variant::Str(text)) => text.to_string(),
            _ => String::new(),
        }
    }

    fn word(&self, name: &str) -> u32 {
        match self.0.get(name) {
            Some(Variant::U32(word)) => *word,
            _ => 0,
        }
    }

    fn number(&self, name: &str) -> i32 {
        match self.0.get(name) {
            Some(Variant::I32(number)) => *number,
            _ => 0,
        }
    }

    fn long(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(Variant::U64(long)) => *long,
            _ => 0,
        }
    }

    /// A count of a control group: all ones is systemd's word for "not known".
    fn counted(&self, name: &str) -> Option<u64> {
        match self.0.get(name) {
            None | Some(Variant::U64(u64::MAX)) => None,
            Some(_) => Some(self.long(name)),
        }
    }

    /// The number of the job beside its path.
    fn job(&self) -> u32 {
        match self.0.get("Job") {
            Some(Variant::Structure(job)) => match job.fields() {
                [Variant::U32(id), _] => *id,
                _ => 0,
            },
            _ => 0,
        }
    }
}

/// The time at which a unit came into this state.
fn since(active_state: &str) -> &'static str {
    match active_state {
        "active" | "reloading" | "refreshing" => "ActiveEnterTimestamp",
        "inactive" | "failed" => "InactiveEnterTimestamp",
        "activating" => "InactiveExitTimestamp",
        "deactivating" => "ActiveExitTimestamp",
        // `maintenance`, and what comes after systemd 257.
        _ => "StateChangeTimestamp",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_unit_does_not_have_is_nothing() {
        let none = Properties(HashMap::new()).details();
        assert_eq!(
            (none.main_pid, none.since_realtime_us, none.job_id),
            (0, 0, 0)
        );
        assert_eq!((none.memory_bytes, none.result.as_str()), (None, ""));
        // A type that is not systemd's is no value either.
        let odd = HashMap::from([
            ("MainPID", Variant::from("7")),
            ("MemoryCurrent", Variant::U64(u64::MAX)),
            ("TasksCurrent", Variant::U64(3)),
        ]);
        let odd = Properties(odd).details();
        assert_eq!(
            (odd.main_pid, odd.memory_bytes, odd.tasks),
            (0, None, Some(3))
        );
    }

    #[test]
    fn the_time_is_that_of_the_state() {
        let times = HashMap::from([
            ("ActiveState", Variant::from("failed")),
            ("ActiveEnterTimestamp", Variant::U64(5)),
            ("InactiveEnterTimestamp", Variant::U64(6)),
            ("StateChangeTimestamp", Variant::U64(7)),
        ]);
        assert_eq!(Properties(times).details().since_realtime_us, 6);
        assert_eq!(since("active"), "ActiveEnterTimestamp");
        assert_eq!(since("maintenance"), "StateChangeTimestamp");
    }
}
