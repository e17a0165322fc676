//! What happens between `CreateContainer` and its answer: the environment; then volumes and mounts, and beside
//! them the identity. Only an order that cannot be meant, an environment that cannot be written or a mount of
//! the host's that cannot be made is refused. Everything else that goes wrong is a line on the status board, and
//! the boot goes on.

use std::{io, sync::Arc, time::Duration};

use seed_protocol::{env::INSTANCE, seed::v1};
use thiserror::Error;
use tokio::task;
use tracing::{info, warn};

use crate::{
    agent::Context,
    env::{self, EnvError, Environment},
    storage::{
        self, Device, Settings, Share, Volume, VolumeSpec,
        device::DeviceError,
        oci::Mount,
        owner::{self, OwnerNames},
        share::{self, ShareError},
    },
    sys::privileges,
};

/// How long a device that the host attached may take to appear: the driver is loaded by udev, and under
/// emulation that takes seconds.
const DEVICE_LIMIT: Duration = Duration::from_secs(60);

/// The same where there is no host that could have attached one.
const DEVICE_LIMIT_ALONE: Duration = Duration::from_secs(5);

/// What the host orders, checked.
#[derive(Debug)]
pub struct Order {
    /// The instance's environment.
    pub environment: Environment,
    /// Its volumes.
    pub volumes: Vec<VolumeSpec>,
    /// Storage that is no disk.
    pub shares: Vec<Share>,
    /// What the host wants to have in its place, of these shares or of others.
    pub mounts: Vec<Mount>,
    /// Disks that are wanted as they are.
    pub devices: Vec<Device>,
}

