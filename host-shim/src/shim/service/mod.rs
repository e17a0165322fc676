//! The Task service of the one machine: adapts requests to [`Task`] and [`Exec`], and answers back.

mod create;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ProcessInfo, ResizePtyRequest, ResumeRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest,
        StatsResponse, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    events::task::{TaskDelete, TaskExecAdded, TaskPaused, TaskResumed},
    protobuf::well_known_types::any::Any,
    shim_async,
};
use tokio::{
    sync::{Mutex, Notify},
    time::{sleep, timeout},
};
use ttrpc::r#async::TtrpcContext;

use super::{
    TaskError,
    events::timestamp,
    process::{Exec, ExecPhase},
    stats,
    task::{Environment, Stdio, Task},
    wire::{cpuset, ended_of, meaning, resources, status, stdio_of, wanted},
};
use crate::{
    agent::Agent,
    names::{ContainerId, ExecId},
    net::Network,
    sandbox::{Ended, Kill, Phase},
    spec::{PodSpec, Resources},
};

/// How long an answer has to be read before its connection ends.
const ANSWER_READ: Duration = Duration::from_millis(500);

/// How long a VM that was killed may take to be gone, its last journal included.
const END: Duration = Duration::from_secs(30);

/// The service of one shim.
#[derive(Debug)]
pub struct Service {
    environment: Environment,
    task: RwLock<Option<Arc<Task>>>,
    /// One Create or Delete at a time.
    changing: Mutex<()>,
    /// The pod, for what an instance does not say itself.
    pod: RwLock<PodSpec>,
    shutdown: Arc<Notify>,
}

type Result<T> = ttrpc::Result<T>;

impl Service {
    /// A service without a task. `shutdown` is notified when containerd is done with us.
    pub fn new(environment: Environment, shutdown: Arc<Notify>) -> Self {
        Self {
            environment,
            task: RwLock::default(),
            changing: Mutex::default(),
            pod: RwLock::default(),
            shutdown,
        }
    }

