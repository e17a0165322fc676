//! The orders that a guest gets once, at its start.

use std::time::Duration;

use seed_protocol::kata::agent::{CreateSandboxRequest, StartContainerRequest};

use super::{Agent, AgentError, client::within, convert::container};
use crate::{names::ContainerId, spec::VmSpec};

impl Agent {
    /// `CreateSandbox`: host name and DNS.
    pub async fn create_sandbox(&self, spec: &VmSpec, limit: Duration) -> Result<(), AgentError> {
        let request = CreateSandboxRequest {
            hostname: spec.hostname.clone(),
            dns: spec.dns.clone(),
            sandbox_id: spec.id.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .create_sandbox(within(limit), &request)
            .await;
        self.sorted("CreateSandbox", result).await.map(drop)
    }

    /// `CreateContainer`: environment and volumes.
    pub async fn create_container(&self, spec: &VmSpec, limit: Duration) -> Result<(), AgentError> {
        let request = container(spec);
        let result = self
            .kata()
            .await?
            .create_container(within(limit), &request)
            .await;
        self.sorted("CreateContainer", result).await.map(drop)
    }

    /// `StartContainer`: the boot may go on.
    pub async fn start_container(
        &self,
        id: &ContainerId,
        limit: Duration,
    ) -> Result<(), AgentError> {
        let request = StartContainerRequest {
            container_id: id.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .start_container(within(limit), &request)
            .await;
        self.sorted("StartContainer", result).await.map(drop)
    }
}
