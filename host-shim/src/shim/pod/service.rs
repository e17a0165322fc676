//! The Task service of a shim that may be a pod's: answers for the pause container, and passes what is about the
//! machine on to [`Service`].

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
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
    events::task::{TaskCreate, TaskDelete, TaskExit, TaskStart},
    sandbox_async::{Sandbox, create_sandbox},
    shim_async::{self, create_task},
};
use tokio::task::JoinHandle;
use ttrpc::r#async::{Service as TtrpcService, TtrpcContext};

use super::{
    forward::Forwarder,
    pause::{Pause, PausePhase},
};
use crate::{
    cgroup::GroupName,
    sandbox::Ended,
    shim::{
        TaskError,
        events::{Publisher, timestamp},
        service::Service,
        wire::resources,
    },
    spec::{self, Bundle, PodSpec, Role, SpecError},
};

/// The name under which containerd 2 calls.
const V3: &str = "containerd.task.v3.Task";

/// The name under which containerd 1 calls.
const V2: &str = "containerd.task.v2.Task";

const SIGTERM: u32 = 15;

/// The service of one shim.
#[derive(Debug)]
pub struct Pod {
    machine: Arc<Service>,
    pause: RwLock<Option<Arc<Pause>>>,
    /// Who tells of the pause container's end.
    announcer: Mutex<Option<JoinHandle<()>>>,
    /// Who answers on its loopback.
    forwarder: Mutex<Option<Forwarder>>,
    publisher: Publisher,
}

/// What a shim has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shim) enum Held {
    /// Neither a sandbox nor an instance.
    Nothing,
    /// A sandbox, or an instance that has not begun or has ended: nothing that runs.
    Names,
    /// A machine.
    Machine,
}

type Result<T> = ttrpc::Result<T>;

impl Pod {
    /// In front of the service of the one machine.
    pub fn new(machine: Arc<Service>, publisher: Publisher) -> Self {
        Self {
            machine,
            pause: RwLock::default(),
            announcer: Mutex::default(),
            forwarder: Mutex::default(),
            publisher,
        }
    }

    /// The services to register: the Task service under both names, since v2 and v3 are the same messages, and the
    /// Sandbox service.
    pub fn methods(self: &Arc<Self>) -> HashMap<String, TtrpcService> {
        let service = || Arc::clone(self) as Arc<dyn shim_async::Task + Send + Sync>;
        let mut both = create_task(service());
        if let Some(v2) = create_task(service()).remove(V3) {
            both.insert(V2.to_owned(), v2);
        }
        both.extend(create_sandbox(
            Arc::clone(self) as Arc<dyn Sandbox + Send + Sync>
        ));
        both
    }

    /// Ends everything: the instance is powered off and killed after `grace`, and its pod ends with it.
    pub async fn end(&self, grace: Duration) {
        self.machine.end(grace).await;
        if let Some(pause) = self.current() {
            pause.kill(SIGTERM);
        }
        let announcer = lock(&self.announcer).take();
        if let Some(announcer) = announcer {
            let _ = announcer.await;
        }
    }

    /// The service of the machine.
    pub(super) fn machine(&self) -> &Service {
        &self.machine
    }

    /// What there is to serve.
    pub(in crate::shim) fn held(&self) -> Held {
        if self.machine.has_machine() {
            Held::Machine
        } else if self.current().is_some() || self.machine.instance().is_some() {
            Held::Names
        } else {
            Held::Nothing
        }
    }

