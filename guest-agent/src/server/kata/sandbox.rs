//! The guest as a whole: host name, name servers, what the agent can do, its end.

use std::{sync::Arc, thread};

use seed_protocol::{
    kata::{agent::*, empty::Empty},
    version,
};

use tokio::{sync::oneshot, task};

use super::container::raw;
use crate::{
    agent::Context,
    sandbox::{self, Event, SandboxError},
    server::error::RequestError,
    storage::{
        self, DRIVERS, Share,
        share::{self, Kind},
    },
    sys::{
        hotplug, machine,
        modules::{self, Module},
        resolver,
    },
};

/// The longest host name, `HOST_NAME_MAX` of `limits.h`.
const MAX_HOSTNAME_BYTES: usize = 64;

/// The host's name servers, where the guest's own file is a link.
const RESOLVER: &str = "host-resolv.conf";

/// What the host says of the guest as a whole, checked.
pub(super) struct Setup {
    hostname: Option<String>,
    resolver: Option<String>,
    modules: Vec<Module>,
    shares: Vec<Share>,
}

/// Nothing is done yet.
pub(super) fn setup(request: CreateSandboxRequest) -> Result<Setup, RequestError> {
    let CreateSandboxRequest {
        hostname,
        dns,
        storages,
        sandbox_pidns: _,
        sandbox_id: _,
        guest_hook_path: _,
        kernel_modules,
        special_fields: _,
    } = request;
    let hostname = checked_hostname(hostname)?;
    let resolver = resolver::render(&dns).map_err(RequestError::Invalid)?;
    let modules = kernel_modules.into_iter();
    let modules = modules::checked(modules.map(|module| (module.name, module.parameters)))?;
    let (disks, shares) = storage::split(storages.into_iter().map(raw).collect())?;
    if !disks.is_empty() {
        let message = "disks belong to CreateContainer, not to CreateSandbox";
        return Err(RequestError::Invalid(message.to_owned()));
    }
    Ok(Setup {
        hostname,
        resolver,
        modules,
        shares,
    })
}

pub(super) async fn create_sandbox(
    ctx: &Arc<Context>,
    request: CreateSandboxRequest,
) -> Result<Empty, RequestError> {
    let Setup {
        hostname,
        resolver,
        modules,
        shares,
    } = setup(request)?;
    ctx.sandbox.step(Event::CreateSandbox)?;
    load(ctx, modules).await?;
    if let Some(name) = hostname {
        let set = machine::set_hostname(&name);
        set.map_err(|source| RequestError::internal("the host name cannot be set", source))?;
    }
    if let Some(text) = resolver {
        let paths = &ctx.config.paths;
        let copy = paths.of_this_boot(RESOLVER);
        let written = resolver::write(&paths.resolv_conf, &copy, &text);
        written.map_err(|source| {
            RequestError::internal("the resolver's configuration cannot be written", source)
        })?;
    }
    // On a task of its own: a caller that hangs up does not leave the work half done.
    let task = task::spawn({
        let ctx = ctx.clone();
        async move {
            sandbox::bring_up_shares(&ctx, shares).await;
            ctx.remember();
        }
    });
    task.await.map_err(|_| SandboxError::Interrupted)?;
    Ok(Empty::default())
}

/// Network drivers and the like, that the host knows to be needed.
async fn load(ctx: &Context, modules: Vec<Module>) -> Result<(), RequestError> {
    if modules.is_empty() {
        return Ok(());
    }
    let (sys, proc) = (ctx.config.paths.sys.clone(), ctx.config.paths.proc.clone());
    // The pool's threads may not do this, so it is a thread of its own.
    let (done, answer) = oneshot::channel();
    let load = move || {
        // Whoever asked may be gone.
        let _ = done.send(modules::load(&modules, &sys, &proc));
    };
    let started = thread::Builder::new()
        .name("modules".to_owned())
        .spawn(load);
    started.map_err(|source| RequestError::internal("modules cannot be loaded", source))?;
    answer.await.map_err(|_| SandboxError::Interrupted)??;
    Ok(())
}

