//! containerd's own service for tasks, for what `ctr` has no word for: roots of many mounts, as a snapshotter that shares a store
//! gives them, tasks that are made and not started, execs whose streams are ours. Containers are made by `ctr`.

use std::path::Path;

use anyhow::Result;
use protobuf::Message;
use serde_json::json;

use super::Containerd;
use crate::{cri::grpc::Channel, limit};
use api::{
    Any, CreateTaskRequest, CreateTaskResponse, Empty, ExecProcessRequest, KillRequest, Mount,
    StartRequest, StartResponse, WaitRequest, WaitResponse,
};

/// The messages.
pub use crate::generated::tasks as api;

const SERVICE: &str = "/containerd.services.tasks.v1.Tasks";

/// The type of an exec's document.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A client for the namespace `default`.
#[derive(Debug)]
pub struct Tasks(Channel);

impl Tasks {
    /// To this containerd.
    pub fn connect(containerd: &Containerd) -> Result<Self> {
        let channel = Channel::connect(&containerd.socket())?;
        Ok(Self(channel.in_namespace("default")))
    }

    fn call<A: Message>(&self, method: &str, request: &impl Message) -> Result<A> {
        self.0
            .call(&format!("{SERVICE}/{method}"), request, limit::BOOT)
    }

    /// Makes a task of a container: its root is these mounts, in their order.
    pub fn create(&self, container: &str, rootfs: Vec<Mount>) -> Result<()> {
        let request = CreateTaskRequest {
            container_id: container.to_owned(),
            rootfs,
            ..Default::default()
        };
        self.call::<CreateTaskResponse>("Create", &request)
            .map(drop)
    }

    /// Starts a task, or with a name an exec of it.
    pub fn start(&self, container: &str, exec: &str) -> Result<()> {
        let request = StartRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        self.call::<StartResponse>("Start", &request).map(drop)
    }

    /// Makes an exec of this command in a task, with streams at these FIFOs.
    pub fn exec(
        &self,
        (container, exec): (&str, &str),
        command: &str,
        (stdin, stdout): (&Path, &Path),
    ) -> Result<()> {
        let process = json!({"args": [command], "cwd": "/", "user": {"uid": 0, "gid": 0}});
        let spec = Any {
            type_url: PROCESS.to_owned(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            stdin: stdin.to_string_lossy().into_owned(),
            stdout: stdout.to_string_lossy().into_owned(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.call::<Empty>("Exec", &request).map(drop)
    }

    /// Sends a signal to an exec.
    pub fn kill(&self, (container, exec): (&str, &str), signal: u32) -> Result<()> {
        let request = KillRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            signal,
            ..Default::default()
        };
        self.call::<Empty>("Kill", &request).map(drop)
    }

    /// Waits for the end of an exec; its status.
    pub fn wait(&self, (container, exec): (&str, &str)) -> Result<u32> {
        let request = WaitRequest {
            container_id: container.to_owned(),
            exec_id: exec.to_owned(),
            ..Default::default()
        };
        let answer: WaitResponse = self.call("Wait", &request)?;
        Ok(answer.exit_status)
    }
}