    pub(super) fn current(&self) -> Option<Arc<Pause>> {
        self.pause
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set(&self, pause: Option<Arc<Pause>>) {
        if pause.is_none() {
            lock(&self.forwarder).take();
        }
        *self.pause.write().unwrap_or_else(PoisonError::into_inner) = pause;
    }

    /// The pause container, if it is asked for.
    fn sandbox(&self, id: &str) -> Option<Arc<Pause>> {
        self.current().filter(|pause| pause.id.as_str() == id)
    }

    /// Makes the sandbox, in whatever way it was asked for.
    pub(super) async fn make(
        &self,
        id: &str,
        bundle: PathBuf,
        network: Option<&Path>,
        pod: PodSpec,
    ) -> std::result::Result<Arc<Pause>, TaskError> {
        if let Some(pause) = self.current() {
            return Err(TaskError::Exists(format!("sandbox {}", pause.id)));
        }
        let pause = Arc::new(Pause::of(id, bundle, network)?);
        if network.is_some() {
            let machine = Arc::clone(&self.machine);
            *lock(&self.forwarder) = Forwarder::start(&pause.id, machine);
        }
        self.machine.set_pod(pod);
        self.set(Some(Arc::clone(&pause)));
        Ok(pause)
    }

    async fn create_pause(
        &self,
        request: CreateTaskRequest,
        bundle: &Bundle,
    ) -> std::result::Result<CreateTaskResponse, TaskError> {
        let network = bundle.network_namespace.as_deref();
        let group = GroupName::parse(&bundle.cgroups_path).map_err(SpecError::from)?;
        let pod = PodSpec {
            group,
            limits: spec::pod_limits(&bundle.annotations),
            sysctls: bundle.sysctls.clone(),
            ..PodSpec::default()
        };
        let pause = self
            .make(&request.id, bundle.path.clone(), network, pod)
            .await?;
        let pid = pause.pid();
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
        let announcer = tokio::spawn(async move {
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
        *lock(&self.announcer) = Some(announcer);
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

/// A lock whose holder panicked holds data that is as good as before: nothing in here is changed half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        _: &TtrpcContext,
        request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse> {
        let bundle = Bundle::read(request.bundle.as_ref()).map_err(TaskError::from)?;
        if Role::of(&bundle.annotations).map_err(TaskError::from)? == Role::Sandbox {
            return Ok(self.create_pause(request, &bundle).await?);
        }
        let pause = self.current();
        let sandbox = pause.as_ref().map(|pause| pause.bundle.as_path());
        self.machine.create_in(sandbox, request).await
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
            Some(_) if !request.now => Ok(Empty::new()),
            _ => self.machine.shutdown(context, request).await,
        }
    }

    async fn pause(&self, context: &TtrpcContext, request: PauseRequest) -> Result<Empty> {
        match self.sandbox(&request.id) {
            Some(pause) => Err(no_process(&pause)),
            None => self.machine.pause(context, request).await,
        }
    }

    async fn resume(&self, context: &TtrpcContext, request: ResumeRequest) -> Result<Empty> {
        match self.sandbox(&request.id) {
            Some(pause) => Err(no_process(&pause)),
            None => self.machine.resume(context, request).await,
        }
    }

    async fn checkpoint(
        &self,
        context: &TtrpcContext,
        request: CheckpointTaskRequest,
    ) -> Result<Empty> {
        self.machine.checkpoint(context, request).await
    }

    async fn resize_pty(&self, context: &TtrpcContext, request: ResizePtyRequest) -> Result<Empty> {
        match self.sandbox(&request.id) {
            Some(pause) if !request.exec_id.is_empty() => Err(no_process(&pause)),
            // A pause container has no terminal, and nobody minds.
            Some(_) => Ok(Empty::new()),
            None => self.machine.resize_pty(context, request).await,
        }
    }

    async fn close_io(&self, context: &TtrpcContext, request: CloseIORequest) -> Result<Empty> {
        match self.sandbox(&request.id) {
            Some(pause) if !request.exec_id.is_empty() => Err(no_process(&pause)),
            Some(_) => Ok(Empty::new()),
            None => self.machine.close_io(context, request).await,
        }
    }

    /// A pod's limits are what its instance grows to.
    async fn update(&self, context: &TtrpcContext, request: UpdateTaskRequest) -> Result<Empty> {
        match self.sandbox(&request.id) {
            Some(_) => {
                let limits = resources(&request.resources.value)?;
                self.machine.limit_pod(limits).await?;
                Ok(Empty::new())
            }
            None => self.machine.update(context, request).await,
        }
    }

    /// A pod's figures are the host's: what its instance and its shim cost.
    async fn stats(&self, context: &TtrpcContext, request: StatsRequest) -> Result<StatsResponse> {
        match self.sandbox(&request.id) {
            Some(_) => Ok(StatsResponse {
                stats: Some(self.machine.host_stats()?).into(),
                ..StatsResponse::default()
            }),
            None => self.machine.stats(context, request).await,
        }
    }
}
