//! The orders that a guest gets after its hello: one connection, a few calls.

use crate::{
    agent::{Agent, AgentError},
    config::Limits,
    spec::VmSpec,
};

/// Connects, tells of the network, names the sandbox, hands over environment and volumes, and lets the boot go on.
pub(super) async fn provision(
    agent: &Agent,
    spec: &VmSpec,
    limits: &Limits,
) -> Result<(), AgentError> {
    let limit = limits.provision();
    agent.connect(limit).await?;
    agent.update_network(&spec.nics, limit).await?;
    agent.create_sandbox(spec, limit).await?;
    agent.create_container(spec, limit).await?;
    agent.start_container(&spec.id, limit).await
}
