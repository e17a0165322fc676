//! Methods of the Kata dialect that are answered with UNIMPLEMENTED and their name. Why, or whether they
//! will come, stands in the table of `protocol/src/kata.rs`.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, csi::VolumeStatsResponse, empty::Empty};

use crate::{agent::Context, server::error::RequestError};

macro_rules! refuse {
    ($($name:ident($request:ty) -> $response:ty = $wire:literal;)*) => {
        $(pub(super) async fn $name(
            _: &Arc<Context>,
            _: $request,
        ) -> Result<$response, RequestError> {
            Err(RequestError::Unsupported($wire))
        })*
    };
}

refuse! {
    get_ip_tables(GetIPTablesRequest) -> GetIPTablesResponse = "GetIPTables";
    set_ip_tables(SetIPTablesRequest) -> SetIPTablesResponse = "SetIPTables";
    update_container(UpdateContainerRequest) -> Empty = "UpdateContainer";
    stats_container(StatsContainerRequest) -> StatsContainerResponse = "StatsContainer";
    pause_container(PauseContainerRequest) -> Empty = "PauseContainer";
    resume_container(ResumeContainerRequest) -> Empty = "ResumeContainer";
    update_ephemeral_mounts(UpdateEphemeralMountsRequest) -> Empty = "UpdateEphemeralMounts";
    get_metrics(GetMetricsRequest) -> Metrics = "GetMetrics";
    online_cpu_mem(OnlineCPUMemRequest) -> Empty = "OnlineCPUMem";
    mem_hotplug_by_probe(MemHotplugByProbeRequest) -> Empty = "MemHotplugByProbe";
    reseed_random_dev(ReseedRandomDevRequest) -> Empty = "ReseedRandomDev";
    set_guest_date_time(SetGuestDateTimeRequest) -> Empty = "SetGuestDateTime";
    mem_agent_memcg_set(MemAgentMemcgConfig) -> Empty = "MemAgentMemcgSet";
    mem_agent_compact_set(MemAgentCompactConfig) -> Empty = "MemAgentCompactSet";
    copy_file(CopyFileRequest) -> Empty = "CopyFile";
    get_volume_stats(VolumeStatsRequest) -> VolumeStatsResponse = "GetVolumeStats";
    resize_volume(ResizeVolumeRequest) -> Empty = "ResizeVolume";
    get_diagnostic_data(GetDiagnosticDataRequest) -> GetDiagnosticDataResponse = "GetDiagnosticData";
    add_swap(AddSwapRequest) -> Empty = "AddSwap";
    add_swap_path(AddSwapPathRequest) -> Empty = "AddSwapPath";
    set_policy(SetPolicyRequest) -> Empty = "SetPolicy";
}
