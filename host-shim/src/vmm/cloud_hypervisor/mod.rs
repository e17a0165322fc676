//! Cloud Hypervisor (version 52 or later): KVM alone.
//!
//! Start: the daemons, then the program, which boots what is on its command line and tells of it on a pipe. It has a
//! vsock device of its own, with the same `CONNECT <port>` socket that ours has. Orders go over its
//! HTTP API. The supervisor owns all.
//!
//! It differs from QEMU in this: it has no user-mode network, and a write that does not fit on the host's disk is an
//! error in the guest at once.

pub mod api;
pub mod args;
mod events;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    net::unix::pipe,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Machine, MachineSize, Vmm, VmmError, VmmKind, console,
    daemons::{Daemons, Start},
    process::{Ended, Launch, Starting, Supervised},
    programs::Found,
    supervisor::{Monitor, Order, Running, own_end, supervise},
};
use crate::{
    cgroup::Group,
    config::{Limits, Programs},
    spec::{Network, VmAccel, VmSpec},
    tpm::StateDir,
};
use api::Api;

const KIND: VmmKind = VmmKind::CloudHypervisor;

/// The Cloud Hypervisor back end.
#[derive(Debug)]
pub struct CloudHypervisor {
    programs: Programs,
    limits: Limits,
}

impl CloudHypervisor {
    /// With these programs and limits.
    pub fn new(programs: Programs, limits: Limits) -> Self {
        Self { programs, limits }
    }
}

fn unsupported(lack: String) -> VmmError {
    VmmError::Unsupported { vmm: KIND, lack }
}

/// What QEMU can and it cannot.
fn can_run(spec: &VmSpec) -> Result<(), VmmError> {
    if spec.accel != VmAccel::Kvm {
        let lack = "runs with KVM alone, and this host has none for it: use vmm qemu";
        return Err(unsupported(lack.to_owned()));
    }
    if spec.network == Network::User {
        let lack = "has no user-mode network: set annotation network to none, or use vmm qemu";
        return Err(unsupported(lack.to_owned()));
    }
    Ok(())
}

#[async_trait]
impl Vmm for CloudHypervisor {
    fn check(&self, spec: &VmSpec) -> Result<(), VmmError> {
        can_run(spec)?;
        Found::look(&self.programs, KIND)?;
        Ok(())
    }

    async fn launch(&self, spec: &VmSpec, tpm: &StateDir) -> Result<Machine, VmmError> {
        can_run(spec)?;
        let found = Found::look(&self.programs, KIND)?;
        let limit = self.limits.daemon();
        let log = spec.paths.helper_log(KIND.as_str());
        let pipe = |source: io::Error| VmmError::Spawn {
            name: KIND.as_str(),
            source,
        };
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|error| pipe(error.into()))?;
        let read = pipe::Receiver::from_owned_fd(read).map_err(pipe)?;
        let args = args::args(spec, tpm.machine_id(), write.as_fd())?;
        let group = Group::of(spec.placement.as_ref(), &spec.paths);
        let (ends, mut ended) = mpsc::unbounded_channel();
        // Until the supervisor has them, an error drops the children, which kills them.
        let daemons = Daemons::listening(Start {
            spec,
            tpm,
            found: &found,
            group: group.as_ref(),
            limit,
            ends: &ends,
            ended: &mut ended,
        })
        .await?;
        let (vmm, stdout) = start(&found, args, spec, &write, group.clone(), &ends)?;
        drop(write);
        let (speak, spoke) = oneshot::channel();
        if let Some(stdout) = stdout {
            tokio::spawn(console::copy(stdout, spec.paths.console_log(), speak));
        }
        let (boot, booted) = oneshot::channel();
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(events::listen(read, boot, tell));
        let socket = spec.paths.api_socket();
        let starting = Starting {
            name: KIND.as_str(),
            socket: &socket,
            log: &log,
        };
        starting.listens(limit, &mut ended).await?;
        wait_boot(booted, limit, &mut ended).await?;
        let running = Running {
            kind: KIND,
            vmm,
            daemons,
            ended,
            monitor: Arc::new(Api::at(socket)),
            heard,
            group,
            spoke,
        };
        supervise(running, spec)
    }
}

fn start(
    found: &Found,
    args: Vec<std::ffi::OsString>,
    spec: &VmSpec,
    events: &OwnedFd,
    group: Option<Arc<Group>>,
    ends: &mpsc::UnboundedSender<Ended>,
) -> Result<(Supervised, Option<tokio::process::ChildStdout>), VmmError> {
    let nics = spec.nics.iter().map(|nic| nic.tap.as_fd());
    let launch = Launch {
        name: KIND.as_str(),
        program: &found.vmm,
        args,
        log: spec.paths.helper_log(KIND.as_str()),
        pipe_stdout: true,
        inherited: nics.chain([events.as_fd()]).collect(),
        dir: spec.paths.vm_dir(),
        identity: None,
        group,
        lease: None,
    };
    Supervised::spawn(launch, ends)
}

/// Returns when the machine runs. A program that cannot boot it says why, and ends.
async fn wait_boot(
    booted: oneshot::Receiver<()>,
    limit: Duration,
    ended: &mut mpsc::UnboundedReceiver<Ended>,
) -> Result<(), VmmError> {
    let seconds = limit.as_secs();
    let late = VmmError::NoBoot { vmm: KIND, seconds };
    match timeout(limit, booted).await {
        Ok(Ok(())) => Ok(()),
        // It has closed what it tells its events on.
        Ok(Err(_)) => Err(own_end(KIND, ended).await.unwrap_or(late)),
        Err(_) => Err(late),
    }
}

#[async_trait]
impl Monitor for Api {
    async fn order(&self, order: Order) -> Result<(), VmmError> {
        let done = match order {
            Order::PowerButton => self.power_button().await,
            Order::Pause => self.pause().await,
            Order::Resume => self.resume().await,
        };
        Ok(done?)
    }

    async fn grow(&self, size: MachineSize) -> Result<(), VmmError> {
        Ok(self.resize(size.vcpus, size.memory_mib).await?)
    }
}
