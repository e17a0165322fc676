//! Units and readiness against a real systemd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use seed_agent::{
    status::Board,
    sys::descriptors::Keeper,
    systemd::{Action, Handle, SystemdError, Unit, UnitName},
};
use seed_protocol::seed::v1::Stage;

use crate::with_systemd;

/// A unit file that goes away with the test.
struct UnitFile(&'static str);

impl UnitFile {
    fn new(name: &'static str, text: &str) -> (Self, UnitName) {
        fs::create_dir_all("/run/systemd/system").unwrap();
        let file = Self(name);
        fs::write(file.path(), text).unwrap();
        systemctl(&["daemon-reload"]);
        (file, UnitName::try_from(name).unwrap())
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/systemd/system").join(self.0)
    }
}

impl Drop for UnitFile {
    fn drop(&mut self) {
        // A drop must not panic.
        let _ = fs::remove_file(self.path());
        systemctl(&["reset-failed", self.0]);
    }
}

fn systemctl(arguments: &[&str]) {
    // Its status says nothing here: `reset-failed` fails for a unit that is gone already.
    Command::new("systemctl").args(arguments).output().unwrap();
}

#[test]
fn before_the_bus_everything_is_not_yet() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let systemd = Handle::spawn_at(
            PathBuf::from("/nonexistent/bus"),
            Board::new(),
            Keeper::Systemd,
        );
        let unit = UnitName::try_from("app").unwrap();
        let shown = systemd.show_unit(&unit).await;
        assert!(matches!(shown, Err(SystemdError::NotYet)));
        let error = systemd.list_units(&[]).await.unwrap_err();
        assert!(matches!(error, SystemdError::NotYet));
        assert_eq!(
            error.to_string(),
            "not yet: the system bus of the guest is not up"
        );
    });
}

