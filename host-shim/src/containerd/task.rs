//! The Task API's client (containerd `api/runtime/task`). v2 and v3 differ in the service's name alone, so
//! requests are made by hand for whichever the shim's answer says.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use containerd_shim_protos::{
    api::{
        CloseIORequest, ConnectRequest, ConnectResponse, CreateTaskRequest, CreateTaskResponse,
        DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest, ResizePtyRequest,
        ShutdownRequest, StartRequest, StartResponse, StateRequest, StateResponse,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    protobuf::well_known_types::any::Any,
    ttrpc::{self, Code, asynchronous::Client, asynchronous::transport::Socket},
};
use protobuf::Message;
use serde_json::json;
use thiserror::Error;
use tokio::net::UnixStream;

use super::shim::Address;

/// What is answered from memory.
const QUICK: Duration = Duration::from_secs(10);

/// Create mounts and checks; containerd's callers give it minutes.
const CREATE: Duration = Duration::from_secs(60);

/// Start boots the guest and waits for its provisioning, which has limits of its own in the shim.
const START: Duration = Duration::from_secs(600);

/// Delete may still drain the log.
const DELETE: Duration = Duration::from_secs(60);

/// The guest brings online what was added, and is waited for.
const GROW: Duration = Duration::from_secs(120);

/// The type of an Update's document, as containerd has it.
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

/// Why a call failed.
#[derive(Debug, Error)]
pub enum TaskError {
    /// Nobody listens.
    #[error("no shim listens on {}", .0.display())]
    Absent(PathBuf),
    /// The socket cannot be used.
    #[error("shim socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim refused, in its own words.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: Code,
        /// One sentence.
        message: String,
    },
    /// The connection broke: the shim is gone.
    #[error("the shim went away in the middle of {method}")]
    Broken {
        /// The call.
        method: &'static str,
        /// What ttrpc says.
        source: ttrpc::Error,
    },
    /// No answer in time.
    #[error("the shim did not answer {0} in time")]
    Late(&'static str),
    /// Request or answer is no message.
    #[error("the shim's answer to {method} cannot be read")]
    Message {
        /// The call.
        method: &'static str,
        /// Why.
        source: protobuf::Error,
    },
}

