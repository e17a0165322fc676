//! Create: whether there is room for a container, and what becomes of it.

use std::{
    path::Path,
    sync::{Arc, PoisonError},
};

use containerd_shim_protos::{
    api::{CreateTaskRequest, CreateTaskResponse},
    events::task::TaskCreate,
};

use super::{Result, Service};
use crate::shim::{
    TaskError,
    events::task_io,
    state_file::StateFile,
    task::{Request, Stdio, Task},
    wire::mounts,
};

impl Service {
    /// Create, in the pod whose sandbox has this bundle. A container that is refused has not joined it.
    pub(in crate::shim) async fn create_in(
        &self,
        sandbox: Option<&Path>,
        request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse> {
        let _changing = self.changing.lock().await;
        if !request.checkpoint.is_empty() {
            return Err(TaskError::Unsupported("Create from a checkpoint").into());
        }
        if let Some(task) = self.current().filter(|task| task.is_given_up()) {
            tracing::warn!(sandbox_id = %task.id, "instance has ended and its bundle is gone: it makes room");
            task.delete().await?;
            self.set(None);
        }
        if let Some(task) = self.current() {
            let error = if task.id.as_str() == request.id {
                TaskError::Exists(format!("container {}", request.id))
            } else {
                TaskError::State(format!(
                    "container {} is in this pod: an instance is a machine of its own, so a pod has one \
                     at a time; give container {} a pod of its own, or make it an init container",
                    task.id, request.id
                ))
            };
            return Err(error.into());
        }
        if let Some(sandbox) = sandbox {
            StateFile::join(sandbox, request.bundle.as_ref(), &request.id)
                .map_err(TaskError::from)?;
        }
        let stdio = Stdio {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let pod = self
            .pod
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let task = Task::create(
            &self.environment,
            Request {
                id: request.id.clone(),
                bundle: request.bundle.clone().into(),
                mounts: mounts(&request),
                stdio: stdio.clone(),
                pod,
            },
        )
        .await?;
        let pid = task.pid();
        self.set(Some(Arc::new(task)));
        self.environment.publisher.publish(&TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            io: task_io(&stdio),
            pid,
            ..TaskCreate::default()
        });
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }
}
