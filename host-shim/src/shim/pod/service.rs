//! The Task service of a shim that may be a pod's: answers for the pause container, and passes what is about the
//! machine on to [`Service`].

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
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
    events::task::{TaskCreate, TaskDelete, TaskExit, TaskStart},
    shim_async::{self, create_task},
};
use ttrpc::r#async::{Service as TtrpcService, TtrpcContext};

use super::pause::{Pause, PausePhase};
use crate::{
    sandbox::Ended,
    shim::{
        TaskError,
        events::{Publisher, timestamp},
        service::Service,
    },
    spec::{Bundle, Role},
};

/// The name under which containerd 2 calls.
const V3: &str = "containerd.task.v3.Task";

/// The name under which containerd 1 calls.
const V2: &str = "containerd.task.v2.Task";

/// The service of one shim.
#[derive(Debug)]
pub struct Pod {
    machine: Arc<Service>,
    pause: RwLock<Option<Arc<Pause>>>,
    publisher: Publisher,
}

type Result<T> = ttrpc::Result<T>;

impl Pod {
    /// In front of the service of the one machine.
    pub fn new(machine: Arc<Service>, publisher: Publisher) -> Self {
        Self {
            machine,
            pause: RwLock::default(),
            publisher,
        }
    }

    /// The services to register: the same one under both names, since v2 and v3 are the same messages.
    pub fn methods(self: &Arc<Self>) -> HashMap<String, TtrpcService> {
        let service = || Arc::clone(self) as Arc<dyn shim_async::Task + Send + Sync>;
        let mut both = create_task(service());
        if let Some(v2) = create_task(service()).remove(V3) {
            both.insert(V2.to_owned(), v2);
        }
        both
    }

    /// Whether there is neither a sandbox nor an instance.
    pub fn is_empty(&self) -> bool {
        self.current().is_none() && self.machine.is_empty()
    }

    fn current(&self) -> Option<Arc<Pause>> {
        self.pause
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, pause: Option<Arc<Pause>>) {
        *self.pause.write().unwrap_or_else(PoisonError::into_inner) = pause;
    }

    /// The pause container, if it is asked for.
    fn sandbox(&self, id: &str) -> Option<Arc<Pause>> {
        self.current().filter(|pause| pause.id.as_str() == id)
    }

    fn create_pause(
        &self,
        request: CreateTaskRequest,
    ) -> std::result::Result<CreateTaskResponse, TaskError> {
        if let Some(pause) = self.current() {
            return Err(TaskError::Exists(format!("sandbox {}", pause.id)));
        }
        let pause = Pause::create(&request.id, request.bundle.clone().into())?;
        let pid = pause.pid();
        self.set(Some(Arc::new(pause)));
        self.publisher.publish(&TaskCreate {
            container_id: request.id,
            bundle: request.bundle,
            rootfs: request.rootfs,
            pid,
            ..TaskCreate::default()
        });
        Ok(CreateTaskResponse {
            pid,
            ..CreateTaskResponse::default()
        })
    }

    fn start_pause(&self, pause: &Arc<Pause>) -> std::result::Result<StartResponse, TaskError> {
        pause.start()?;
        let pid = pause.pid();
        self.publisher.publish(&TaskStart {
            container_id: pause.id.to_string(),
            pid,
            ..TaskStart::default()
        });
        let (publisher, pause) = (self.publisher.clone(), Arc::clone(pause));
        tokio::spawn(async move {
            let ended = pause.wait().await;
            publisher.publish(&TaskExit {
                container_id: pause.id.to_string(),
                id: pause.id.to_string(),
                pid,
                exit_status: ended.exit.status,
                exited_at: timestamp(ended.at),
                ..TaskExit::default()
            });
        });
        Ok(StartResponse {
            pid,
            ..StartResponse::default()
        })
    }

    fn delete_pause(&self, pause: &Pause) -> std::result::Result<Ended, TaskError> {
        let ended = match pause.phase() {
            PausePhase::Stopped(ended) => ended,
            PausePhase::Running => {
                return Err(TaskError::State(format!("sandbox {} still runs", pause.id)));
            }
            PausePhase::Created => Ended::never_started(),
        };
        self.set(None);
        self.publisher.publish(&TaskDelete {
            container_id: pause.id.to_string(),
            pid: pause.pid(),
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..TaskDelete::default()
        });
        Ok(ended)
    }
}

/// Whether the bundle is a pod's sandbox.
fn is_sandbox(request: &CreateTaskRequest) -> std::result::Result<bool, TaskError> {
    let bundle = Bundle::read(request.bundle.as_ref())?;
    Ok(Role::of(&bundle.annotations)? == Role::Sandbox)
}

fn no_process(pause: &Pause) -> ttrpc::Error {
    TaskError::State(format!(
        "sandbox {} has no process: use the pod's container",
        pause.id
    ))
    .into()
}

