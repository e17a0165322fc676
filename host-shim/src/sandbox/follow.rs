//! Follows what the guest says of itself: one long poll after the other, on a connection of its own.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};

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