    fn current(&self) -> Option<Arc<Task>> {
        self.task
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The network that this shim was started in.
    pub(super) fn host_network(&self) -> Network {
        self.environment.host_network
    }

    /// Whether there is a machine.
    pub(super) fn has_machine(&self) -> bool {
        self.current().is_some_and(|task| task.has_machine())
    }

    /// Powers the instance off, if there is one that runs. Ends it after `grace`, and returns when it has ended.
    pub(super) async fn stop(&self, grace: Duration) {
        let Some(task) = self.current() else { return };
        task.sandbox.kill(Kill::Terminate);
        if timeout(grace, task.sandbox.wait()).await.is_err() {
            task.sandbox.kill(Kill::Now);
            if timeout(END, task.sandbox.wait()).await.is_err() {
                tracing::error!(sandbox_id = %task.id, "instance did not end when it was killed");
            }
        }
    }

    /// Stops the instance, and removes what is left of it: the shim goes.
    pub(super) async fn end(&self, grace: Duration) {
        self.stop(grace).await;
        if let Some(task) = self.current()
            && let Err(error) = task.delete().await
        {
            tracing::warn!(sandbox_id = %task.id, %error, "instance was not removed");
        }
    }

    /// Nobody has any more use for this shim.
    pub(super) fn shut_down(&self) {
        self.shutdown.notify_one();
    }

    /// The same, once the answer that is under way was read: containerd 2.1 takes a connection that ends right
    /// behind the answer to ShutdownSandbox for a failure, now and then.
    pub(super) fn shut_down_behind_answer(&self) {
        let shutdown = Arc::clone(&self.shutdown);
        tokio::spawn(async move {
            sleep(ANSWER_READ).await;
            shutdown.notify_one();
        });
    }

    /// The instance that there is.
    pub(super) fn instance(&self) -> Option<ContainerId> {
        self.current().map(|task| task.id.clone())
    }

    /// The agent of the instance that runs, on a connection of its own.
    pub(super) fn agent(&self) -> Option<Agent> {
        let task = self.current().filter(|task| runs(task))?;
        Some(task.sandbox.agent().apart())
    }

    /// The instance will be in this pod.
    pub(super) fn set_pod(&self, pod: PodSpec) {
        *self.pod.write().unwrap_or_else(PoisonError::into_inner) = pod;
    }

    /// The limits of the pod, from now on: an instance that runs grows to them.
    pub(super) async fn limit_pod(&self, limits: Resources) -> std::result::Result<(), TaskError> {
        match self.current().filter(|task| runs(task)) {
            Some(task) => change(&task, &limits).await?,
            None => drop(wanted(&limits)?),
        }
        let mut pod = self.pod.write().unwrap_or_else(PoisonError::into_inner);
        pod.limits = limits;
        Ok(())
    }

    /// What the instance, if there is one, and this shim use on the host.
    pub(super) fn host_stats(&self) -> std::result::Result<Any, TaskError> {
        stats::of_host(self.current().as_deref().map(|task| &task.sandbox))
    }

    fn set(&self, task: Option<Arc<Task>>) {
        *self.task.write().unwrap_or_else(PoisonError::into_inner) = task;
    }

    fn task(&self, id: &str) -> std::result::Result<Arc<Task>, TaskError> {
        let missing = || TaskError::NotFound(format!("container {id}"));
        self.current()
            .filter(|task| task.id.as_str() == id)
            .ok_or_else(missing)
    }
}

fn runs(task: &Task) -> bool {
    task.sandbox.view().phase == Phase::Running
}

/// Gives a machine that runs the processors of the host that are chosen for it, and the size that its limits say.
async fn change(task: &Task, limits: &Resources) -> std::result::Result<(), TaskError> {
    let wanted = wanted(limits)?;
    task.sandbox.choose(cpuset(limits)?)?;
    Ok(task.sandbox.grow(wanted).await?)
}

#[async_trait]
impl shim_async::Task for Service {
    async fn create(
        &self,
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse> {
        self.create_in(None, request).await
    }

    async fn start(&self, _: &TtrpcContext, request: StartRequest) -> Result<StartResponse> {
        let task = self.task(&request.id)?;
        let pid = if request.exec_id.is_empty() {
            task.sandbox.start().await.map_err(TaskError::from)?
        } else {
            let exec = task.exec(&request.exec_id)?;
            let reader = self.environment.config.limits.exec_reader();
            exec.start(&task.sandbox, &self.environment.publisher, reader)
                .await?
        };
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: DeleteRequest) -> Result<DeleteResponse> {
        let _changing = self.changing.lock().await;
        let task = self.task(&request.id)?;
        let pid = task.pid();
        let ended = if request.exec_id.is_empty() {
            let ended = task.delete().await?;
            self.set(None);
            self.environment.publisher.publish(&TaskDelete {
                container_id: request.id,
                pid,
                exit_status: ended.exit.status,
                exited_at: timestamp(ended.at),
                ..TaskDelete::default()
            });
            ended
        } else {
            let ended = match task.exec(&request.exec_id)?.phase() {
                ExecPhase::Stopped(ended) => ended,
                ExecPhase::Created => Ended::never_started(),
                ExecPhase::Running => {
                    return Err(
                        TaskError::State(format!("exec {} still runs", request.exec_id)).into(),
                    );
                }
            };
            task.remove_exec(&request.exec_id);
            ended
        };
        Ok(DeleteResponse {
            pid,
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..DeleteResponse::default()
        })
    }

    async fn state(&self, _: &TtrpcContext, request: StateRequest) -> Result<StateResponse> {
        let task = self.task(&request.id)?;
        let view = task.sandbox.view();
        let mut response = StateResponse {
            id: request.id,
            bundle: task.bundle.to_string_lossy().into_owned(),
            pid: view.pid,
            exec_id: request.exec_id.clone(),
            ..StateResponse::default()
        };
        if request.exec_id.is_empty() {
            stdio_of(&mut response, &task.stdio);
            response.status = status(view.phase, view.paused).into();
            if let Some(ended) = &view.ended {
                ended_of(&mut response, ended);
            }
        } else {
            let exec = task.exec(&request.exec_id)?;
            stdio_of(&mut response, exec.stdio());
            response.status = match exec.phase() {
                ExecPhase::Created => Status::CREATED,
                ExecPhase::Running => Status::RUNNING,
                ExecPhase::Stopped(ended) => {
                    ended_of(&mut response, &ended);
                    Status::STOPPED
                }
            }
            .into();
        }
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: PidsRequest) -> Result<PidsResponse> {
        let task = self.task(&request.id)?;
        // Never an empty list while the task is known: containerd would take it for leaked.
        let process = ProcessInfo {
            pid: task.pid(),
            ..ProcessInfo::default()
        };
        Ok(PidsResponse {
            processes: vec![process],
            ..PidsResponse::default()
        })
    }

    async fn pause(&self, _: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        self.freeze(&request.id, true).await?;
        let container_id = request.id;
        let event = TaskPaused {
            container_id,
            ..TaskPaused::default()
        };
        self.environment.publisher.publish(&event);
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        self.freeze(&request.id, false).await?;
        let container_id = request.id;
        let event = TaskResumed {
            container_id,
            ..TaskResumed::default()
        };
        self.environment.publisher.publish(&event);
        Ok(Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: CheckpointTaskRequest) -> Result<Empty> {
        Err(TaskError::Unsupported("Checkpoint").into())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> Result<Empty> {
        let task = self.task(&request.id)?;
        if !request.exec_id.is_empty() {
            let exec = task.exec(&request.exec_id)?;
            if exec.phase() != ExecPhase::Running {
                return Err(TaskError::NotFound(format!(
                    "running process of exec {}",
                    request.exec_id
                ))
                .into());
            }
            let id = ExecId::try_from(request.exec_id.as_str()).map_err(TaskError::from)?;
            let agent = task.sandbox.agent();
            agent
                .signal(&task.id, Some(&id), request.signal)
                .await
                .map_err(TaskError::from)?;
            return Ok(Empty::new());
        }
        if task.sandbox.view().phase == Phase::Stopped {
            return Err(TaskError::NotFound(format!("running container {}", task.id)).into());
        }
        if let Some(kill) = meaning(request.signal)? {
            task.sandbox.kill(kill);
        }
        Ok(Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecProcessRequest) -> Result<Empty> {
        let task = self.task(&request.id)?;
        let id = ExecId::try_from(request.exec_id.as_str()).map_err(TaskError::from)?;
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let exec = Exec::new(task.id.clone(), id.clone(), stdio, &request.spec)?;
        task.add_exec(id, exec)?;
        self.environment.publisher.publish(&TaskExecAdded {
            container_id: request.id,
            exec_id: request.exec_id,
            ..TaskExecAdded::default()
        });
        Ok(Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        let task = self.task(&request.id)?;
        // An instance has no terminal of its own: its stdout is its journal.
        if !request.exec_id.is_empty() {
            task.exec(&request.exec_id)?;
            let id = ExecId::try_from(request.exec_id.as_str()).map_err(TaskError::from)?;
            let (rows, columns) = (request.height, request.width);
            let resized = task
                .sandbox
                .agent()
                .resize(&task.id, &id, rows, columns)
                .await;
            resized.map_err(TaskError::from)?;
        }
        Ok(Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: CloseIORequest) -> Result<Empty> {
        let task = self.task(&request.id)?;
        if !request.exec_id.is_empty() && request.stdin {
            task.exec(&request.exec_id)?.close_stdin();
        }
        Ok(Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateTaskRequest) -> Result<Empty> {
        let task = self.task(&request.id)?;
        // Before its start the bundle decides, and containerd changes that by itself.
        if !runs(&task) {
            return Err(TaskError::State(format!("container {} does not run", task.id)).into());
        }
        change(&task, &resources(&request.resources.value)?).await?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: WaitRequest) -> Result<WaitResponse> {
        let task = self.task(&request.id)?;
        let ended = if request.exec_id.is_empty() {
            task.sandbox.wait().await
        } else {
            task.exec(&request.exec_id)?.wait().await
        };
        Ok(WaitResponse {
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> Result<StatsResponse> {
        let task = self.task(&request.id)?;
        if task.sandbox.view().phase == Phase::Stopped {
            return Err(TaskError::NotFound(format!("running container {}", task.id)).into());
        }
        Ok(StatsResponse {
            stats: Some(stats::of(&task.sandbox).await?).into(),
            ..StatsResponse::default()
        })
    }

    async fn connect(&self, _: &TtrpcContext, request: ConnectRequest) -> Result<ConnectResponse> {
        let task_pid = self
            .current()
            .filter(|t| t.id.as_str() == request.id)
            .map(|t| t.pid());
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: task_pid.unwrap_or_default(),
            version: seed_protocol::version::SEED.to_owned(),
            ..ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> Result<Empty> {
        if request.now || self.current().is_none() {
            self.shut_down();
        }
        Ok(Empty::new())
    }
}

impl Service {
    async fn freeze(&self, id: &str, pause: bool) -> std::result::Result<(), TaskError> {
        let task = self.task(id)?;
        if !runs(&task) {
            return Err(TaskError::State(format!("container {id} does not run")));
        }
        Ok(task.sandbox.pause(pause).await?)
    }
}
