//! Stages of a boot on one clock: the host's, counted from Create. The guest counts from its kernel's
//! start, and the beacon joins the two.

use std::time::{Duration, Instant};

use protobuf::Enum;
use seed_protocol::seed::v1::{GuestStatus, Stage};

/// Puts stages on the host's clock.
#[derive(Debug)]
pub(super) struct Stages {
    created: Instant,
    /// When the guest's CLOCK_BOOTTIME was zero, as time since Create.
    kernel: Option<Duration>,
    reached: Vec<(Stage, Duration)>,
}

impl Stages {
    pub(super) fn new(created: Instant) -> Self {
        Self {
            created,
            kernel: None,
            reached: Vec::new(),
        }
    }

    pub(super) fn list(&self) -> Vec<(Stage, Duration)> {
        self.reached.clone()
    }

    /// A stage that is reached now.
    pub(super) fn reach(&mut self, stage: Stage) {
        self.put(stage, self.created.elapsed());
    }

    /// The hello, which also says how long ago the kernel started.
    pub(super) fn hello(&mut self, boottime: Duration) {
        let now = self.created.elapsed();
        // A guest that lies can move its own stages, but not before the VMM's start.
        let floor = self.reached.first().map_or(Duration::ZERO, |(_, at)| *at);
        let kernel = now.saturating_sub(boottime).max(floor);
        self.kernel = Some(kernel);
        // The console may be silent until late, and cannot be earlier.
        self.reached
            .retain(|(stage, _)| *stage != Stage::STAGE_KERNEL);
        self.put(Stage::STAGE_KERNEL, kernel);
        self.put(Stage::STAGE_HELLO, now);
    }

    /// What the guest says of itself.
    pub(super) fn guest(&mut self, status: &GuestStatus) {
        let Some(kernel) = self.kernel else { return };
        let now = self.created.elapsed();
        for time in status.stages.iter().take(16) {
            let Ok(stage) = time.stage.enum_value() else {
                continue;
            };
            if stage.value() > Stage::STAGE_HELLO.value() {
                self.put(
                    stage,
                    (kernel + Duration::from_micros(time.boottime_us)).min(now),
                );
            }
        }
    }

    fn put(&mut self, stage: Stage, at: Duration) {
        if self.reached.iter().any(|(known, _)| *known == stage) {
            return;
        }
        self.reached.push((stage, at));
        self.reached.sort_by_key(|(stage, _)| stage.value());
    }
}

#[cfg(test)]
mod tests {
    use seed_protocol::seed::v1::StageTime;

    use super::*;

    #[test]
    fn the_guests_clock_is_joined_to_the_hosts() {
        let created = Instant::now() - Duration::from_secs(10);
        let mut stages = Stages::new(created);
        stages.put(Stage::STAGE_VMM_STARTED, Duration::from_secs(1));
        stages.hello(Duration::from_secs(6));
        let mut status = GuestStatus::new();
        status.stages.push(StageTime {
            stage: Stage::STAGE_PROVISIONED.into(),
            boottime_us: 5_500_000,
            ..Default::default()
        });
        stages.guest(&status);
        let list = stages.list();
        let order: Vec<Stage> = list.iter().map(|(stage, _)| *stage).collect();
        let wanted = [
            Stage::STAGE_VMM_STARTED,
            Stage::STAGE_KERNEL,
            Stage::STAGE_HELLO,
            Stage::STAGE_PROVISIONED,
        ];
        assert_eq!(order, wanted);
        // Since Create it is ten seconds, and however long this takes.
        let [kernel, hello, provisioned] = [1, 2, 3].map(|at| list[at].1);
        assert!(hello >= Duration::from_secs(10), "{list:?}");
        assert_eq!(hello - kernel, Duration::from_secs(6));
        assert_eq!(provisioned - kernel, Duration::from_millis(5500));
    }

    #[test]
    fn a_guest_that_claims_to_have_run_for_ever_does_not_move_time() {
        let mut stages = Stages::new(Instant::now() - Duration::from_secs(10));
        stages.put(Stage::STAGE_VMM_STARTED, Duration::from_secs(2));
        stages.hello(Duration::MAX);
        assert_eq!(
            stages.list()[1],
            (Stage::STAGE_KERNEL, Duration::from_secs(2))
        );
    }
}