/// Why an order cannot be carried out.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// The environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A mount of the host's. An instance without its files is not what was asked for.
    #[error(transparent)]
    Mount(#[from] ShareError),
    /// A disk. An instance without it is not what was asked for, either.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A thread ended early.
    #[error("the thread that mounts ended early")]
    Thread(#[source] io::Error),
}

/// Does what `order` says.
pub async fn provision(ctx: &Arc<Context>, order: Order) -> Result<(), ProvisionError> {
    let Order {
        environment,
        volumes,
        shares,
        mounts,
        devices,
    } = order;
    write_environment(ctx, environment).await?;
    let storage = async {
        bring_up(ctx, volumes, DEVICE_LIMIT).await;
        bring_up_shares(ctx, shares).await;
        bring_up_devices(ctx, devices).await?;
        bring_up_mounts(ctx, mounts).await
    };
    // Disks and TPM know nothing of each other, and each takes its time.
    let (mounted, ()) = tokio::join!(storage, ctx.provision_identity());
    mounted?;
    drop_privileges(ctx);
    Ok(())
}

/// Does what the closure says, for a guest without a host: an environment with nothing but the name, so that
/// services which name the file start, and the volumes whose disk carries their name.
pub async fn alone(ctx: &Arc<Context>) {
    let mut environment = Environment::default();
    environment.add_default(INSTANCE, &ctx.config.instance.name);
    if let Err(error) = write_environment(ctx, environment).await {
        ctx.status.problem("environment", error.to_string());
    }
    let volumes = storage::without_host(&ctx.config.instance.volumes);
    tokio::join!(
        bring_up(ctx, volumes, DEVICE_LIMIT_ALONE),
        ctx.provision_identity()
    );
    drop_privileges(ctx);
}

async fn write_environment(ctx: &Context, environment: Environment) -> Result<(), EnvError> {
    for name in environment.left_out() {
        let message = format!(
            "{name} is no text and is left out: systemd would start no service with such a file"
        );
        ctx.status.problem("environment", message);
    }
    let group = readers(ctx).unwrap_or_else(|message| {
        ctx.status.problem("environment", message);
        None
    });
    env::write(&ctx.config.paths.env_file, &environment, group)?;
    info!(variables = environment.len(), "environment is written");
    Ok(())
}

/// The group that may read the environment, when the closure names one. Without it the file is root's alone.
fn readers(ctx: &Context) -> Result<Option<u32>, String> {
    let Some(group) = ctx.config.instance.env_group.clone() else {
        return Ok(None);
    };
    let names = OwnerNames {
        user: None,
        group: Some(group.clone()),
    };
    let found = owner::resolve(&names, &ctx.config.paths.etc);
    found.map(|owner| Some(owner.gid)).map_err(|_| {
        let file = ctx.config.paths.env_file.display();
        format!("group {group} does not exist in this guest, so only root reads {file}")
    })
}

async fn bring_up(ctx: &Context, specs: Vec<VolumeSpec>, device_limit: Duration) {
    if specs.is_empty() {
        return;
    }
    let settings = settings(ctx, device_limit);
    let done = task::spawn_blocking(move || storage::provision(&specs, &settings)).await;
    let volumes = match done {
        Ok(volumes) => volumes,
        Err(error) => {
            ctx.status
                .problem("volumes", format!("their thread ended early: {error}"));
            return;
        }
    };
    for volume in &volumes {
        if let Some(problem) = &volume.problem {
            ctx.status
                .problem(format!("volume {}", volume.name), problem.clone());
        }
    }
    ctx.status
        .set_volumes(volumes.into_iter().map(told).collect());
}

/// Puts storage that is no disk in its place, in the host's order: one may be made of another. Trouble is
/// told on the board.
pub async fn bring_up_shares(ctx: &Context, shares: Vec<Share>) {
    if shares.is_empty() {
        return;
    }
    let shared = ctx.config.paths.shared.clone();
    let board = ctx.status.clone();
    let work = move || {
        for share in &shares {
            if let Err(error) = share::bring_up(share, &shared) {
                let subject = format!("storage {}", share.mount_point);
                board.problem(subject, error.to_string());
            }
        }
    };
    if let Err(error) = task::spawn_blocking(work).await {
        let message = format!("their thread ended early: {error}");
        ctx.status.problem("storage", message);
    }
}

fn settings(ctx: &Context, device_limit: Duration) -> Settings {
    let paths = &ctx.config.paths;
    Settings {
        sys_block: paths.sys_block.clone(),
        sys_devices: paths.sys_devices(),
        dev: paths.dev.clone(),
        etc: paths.etc.clone(),
        udev_rules: paths.udev_rules.clone(),
        device_limit,
    }
}

async fn bring_up_devices(ctx: &Context, devices: Vec<Device>) -> Result<(), ProvisionError> {
    if devices.is_empty() {
        return Ok(());
    }
    let settings = settings(ctx, DEVICE_LIMIT);
    let work = move || {
        devices
            .iter()
            .try_for_each(|device| device.bring_up(&settings))
    };
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| ProvisionError::Thread(error.into()))??;
    Ok(())
}

/// Mounts in the host's order: one may be below another.
async fn bring_up_mounts(ctx: &Context, mounts: Vec<Mount>) -> Result<(), ProvisionError> {
    if mounts.is_empty() {
        return Ok(());
    }
    let shared = ctx.config.paths.shared.clone();
    let work = move || mounts.iter().try_for_each(|mount| mount.bring_up(&shared));
    let done = task::spawn_blocking(work).await;
    done.map_err(|error| ProvisionError::Thread(error.into()))??;
    Ok(())
}

fn told(volume: Volume) -> v1::Volume {
    let Volume {
        name,
        mount_point,
        filesystem,
        created,
        size_bytes,
        problem,
    } = volume;
    v1::Volume {
        name,
        mount_point: mount_point.to_string_lossy().into_owned(),
        filesystem,
        created,
        size_bytes,
        problem: problem.unwrap_or_default(),
        ..v1::Volume::default()
    }
}

/// Gives up what only provisioning needs.
pub fn drop_privileges(ctx: &Context) {
    if !ctx.config.drop_privileges {
        return;
    }
    if let Err(error) = privileges::drop_after_provisioning() {
        warn!(%error, "capabilities could not be dropped");
    }
}
