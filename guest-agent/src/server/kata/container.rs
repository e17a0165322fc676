//! The container, which is the instance itself: its order, its start, its end. An `exec_id` that is empty
//! or the container's own means its first process, which is systemd.

use std::{collections::HashMap, sync::Arc};

use seed_protocol::{
    env::INSTANCE,
    kata::{
        agent::*,
        empty::Empty,
        oci::{Mount, Spec},
        types::FSGroupChangePolicy,
    },
};
use tokio::task;
use tracing::info;

use super::process;
use crate::{
    agent::Context,
    config::Instance,
    env::Environment,
    exec::ExecError,
    sandbox::{self, Action, Container, ContainerId, Event, Order, Pause, SandboxError},
    server::error::RequestError,
    storage::{
        self, ROOT_IMAGE, SpecError,
        device::RawDevice,
        group::{FsGroup, Policy},
        oci::{self, RawMount},
        owner::{Mode, Owner, ROOT},
        spec::RawStorage,
    },
};

/// Owners and permissions of devices, by their paths.
type Owners = HashMap<String, (Owner, Option<Mode>)>;

/// `signal(7)` on x86-64 and arm64, and the signals by which `systemd(1)` is told to end: SIGRTMIN+3
/// (halt) and SIGRTMIN+4 (power off).
const SIGINT: u32 = 2;
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;
const SIGPWR: u32 = 30;
const SIGRTMIN_3: u32 = 37;
const SIGRTMIN_4: u32 = 38;

pub(super) async fn create_container(
    ctx: &Arc<Context>,
    request: CreateContainerRequest,
) -> Result<Empty, RequestError> {
    let CreateContainerRequest {
        container_id,
        storages,
        devices,
        OCI: spec,
        ..
    } = request;
    let id = ContainerId::try_from(container_id.as_str())?;
    let spec = spec.into_option();
    if spec.as_ref().is_some_and(sandbox::is_pause) {
        info!(container = %id, "pause container accepted");
        ctx.sandbox.add_pause(id)?;
        ctx.remember();
        return Ok(Empty::default());
    }
    let spec = spec.unwrap_or_default();
    let owners = owners(&spec);
    let mut order = order(spec, storages, &ctx.config.instance)?;
    order.devices = order_devices(devices, &owners)?;
    // Neither host nor closure gave a name.
    order.environment.add_default(INSTANCE, id.as_str());
    ctx.sandbox.step(Event::CreateContainer(id.clone()))?;
    info!(
        container = %id,
        variables = order.environment.len(),
        volumes = order.volumes.len(),
        mounts = order.mounts.len(),
        devices = order.devices.len(),
        "provisioning"
    );
    // On a task of its own: a caller that hangs up does not leave the work half done.
    let task = task::spawn({
        let ctx = ctx.clone();
        async move {
            let done = sandbox::provision(&ctx, order).await;
            let event = if done.is_ok() {
                Event::Provisioned
            } else {
                Event::Refused
            };
            ctx.sandbox.step(event)?;
            ctx.remember();
            Ok::<(), RequestError>(done?)
        }
    });
    task.await.map_err(|_| SandboxError::Interrupted)??;
    Ok(Empty::default())
}

/// What the host orders, checked; nothing is done yet.
pub(super) fn order(
    spec: Spec,
    storages: Vec<Storage>,
    closure: &Instance,
) -> Result<Order, RequestError> {
    let process = spec.Process.into_option().unwrap_or_default();
    let mut environment = Environment::parse(&process.Env)?;
    environment.add_default(INSTANCE, &closure.name);
    let mut mounts = oci::parse(spec.Mounts.into_iter().map(raw_mount).collect())?;
    let (root, storages): (Vec<_>, Vec<_>) = storages
        .into_iter()
        .partition(|storage| storage.driver == ROOT_IMAGE);
    for image in root {
        info!(
            image = image.source,
            "the guest is the root that the image names"
        );
    }
    let (mut disks, mut shares) = storage::split(storages.into_iter().map(raw).collect())?;
    shares.extend(oci::straighten(&mut disks, &mut mounts));
    let volumes = storage::join(disks, &closure.volumes)?;
    oci::check_places(&mounts, &volumes)?;
    Ok(Order {
        environment,
        volumes,
        shares,
        mounts,
        devices: Vec::new(),
    })
}

/// Whose the block devices at these paths are. One of root's without permissions is said nothing of.
fn owners(spec: &Spec) -> Owners {
    let devices = spec.Linux.Devices.iter().filter(|one| one.Type == "b");
    let owned = devices.filter_map(|one| {
        let mode = (one.FileMode > 0).then(|| Mode::from(one.FileMode));
        let owner = Owner {
            uid: one.UID,
            gid: one.GID,
        };
        let is_said = mode.is_some() || owner != ROOT;
        is_said.then(|| (one.Path.clone(), (owner, mode)))
    });
    owned.collect()
}