#[async_trait]
impl shim_async::Task for Pod {
    async fn create(
        &self,
        context: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse> {
        if is_sandbox(&request)? {
            return Ok(self.create_pause(request)?);
        }
        self.machine.create(context, request).await
    }

    async fn start(&self, context: &TtrpcContext, request: StartRequest) -> Result<StartResponse> {
        match self.sandbox(&request.id) {
            Some(pause) if request.exec_id.is_empty() => Ok(self.start_pause(&pause)?),
            Some(pause) => Err(no_process(&pause)),
            None => self.machine.start(context, request).await,
        }
    }

    async fn delete(
        &self,
        context: &TtrpcContext,
        request: DeleteRequest,
    ) -> Result<DeleteResponse> {
        let Some(pause) = self.sandbox(&request.id) else {
            return self.machine.delete(context, request).await;
        };
        let ended = self.delete_pause(&pause)?;
        Ok(DeleteResponse {
            pid: pause.pid(),
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..DeleteResponse::default()
        })
    }

    async fn state(&self, context: &TtrpcContext, request: StateRequest) -> Result<StateResponse> {
        let Some(pause) = self.sandbox(&request.id) else {
            return self.machine.state(context, request).await;
        };
        let mut response = StateResponse {
            id: request.id,
            bundle: pause.bundle.to_string_lossy().into_owned(),
            pid: pause.pid(),
            ..StateResponse::default()
        };
        response.status = match pause.phase() {
            PausePhase::Created => Status::CREATED,
            PausePhase::Running => Status::RUNNING,
            PausePhase::Stopped(ended) => {
                response.exit_status = ended.exit.status;
                response.exited_at = timestamp(ended.at);
                Status::STOPPED
            }
        }
        .into();
        Ok(response)
    }

    async fn pids(&self, context: &TtrpcContext, request: PidsRequest) -> Result<PidsResponse> {
        let Some(pause) = self.sandbox(&request.id) else {
            return self.machine.pids(context, request).await;
        };
        let process = ProcessInfo {
            pid: pause.pid(),
            ..ProcessInfo::default()
        };
        Ok(PidsResponse {
            processes: vec![process],
            ..PidsResponse::default()
        })
    }

    async fn kill(&self, context: &TtrpcContext, request: KillRequest) -> Result<Empty> {
        let Some(pause) = self.sandbox(&request.id) else {
            return self.machine.kill(context, request).await;
        };
        if !pause.kill(request.signal) {
            return Err(TaskError::NotFound(format!("running sandbox {}", pause.id)).into());
        }
        Ok(Empty::new())
    }

    async fn wait(&self, context: &TtrpcContext, request: WaitRequest) -> Result<WaitResponse> {
        let Some(pause) = self.sandbox(&request.id) else {
            return self.machine.wait(context, request).await;
        };
        let ended = pause.wait().await;
        Ok(WaitResponse {
            exit_status: ended.exit.status,
            exited_at: timestamp(ended.at),
            ..WaitResponse::default()
        })
    }

    async fn exec(&self, context: &TtrpcContext, request: ExecProcessRequest) -> Result<Empty> {
        match self.sandbox(&request.id) {
            Some(pause) => Err(no_process(&pause)),
            None => self.machine.exec(context, request).await,
        }
    }

    async fn connect(
        &self,
        context: &TtrpcContext,
        request: ConnectRequest,
    ) -> Result<ConnectResponse> {
        let pause = self.sandbox(&request.id);
        let mut response = self.machine.connect(context, request).await?;
        if let Some(pause) = pause {
            response.task_pid = pause.pid();
        }
        Ok(response)
    }

    async fn shutdown(&self, context: &TtrpcContext, request: ShutdownRequest) -> Result<Empty> {
        // A pod's shim goes with its sandbox, which is deleted last.
        match self.current() {
            Some(_) => Ok(Empty::new()),
            None => self.machine.shutdown(context, request).await,
        }
    }

    async fn pause(&self, context: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        self.machine.pause(context, request).await
    }

    async fn resume(&self, context: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        self.machine.resume(context, request).await
    }

    async fn checkpoint(
        &self,
        context: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> Result<Empty> {
        self.machine.checkpoint(context, request).await
    }

    async fn resize_pty(&self, context: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        self.machine.resize_pty(context, request).await
    }

    async fn close_io(&self, context: &TtrpcContext, request: CloseIORequest) -> Result<Empty> {
        self.machine.close_io(context, request).await
    }

    async fn update(&self, context: &TtrpcContext, request: UpdateTaskRequest) -> Result<Empty> {
        self.machine.update(context, request).await
    }

    async fn stats(&self, context: &TtrpcContext, request: StatsRequest) -> Result<StatsResponse> {
        self.machine.stats(context, request).await
    }
}
