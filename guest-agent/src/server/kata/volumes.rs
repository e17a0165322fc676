//! Files and volumes while the guest runs: copies, room, growth, swap space.

use std::{
    fs::File,
    io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use seed_protocol::kata::{
    agent::*,
    csi::{VolumeCondition, VolumeStatsResponse, VolumeUsage, volume_usage::Unit},
    empty::Empty,
};
use tokio::task;
use tracing::info;

use super::machine::blocking;
use crate::{
    agent::Context,
    copy::{self, CopyError, Piece},
    server::error::RequestError,
    storage::{
        online::{self, OnlineError},
        swap,
    },
    sys::{mount::Room, pci::PciPath},
};

/// Where the host's copies go, below the folder for what it shares.
const COPIES: &str = "shared/containers";

const SWAP: &str = "swap space cannot be added";

/// The last words that Kubernetes takes.
const MAX_TERMINATION_LOG_BYTES: u64 = 4096;

pub(super) async fn copy_file(
    ctx: &Arc<Context>,
    request: CopyFileRequest,
) -> Result<Empty, RequestError> {
    let CopyFileRequest {
        path,
        file_size,
        file_mode,
        dir_mode,
        uid,
        gid,
        offset,
        data,
        special_fields: _,
    } = request;
    let piece = Piece {
        path,
        file_size,
        file_mode,
        dir_mode,
        uid,
        gid,
        offset,
        data,
    };
    let root = ctx.config.paths.shared.join(COPIES);
    let done = task::spawn_blocking(move || copy::take(&root, &piece)).await;
    done.unwrap_or_else(|error| {
        Err(CopyError::Io {
            path: String::new(),
            source: error.into(),
        })
    })?;
    Ok(Empty::default())
}

pub(super) async fn get_volume_stats(
    ctx: &Arc<Context>,
    request: VolumeStatsRequest,
) -> Result<VolumeStatsResponse, RequestError> {
    let path = online::volume_path(&request.volume_guest_path)?;
    let problem = ctx
        .status
        .now()
        .volumes
        .into_iter()
        .find(|volume| path.to_str() == Some(volume.mount_point.as_str()))
        .map(|volume| volume.problem)
        .unwrap_or_default();
    let usage = online(path, |path| online::usage(&path)).await?;
    let condition = VolumeCondition {
        abnormal: !problem.is_empty(),
        message: problem,
        ..Default::default()
    };
    Ok(VolumeStatsResponse {
        usage: vec![
            told(usage.bytes, Unit::BYTES),
            told(usage.inodes, Unit::INODES),
        ],
        volume_condition: Some(condition).into(),
        ..Default::default()
    })
}

pub(super) async fn resize_volume(
    ctx: &Arc<Context>,
    request: ResizeVolumeRequest,
) -> Result<Empty, RequestError> {
    let path = online::volume_path(&request.volume_guest_path)?;
    let (sys_block, size) = (ctx.config.paths.sys_block.clone(), request.size);
    let shown = path.clone();
    online(path, move |path| online::grow(&path, size, &sys_block)).await?;
    info!(volume = %shown.display(), wanted_bytes = size, "volume fills its device");
    Ok(Empty::default())
}

/// Swap space on a disk that the host has just attached.
pub(super) async fn add_swap(
    ctx: &Arc<Context>,
    request: AddSwapRequest,
) -> Result<Empty, RequestError> {
    let path = swap_disk(&request)?;
    let paths = ctx.config.paths.clone();
    let limit = ctx.config.hotplug_limit;
    let add = move || swap::add_by_path(&path, &paths.sys_devices(), &paths.dev, limit);
    blocking(SWAP, add).await.map_err(missing_disk)?;
    Ok(Empty::default())
}

/// Where on the bus the disk is.
pub(super) fn swap_disk(request: &AddSwapRequest) -> Result<PciPath, RequestError> {
    let parts: Vec<_> = request
        .PCIPath
        .iter()
        .map(|part| format!("{part:02x}"))
        .collect();
    let text = parts.join("/");
    PciPath::parse(&text).ok_or_else(|| {
        let text = online::start(&text);
        RequestError::Invalid(format!("{text:?} is no PCI path"))
    })
}

/// A disk that did not come is the host's mistake and not ours.
fn missing_disk(error: RequestError) -> RequestError {
    match error {
        RequestError::Internal { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            RequestError::Missing(source.to_string())
        }
        other => other,
    }
}

pub(super) async fn add_swap_path(
    ctx: &Arc<Context>,
    request: AddSwapPathRequest,
) -> Result<Empty, RequestError> {
    let node = swap_node(&request, &ctx.config.paths.dev)?;
    let limit = ctx.config.hotplug_limit;
    let add = move || swap::add(&node, limit);
    blocking(SWAP, add).await.map_err(missing_disk)?;
    Ok(Empty::default())
}

/// The device's node, which is below `dev`.
pub(super) fn swap_node(request: &AddSwapPathRequest, dev: &Path) -> Result<PathBuf, RequestError> {
    let node = online::volume_path(&request.path)?;
    if !node.starts_with(dev) {
        let text = format!("{:?} is no device", online::start(&request.path));
        return Err(RequestError::Invalid(text));
    }
    Ok(node)
}

/// There is one log that hosts ask for: a container's last words.
pub(super) async fn get_diagnostic_data(
    ctx: &Arc<Context>,
    request: GetDiagnosticDataRequest,
) -> Result<GetDiagnosticDataResponse, RequestError> {
    ctx.sandbox.find(&request.container_id)?;
    if request.log_type != "termination_log" {
        let text = format!("{:?} is no log that can be asked for", request.log_type);
        return Err(RequestError::Invalid(text));
    }
    let path = ctx.config.paths.termination_log.clone();
    let read = move || last_words(path);
    Ok(GetDiagnosticDataResponse {
        data: blocking("the last words cannot be read", read).await?,
        ..Default::default()
    })
}

fn last_words(path: PathBuf) -> io::Result<String> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => other?,
    };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(MAX_TERMINATION_LOG_BYTES)
            .read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

async fn online<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(PathBuf) -> Result<T, OnlineError> + Send + 'static,
) -> Result<T, RequestError> {
    let done = task::spawn_blocking(move || work(path)).await;
    let done = done
        .map_err(|error| RequestError::internal("the volume's thread ended early", error.into()))?;
    Ok(done?)
}

fn told(room: Room, unit: Unit) -> VolumeUsage {
    let Room {
        total,
        used,
        available,
    } = room;
    VolumeUsage {
        available,
        total,
        used,
        unit: unit.into(),
        ..Default::default()
    }
}
