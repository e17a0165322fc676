//! The services as a caller meets them: how many methods each has, that all of them share one
//! listener, and what a refused method answers. Over a real Unix socket.

use std::{collections::BTreeSet, error::Error, path::Path, sync::Arc};

use async_trait::async_trait;
use protobuf::well_known_types::empty::Empty;
use seed_protocol::{
    kata::{
        self, AGENT_METHODS, Support, agent,
        agent_ttrpc::{AgentService, AgentServiceClient},
        health::{
            CheckRequest, HealthCheckResponse, VersionCheckResponse,
            health_check_response::ServingStatus,
        },
        health_ttrpc::{Health, HealthClient, create_health},
    },
    seed::{management_ttrpc, v1, v1_ttrpc},
    status,
};
use tokio::net::UnixStream;
use ttrpc::{
    Code,
    r#async::{Client, Server, TtrpcContext, transport::Socket},
    context,
};

/// How long an answer may take on a busy machine: a minute.
const LIMIT_NANOS: i64 = 60_000_000_000;

struct Guest;

#[async_trait]
impl AgentService for Guest {
    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: agent::WriteStreamRequest,
    ) -> ttrpc::Result<agent::WriteStreamResponse> {
        let len = u32::try_from(request.data.len()).map_err(status::invalid)?;
        Ok(agent::WriteStreamResponse {
            len,
            ..Default::default()
        })
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: agent::SignalProcessRequest,
    ) -> ttrpc::Result<Empty> {
        Err(status::not_found(format!("no process {}", request.exec_id)))
    }
}

#[async_trait]
impl Health for Guest {
    async fn check(&self, _: &TtrpcContext, _: CheckRequest) -> ttrpc::Result<HealthCheckResponse> {
        Ok(HealthCheckResponse {
            status: ServingStatus::SERVING.into(),
            ..Default::default()
        })
    }

    async fn version(
        &self,
        _: &TtrpcContext,
        request: CheckRequest,
    ) -> ttrpc::Result<VersionCheckResponse> {
        Ok(VersionCheckResponse {
            agent_version: request.service,
            ..Default::default()
        })
    }
}

#[async_trait]
impl v1_ttrpc::Guest for Guest {
    async fn get_status(
        &self,
        _: &TtrpcContext,
        request: v1::GetStatusRequest,
    ) -> ttrpc::Result<v1::GuestStatus> {
        Ok(v1::GuestStatus {
            revision: request.after_revision + 1,
            stage: v1::Stage::STAGE_HELLO.into(),
            ..Default::default()
        })
    }
}

struct Shim;

impl management_ttrpc::Management for Shim {}

/// A server with all that an agent serves, and a client of it on one connection.
async fn served(folder: &Path) -> Result<(Server, Client), Box<dyn Error>> {
    let socket = folder.join("agent.sock");
    let guest = Arc::new(Guest);
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))?
        .register_service(kata::agent_service(guest.clone()))
        .register_service(create_health(guest.clone()))
        .register_service(v1_ttrpc::create_guest(guest));
    server.start().await?;
    let stream = UnixStream::connect(&socket).await?;
    Ok((server, Client::new(Socket::new(stream))))
}

#[test]
fn every_service_has_the_methods_that_its_callers_know() {
    let agent = kata::agent_ttrpc::create_agent_service(Arc::new(Guest));
    let methods: BTreeSet<_> = agent[kata::AGENT_SERVICE]
        .methods
        .keys()
        .map(String::as_str)
        .collect();
    let table: BTreeSet<_> = AGENT_METHODS.iter().map(|(name, _)| *name).collect();
    assert_eq!(methods, table);
    assert_eq!(table.len(), 42);

    assert_eq!(
        create_health(Arc::new(Guest))[kata::HEALTH_SERVICE]
            .methods
            .len(),
        2
    );
    assert_eq!(
        v1_ttrpc::create_guest(Arc::new(Guest))["seed.v1.Guest"]
            .methods
            .len(),
        10
    );
    let management = management_ttrpc::create_management(Arc::new(Shim));
    assert_eq!(
        management["seed.management.v1.Management"].methods.len(),
        12
    );
}

#[test]
fn refusing_methods_loses_none() {
    let services = kata::agent_service(Arc::new(Guest));
    assert_eq!(
        services[kata::AGENT_SERVICE].methods.len(),
        AGENT_METHODS.len()
    );
    assert_eq!(kata::support("WaitProcess"), Some(Support::Done));
    assert_eq!(kata::support("waitprocess"), None);
}

#[tokio::test]
async fn three_services_answer_on_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, client) = served(folder.path()).await.unwrap();
    let ctx = || context::with_timeout(LIMIT_NANOS);

    let health = HealthClient::new(client.clone());
    let answer = health.check(ctx(), &CheckRequest::new()).await.unwrap();
    assert_eq!(answer.status.enum_value(), Ok(ServingStatus::SERVING));
    let request = CheckRequest {
        service: "ask".into(),
        ..Default::default()
    };
    assert_eq!(
        health.version(ctx(), &request).await.unwrap().agent_version,
        "ask"
    );

    let guest = v1_ttrpc::GuestClient::new(client.clone());
    let request = v1::GetStatusRequest {
        after_revision: 41,
        ..Default::default()
    };
    let answer = guest.get_status(ctx(), &request).await.unwrap();
    assert_eq!(
        (answer.revision, answer.stage.enum_value()),
        (42, Ok(v1::Stage::STAGE_HELLO))
    );

    let agent = AgentServiceClient::new(client);
    let request = agent::WriteStreamRequest {
        data: vec![0; 5],
        ..Default::default()
    };
    assert_eq!(agent.write_stdin(ctx(), &request).await.unwrap().len, 5);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_status_of_the_server_reaches_the_caller_whole() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = served(folder.path()).await.unwrap();
    let request = agent::SignalProcessRequest {
        exec_id: "e1".into(),
        ..Default::default()
    };
    let error = AgentServiceClient::new(client)
        .signal_process(context::with_timeout(LIMIT_NANOS), &request)
        .await
        .unwrap_err();
    assert_eq!(status::of(&error), Some((Code::NOT_FOUND, "no process e1")));
}

#[tokio::test]
async fn a_refused_method_is_unimplemented_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, client) = served(folder.path()).await.unwrap();
    let agent = AgentServiceClient::new(client);
    let ctx = || context::with_timeout(LIMIT_NANOS);

    let error = agent
        .set_policy(ctx(), &agent::SetPolicyRequest::new())
        .await
        .unwrap_err();
    let Some(Support::Unsupported(reason)) = kata::support("SetPolicy") else {
        panic!("SetPolicy is not marked as unsupported");
    };
    let message = format!("SetPolicy is not supported: {reason}");
    assert_eq!(
        status::of(&error),
        Some((Code::UNIMPLEMENTED, message.as_str()))
    );
}