/// New sizes for memory that is mounted already.
pub(super) async fn update_ephemeral_mounts(
    _: &Arc<Context>,
    request: UpdateEphemeralMountsRequest,
) -> Result<Empty, RequestError> {
    let shares = ephemeral(request)?;
    let update = move || shares.iter().try_for_each(share::update_ephemeral);
    let done = task::spawn_blocking(update).await;
    done.map_err(|_| SandboxError::Interrupted)??;
    Ok(Empty::default())
}

/// What such a request changes.
pub(super) fn ephemeral(request: UpdateEphemeralMountsRequest) -> Result<Vec<Share>, RequestError> {
    let (disks, shares) = storage::split(request.storages.into_iter().map(raw).collect())?;
    let memory = |share: &Share| matches!(share.kind, Kind::Ephemeral { .. });
    if !disks.is_empty() || !shares.iter().all(memory) {
        let message = "only ephemeral storage is updated";
        return Err(RequestError::Invalid(message.to_owned()));
    }
    Ok(shares)
}

/// Kata's shim stops the VM right after this; an orderly end is under way by then.
pub(super) async fn destroy_sandbox(
    ctx: &Arc<Context>,
    _: DestroySandboxRequest,
) -> Result<Empty, RequestError> {
    if !ctx.end.is_declared() {
        ctx.systemd.power_off().await?;
    }
    Ok(Empty::default())
}

pub(super) async fn get_guest_details(
    ctx: &Arc<Context>,
    request: GuestDetailsRequest,
) -> Result<GuestDetailsResponse, RequestError> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let details = AgentDetails {
        version: version::SEED.to_owned(),
        init_daemon: false,
        device_handlers: names(&["blk"]),
        storage_handlers: names(&DRIVERS),
        // The guest's own units say which system calls they may make.
        supports_seccomp: false,
        ..AgentDetails::default()
    };
    let sys = &ctx.config.paths.sys;
    let block = match request.mem_block_size {
        true => hotplug::memory_block_bytes(sys).map_err(|source| {
            RequestError::internal("the size of a memory block cannot be read", source)
        })?,
        false => 0,
    };
    Ok(GuestDetailsResponse {
        mem_block_size_bytes: block,
        agent_details: Some(details).into(),
        support_mem_hotplug_probe: request.mem_hotplug_probe && hotplug::probe_file(sys).is_some(),
        ..Default::default()
    })
}

/// Waits for the next kill for lack of memory, however long. A quick answer would make shims ask again
/// without a pause.
pub(super) async fn get_oom_event(
    ctx: &Arc<Context>,
    _: GetOOMEventRequest,
) -> Result<OOMEvent, RequestError> {
    loop {
        ctx.oom.next().await;
        let state = ctx.sandbox.state();
        // A kill before there is a container is nobody's.
        if let Some(id) = state.container() {
            return Ok(OOMEvent {
                container_id: id.to_string(),
                ..Default::default()
            });
        }
    }
}

pub(super) async fn nothing_to_remove(
    _: &Arc<Context>,
    _: RemoveStaleVirtiofsShareMountsRequest,
) -> Result<Empty, RequestError> {
    Ok(Empty::default())
}

fn checked_hostname(name: String) -> Result<Option<String>, RequestError> {
    if name.is_empty() {
        return Ok(None);
    }
    let plain = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if !plain || name.len() > MAX_HOSTNAME_BYTES || name.starts_with(['-', '.']) {
        return Err(RequestError::Invalid(format!("{name:?} is no host name")));
    }
    Ok(Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_letters_digits_dots_and_dashes() {
        let check = |name: &str| checked_hostname(name.to_owned());
        assert_eq!(check("").unwrap(), None);
        assert_eq!(
            check("demo-1.example").unwrap().as_deref(),
            Some("demo-1.example")
        );
        for name in ["-a", ".", "a b", "a\n", "a_b", &"a".repeat(65)] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }
}
