//! The handle on one VM: what everybody but the driver has of it.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use thiserror::Error;
use tokio::{
    sync::{Mutex, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    driver::{Driver, Input},
    grow::{self, GrowError, Wanted},
    state::{Exit, Kill},
    view::{Ended, View},
};
use crate::{
    agent::{Agent, AgentError},
    cgroup::{self, CpuSet, GroupError, Placement, Tree},
    config::Limits,
    logs,
    net::Wires,
    rootfs::Rootfs,
    share::Share,
    spec::VmSpec,
    tpm::StateDir,
    usage::{self, GuestUsage, HostUsage, Meter},
    vmm::{Control, MachineSize, Vmm},
};

/// Figures of the log, once there is one.
pub(super) type LogFigures = Arc<OnceLock<Arc<logs::Counters>>>;

/// How long a machine may take to say that its processors stand still, or run. Longer than a VMM may take to answer.
const FREEZE_LIMIT: Duration = Duration::from_secs(15);

/// Why a VM does not run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StartError {
    /// It came up and failed, or did not come up.
    #[error("{0}")]
    Failed(String),
    /// The driver is gone.
    #[error("the instance has ended")]
    Gone,
}

/// Why a VM was not frozen, or does not run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FreezeError {
    /// It was asked and has not said so. It may do it yet, and can be asked again.
    #[error("the machine has not {} within {} s", if *.0 { "paused" } else { "resumed" }, FREEZE_LIMIT.as_secs())]
    Silent(bool),
    /// There is no machine any more.
    #[error("the instance has ended")]
    Gone,
}

/// Whoever must hear of a life, in this order. It must not block.
pub trait Observer: Send + Sync + std::fmt::Debug {
    /// It runs. `pid` is the VMM's.
    fn started(&self, pid: u32);
    /// A kernel has killed a process for lack of memory: the guest's one of its own, or the host's one of the machine's.
    fn killed_for_memory(&self);
    /// It has ended. Only after [`Observer::started`].
    fn ended(&self, pid: u32, ended: &Ended);
}

/// What a VM is made of.
#[derive(Debug)]
pub struct Parts {
    /// What to run.
    pub spec: Arc<VmSpec>,
    /// With what.
    pub vmm: Arc<dyn Vmm>,
    /// The instance's TPM, locked.
    pub tpm: StateDir,
    /// Its root, mounted.
    pub rootfs: Rootfs,
    /// What is shared beside it, if anything is.
    pub share: Option<Share>,
    /// Its pod's network, if it is in one.
    pub wires: Option<Wires>,
    /// Where the exit is written down.
    pub bundle: PathBuf,
    /// Where the journal goes besides the log's segments.
    pub stdout: Option<logs::fifo::Output>,
    /// Time limits.
    pub limits: Limits,
    /// How much of the journal is kept.
    pub log_limits: crate::logs::store::Limits,
    /// Told of start and end.
    pub observer: Arc<dyn Observer>,
    /// When Create was called.
    pub created: Instant,
}

/// A handle on one VM. Clones are cheap; the VM lives on without them.
#[derive(Debug, Clone)]
pub struct Sandbox {
    inputs: mpsc::UnboundedSender<Input>,
    view: watch::Receiver<View>,
    agent: Agent,
    spec: Arc<VmSpec>,
    log: LogFigures,
    meter: Arc<Meter>,
    /// Whoever changes its size holds it. In it, the memory that the guest had before a change that it has not
    /// finished yet: the next try waits for all of it.
    growing: Arc<Mutex<Option<u64>>>,
}

impl Sandbox {
    /// Begins a life. Nothing is started yet.
    pub fn create(parts: Parts) -> Self {
        let (inputs, received) = mpsc::unbounded_channel();
        let size = MachineSize {
            vcpus: parts.spec.vcpus.get(),
            memory_mib: parts.spec.memory.get(),
        };
        let (publish, view) = watch::channel(View::new(size));
        let agent = Agent::new(parts.spec.paths.vsock_socket());
        let log = Arc::new(OnceLock::new());
        let spec = Arc::clone(&parts.spec);
        let meter = Arc::new(Meter::new(&agent, spec.id.clone()));
        let log_of_driver = Arc::clone(&log);
        Driver::spawn(
            parts,
            agent.clone(),
            inputs.downgrade(),
            received,
            publish,
            log_of_driver,
        );
        Self {
            inputs,
            view,
            agent,
            spec,
            log,
            meter,
            growing: Arc::default(),
        }
    }

    /// Boots it, and returns when the guest has its orders. Gives the VMM's pid.
    pub async fn start(&self) -> Result<u32, StartError> {
        let (reply, answer) = oneshot::channel();
        self.inputs
            .send(Input::Start(reply))
            .map_err(|_| StartError::Gone)?;
        answer.await.map_err(|_| StartError::Gone)?
    }

    /// Ends it. The end itself is told by [`Sandbox::wait`].
    pub fn kill(&self, kill: Kill) {
        let _ = self.inputs.send(Input::Kill(kill));
    }

