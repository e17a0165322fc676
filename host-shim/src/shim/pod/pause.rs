//! The pause container of a pod, without a process: it is created, started, waited for and killed in memory.
//! What stands for it on the host is the shim itself, in the pod's network namespace; its pid is what a CRI
//! engine finds that namespace by.

use std::{path::PathBuf, time::SystemTime};

use tokio::sync::watch;

use crate::{
    names::ContainerId,
    net,
    sandbox::{Ended, Exit},
    shim::TaskError,
};

/// Signals end a process that does nothing about them with this status and their number.
const SIGNALLED: u32 = 128;

/// Where in its life it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PausePhase {
    /// Made.
    Created,
    /// Stands for its pod.
    Running,
    /// Was killed.
    Stopped(Ended),
}

/// The pause container.
#[derive(Debug)]
pub struct Pause {
    /// The pod's sandbox.
    pub id: ContainerId,
    /// Its bundle.
    pub bundle: PathBuf,
    /// When it was made.
    pub created_at: SystemTime,
    phase: watch::Sender<PausePhase>,
}

impl Pause {
    /// Makes it, and enters this network namespace. Without one the pod is in the host's.
    pub fn of(
        id: &str,
        bundle: PathBuf,
        network: Option<&std::path::Path>,
    ) -> Result<Self, TaskError> {
        let id = ContainerId::try_from(id)?;
        if let Some(network) = network {
            net::enter(network)?;
        }
        tracing::info!(sandbox_id = %id, network = ?network, "pod is made");
        Ok(Self {
            id,
            bundle,
            created_at: SystemTime::now(),
            phase: watch::channel(PausePhase::Created).0,
        })
    }

    /// The pid that stands for it.
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Where in its life it is.
    pub fn phase(&self) -> PausePhase {
        self.phase.borrow().clone()
    }

    /// From now on it runs.
    pub fn start(&self) -> Result<(), TaskError> {
        let started = self.phase.send_if_modified(|phase| {
            let fresh = *phase == PausePhase::Created;
            if fresh {
                *phase = PausePhase::Running;
            }
            fresh
        });
        if started {
            Ok(())
        } else {
            Err(TaskError::State(format!(
                "sandbox {} was started already",
                self.id
            )))
        }
    }

    /// Ends it, if it has not ended; whether it did.
    pub fn kill(&self, signal: u32) -> bool {
        self.phase.send_if_modified(|phase| {
            let over = matches!(phase, PausePhase::Stopped(_));
            if !over {
                *phase = PausePhase::Stopped(Ended {
                    exit: Exit {
                        status: SIGNALLED + signal,
                        reason: format!("signal {signal}"),
                    },
                    at: SystemTime::now(),
                });
            }
            !over
        })
    }

    /// Its end.
    pub async fn wait(&self) -> Ended {
        let mut phase = self.phase.subscribe();
        let found = phase
            .wait_for(|phase| matches!(phase, PausePhase::Stopped(_)))
            .await;
        match found.as_deref() {
            Ok(PausePhase::Stopped(ended)) => ended.clone(),
            // The sender is a field of `self`, so it is there.
            Ok(PausePhase::Created | PausePhase::Running) | Err(_) => Ended {
                exit: Exit {
                    status: SIGNALLED + 9,
                    reason: "forgotten".into(),
                },
                at: SystemTime::now(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pause_lives_in_memory_and_ends_once() {
        let pause = Pause::of("pod", "/bundle".into(), None).unwrap();
        assert_eq!(pause.phase(), PausePhase::Created);
        pause.start().unwrap();
        assert!(pause.start().is_err());
        assert!(pause.kill(15) && !pause.kill(9));
        assert_eq!(pause.wait().await.exit.status, 143);
        assert_eq!(pause.pid(), std::process::id());
    }
}
