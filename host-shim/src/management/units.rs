//! Units of a guest's systemd for people and for programs. What a guest said is escaped for people. Nothing here asks or prints.

use jiff::{Timestamp, tz::TimeZone};
use seed_protocol::seed::v1::{Unit, UnitDetails, control_unit_request::Action};
use serde_json::{Value, json};

use crate::{
    logs::render::human::escaped,
    text::{bytes, seconds, table},
};

/// The actions, by the words that systemctl has for them.
const ACTIONS: [(&str, Action); 5] = [
    ("start", Action::ACTION_START),
    ("stop", Action::ACTION_STOP),
    ("restart", Action::ACTION_RESTART),
    ("reload", Action::ACTION_RELOAD),
    ("reset-failed", Action::ACTION_RESET_FAILED),
];

/// The action of this word.
pub fn action(word: &str) -> Option<Action> {
    let found = ACTIONS.iter().find(|(known, _)| *known == word);
    found.map(|(_, action)| *action)
}

/// The word of an action.
pub fn verb(action: Action) -> &'static str {
    let found = ACTIONS.iter().find(|(_, known)| *known == action);
    found.map_or("nothing", |(word, _)| word)
}

/// Units as a table.
pub fn list(units: &[Unit]) -> String {
    let head = ["UNIT", "LOAD", "ACTIVE", "SUB", "DESCRIPTION"];
    let row = |unit: &Unit| {
        [
            &unit.name,
            &unit.load_state,
            &unit.active_state,
            &unit.sub_state,
            &unit.description,
        ]
        .map(|text| escaped(text))
    };
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(units.iter().map(row));
    table(0, &rows)
}

/// One unit of a list.
pub fn json(unit: &Unit) -> Value {
    json!({
        "name": unit.name,
        "description": unit.description,
        "load_state": unit.load_state,
        "active_state": unit.active_state,
        "sub_state": unit.sub_state,
    })
}

/// All that is known of a unit.
pub fn details_json(details: &UnitDetails) -> Value {
    let mut all = json(&details.unit);
    all["fragment_path"] = details.fragment_path.as_str().into();
    all["file_state"] = details.file_state.as_str().into();
    all["since_realtime_us"] = details.since_realtime_us.into();
    all["result"] = details.result.as_str().into();
    all["main_pid"] = details.main_pid.into();
    all["exec_main_code"] = details.exec_main_code.into();
    all["exec_main_status"] = details.exec_main_status.into();
    all["restarts"] = details.restarts.into();
    all["memory_bytes"] = details.memory_bytes.into();
    all["tasks"] = details.tasks.into();
    all["cpu_ns"] = details.cpu_ns.into();
    all["job_id"] = details.job_id.into();
    all
}

/// One unit on one screen. What it does not have is left out.
pub fn text(details: &UnitDetails) -> String {
    let unit = &details.unit;
    let from: Vec<String> = [&details.fragment_path, &details.file_state]
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| escaped(text))
        .collect();
    let loaded = match &from[..] {
        [] => escaped(&unit.load_state),
        from => format!("{} ({})", escaped(&unit.load_state), from.join("; ")),
    };
    let since = moment(details.since_realtime_us).map(|time| format!(" since {time}"));
    let active = format!(
        "{} ({}){}",
        escaped(&unit.active_state),
        escaped(&unit.sub_state),
        since.unwrap_or_default()
    );
    let known = |number: u32| (number > 0).then(|| number.to_string());
    let rows = [
        ("Loaded", Some(loaded)),
        ("Active", Some(active)),
        (
            "Result",
            Some(escaped(&details.result)).filter(|text| !text.is_empty()),
        ),
        ("Job", known(details.job_id)),
        ("Main PID", known(details.main_pid)),
        ("Last end", last_end(details)),
        ("Restarts", known(details.restarts)),
        ("Tasks", details.tasks.map(|tasks| tasks.to_string())),
        ("Memory", details.memory_bytes.map(bytes)),
        ("CPU", details.cpu_ns.map(|ns| seconds(ns / 1_000_000))),
    ];
    let rows: Vec<[String; 2]> = rows
        .into_iter()
        .filter_map(|(name, value)| Some([name.to_owned(), value?]))
        .collect();
    let head = format!("{}  {}", escaped(&unit.name), escaped(&unit.description));
    format!("{}\n\n{}", head.trim_end(), table(2, &rows))
}

/// How the main process last ended: `CLD_EXITED`, `CLD_KILLED`, `CLD_DUMPED` of sigaction(2).
fn last_end(details: &UnitDetails) -> Option<String> {
    let status = details.exec_main_status;
    match details.exec_main_code {
        1 => Some(format!("exit status {status}")),
        2 => Some(format!("killed by signal {status}")),
        3 => Some(format!("killed by signal {status}, core dumped")),
        _ => None,
    }
}

/// A time in this machine's time zone.
fn moment(realtime_us: u64) -> Option<String> {
    let us = i64::try_from(realtime_us).ok().filter(|us| *us > 0)?;
    let time = Timestamp::from_microsecond(us).ok()?;
    let local = time.to_zoned(TimeZone::system());
    Some(local.strftime("%Y-%m-%d %H:%M:%S %Z").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_one_word() {
        for (word, known) in ACTIONS {
            assert_eq!((action(word), verb(known)), (Some(known), word));
        }
        assert_eq!(action("enable"), None);
    }

    #[test]
    fn an_end_is_told_in_words() {
        let ended = |exec_main_code, exec_main_status| {
            last_end(&UnitDetails {
                exec_main_code,
                exec_main_status,
                ..Default::default()
            })
        };
        assert_eq!(ended(0, 0), None);
        assert_eq!(ended(1, 7).unwrap(), "exit status 7");
        assert_eq!(ended(2, 9).unwrap(), "killed by signal 9");
        assert_eq!(moment(0), None);
        assert_eq!(moment(u64::MAX), None);
    }
}