    /// Freezes it, or lets it run on, and returns when it does; 15 s at most.
    pub async fn pause(&self, pause: bool) -> Result<(), FreezeError> {
        let control = if pause {
            Control::Pause
        } else {
            Control::Resume
        };
        self.inputs
            .send(Input::Control(control))
            .map_err(|_| FreezeError::Gone)?;
        frozen(self.view.clone(), pause).await
    }

    /// Gives it more processors or memory while it runs, and returns when its guest has them. What failed half-way
    /// or came too late can be asked for again.
    pub async fn grow(&self, wanted: Wanted) -> Result<(), GrowError> {
        let mut unfinished = self.growing.lock().await;
        let now = self.view().size;
        let size = grow::check(now, wanted, &self.spec)?;
        if size == now {
            return Ok(());
        }
        let (agent, id) = (self.agent.apart(), &self.spec.id);
        let before = match *unfinished {
            Some(before) => before,
            None => grow::guest_memory(&agent, id).await?,
        };
        *unfinished = Some(before);
        let (reply, answer) = oneshot::channel();
        self.inputs
            .send(Input::Control(Control::Grow(size, reply)))
            .map_err(|_| GrowError::Gone)?;
        answer.await.map_err(|_| GrowError::Gone)??;
        let added_mib = size.memory_mib.saturating_sub(now.memory_mib);
        let memory = grow::whole(before, added_mib);
        grow::bring_online(&agent, id, size, memory).await?;
        *unfinished = None;
        let _ = self.inputs.send(Input::Grown(size));
        Ok(())
    }

    /// Gives its programs these processors of the host from now on. An empty choice changes nothing.
    pub fn choose(&self, cpuset: CpuSet) -> Result<(), GroupError> {
        if cpuset.is_empty() {
            return Ok(());
        }
        let name = self
            .spec
            .placement
            .as_ref()
            .map(|placement| &placement.name);
        let name = name.cloned().ok_or(GroupError::NoGroup)?;
        cgroup::restrict(&Tree::of_host(), &Placement { name, cpuset })
    }

    /// What is known now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// What is known, as soon as its revision is not `revision`.
    pub async fn changed(&self, revision: u64) -> View {
        let mut view = self.view.clone();
        match view.wait_for(|view| view.revision != revision).await {
            Ok(view) => view.clone(),
            Err(_) => self.view(),
        }
    }

    /// Its end.
    pub async fn wait(&self) -> Ended {
        let mut view = self.view.clone();
        let ended = view.wait_for(|view| view.ended.is_some()).await.ok();
        ended
            .and_then(|view| view.ended.clone())
            .unwrap_or_else(|| Ended {
                exit: Exit {
                    status: 137,
                    reason: "the shim lost it".into(),
                },
                at: SystemTime::now(),
            })
    }

    /// The guest's agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// What its guest uses: the guest's answer, or its last one where it gives none now.
    pub async fn guest_usage(&self) -> Result<GuestUsage, AgentError> {
        match (self.view().paused, self.meter.last()) {
            (true, Some(last)) => Ok(last),
            _ => self.meter.ask().await,
        }
    }

    /// What its processes use on the host, the shim among them. Takes milliseconds.
    pub fn host_usage(&self) -> HostUsage {
        usage::processes(&self.view.borrow().processes)
    }

    /// What it is.
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// The figures of its log since its start, once there is one.
    pub fn log_figures(&self) -> Option<&logs::Counters> {
        self.log.get().map(Arc::as_ref)
    }
}

/// Waits until the processors stand still (or run, as `pause` says).
async fn frozen(mut view: watch::Receiver<View>, pause: bool) -> Result<(), FreezeError> {
    let done = view.wait_for(|view| view.paused == pause || view.ended.is_some());
    match timeout(FREEZE_LIMIT, done).await {
        Ok(Ok(view)) if view.ended.is_none() => Ok(()),
        Ok(_) => Err(FreezeError::Gone),
        Err(_) => Err(FreezeError::Silent(pause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running() -> (watch::Sender<View>, watch::Receiver<View>) {
        watch::channel(View::new(MachineSize {
            vcpus: 1,
            memory_mib: 512,
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_does_not_freeze_keeps_nobody_waiting() {
        let (_machine, view) = running();
        let error = frozen(view, true).await.unwrap_err();
        assert_eq!(error.to_string(), "the machine has not paused within 15 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_freeze_is_over_when_the_machine_says_so_or_has_ended() {
        let (machine, view) = running();
        let (freezes, runs_on) = (frozen(view.clone(), true), frozen(view.clone(), false));
        // It runs already.
        assert_eq!(runs_on.await, Ok(()));
        let says = async { machine.send_modify(|view| view.paused = true) };
        assert_eq!(tokio::join!(freezes, says).0, Ok(()));
        let ends = async { machine.send_modify(|view| view.ended = Some(Ended::never_started())) };
        let never = frozen(view, false);
        assert_eq!(tokio::join!(never, ends).0, Err(FreezeError::Gone));
    }
}
