//! The status board: the one place that knows how far the boot has come, what systemd says, and what
//! went wrong on the way. Everybody writes to it; `seed.v1.Guest/GetStatus` reads from it.
//!
//! It never asks anybody anything: what it shows was put there.

use std::{sync::Arc, time::Duration};

use seed_protocol::{
    seed::v1::{FailedUnit, GuestStatus, Problem, Stage, StageTime, Volume},
    version,
};
use tokio::{sync::watch, time::timeout};

use crate::sys::{clock, machine};

/// The most problems that are kept. More than this many say nothing new.
const MAX_PROBLEMS: usize = 64;

/// The longest time that [`Board::wait_change`] waits, as `seed.v1` promises.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// A guest that has not come up by then does not boot, it hangs, and what it says is waited for.
const BOOT_LIMIT: Duration = Duration::from_mins(2);

/// A handle to the board. Clones share it.
#[derive(Debug, Clone)]
pub struct Board {
    status: Arc<watch::Sender<GuestStatus>>,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A fresh board, at revision 1 and with no stage reached.
    pub fn new() -> Self {
        let status = GuestStatus {
            revision: 1,
            boot_id: machine::boot_id().unwrap_or_default(),
            agent_version: version::SEED.to_owned(),
            ..GuestStatus::default()
        };
        Self {
            status: Arc::new(watch::Sender::new(status)),
        }
    }

    /// Notes that the boot has come as far as `stage`. A stage that was reached before keeps its time;
    /// an earlier stage never hides a later one.
    pub fn reach(&self, stage: Stage) {
        self.change(|status| reach(status, stage));
    }

    /// Notes something that failed and yet let the boot go on. The same problem twice is one problem.
    pub fn problem(&self, subject: impl Into<String>, message: impl Into<String>) {
        let (subject, message) = (subject.into(), message.into());
        self.change(|status| {
            let known = status
                .problems
                .iter()
                .any(|p| p.subject == subject && p.message == message);
            if known || status.problems.len() >= MAX_PROBLEMS {
                return false;
            }
            status.problems.push(Problem {
                subject,
                message,
                ..Problem::default()
            });
            settle(status);
            true
        });
    }

    /// Takes systemd's word for the whole system (`starting`, `running`, `degraded`...) and the units
    /// that failed. `running` and `degraded` are stages of their own; a problem that was met while
    /// provisioning makes `running` a [`Stage::STAGE_DEGRADED`].
    pub fn set_system_state(&self, state: &str, failed_units: Vec<FailedUnit>) {
        self.change(|status| {
            if status.system_state == state && status.failed_units == failed_units {
                return false;
            }
            state.clone_into(&mut status.system_state);
            status.failed_units = failed_units;
            settle(status);
            true
        });
    }

    /// Replaces the table of volumes.
    pub fn set_volumes(&self, volumes: Vec<Volume>) {
        self.change(|status| {
            status.volumes = volumes;
            true
        });
    }

    /// Whether the guest still comes up, so long after its kernel started.
    pub fn is_booting(&self, boottime_us: u64) -> bool {
        let is_up = |reached: &StageTime| reached.stage.value() >= Stage::STAGE_RUNNING as i32;
        u128::from(boottime_us) < BOOT_LIMIT.as_micros()
            && !self.status.borrow().stages.iter().any(is_up)
    }

    /// The status as it is now, with the clock and the host name of this moment.
    pub fn now(&self) -> GuestStatus {
        stamped(self.status.borrow().clone())
    }

    /// The status as soon as its revision differs from `after_revision`, or unchanged when `wait` (cut
    /// to [`MAX_WAIT`]) is over. Revision 0 is answered at once.
    pub async fn wait_change(&self, after_revision: u64, wait: Duration) -> GuestStatus {
        let mut changes = self.status.subscribe();
        let differs = changes.wait_for(|status| status.revision != after_revision);
        // The sender lives as long as `self`, so the only way to fail is the time limit.
        let _ = timeout(wait.min(MAX_WAIT), differs).await;
        self.now()
    }