fn order_devices(devices: Vec<Device>, owners: &Owners) -> Result<Vec<storage::Device>, SpecError> {
    let raw = |device: Device| {
        let Device {
            id,
            type_: kind,
            vm_path: _,
            container_path: path,
            options,
            special_fields: _,
        } = device;
        RawDevice {
            id,
            kind,
            owner: owners.get(&path).copied(),
            path,
            options,
        }
    };
    devices
        .into_iter()
        .map(|device| raw(device).try_into())
        .collect()
}

pub(super) async fn start_container(
    ctx: &Arc<Context>,
    request: StartContainerRequest,
) -> Result<Empty, RequestError> {
    let id = ContainerId::try_from(request.container_id.as_str())?;
    if let Ok(Container::Pause(_)) = ctx.sandbox.find(id.as_str()) {
        return Ok(Empty::default());
    }
    if ctx.sandbox.step(Event::StartContainer(id.clone()))? == Action::LetBootGoOn {
        info!(container = %id, "the boot goes on");
        ctx.release();
    }
    Ok(Empty::default())
}

/// The guest lives and dies with its container, so there is nothing left to remove.
pub(super) async fn remove_container(
    ctx: &Arc<Context>,
    request: RemoveContainerRequest,
) -> Result<Empty, RequestError> {
    if let Container::Pause(_) = ctx.sandbox.find(&request.container_id)? {
        ctx.sandbox.remove_pause();
        ctx.remember();
    }
    Ok(Empty::default())
}

pub(super) async fn signal_process(
    ctx: &Arc<Context>,
    request: SignalProcessRequest,
) -> Result<Empty, RequestError> {
    let id = match ctx.sandbox.find(&request.container_id)? {
        Container::Instance(id) => id,
        Container::Pause(pause) => return signal_pause(ctx, &pause, &request),
    };
    if !is_init(&id, &request.exec_id) {
        process::signal_exec(ctx, request).await?;
        return Ok(Empty::default());
    }
    info!(signal = request.signal, "signal for the whole instance");
    if ctx.end.is_declared() {
        // It has ended already; systemd's last program switches the machine off.
        return Ok(Empty::default());
    }
    match request.signal {
        0 => {}
        SIGKILL => ctx.systemd.kill_now()?,
        SIGTERM | SIGPWR | SIGRTMIN_3 | SIGRTMIN_4 => ctx.systemd.power_off().await?,
        other => {
            let message = format!(
                "signal {other} means nothing to a whole instance: 15 powers it off, 9 kills it"
            );
            return Err(RequestError::Invalid(message));
        }
    }
    Ok(Empty::default())
}

pub(super) async fn wait_process(
    ctx: &Arc<Context>,
    request: WaitProcessRequest,
) -> Result<WaitProcessResponse, RequestError> {
    let status = match ctx.sandbox.find(&request.container_id)? {
        Container::Pause(pause) => pause.wait().await,
        Container::Instance(id) if is_init(&id, &request.exec_id) => {
            // systemd ends when all of its units have been stopped; a machine that is switched off at
            // once takes the answer with it.
            ctx.end.wait().await;
            0
        }
        Container::Instance(_) => process::wait_exec(ctx, request).await?,
    };
    Ok(WaitProcessResponse {
        status,
        ..Default::default()
    })
}

/// It has one process, and that one has no other.
fn signal_pause(
    ctx: &Context,
    pause: &Pause,
    request: &SignalProcessRequest,
) -> Result<Empty, RequestError> {
    let exec = request.exec_id.as_str();
    if !is_init(pause.id(), exec) {
        return Err(ExecError::NotFound(exec.to_owned()).into());
    }
    if matches!(request.signal, SIGINT | SIGKILL | SIGTERM) {
        // Just matched, so it is small.
        pause.end(i32::try_from(request.signal).unwrap_or_default());
        ctx.remember();
    }
    Ok(Empty::default())
}

pub(super) fn is_init(container: &ContainerId, exec_id: &str) -> bool {
    exec_id.is_empty() || exec_id == container.as_str()
}

pub(super) fn raw(storage: Storage) -> RawStorage {
    let Storage {
        driver,
        driver_options,
        source,
        fstype,
        options,
        mount_point,
        fs_group,
        shared: _,
        special_fields: _,
    } = storage;
    RawStorage {
        driver,
        driver_options,
        source,
        fstype,
        options,
        mount_point,
        group: fs_group.into_option().map(group),
    }
}

fn raw_mount(mount: Mount) -> RawMount {
    let Mount {
        destination,
        source,
        type_,
        options,
        special_fields: _,
    } = mount;
    RawMount {
        destination,
        source,
        kind: type_,
        options,
    }
}

fn group(group: FSGroup) -> FsGroup {
    FsGroup {
        gid: group.group_id,
        policy: match group.group_change_policy.enum_value() {
            Ok(FSGroupChangePolicy::OnRootMismatch) => Policy::OnRootMismatch,
            // What a later version may invent is done in any case.
            Ok(FSGroupChangePolicy::Always) | Err(_) => Policy::Always,
        },
    }
}
