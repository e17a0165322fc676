//! The Kata dialect, `grpc.AgentService` and `grpc.Health`: every method is one line here, and its
//! adapter stands in the sibling of its subject. Adapters convert, call one thing, and convert back.
//!
//! What a method does is told by the table in `protocol/src/kata.rs`. What that table refuses never
//! gets here: `kata::agent_service` answers it.

mod container;
pub mod decode;
mod firewall;
mod machine;
mod network;
pub mod process;
mod sandbox;
pub mod stdio;
mod volumes;

use std::sync::Arc;

use async_trait::async_trait;
use seed_protocol::{
    kata::{
        agent::*, agent_ttrpc, csi::VolumeStatsResponse, empty::Empty, health, health_ttrpc, types,
    },
    version,
};
use ttrpc::asynchronous::TtrpcContext;

use crate::agent::Context;

/// Serves `grpc.AgentService`.
#[derive(Debug)]
pub struct Agent {
    ctx: Arc<Context>,
}

impl Agent {
    /// Serves with what `ctx` holds.
    pub fn new(ctx: &Arc<Context>) -> Self {
        Self { ctx: ctx.clone() }
    }
}

/// Calls that are not logged: a line in the journal is itself output of the container, and would be the
/// cause of the next call.
const QUIET: [&str; 2] = ["read_stdout", "read_stderr"];

/// One line a method. The attribute of `async_trait` has to see the written-out functions, so the whole
/// implementation comes out of the macro.
macro_rules! agent_service {
    ($($method:ident($request:ty) -> $response:ty = $adapter:path;)*) => {
        #[async_trait]
        impl agent_ttrpc::AgentService for Agent {
            $(async fn $method(
                &self,
                _: &TtrpcContext,
                request: $request,
            ) -> ttrpc::Result<$response> {
                if !QUIET.contains(&stringify!($method)) {
                    tracing::debug!(method = stringify!($method), "call");
                }
                Ok($adapter(&self.ctx, request).await?)
            })*
        }
    };
}

agent_service! {
    create_sandbox(CreateSandboxRequest) -> Empty = sandbox::create_sandbox;
    destroy_sandbox(DestroySandboxRequest) -> Empty = sandbox::destroy_sandbox;
    create_container(CreateContainerRequest) -> Empty = container::create_container;
    start_container(StartContainerRequest) -> Empty = container::start_container;
    remove_container(RemoveContainerRequest) -> Empty = container::remove_container;
    signal_process(SignalProcessRequest) -> Empty = container::signal_process;
    wait_process(WaitProcessRequest) -> WaitProcessResponse = container::wait_process;
    update_container(UpdateContainerRequest) -> Empty = machine::update_container;
    update_ephemeral_mounts(UpdateEphemeralMountsRequest) -> Empty
        = sandbox::update_ephemeral_mounts;
    stats_container(StatsContainerRequest) -> StatsContainerResponse = machine::stats_container;
    pause_container(PauseContainerRequest) -> Empty = machine::pause_container;
    resume_container(ResumeContainerRequest) -> Empty = machine::resume_container;
    exec_process(ExecProcessRequest) -> Empty = process::exec_process;
    tty_win_resize(TtyWinResizeRequest) -> Empty = process::tty_win_resize;
    write_stdin(WriteStreamRequest) -> WriteStreamResponse = stdio::write_stdin;
    read_stdout(ReadStreamRequest) -> ReadStreamResponse = stdio::read_stdout;
    read_stderr(ReadStreamRequest) -> ReadStreamResponse = stdio::read_stderr;
    close_stdin(CloseStdinRequest) -> Empty = stdio::close_stdin;
    update_interface(UpdateInterfaceRequest) -> types::Interface = network::update_interface;
    update_routes(UpdateRoutesRequest) -> Routes = network::update_routes;
    list_interfaces(ListInterfacesRequest) -> Interfaces = network::list_interfaces;
    list_routes(ListRoutesRequest) -> Routes = network::list_routes;
    add_arp_neighbors(AddARPNeighborsRequest) -> Empty = network::add_arp_neighbors;
    get_ip_tables(GetIPTablesRequest) -> GetIPTablesResponse = firewall::get_iptables;
    set_ip_tables(SetIPTablesRequest) -> SetIPTablesResponse = firewall::set_iptables;
    get_guest_details(GuestDetailsRequest) -> GuestDetailsResponse = sandbox::get_guest_details;
    get_metrics(GetMetricsRequest) -> Metrics = machine::get_metrics;
    online_cpu_mem(OnlineCPUMemRequest) -> Empty = machine::online_cpu_mem;
    mem_hotplug_by_probe(MemHotplugByProbeRequest) -> Empty = machine::mem_hotplug_by_probe;
    reseed_random_dev(ReseedRandomDevRequest) -> Empty = machine::reseed_random_dev;
    set_guest_date_time(SetGuestDateTimeRequest) -> Empty = machine::set_guest_date_time;
    copy_file(CopyFileRequest) -> Empty = volumes::copy_file;
    get_volume_stats(VolumeStatsRequest) -> VolumeStatsResponse = volumes::get_volume_stats;
    resize_volume(ResizeVolumeRequest) -> Empty = volumes::resize_volume;
    get_diagnostic_data(GetDiagnosticDataRequest) -> GetDiagnosticDataResponse
        = volumes::get_diagnostic_data;
    add_swap(AddSwapRequest) -> Empty = volumes::add_swap;
    add_swap_path(AddSwapPathRequest) -> Empty = volumes::add_swap_path;
    get_oom_event(GetOOMEventRequest) -> OOMEvent = sandbox::get_oom_event;
    remove_stale_virtiofs_share_mounts(RemoveStaleVirtiofsShareMountsRequest) -> Empty
        = sandbox::nothing_to_remove;
}

/// Serves `grpc.Health`. It has no state, so it answers while everything else is busy.
#[derive(Debug)]
pub struct Health;

#[async_trait]
impl health_ttrpc::Health for Health {
    async fn check(
        &self,
        _: &TtrpcContext,
        _: health::CheckRequest,
    ) -> ttrpc::Result<health::HealthCheckResponse> {
        let status = health::health_check_response::ServingStatus::SERVING.into();
        Ok(health::HealthCheckResponse {
            status,
            ..Default::default()
        })
    }

    async fn version(
        &self,
        _: &TtrpcContext,
        _: health::CheckRequest,
    ) -> ttrpc::Result<health::VersionCheckResponse> {
        Ok(health::VersionCheckResponse {
            grpc_version: version::KATA_API.to_owned(),
            agent_version: version::SEED.to_owned(),
            ..Default::default()
        })
    }
}
