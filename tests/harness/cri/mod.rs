//! A CRI client, as kubelet is one: pods, their containers, what runs in them and what is streamed from them.

pub mod grpc;
pub mod stream;

use std::time::Duration;

use anyhow::Result;
use protobuf::Message;

use crate::{Containerd, limit};
use api::{
    ContainerConfig, ContainerId, ContainerStats, ContainerStatsResponse, ContainerStatus,
    ContainerStatusResponse, CreateContainerRequest, Empty, ExecRequest, ExecSyncRequest,
    ExecSyncResponse, LinuxContainerResources, PodSandboxConfig, PodSandboxId, PodSandboxStatus,
    PodSandboxStatusResponse, RunPodSandboxRequest, StopContainerRequest, Url,
};
use grpc::Channel;

/// The messages.
pub use crate::generated::cri as api;

const SERVICE: &str = "/runtime.v1.RuntimeService";

/// A client. Every call has a limit.
#[derive(Debug)]
pub struct Cri {
    channel: Channel,
}

impl Cri {
    /// To the CRI of this containerd.
    pub fn connect(containerd: &Containerd) -> Result<Self> {
        let channel = Channel::connect(&containerd.socket())?;
        Ok(Self { channel })
    }

    fn call<A: Message>(&self, method: &str, request: &impl Message, limit: Duration) -> Result<A> {
        self.channel
            .call(&format!("{SERVICE}/{method}"), request, limit)
    }

    /// `RunPodSandbox` for a runtime; the sandbox's id.
    pub fn run_pod(&self, config: &PodSandboxConfig, runtime: &str) -> Result<String> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()).into(),
            runtime_handler: runtime.to_owned(),
            ..Default::default()
        };
        let id: PodSandboxId = self.call("RunPodSandbox", &request, limit::COMMAND)?;
        Ok(id.pod_sandbox_id)
    }

    /// `PodSandboxStatus`.
    pub fn pod_status(&self, pod: &str) -> Result<PodSandboxStatus> {
        let answer: PodSandboxStatusResponse =
            self.call("PodSandboxStatus", &pod_id(pod), limit::COMMAND)?;
        Ok(answer.status.unwrap_or_default())
    }

    /// `StopPodSandbox`.
    pub fn stop_pod(&self, pod: &str) -> Result<()> {
        self.call::<Empty>("StopPodSandbox", &pod_id(pod), limit::STOP)
            .map(drop)
    }

    /// `RemovePodSandbox`.
    pub fn remove_pod(&self, pod: &str) -> Result<()> {
        self.call::<Empty>("RemovePodSandbox", &pod_id(pod), limit::STOP)
            .map(drop)
    }

    /// `CreateContainer`; its id.
    pub fn create(
        &self,
        pod: &str,
        config: &ContainerConfig,
        sandbox: &PodSandboxConfig,
    ) -> Result<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.to_owned(),
            config: Some(config.clone()).into(),
            sandbox_config: Some(sandbox.clone()).into(),
            ..Default::default()
        };
        let id: ContainerId = self.call("CreateContainer", &request, limit::COMMAND)?;
        Ok(id.container_id)
    }

    /// `StartContainer`: with this shim, until the guest has its orders.
    pub fn start(&self, container: &str) -> Result<()> {
        self.call::<Empty>("StartContainer", &container_id(container), limit::BOOT)
            .map(drop)
    }

    /// `StopContainer`, with this grace in seconds.
    pub fn stop(&self, container: &str, seconds: i64) -> Result<()> {
        let request = StopContainerRequest {
            container_id: container.to_owned(),
            timeout: seconds,
            ..Default::default()
        };
        self.call::<Empty>("StopContainer", &request, limit::STOP)
            .map(drop)
    }

    /// `RemoveContainer`.
    pub fn remove(&self, container: &str) -> Result<()> {
        self.call::<Empty>("RemoveContainer", &container_id(container), limit::COMMAND)
            .map(drop)
    }

    /// `ContainerStatus`.
    pub fn status(&self, container: &str) -> Result<ContainerStatus> {
        let answer: ContainerStatusResponse =
            self.call("ContainerStatus", &container_id(container), limit::COMMAND)?;
        Ok(answer.status.unwrap_or_default())
    }

    /// `ContainerStats`.
    pub fn stats(&self, container: &str) -> Result<ContainerStats> {
        let answer: ContainerStatsResponse =
            self.call("ContainerStats", &container_id(container), limit::COMMAND)?;
        Ok(answer.stats.unwrap_or_default())
    }

    /// `ListContainerStats` of a pod: what `kubectl top` is made of.
    pub fn pod_stats(&self, pod: &str) -> Result<Vec<ContainerStats>> {
        let mut request = api::ListContainerStatsRequest::default();
        request.filter.mut_or_insert_default().pod_sandbox_id = pod.to_owned();
        let answer: api::ListContainerStatsResponse =
            self.call("ListContainerStats", &request, limit::COMMAND)?;
        Ok(answer.stats)
    }

    /// `UpdateContainerResources`.
    pub fn update(&self, container: &str, resources: &LinuxContainerResources) -> Result<()> {
        let request = api::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(resources.clone()).into(),
            ..Default::default()
        };
        self.call::<Empty>("UpdateContainerResources", &request, limit::COMMAND)
            .map(drop)
    }

    /// `ReopenContainerLog`.
    pub fn reopen_log(&self, container: &str) -> Result<()> {
        let request = container_id(container);
        self.call::<Empty>("ReopenContainerLog", &request, limit::COMMAND)
            .map(drop)
    }

    /// `ExecSync`.
    pub fn exec_sync(&self, container: &str, command: &[&str]) -> Result<ExecSyncResponse> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            ..Default::default()
        };
        self.call("ExecSync", &request, limit::COMMAND)
    }

    /// `Exec`, with input and without a terminal; where to stream it from.
    pub fn exec_url(&self, container: &str, command: &[&str]) -> Result<String> {
        self.exec(container, command, false)
    }

    /// `Exec`, with input and a terminal; where to stream it from.
    pub fn terminal_url(&self, container: &str, command: &[&str]) -> Result<String> {
        self.exec(container, command, true)
    }

    fn exec(&self, container: &str, command: &[&str], tty: bool) -> Result<String> {
        let request = ExecRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            tty,
            stdin: true,
            stdout: true,
            // A terminal has one output.
            stderr: !tty,
            ..Default::default()
        };
        self.call::<Url>("Exec", &request, limit::COMMAND)
            .map(|answer| answer.url)
    }

    /// `Attach` to the output; where to stream it from.
    pub fn attach_url(&self, container: &str) -> Result<String> {
        let request = api::AttachRequest {
            container_id: container.to_owned(),
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        self.call::<Url>("Attach", &request, limit::COMMAND)
            .map(|answer| answer.url)
    }

    /// `PortForward`; where to stream it through.
    pub fn port_forward_url(&self, pod: &str, port: u16) -> Result<String> {
        let request = api::PortForwardRequest {
            pod_sandbox_id: pod.to_owned(),
            port: vec![port.into()],
            ..Default::default()
        };
        self.call::<Url>("PortForward", &request, limit::COMMAND)
            .map(|answer| answer.url)
    }
}

fn pod_id(pod: &str) -> PodSandboxId {
    PodSandboxId {
        pod_sandbox_id: pod.to_owned(),
        ..Default::default()
    }
}

fn container_id(container: &str) -> ContainerId {
    ContainerId {
        container_id: container.to_owned(),
        ..Default::default()
    }
}