impl TaskError {
    /// The kind of refusal, where it was one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A connection to one shim.
#[derive(Clone)]
pub struct TaskClient {
    client: Client,
    service: &'static str,
}

impl std::fmt::Debug for TaskClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskClient")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl TaskClient {
    /// Connects. Must be called inside a tokio runtime.
    pub async fn connect(address: &Address) -> Result<Self, TaskError> {
        let path = address.socket.clone();
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    TaskError::Absent(path.clone())
                }
                _ => TaskError::Connect {
                    path: path.clone(),
                    source,
                },
            })?;
        let service = match address.version {
            3.. => "containerd.task.v3.Task",
            _ => "containerd.task.v2.Task",
        };
        Ok(Self {
            client: Client::new(Socket::new(stream)),
            service,
        })
    }

    /// Makes the task: everything is checked, nothing boots.
    pub async fn create(
        &self,
        request: &CreateTaskRequest,
    ) -> Result<CreateTaskResponse, TaskError> {
        self.call("Create", request, Some(CREATE)).await
    }

    /// Starts the task, or with `exec_id` a process in it.
    pub async fn start(&self, id: &str, exec_id: &str) -> Result<StartResponse, TaskError> {
        let request = StartRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        self.call("Start", &request, Some(START)).await
    }

    /// Adds a process, not started yet.
    pub async fn exec(&self, request: &ExecProcessRequest) -> Result<(), TaskError> {
        self.call::<_, Empty>("Exec", request, Some(QUICK))
            .await
            .map(drop)
    }

    /// What the shim and the task are.
    pub async fn connect_task(&self, id: &str) -> Result<ConnectResponse, TaskError> {
        let request = ConnectRequest {
            id: id.into(),
            ..Default::default()
        };
        self.call("Connect", &request, Some(QUICK)).await
    }

    /// The task's state.
    pub async fn state(&self, id: &str) -> Result<StateResponse, TaskError> {
        let request = StateRequest {
            id: id.into(),
            ..Default::default()
        };
        self.call("State", &request, Some(QUICK)).await
    }

    /// Waits for the end. No time limit.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitResponse, TaskError> {
        let request = WaitRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        self.call("Wait", &request, None).await
    }

    /// Sends a signal.
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32) -> Result<(), TaskError> {
        let request = KillRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            signal,
            all: exec_id.is_empty(),
            ..Default::default()
        };
        self.call::<_, Empty>("Kill", &request, Some(QUICK))
            .await
            .map(drop)
    }

    /// Sets the terminal's size.
    pub async fn resize(
        &self,
        id: &str,
        exec_id: &str,
        (columns, rows): (u16, u16),
    ) -> Result<(), TaskError> {
        let request = ResizePtyRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            width: columns.into(),
            height: rows.into(),
            ..Default::default()
        };
        self.call::<_, Empty>("ResizePty", &request, Some(QUICK))
            .await
            .map(drop)
    }

    /// Gives a running task more processors or memory.
    pub async fn grow(
        &self,
        id: &str,
        vcpus: Option<u32>,
        memory_mib: Option<u32>,
    ) -> Result<(), TaskError> {
        /// What a quota is a part of, in microseconds.
        const PERIOD_US: u64 = 100_000;
        let mut resources = serde_json::Map::new();
        if let Some(vcpus) = vcpus {
            let cpu = json!({ "period": PERIOD_US, "quota": u64::from(vcpus) * PERIOD_US });
            resources.insert("cpu".into(), cpu);
        }
        if let Some(mib) = memory_mib {
            resources.insert("memory".into(), json!({ "limit": u64::from(mib) << 20 }));
        }
        let resources = Any {
            type_url: RESOURCES.into(),
            value: serde_json::Value::from(resources).to_string().into_bytes(),
            ..Any::default()
        };
        let request = UpdateTaskRequest {
            id: id.into(),
            resources: Some(resources).into(),
            ..Default::default()
        };
        self.call::<_, Empty>("Update", &request, Some(GROW))
            .await
            .map(drop)
    }

    /// Tells that nothing more will be written to the process's standard input.
    pub async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<(), TaskError> {
        let request = CloseIORequest {
            id: id.into(),
            exec_id: exec_id.into(),
            stdin: true,
            ..Default::default()
        };
        self.call::<_, Empty>("CloseIO", &request, Some(QUICK))
            .await
            .map(drop)
    }

    /// Forgets an ended task or process.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<DeleteResponse, TaskError> {
        let request = DeleteRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        self.call("Delete", &request, Some(DELETE)).await
    }

    /// Tells the shim to end.
    pub async fn shutdown(&self, id: &str) -> Result<(), TaskError> {
        let request = ShutdownRequest {
            id: id.into(),
            now: true,
            ..Default::default()
        };
        self.call::<_, Empty>("Shutdown", &request, Some(QUICK))
            .await
            .map(drop)
    }

    async fn call<Q: Message, A: Message>(
        &self,
        method: &'static str,
        request: &Q,
        limit: Option<Duration>,
    ) -> Result<A, TaskError> {
        let malformed = |source| TaskError::Message { method, source };
        let begun = Instant::now();
        let nanoseconds = limit.map_or(0, |limit| {
            i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX)
        });
        let request = ttrpc::Request {
            service: self.service.into(),
            method: method.into(),
            timeout_nano: nanoseconds,
            payload: request.write_to_bytes().map_err(malformed)?,
            ..Default::default()
        };
        let answer = self
            .client
            .request(request)
            .await
            // The client has no error of its own for this.
            .map_err(|error| match limit {
                Some(limit) if begun.elapsed() >= limit => TaskError::Late(method),
                _ => refusal(method, error),
            })?;
        A::parse_from_bytes(&answer.payload).map_err(malformed)
    }
}

fn refusal(method: &'static str, source: ttrpc::Error) -> TaskError {
    match &source {
        ttrpc::Error::RpcStatus(status) if status.code() == Code::DEADLINE_EXCEEDED => {
            TaskError::Late(method)
        }
        ttrpc::Error::RpcStatus(status) => TaskError::Refused {
            code: status.code(),
            message: status.message().into(),
        },
        _ => TaskError::Broken { method, source },
    }
}
