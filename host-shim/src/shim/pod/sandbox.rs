//! The Sandbox service, `containerd.runtime.sandbox.v1.Sandbox`: a pod's sandbox without a pause container. containerd
//! 2 asks for it where a runtime's `sandboxer` is `shim`; containers come over the Task API as ever.
//!
//! The sandbox is the same [`Pause`] as the other way makes; only who asks and in which words differs.

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use containerd_shim_protos::{
    sandbox_api::{
        CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
        PlatformResponse, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
        SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse,
        StartSandboxRequest, StartSandboxResponse, StopSandboxRequest, StopSandboxResponse,
        WaitSandboxRequest, WaitSandboxResponse,
    },
    sandbox_async::Sandbox,
};
use ttrpc::r#async::TtrpcContext;

use super::{
    config,
    pause::{Pause, PausePhase},
    service::Pod,
};
use crate::{
    cgroup::GroupName,
    shim::{TaskError, events::timestamp},
    spec::SpecError,
};

/// What CRI calls the two states of a pod (`PodSandboxState`).
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The signal that a sandbox is ended by.
const SIGKILL: u32 = 9;

type Result<T> = ttrpc::Result<T>;

impl Pod {
    fn named(&self, id: &str) -> std::result::Result<Arc<Pause>, TaskError> {
        self.current()
            .filter(|pause| pause.id.as_str() == id)
            .ok_or_else(|| TaskError::NotFound(format!("sandbox {id}")))
    }
}

#[async_trait]
impl Sandbox for Pod {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse> {
        let CreateSandboxRequest {
            sandbox_id,
            bundle_path,
            options,
            netns_path,
            ..
        } = request;
        let wrong = |error| TaskError::Invalid(format!("sandbox options: {error}"));
        let mut pod = config::pod(options.as_ref()).map_err(wrong)?;
        let parent = config::group(options.as_ref()).map_err(wrong)?;
        pod.group = GroupName::below(&parent, &sandbox_id)
            .map_err(|error| TaskError::from(SpecError::from(error)))?;
        // A pod in the host's network names none.
        let network = (!netns_path.is_empty()).then(|| Path::new(&netns_path));
        self.make(&sandbox_id, bundle_path.into(), network, pod)
            .await?;
        Ok(CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: StartSandboxRequest,
    ) -> Result<StartSandboxResponse> {
        let pause = self.named(&request.sandbox_id)?;
        pause.start()?;
        Ok(StartSandboxResponse {
            pid: pause.pid(),
            created_at: timestamp(pause.created_at),
            ..StartSandboxResponse::default()
        })
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: PlatformRequest,
    ) -> Result<PlatformResponse> {
        self.named(&request.sandbox_id)?;
        let mut response = PlatformResponse::default();
        let platform = response.platform.mut_or_insert_default();
        platform.os = "linux".to_owned();
        // As Go calls them.
        platform.architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned();
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: StopSandboxRequest,
    ) -> Result<StopSandboxResponse> {
        let pause = self.named(&request.sandbox_id)?;
        // CRI has stopped the container before; whoever has not gets it stopped with its pod.
        self.machine()
            .stop(Duration::from_secs(request.timeout_secs.into()))
            .await;
        pause.kill(SIGKILL);
        Ok(StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: WaitSandboxRequest,
    ) -> Result<WaitSandboxResponse> {
        let ended = self.named(&request.sandbox_id)?.wait().await;
        Ok(WaitSandboxResponse {
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..WaitSandboxResponse::default()
        })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: SandboxStatusRequest,
    ) -> Result<SandboxStatusResponse> {
        let pause = self.named(&request.sandbox_id)?;
        let mut response = SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: pause.pid(),
            created_at: timestamp(pause.created_at),
            ..SandboxStatusResponse::default()
        };
        let state = match pause.phase() {
            PausePhase::Running => READY,
            PausePhase::Created => NOT_READY,
            PausePhase::Stopped(ended) => {
                response.exited_at = timestamp(ended.at);
                NOT_READY
            }
        };
        response.state = state.to_owned();
        if request.verbose {
            let instance = self.machine().instance();
            response.info = instance
                .into_iter()
                .map(|id| ("instance".to_owned(), id.to_string()))
                .collect();
        }
        Ok(response)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: PingRequest) -> Result<PingResponse> {
        self.named(&request.sandbox_id)?;
        Ok(PingResponse::default())
    }

    /// Twice is harmless: the second finds nothing and is told so.
    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: ShutdownSandboxRequest,
    ) -> Result<ShutdownSandboxResponse> {
        let pause = self.named(&request.sandbox_id)?;
        pause.kill(SIGKILL);
        self.set(None);
        self.machine().shut_down_behind_answer();
        Ok(ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: SandboxMetricsRequest,
    ) -> Result<SandboxMetricsResponse> {
        let pause = self.named(&request.sandbox_id)?;
        let mut response = SandboxMetricsResponse::default();
        let metric = response.metrics.mut_or_insert_default();
        metric.timestamp = timestamp(std::time::SystemTime::now());
        metric.id = pause.id.to_string();
        metric.data = Some(self.machine().host_stats()?).into();
        Ok(response)
    }
}