#[test]
fn a_bus_that_went_is_used_again_when_it_is_there_again() {
    with_systemd(|guest| async move {
        let bus = UnitName::try_from("dbus.service").unwrap();
        let before = guest.systemd.show_unit(&bus).await.unwrap().main_pid;
        systemctl(&["restart", "dbus.service"]);
        // Whoever asks meanwhile is told that it went, or waits for it.
        let after = loop {
            match guest.systemd.show_unit(&bus).await {
                Ok(shown) if shown.main_pid != before => break shown.main_pid,
                Ok(_) | Err(SystemdError::Lost(_) | SystemdError::Bus { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_ne!(after, 0);
        // What happens is heard of as before.
        let (status, output, _) = guest.script("echo again; exit 3").await;
        assert_eq!((status, output.as_str()), (3, "again\n"));
    });
}

#[test]
fn units_are_listed_by_pattern() {
    with_systemd(|guest| async move {
        let all = guest.systemd.list_units(&[]).await.unwrap();
        assert!(all.len() > 20);
        let some = guest
            .systemd
            .list_units(&["systemd-journald".to_owned()])
            .await
            .unwrap();
        assert_eq!(some.len(), 1);
        assert_eq!(some[0].name, "systemd-journald.service");
        assert_eq!(
            (some[0].active_state.as_str(), some[0].sub_state.as_str()),
            ("active", "running")
        );
        assert!(
            guest
                .board
                .now()
                .stages
                .iter()
                .any(|s| s.stage == Stage::STAGE_SYSTEM_BUS.into())
        );
    });
}

#[test]
fn a_job_gives_its_true_result() {
    with_systemd(|guest| async move {
        let control =
            async |unit: &UnitName, action| guest.systemd.control_unit(unit, action).await;
        let (_file, good) = UnitFile::new(
            "seed-test-good.service",
            "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
        );
        for action in [Action::Start, Action::Restart, Action::Stop] {
            assert_eq!(control(&good, action).await.unwrap(), "done");
        }
        let (_file, bad) = UnitFile::new(
            "seed-test-bad.service",
            "[Service]\nType=oneshot\nExecStart=/bin/false\n",
        );
        assert_eq!(control(&bad, Action::Start).await.unwrap(), "failed");
        assert_eq!(control(&bad, Action::ResetFailed).await.unwrap(), "done");
        let (_file, conditional) = UnitFile::new(
            "seed-test-condition.service",
            "[Unit]\nConditionPathExists=/nonexistent\n[Service]\nExecStart=/bin/sleep 1000\n",
        );
        assert_eq!(
            control(&conditional, Action::Start).await.unwrap(),
            "skipped"
        );
        let (_file, dependent) = UnitFile::new(
            "seed-test-dependent.service",
            "[Unit]\nRequires=seed-test-bad.service\nAfter=seed-test-bad.service\n\
             [Service]\nExecStart=/bin/sleep 1000\n",
        );
        assert_eq!(
            control(&dependent, Action::Start).await.unwrap(),
            "dependency"
        );

        let unknown = UnitName::try_from("seed-test-unknown").unwrap();
        let error = control(&unknown, Action::Start).await.unwrap_err();
        assert!(matches!(error, SystemdError::NoSuchUnit(name) if name == unknown.as_str()));
        let error = control(&good, Action::Reload).await.unwrap_err();
        assert!(matches!(error, SystemdError::Refused { .. }), "{error:?}");
    });
}

#[test]
fn a_unit_is_shown_as_systemctl_shows_it() {
    with_systemd(|guest| async move {
        let show = async |unit: &UnitName| guest.systemd.show_unit(unit).await;
        let start = async |unit: &UnitName| {
            let result = guest.systemd.control_unit(unit, Action::Start).await;
            result.unwrap()
        };
        let (file, runs) = UnitFile::new(
            "seed-test-runs.service",
            "[Unit]\nDescription=It runs\n[Service]\nExecStart=/bin/sleep 1000\n",
        );
        // It is not loaded before it is asked for.
        let idle = show(&runs).await.unwrap();
        assert_eq!(
            (idle.unit.load_state.as_str(), idle.main_pid),
            ("loaded", 0)
        );
        assert_eq!((idle.since_realtime_us, idle.memory_bytes), (0, None));
        assert_eq!(start(&runs).await, "done");
        let shown = show(&runs).await.unwrap();
        let Unit {
            name,
            description,
            load_state,
            active_state,
            sub_state,
        } = &shown.unit;
        assert_eq!(
            [name, description, load_state, active_state, sub_state],
            [runs.as_str(), "It runs", "loaded", "active", "running"]
        );
        assert_eq!(Path::new(&shown.fragment_path), file.path());
        assert_eq!(
            (shown.file_state.as_str(), shown.result.as_str()),
            ("static", "success")
        );
        let main_pid = systemctl_shows(&runs, "MainPID");
        assert_eq!(main_pid, shown.main_pid.to_string());
        assert_ne!(main_pid, "0");
        assert_eq!((shown.restarts, shown.job_id), (0, 0));
        // Which controllers a container has is its host's matter.
        for (property, count) in [
            ("MemoryCurrent", shown.memory_bytes),
            ("TasksCurrent", shown.tasks),
            ("CPUUsageNSec", shown.cpu_ns),
        ] {
            let told = systemctl_shows(&runs, property);
            assert_eq!(told == "[not set]", count.is_none(), "{property}={told}");
        }
        let entered = systemctl_shows(&runs, "ActiveEnterTimestamp");
        assert_eq!(entered, format!("@{}", shown.since_realtime_us / 1_000_000));
        guest
            .systemd
            .control_unit(&runs, Action::Stop)
            .await
            .unwrap();
        let stopped = show(&runs).await.unwrap();
        assert_eq!(
            (stopped.unit.active_state.as_str(), stopped.main_pid),
            ("inactive", 0)
        );

        let (_file, bad) = UnitFile::new(
            "seed-test-exits.service",
            "[Service]\nExecStart=/bin/sh -c 'exit 7'\nType=oneshot\n",
        );
        assert_eq!(start(&bad).await, "failed");
        let failed = show(&bad).await.unwrap();
        assert_eq!(
            (failed.unit.active_state.as_str(), failed.result.as_str()),
            ("failed", "exit-code")
        );
        // CLD_EXITED.
        assert_eq!((failed.exec_main_code, failed.exec_main_status), (1, 7));

        let target = show(&UnitName::try_from("basic.target").unwrap())
            .await
            .unwrap();
        assert_eq!(
            (target.unit.active_state.as_str(), target.result.as_str()),
            ("active", "")
        );
        let unknown = UnitName::try_from("seed-test-unknown").unwrap();
        let error = show(&unknown).await.unwrap_err();
        assert!(matches!(error, SystemdError::NoSuchUnit(name) if name == unknown.as_str()));
        // A template is no unit.
        let template = UnitName::try_from("getty@").unwrap();
        let error = show(&template).await.unwrap_err();
        assert!(matches!(error, SystemdError::BadName { .. }), "{error:?}");
    });
}

/// A property as systemctl has it, times in seconds since the epoch.
fn systemctl_shows(unit: &UnitName, property: &str) -> String {
    let arguments = [
        "show",
        "--value",
        "--timestamp=unix",
        "-p",
        property,
        unit.as_str(),
    ];
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_unit_that_fails_by_itself_is_on_the_board_until_it_is_reset() {
    with_systemd(|guest| async move {
        let (_file, unit) = UnitFile::new(
            "seed-test-crash.service",
            "[Service]\nExecStart=/bin/sh -c 'sleep 0.5; exit 3'\n",
        );
        assert_eq!(
            guest
                .systemd
                .control_unit(&unit, Action::Start)
                .await
                .unwrap(),
            "done"
        );
        let failed = until(&guest.board, |units| {
            units.iter().any(|(name, _)| name == unit.as_str())
        });
        let failed = failed.await;
        assert_eq!(guest.board.now().system_state, "degraded");
        assert!(
            failed.contains(&(unit.to_string(), "exit-code".to_owned())),
            "{failed:?}"
        );
        guest
            .systemd
            .control_unit(&unit, Action::ResetFailed)
            .await
            .unwrap();
        until(&guest.board, |units| {
            units.iter().all(|(name, _)| name != unit.as_str())
        })
        .await;
    });
}

/// Waits until the failed units are as wanted.
async fn until(
    board: &Board,
    wanted: impl Fn(&[(String, String)]) -> bool,
) -> Vec<(String, String)> {
    let mut status = board.now();
    loop {
        let units: Vec<_> = status
            .failed_units
            .iter()
            .map(|unit| (unit.name.clone(), unit.result.clone()))
            .collect();
        if wanted(&units) {
            return units;
        }
        status = board
            .wait_change(status.revision, Duration::from_secs(10))
            .await;
    }
}
