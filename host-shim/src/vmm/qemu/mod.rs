//! QEMU: `q35`, KVM where it works and TCG where not.
//!
//! Start: the daemons, then QEMU, then its monitor; the supervisor owns all from then on. Where it can, each runs as
//! another user that has nothing: what QEMU uses of the host it finds open.

pub mod args;
mod files;
pub mod grow;
pub mod qmp;

use std::{os::fd::AsFd, sync::Arc};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{
    Machine, MachineSize, VmEnd, Vmm, VmmError, VmmKind, console,
    daemons::{Daemons, Start},
    process::{Launch, Supervised},
    programs::Found,
    supervisor::{Heard, Monitor, Order, Running, own_end, supervise},
    users::Lease,
};
use crate::{
    cgroup::Group,
    config::{Limits, Programs, Users},
    spec::VmSpec,
    tpm::StateDir,
};
use files::Files;
use qmp::{Qmp, QmpEvent};

const KIND: VmmKind = VmmKind::Qemu;

/// The QEMU back end.
#[derive(Debug)]
pub struct Qemu {
    programs: Programs,
    limits: Limits,
    users: Users,
}

impl Qemu {
    /// With these programs and limits, and these users for them.
    pub fn new(programs: Programs, limits: Limits, users: Users) -> Self {
        Self {
            programs,
            limits,
            users,
        }
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn check(&self, _: &VmSpec) -> Result<(), VmmError> {
        Found::look(&self.programs, KIND)?;
        Ok(())
    }

    async fn launch(&self, spec: &VmSpec, tpm: &StateDir) -> Result<Machine, VmmError> {
        let found = Found::look(&self.programs, KIND)?;
        let lease = Lease::take(&self.users, spec)?.map(Arc::new);
        let identity = lease.as_ref().and_then(|lease| lease.qemu(spec));
        let group = Group::of(spec.placement.as_ref(), &spec.paths);
        let (ends, mut ended) = mpsc::unbounded_channel();
        let start = Start {
            spec,
            tpm,
            found: &found,
            group: group.as_ref(),
            limit: self.limits.daemon(),
            ends: &ends,
            ended: &mut ended,
        };
        // Until the supervisor has them, an error drops the children, which kills them.
        let (daemons, connections) = Daemons::connected(start, lease.as_ref()).await?;
        let (files, monitor) = Files::open(spec, connections, identity.is_some())?;
        let taps = spec.nics.iter().map(|nic| nic.tap.as_fd());
        let (vmm, stdout) = Supervised::spawn(
            Launch {
                name: KIND.as_str(),
                program: &found.vmm,
                args: args::args(spec, tpm.machine_id(), &files.numbers),
                log: spec.paths.helper_log(KIND.as_str()),
                pipe_stdout: true,
                inherited: files.all().chain(taps).collect(),
                dir: spec.paths.vm_dir(),
                identity,
                group: group.clone(),
                lease,
            },
            &ends,
        )?;
        // Its daemons and we see its end by what it alone has open.
        drop(files);
        let (speak, spoke) = oneshot::channel();
        if let Some(stdout) = stdout {
            tokio::spawn(console::copy(stdout, spec.paths.console_log(), speak));
        }
        let (qmp, said) = match Qmp::over(monitor).await {
            Ok(connected) => connected,
            Err(error) => return Err(own_end(KIND, &mut ended).await.unwrap_or(error.into())),
        };
        let running = Running {
            kind: KIND,
            vmm,
            daemons,
            ended,
            monitor: Arc::new(qmp),
            heard: in_our_words(said),
            group,
            spoke,
        };
        supervise(running, spec)
    }
}

#[async_trait]
impl Monitor for Qmp {
    async fn order(&self, order: Order) -> Result<(), VmmError> {
        let command = match order {
            Order::PowerButton => "system_powerdown",
            Order::Pause => "stop",
            Order::Resume => "cont",
        };
        Ok(self.send(command).await?)
    }

    async fn grow(&self, size: MachineSize) -> Result<(), VmmError> {
        Ok(grow::grow(self, size.vcpus, size.memory_mib).await?)
    }
}

/// The monitor's events as the supervisor wants them. The channel ends with the connection.
fn in_our_words(mut said: mpsc::UnboundedReceiver<QmpEvent>) -> mpsc::UnboundedReceiver<Heard> {
    let (tell, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = said.recv().await {
            let _ = tell.send(meaning(event));
        }
    });
    heard
}

fn meaning(event: QmpEvent) -> Heard {
    match event {
        QmpEvent::Stopped => Heard::Paused,
        QmpEvent::Resumed => Heard::Resumed,
        QmpEvent::NoRoom => Heard::NoRoom,
        QmpEvent::Panicked => Heard::End(VmEnd::Panic),
        QmpEvent::Shutdown { reason } => Heard::End(match reason.as_str() {
            "guest-shutdown" => VmEnd::Poweroff,
            "guest-reset" => VmEnd::Reboot,
            "guest-panic" => VmEnd::Panic,
            other => VmEnd::Died {
                name: KIND.as_str(),
                how: other.to_owned(),
            },
        }),
    }
}