    fn change(&self, apply: impl FnOnce(&mut GuestStatus) -> bool) {
        self.status.send_if_modified(|status| {
            let changed = apply(status);
            if changed {
                status.revision += 1;
            }
            changed
        });
    }
}

fn stamped(mut status: GuestStatus) -> GuestStatus {
    status.boottime_us = clock::boottime_us();
    status.hostname = machine::hostname();
    status
}

fn reach(status: &mut GuestStatus, stage: Stage) -> bool {
    let known = status
        .stages
        .iter()
        .any(|reached| reached.stage.value() == stage as i32);
    if !known {
        let boottime_us = clock::boottime_us();
        let time = StageTime {
            stage: stage.into(),
            boottime_us,
            ..StageTime::default()
        };
        status.stages.push(time);
    }
    let further = status.stage.value() < stage as i32;
    if further {
        status.stage = stage.into();
    }
    !known || further
}

/// Brings the last stage in line with systemd's word and the problems: these two may go both ways, as
/// a unit that failed may be mended.
fn settle(status: &mut GuestStatus) {
    let stage = match status.system_state.as_str() {
        "running" if status.problems.is_empty() => Stage::STAGE_RUNNING,
        "running" | "degraded" => Stage::STAGE_DEGRADED,
        _ => return,
    };
    reach(status, stage);
    status.stage = stage.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_keep_their_first_time_and_never_go_back() {
        let board = Board::new();
        board.reach(Stage::STAGE_HELLO);
        board.reach(Stage::STAGE_PROVISIONED);
        let first = board.now();
        board.reach(Stage::STAGE_HELLO);
        let status = board.now();
        assert_eq!(status.stages, first.stages);
        assert_eq!(status.revision, first.revision);
        assert_eq!(status.stage, Stage::STAGE_PROVISIONED.into());
    }

    #[test]
    fn running_with_a_problem_is_degraded_and_mending_units_is_seen() {
        let board = Board::new();
        board.set_system_state("degraded", vec![FailedUnit::new()]);
        assert_eq!(board.now().stage, Stage::STAGE_DEGRADED.into());
        board.set_system_state("running", vec![]);
        assert_eq!(board.now().stage, Stage::STAGE_RUNNING.into());
        board.problem("volume data", "user app is not known");
        assert_eq!(board.now().stage, Stage::STAGE_DEGRADED.into());
    }

    #[test]
    fn the_same_problem_twice_is_one_and_their_number_is_bounded() {
        let board = Board::new();
        board.problem("identity", "no TPM");
        board.problem("identity", "no TPM");
        assert_eq!(board.now().problems.len(), 1);
        for n in 0..2 * MAX_PROBLEMS {
            board.problem("volume", n.to_string());
        }
        assert_eq!(board.now().problems.len(), MAX_PROBLEMS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_hears_of_a_change_and_otherwise_of_the_limit() {
        let board = Board::new();
        let seen = board.now().revision;
        let unchanged = board.wait_change(seen, Duration::from_millis(20)).await;
        assert_eq!(unchanged.revision, seen);
        let waiter = tokio::spawn({
            let board = board.clone();
            async move { board.wait_change(seen, MAX_WAIT).await }
        });
        tokio::task::yield_now().await;
        board.reach(Stage::STAGE_HELLO);
        assert_eq!(waiter.await.unwrap().stage, Stage::STAGE_HELLO.into());
    }

    #[test]
    fn a_guest_boots_until_it_is_up_or_hangs() {
        let limit = u64::try_from(BOOT_LIMIT.as_micros()).expect("minutes");
        let board = Board::new();
        board.reach(Stage::STAGE_SYSTEM_BUS);
        assert!(board.is_booting(0) && board.is_booting(limit - 1));
        assert!(!board.is_booting(limit), "it hangs");
        for (state, booting) in [("starting", true), ("running", false)] {
            board.set_system_state(state, Vec::new());
            assert_eq!(board.is_booting(0), booting, "{state}");
        }
    }
}
