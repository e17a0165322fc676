//! The journal's source: `ReadJournal` on a connection that carries nothing else.

use seed_protocol::seed::v1::ReadJournalRequest;
use tokio::sync::watch;

use super::{Agent, AgentError};
use crate::logs::{JournalSource, Reading, SourceError};

/// Reads until the VM has ended.
#[derive(Debug, Clone)]
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

impl JournalSource for Journal {
    fn read(&mut self, request: ReadJournalRequest) -> Reading {
        let (agent, mut alive) = (self.agent.clone(), self.alive.clone());
        Box::pin(async move {
            let result = tokio::select! {
                result = agent.read_journal(&request) => result,
                _ = alive.wait_for(|alive| !alive) => return Err(SourceError::Ended),
            };
            result.map_err(|error| match error {
                AgentError::Refused { message, .. } => SourceError::Refused(message),
                error => SourceError::Unreachable(error.to_string()),
            })
        })
    }
}
