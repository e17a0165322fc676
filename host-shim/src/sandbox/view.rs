//! What is known of a VM, kept by the driver and read by everybody else.

use std::time::{Duration, SystemTime};

use seed_protocol::seed::v1::{GuestStatus, Stage};

use super::state::{Exit, Phase};
use crate::vmm::{MachineSize, ProcessInfo};

/// How and when it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Status and reason.
    pub exit: Exit,
    /// When, on the host's clock.
    pub at: SystemTime,
}

impl Ended {
    /// The end of what was never started.
    pub fn never_started() -> Self {
        Self {
            exit: Exit {
                status: 0,
                reason: "never started".into(),
            },
            at: SystemTime::now(),
        }
    }
}

/// One state of the knowledge.
#[derive(Debug, Clone)]
pub struct View {
    /// Rises with every change, from 1.
    pub revision: u64,
    /// Where in its life it is.
    pub phase: Phase,
    /// The processors are frozen.
    pub paused: bool,
    /// The VMM's pid; before there is one, the shim's.
    pub pid: u32,
    /// How large it is now.
    pub size: MachineSize,
    /// Every process of the VM.
    pub processes: Vec<ProcessInfo>,
    /// Stages of the boot with their time since Create, in order.
    pub stages: Vec<(Stage, Duration)>,
    /// The guest's boot id.
    pub boot_id: String,
    /// The guest's own last word.
    pub guest: Option<GuestStatus>,
    /// Set once it has ended and is cleaned up.
    pub ended: Option<Ended>,
}

impl View {
    /// Before anything has happened.
    pub(super) fn new(size: MachineSize) -> Self {
        Self {
            revision: 1,
            phase: Phase::Created,
            paused: false,
            pid: std::process::id(),
            size,
            processes: Vec::new(),
            stages: Vec::new(),
            boot_id: String::new(),
            guest: None,
            ended: None,
        }
    }

    /// The furthest stage. Of the last two, which may follow each other at any time (a unit fails and is
    /// mended), the one that the guest named last.
    pub fn stage(&self) -> Stage {
        let furthest = self
            .stages
            .last()
            .map_or(Stage::STAGE_UNSPECIFIED, |(stage, _)| *stage);
        let is_up = |stage| matches!(stage, Stage::STAGE_RUNNING | Stage::STAGE_DEGRADED);
        let said = self.guest.as_ref();
        match said.map(|guest| guest.stage.enum_value_or_default()) {
            Some(now) if is_up(now) && is_up(furthest) => now,
            _ => furthest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_was_degraded_and_is_mended_is_running() {
        let mut view = View::new(MachineSize {
            vcpus: 1,
            memory_mib: 512,
        });
        let guest = |stage: Stage| {
            Some(GuestStatus {
                stage: stage.into(),
                ..GuestStatus::default()
            })
        };
        assert_eq!(view.stage(), Stage::STAGE_UNSPECIFIED);
        view.stages = vec![(Stage::STAGE_PROVISIONED, Duration::from_secs(1))];
        view.guest = guest(Stage::STAGE_RUNNING);
        assert_eq!(view.stage(), Stage::STAGE_PROVISIONED, "not reached yet");
        for stage in [Stage::STAGE_RUNNING, Stage::STAGE_DEGRADED] {
            view.stages.push((stage, Duration::from_secs(2)));
            view.guest = guest(stage);
            assert_eq!(view.stage(), stage);
        }
        view.guest = guest(Stage::STAGE_RUNNING);
        assert_eq!(view.stage(), Stage::STAGE_RUNNING);
        view.guest = None;
        assert_eq!(
            view.stage(),
            Stage::STAGE_DEGRADED,
            "nothing newer is known"
        );
    }
}
