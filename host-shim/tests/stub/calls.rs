//! Calls of the Task API, as containerd makes them.

use std::{fs, time::Duration};

use containerd_shim_protos::{
    api::{
        CreateTaskRequest, DeleteRequest, ExecProcessRequest, KillRequest, StartRequest,
        StateRequest, StatsRequest, Status, UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    cgroups_v2::metrics::Metrics,
    protobuf::{Message, well_known_types::any::Any},
};
use seed_protocol::status;
use seed_shim::management;
use serde_json::json;
use ttrpc::{Code, context};

use super::{Bench, LIMIT};

pub(crate) fn soon() -> context::Context {
    context::with_duration(LIMIT)
}

pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, ttrpc::Error>) -> (Code, String) {
    let error = result.unwrap_err();
    let (code, message) = status::of(&error).expect("a status came over the wire");
    (code, message.to_owned())
}

/// An exec of a command of one word.
pub(crate) fn exec(id: &str, exec_id: &str, command: &str) -> ExecProcessRequest {
    exec_of(id, exec_id, &json!({"args": [command], "cwd": "/"}))
}

/// An exec of `process`, an object of the OCI runtime configuration.
pub(crate) fn exec_of(id: &str, exec_id: &str, process: &serde_json::Value) -> ExecProcessRequest {
    ExecProcessRequest {
        id: id.into(),
        exec_id: exec_id.into(),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: process.to_string().into_bytes(),
            ..Any::default()
        })
        .into(),
        ..Default::default()
    }
}

impl Bench {
    pub(crate) async fn create(&self, id: &str) -> ttrpc::Result<u32> {
        let request = CreateTaskRequest {
            id: id.into(),
            bundle: self
                .dir
                .path()
                .join("bundles")
                .join(id)
                .to_string_lossy()
                .into_owned(),
            ..Default::default()
        };
        self.client
            .create(soon(), &request)
            .await
            .map(|response| response.pid)
    }

    pub(crate) async fn start(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        self.client
            .start(soon(), &request)
            .await
            .map(|response| response.pid)
    }

    pub(crate) async fn kill(&self, id: &str, exec_id: &str, signal: u32) -> ttrpc::Result<()> {
        let (id, exec_id) = (id.into(), exec_id.into());
        let request = KillRequest {
            id,
            exec_id,
            signal,
            ..Default::default()
        };
        self.client.kill(soon(), &request).await.map(drop)
    }

    pub(crate) async fn wait(&self, id: &str, exec_id: &str) -> ttrpc::Result<WaitResponse> {
        let request = WaitRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        self.client.wait(soon(), &request).await
    }

    pub(crate) async fn delete(&self, id: &str, exec_id: &str) -> ttrpc::Result<u32> {
        let request = DeleteRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        };
        self.client
            .delete(soon(), &request)
            .await
            .map(|response| response.exit_status)
    }

    pub(crate) async fn try_state(&self, id: &str) -> ttrpc::Result<Status> {
        let request = StateRequest {
            id: id.into(),
            ..Default::default()
        };
        let response = self.client.state(soon(), &request).await?;
        Ok(response.status.enum_value().unwrap())
    }

    pub(crate) async fn state(&self, id: &str) -> Status {
        self.try_state(id).await.unwrap()
    }

    pub(crate) async fn stats(&self, id: &str) -> ttrpc::Result<Metrics> {
        let request = StatsRequest {
            id: id.into(),
            ..Default::default()
        };
        let stats = self.client.stats(soon(), &request).await?.stats;
        assert_eq!(stats.type_url, "io.containerd.cgroups.v2.Metrics");
        Ok(Metrics::parse_from_bytes(&stats.value).unwrap())
    }

    pub(crate) async fn update(&self, id: &str, resources: serde_json::Value) -> ttrpc::Result<()> {
        let request = UpdateTaskRequest {
            id: id.into(),
            resources: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: resources.to_string().into_bytes(),
                ..Any::default()
            })
            .into(),
            ..Default::default()
        };
        self.client.update(soon(), &request).await.map(drop)
    }

    pub(crate) async fn running(&self, id: &str) {
        self.bundle(id);
        self.create(id).await.unwrap();
        self.start(id, "").await.unwrap();
    }

    pub(crate) async fn reason(&self, id: &str) -> String {
        let socket = self.paths(id).management_socket();
        let client = management::Client::connect(&socket).await.unwrap();
        client
            .status(0, Duration::ZERO)
            .await
            .unwrap()
            .exit
            .reason
            .clone()
    }

    /// Nothing of the instance is left but what must stay.
    pub(crate) fn assert_nothing_left(&self, id: &str) {
        let paths = self.paths(id);
        assert!(
            !paths.run_dir().exists(),
            "{:?}",
            fs::read_dir(paths.run_dir()).map(Vec::from_iter)
        );
        assert!(paths.machine_id().exists());
    }
}
