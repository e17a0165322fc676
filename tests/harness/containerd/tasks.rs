//! containerd's own service for tasks, for roots of many mounts: what a snapshotter that shares a store gives, and `ctr` has no
//! word for. Containers are made by `ctr`.

use anyhow::Result;

use super::Containerd;
use crate::{cri::grpc::Channel, limit};
use api::{CreateTaskRequest, CreateTaskResponse, Mount, StartRequest, StartResponse};

/// The messages.
pub use crate::generated::tasks as api;

const SERVICE: &str = "/containerd.services.tasks.v1.Tasks";

/// A client for the namespace `default`.
#[derive(Debug)]
pub struct Tasks(Channel);

impl Tasks {
    /// To this containerd.
    pub fn connect(containerd: &Containerd) -> Result<Self> {
        let channel = Channel::connect(&containerd.socket())?;
        Ok(Self(channel.in_namespace("default")))
    }

    /// Makes a task of a container and starts it: its root is these mounts, in their order.
    pub fn start(&self, container: &str, rootfs: Vec<Mount>) -> Result<()> {
        let create = CreateTaskRequest {
            container_id: container.to_owned(),
            rootfs,
            ..Default::default()
        };
        let path = format!("{SERVICE}/Create");
        let _: CreateTaskResponse = self.0.call(&path, &create, limit::COMMAND)?;
        let start = StartRequest {
            container_id: container.to_owned(),
            ..Default::default()
        };
        let path = format!("{SERVICE}/Start");
        let _: StartResponse = self.0.call(&path, &start, limit::BOOT)?;
        Ok(())
    }
}
