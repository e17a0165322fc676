//! The journal's source: `ReadJournal` on a connection that carries nothing else.

use async_trait::async_trait;
use seed_protocol::seed::v1::{JournalBatch, ReadJournalRequest};
use tokio::sync::watch;

use super::{Agent, AgentError};
use crate::logs::{JournalSource, SourceError};

/// Reads until the VM has ended.
#[derive(Debug)]
pub struct Journal {
    agent: Agent,
    alive: watch::Receiver<bool>,
}

impl Journal {
    /// The journal of this agent, on a connection of its own. `alive` turns false when the VM has ended.
    pub fn new(agent: &Agent, alive: watch::Receiver<bool>) -> Self {
        Self {
            agent: agent.apart(),
            alive,
        }
    }
}

#[async_trait]
impl JournalSource for Journal {
    async fn read(&mut self, request: ReadJournalRequest) -> Result<JournalBatch, SourceError> {
        let result = tokio::select! {
            result = self.agent.read_journal(&request) => result,
            _ = self.alive.wait_for(|alive| !alive) => return Err(SourceError::Ended),
        };
        result.map_err(|error| match error {
            AgentError::Refused { message, .. } => SourceError::Refused(message),
            error => SourceError::Unreachable(error.to_string()),
        })
    }
}
