//! Follows what the guest says of itself: one long poll after the other, on connections of their own.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use ttrpc::Code;

use super::driver::Input;
use crate::agent::Agent;

/// One long poll.
const POLL: Duration = Duration::from_secs(25);

/// The pause after one that failed.
const PAUSE: Duration = Duration::from_millis(500);

/// The least time between two changes: a guest whose status changes all the time keeps nobody busy.
const INTERVAL: Duration = Duration::from_millis(50);

/// Sends every new status to `inputs` until they are gone. An agent that was restarted begins to count anew, so
/// a failure asks for the status at once.
pub(super) fn status(agent: Agent, inputs: mpsc::WeakUnboundedSender<Input>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut revision = 0;
        loop {
            let status = agent.status(revision, POLL).await;
            let Some(inputs) = inputs.upgrade() else {
                return;
            };
            match status {
                Ok(status) if status.revision != revision => {
                    revision = status.revision;
                    let _ = inputs.send(Input::Guest(Box::new(status)));
                    drop(inputs);
                    sleep(INTERVAL).await;
                }
                // Nothing new, and perhaps at once: a guest need not wait as it was asked to.
                Ok(_) => {
                    drop(inputs);
                    sleep(INTERVAL).await;
                }
                Err(error) => {
                    drop(inputs);
                    tracing::debug!(%error, "guest status is not to be had");
                    sleep(PAUSE).await;
                    revision = 0;
                }
            }
        }
    })
}

/// The least time between two kills that are told: a guest that is short of memory kills many.
const KILLS_INTERVAL: Duration = Duration::from_secs(1);

/// Tells `inputs` of each kill for lack of memory until they are gone, or for good where the agent knows no such call.
pub(super) fn memory(agent: Agent, inputs: mpsc::WeakUnboundedSender<Input>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let killed = agent.killed_for_memory().await;
            let Some(inputs) = inputs.upgrade() else {
                return;
            };
            let pause = match killed {
                Ok(()) => {
                    let _ = inputs.send(Input::KilledForMemory);
                    KILLS_INTERVAL
                }
                Err(error) if error.code() == Some(Code::UNIMPLEMENTED) => return,
                Err(error) => {
                    tracing::debug!(%error, "guest's kills are not to be had");
                    PAUSE
                }
            };
            drop(inputs);
            sleep(pause).await;
        }
    })
}
