//! An instance's status for people: what one wants to know first, on one screen.

use seed_protocol::seed::{
    management::{InstanceStatus, Usage},
    v1::Volume,
};

use super::{metrics, words};
use crate::{
    logs::render::human::escaped,
    text::{bytes, count, seconds, table},
};

/// One instance on one screen, as `seed status` prints it. What a guest said is escaped.
pub fn text(status: &InstanceStatus) -> String {
    let state = words::state(status.state.enum_value_or_default());
    let mut text = format!(
        "{}  {state}  ({}, {}, {})\n",
        status.id,
        status.accel,
        count(usize::try_from(status.vcpus).unwrap_or_default(), "vCPU"),
        bytes(u64::from(status.memory_mib) << 20),
    );
    if let Some(pod) = status.pod.as_ref() {
        text += &format!("Pod {}, kept as {}\n", words::pod(pod), status.kept_as);
    }
    if let Some(exit) = status.exit.as_ref() {
        text += &format!(
            "Ended with status {}: {}\n",
            exit.status,
            escaped(&exit.reason)
        );
    }
    if !status.stages.is_empty() {
        text += "\n";
        text += &table(2, &stages(status));
    }
    section(
        &mut text,
        "Problems",
        status
            .problems
            .iter()
            .map(|problem| [escaped(&problem.subject), escaped(&problem.message)]),
    );
    section(
        &mut text,
        "Failed units",
        status
            .failed_units
            .iter()
            .map(|unit| [escaped(&unit.name), escaped(&unit.result)]),
    );
    section(&mut text, "Volumes", status.volumes.iter().map(volume));
    section(
        &mut text,
        "Processes",
        status
            .processes
            .iter()
            .map(|process| [process.name.clone(), process.pid.to_string()]),
    );
    if status.log_entries > 0 {
        let behind = match status.log_lag {
            0 => String::new(),
            lag => format!(", {lag} behind the guest"),
        };
        let entries = if status.log_entries == 1 {
            "entry"
        } else {
            "entries"
        };
        let lost = |count, how| match count {
            0 => String::new(),
            count => format!(", {count} {how}"),
        };
        let missing = lost(status.log_missing, "missing");
        let dropped = lost(status.log_dropped, "dropped by the guest's rate limit");
        text += &format!(
            "\nLog: {} {entries}{behind}{missing}{dropped}\n",
            status.log_entries
        );
    }
    text
}

/// What the guest and the host count, side by side: a section to go below [`text`].
pub fn uses(usage: &Usage) -> String {
    let mut rows = Vec::new();
    if let Some(guest) = usage.guest.as_ref() {
        let memory = format!(
            "{} of {} memory",
            bytes(guest.memory_bytes),
            bytes(guest.memory_total_bytes)
        );
        rows.push(["guest".to_owned(), cpu_time(guest.cpu_ns), memory]);
    }
    for process in &usage.processes {
        let memory = format!("{} memory", bytes(process.memory_bytes));
        rows.push([process.name.clone(), cpu_time(process.cpu_ns), memory]);
    }
    let mut text = String::new();
    section(&mut text, "Uses", rows.into_iter());
    if !usage.processes.is_empty() {
        text += &format!(
            "Overhead: {} of the processes' memory are not the guest's own\n",
            bytes(metrics::overhead(usage))
        );
    }
    text
}

fn cpu_time(ns: u64) -> String {
    format!("{} CPU", seconds(ns / 1_000_000))
}

fn stages(status: &InstanceStatus) -> Vec<[String; 4]> {
    let mut rows = vec![["STAGE", "AT", "TOOK", ""].map(str::to_owned)];
    let mut before = 0;
    for reached in &status.stages {
        let stage = reached.stage.enum_value_or_default();
        let at = reached.since_create_ms;
        rows.push([
            words::stage(stage).into(),
            format!("{:>8}", seconds(at)),
            format!("{:>8}", seconds(at.saturating_sub(before))),
            words::stage_meaning(stage).into(),
        ]);
        before = at;
    }
    rows
}

