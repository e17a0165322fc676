//! Units and readiness against a real systemd.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use seed_agent::{
    status::Board,
    sys::descriptors::Keeper,
    systemd::{Action, Handle, SystemdError, UnitName},
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
        let error = systemd.list_units(&[]).await.unwrap_err();
        assert!(matches!(error, SystemdError::NotYet));
        assert_eq!(
            error.to_string(),
            "not yet: the system bus of the guest is not up"
        );
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