fn volume(volume: &Volume) -> [String; 5] {
    let note = match (volume.problem.as_str(), volume.created) {
        ("", true) => "made at this boot".into(),
        ("", false) => String::new(),
        (problem, _) => format!("problem: {}", escaped(problem)),
    };
    [
        escaped(&volume.name),
        escaped(&volume.mount_point),
        escaped(&volume.filesystem),
        bytes(volume.size_bytes),
        note,
    ]
}

fn section<const N: usize>(
    text: &mut String,
    title: &str,
    rows: impl Iterator<Item = [String; N]>,
) {
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        *text += &format!("\n{title}\n{}", table(2, &rows));
    }
}

#[cfg(test)]
mod tests {
    use seed_protocol::seed::{
        management::{Exit, GuestUsage, Process, ProcessUsage, StageTime, State},
        v1::{FailedUnit, Problem, Stage},
    };

    use super::*;

    #[test]
    fn the_whole_picture_fits_on_a_screen() {
        let stage = |stage: Stage, since_create_ms| StageTime {
            stage: stage.into(),
            since_create_ms,
            ..Default::default()
        };
        let status = InstanceStatus {
            id: "demo".into(),
            state: State::STATE_STOPPED.into(),
            stage: Stage::STAGE_DEGRADED.into(),
            stages: vec![
                stage(Stage::STAGE_VMM_STARTED, 310),
                stage(Stage::STAGE_HELLO, 6_204),
                stage(Stage::STAGE_DEGRADED, 14_400),
            ],
            failed_units: vec![FailedUnit {
                name: "app\x1b[2J.service".into(),
                result: "exit-code".into(),
                ..Default::default()
            }],
            problems: vec![Problem {
                subject: "volume data".into(),
                message: "user app does not exist".into(),
                ..Default::default()
            }],
            volumes: vec![Volume {
                name: "data".into(),
                mount_point: "/seed/storage/data".into(),
                filesystem: "ext4".into(),
                created: true,
                size_bytes: 64 << 20,
                ..Default::default()
            }],
            accel: "tcg".into(),
            processes: vec![Process {
                name: "qemu".into(),
                pid: 17,
                ..Default::default()
            }],
            exit: Some(Exit {
                status: 137,
                reason: "qemu was killed".into(),
                ..Default::default()
            })
            .into(),
            vcpus: 1,
            memory_mib: 512,
            log_entries: 1234,
            log_lag: 2,
            log_missing: 12,
            log_dropped: 3,
            pod: Some(words::sample_pod()).into(),
            kept_as: "prod_web-0_app".into(),
            ..Default::default()
        };
        let expected = "\
demo  stopped  (tcg, 1 vCPU, 512 MiB)
Pod prod/web-0/app, kept as prod_web-0_app
Ended with status 137: qemu was killed

  STAGE     AT        TOOK
  vmm         0.31 s    0.31 s  virtual machine started
  hello       6.20 s    5.89 s  agent answers
  degraded   14.40 s    8.19 s  started, with failures

Problems
  volume data  user app does not exist

Failed units
  app\\x1b[2J.service  exit-code

Volumes
  data  /seed/storage/data  ext4  64 MiB  made at this boot

Processes
  qemu  17

Log: 1234 entries, 2 behind the guest, 12 missing, 3 dropped by the guest's rate limit
";
        assert_eq!(text(&status), expected);
    }

    #[test]
    fn guest_and_host_are_told_side_by_side() {
        let usage = Usage {
            guest: Some(GuestUsage {
                cpu_ns: 7_800_000_000,
                memory_bytes: 151 << 20,
                memory_total_bytes: 466 << 20,
                ..Default::default()
            })
            .into(),
            processes: vec![ProcessUsage {
                name: "qemu".into(),
                pid: 17,
                cpu_ns: 12_340_000_000,
                memory_bytes: 300 << 20,
                guest_memory_bytes: 140 << 20,
                ..Default::default()
            }],
            ..Default::default()
        };
        let expected = "
Uses
  guest  7.80 s CPU   151 MiB of 466 MiB memory
  qemu   12.34 s CPU  300 MiB memory
Overhead: 160 MiB of the processes' memory are not the guest's own
";
        assert_eq!(uses(&usage), expected);
        assert_eq!(uses(&Usage::default()), "");
    }
}
