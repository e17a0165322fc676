//! The one task that owns a VM. It feeds [`StateMachine`] with events and does what it says; everybody
//! else sends it requests through a [`Sandbox`](super::Sandbox) and reads the [`View`].
//!
//! Long work (launch, orders, drain) runs in tasks of its own that report back by an event, so that a kill is
//! never behind it.

mod work;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use seed_protocol::seed::v1::{Beacon, GuestStatus, Stage};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use self::work::remove_dir;
use super::{
    exit_record::ExitRecord,
    failure,
    handle::{LogFigures, Observer, Parts, StartError},
    last_word,
    stages::Stages,
    state::{Action, Event, Exit, Kill, Machine as StateMachine, Phase, Timer},
    view::{Ended, View},
};
use crate::{
    agent::{self, Agent, BeaconListener},
    config::Limits,
    logs,
    net::Wires,
    rootfs::Rootfs,
    share::Share,
    spec::VmSpec,
    text::chain,
    tpm::StateDir,
    vmm::{self, Control, MachineSize, VmEvent, Vmm, VmmError},
};

/// What the driver is told.
pub(super) enum Input {
    Start(oneshot::Sender<Result<u32, StartError>>),
    Kill(Kill),
    Control(Control),
    Grown(MachineSize),
    Launched(Result<vmm::Machine, VmmError>),
    LaunchGivenUp,
    Vm(VmEvent),
    Beacon(Beacon),
    Provisioned(Result<(), agent::AgentError>),
    Guest(Box<GuestStatus>),
    Unheard,
    /// The guest's kernel has killed a process for lack of memory.
    KilledForMemory,
    CleanedUp,
}

pub(super) struct Driver {
    state: StateMachine,
    stages: Stages,
    spec: Arc<VmSpec>,
    vmm: Arc<dyn Vmm>,
    tpm: Option<Arc<StateDir>>,
    rootfs: Option<Rootfs>,
    share: Option<Share>,
    wires: Option<Wires>,
    bundle: PathBuf,
    stdout: Option<logs::fifo::Output>,
    limits: Limits,
    log_limits: logs::store::Limits,
    observer: Arc<dyn Observer>,
    agent: Agent,
    /// Weak, so that the driver ends when nobody can reach it any more.
    inputs: mpsc::WeakUnboundedSender<Input>,
    view: watch::Sender<View>,
    control: Option<mpsc::UnboundedSender<Control>>,
    /// The launch, which is given up when this is dropped.
    launching: Option<oneshot::Sender<Infallible>>,
    beacons: Option<BeaconListener>,
    followers: Vec<JoinHandle<()>>,
    puller: Option<logs::Handle>,
    log: LogFigures,
    /// False when the VM has ended.
    alive: watch::Sender<bool>,
    timer: Option<(Timer, Instant)>,
    reply: Option<oneshot::Sender<Result<u32, StartError>>>,
    /// The end will be an event, because the start was one.
    announced: bool,
}

impl Driver {
    /// Starts the task.
    pub(super) fn spawn(
        parts: Parts,
        agent: Agent,
        inputs: mpsc::WeakUnboundedSender<Input>,
        received: mpsc::UnboundedReceiver<Input>,
        view: watch::Sender<View>,
        log: LogFigures,
    ) {
        let (alive, _) = watch::channel(true);
        let driver = Self {
            state: StateMachine::default(),
            stages: Stages::new(parts.created),
            spec: parts.spec,
            vmm: parts.vmm,
            tpm: Some(Arc::new(parts.tpm)),
            rootfs: Some(parts.rootfs),
            share: parts.share,
            wires: parts.wires,
            bundle: parts.bundle,
            stdout: parts.stdout,
            limits: parts.limits,
            log_limits: parts.log_limits,
            observer: parts.observer,
            agent,
            inputs,
            view,
            control: None,
            launching: None,
            beacons: None,
            followers: Vec::new(),
            puller: None,
            log,
            alive,
            timer: None,
            reply: None,
            announced: false,
        };
        tokio::spawn(driver.run(received));
    }

    async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        loop {
            let timer = self.timer;
            let over = async {
                match timer {
                    Some((_, at)) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has come counts, also where the time for it is just over.
                biased;
                input = inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => break,
                },
                () = over => {
                    if let Some((timer, _)) = self.timer.take() {
                        let what = self.overdue(timer);
                        self.feed(Event::Deadline(timer, what));
                    }
                }
            }
        }
        // Nobody is left to ask for anything: the handles are gone, so the VM goes too.
        if let Some(control) = &self.control {
            let _ = control.send(Control::Kill);
        }
    }

    /// Why it is not started now.
    fn refusal(&self) -> String {
        let id = &self.spec.id;
        match self.state.phase() {
            Phase::Ending | Phase::Cleaning | Phase::Stopped => {
                format!(
                    "instance {id} has ended and is not started again: delete it and create it anew"
                )
            }
            _ => format!("instance {id} was started already"),
        }
    }

    fn overdue(&self, timer: Timer) -> String {
        match timer {
            Timer::Hello => {
                format!(
                    "the guest never said hello within {} s",
                    self.limits.hello_seconds
                )
            }
            Timer::Poweroff => {
                format!(
                    "the guest did not power off within {} s",
                    self.limits.poweroff_seconds
                )
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Start(reply) => {
                if self.state.phase() == Phase::Created {
                    self.reply = Some(reply);
                    self.feed(Event::Start);
                } else {
                    let _ = reply.send(Err(StartError::Failed(self.refusal())));
                }
            }
            Input::Kill(kill) => self.feed(Event::Kill(kill)),
            Input::Control(control) => self.tell(control),
            Input::Grown(size) => self.publish(|view| view.size = size),
            Input::Launched(Ok(machine)) => self.launched(machine),
            Input::Launched(Err(error)) => {
                self.feed(Event::LaunchFailed(chain(&error)));
            }
            Input::LaunchGivenUp => self.feed(Event::LaunchFailed("given up".to_owned())),
            Input::Vm(event) => self.vm(event),
            Input::Beacon(beacon) => self.beacon(&beacon),
            Input::Provisioned(Ok(())) => self.feed(Event::Provisioned),
            Input::Provisioned(Err(error)) => {
                self.feed(Event::GuestFailed(format!(
                    "the guest could not be provisioned: {}",
                    chain(&error)
                )));
            }
            Input::Guest(status) => {
                self.stages.guest(&status);
                self.publish(|view| view.guest = Some(*status));
            }
            Input::Unheard => self.tell(Control::PowerButton),
            Input::KilledForMemory => self.killed_for_memory("guest"),
            Input::CleanedUp => self.feed(Event::CleanedUp),
        }
    }

    /// `whose` kernel it was.
    fn killed_for_memory(&self, whose: &str) {
        tracing::warn!(sandbox_id = %self.spec.id, kernel = whose, "a process was killed for lack of memory");
        if self.announced {
            self.observer.killed_for_memory();
        }
    }

    fn vm(&mut self, event: VmEvent) {
        match event {
            VmEvent::KilledForMemory => self.killed_for_memory("host"),
            VmEvent::ConsoleSpoke => {
                self.stages.reach(Stage::STAGE_KERNEL);
                self.publish(|_| {});
            }
            VmEvent::Paused => self.publish(|view| view.paused = true),
            VmEvent::Resumed => {
                self.publish(|view| view.paused = false);
                self.stir();
            }
            VmEvent::Ended(end) => {
                self.control = None;
                self.alive.send_replace(false);
                self.feed(Event::VmEnded(end));
            }
        }
    }

    fn launched(&mut self, machine: vmm::Machine) {
        let vmm::Machine {
            processes,
            control,
            mut events,
        } = machine;
        self.control = Some(control);
        self.stages.reach(Stage::STAGE_VMM_STARTED);
        let pid = processes.first().map_or(0, |process| process.pid);
        self.publish(|view| (view.pid, view.processes) = (pid, processes));
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Some(inputs) = inputs.upgrade() else {
                    break;
                };
                let _ = inputs.send(Input::Vm(event));
            }
        });
        self.feed(Event::Launched);
    }

    fn beacon(&mut self, beacon: &Beacon) {
        if !beacon.error.is_empty() {
            let text = vmm::console::plain(&beacon.error);
            tracing::warn!(sandbox_id = %self.spec.id, error = text, "guest reports a failure");
            self.feed(Event::GuestFailed(format!(
                "the guest's agent failed: {text}"
            )));
        } else if beacon.stage.enum_value() == Ok(Stage::STAGE_HELLO)
            && self.state.phase() == Phase::Booting
        {
            self.stages.hello(Duration::from_micros(beacon.boottime_us));
            let boot_id = beacon
                .boot_id
                .chars()
                .filter(char::is_ascii_hexdigit)
                .take(32)
                .collect();
            self.publish(|view| view.boot_id = boot_id);
            self.follow();
            self.feed(Event::Hello);
        }
    }

    fn feed(&mut self, event: Event) {
        tracing::debug!(sandbox_id = %self.spec.id, ?event, "event");
        let before = self.state.phase();
        let actions = self.state.on(event);
        let phase = self.state.phase();
        if phase != before && phase != Phase::Stopped {
            tracing::info!(sandbox_id = %self.spec.id, ?phase, "phase");
            self.publish(|view| view.phase = phase);
        }
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Launch => self.launch(),
            Action::GiveUpLaunch => self.launching = None,
            Action::Arm(timer) => {
                let limit = match timer {
                    Timer::Hello => self.limits.hello(),
                    Timer::Poweroff => self.limits.poweroff(),
                };
                self.timer = Some((timer, Instant::now() + limit));
            }
            Action::Disarm => self.timer = None,
            Action::Provision => self.provision(),
            Action::Started => {
                let pid = self.view.borrow().pid;
                self.announced = true;
                self.observer.started(pid);
                self.answer(Ok(pid));
            }
            Action::StartFailed(reason) => self.answer(Err(StartError::Failed(reason))),
            Action::AskPoweroff => self.ask_poweroff(),
            Action::PowerButton => self.tell(Control::PowerButton),
            Action::DrainAndKill => self.drain_and_kill(),
            Action::KillVm => self.tell(Control::Kill),
            Action::CleanUp => self.clean_up(),
            Action::Exited(exit) => self.exited(exit),
        }
    }

    fn exited(&mut self, exit: Exit) {
        let ended = Ended {
            exit,
            at: SystemTime::now(),
        };
        let pid = self.view.borrow().pid;
        tracing::info!(
            sandbox_id = %self.spec.id,
            status = ended.exit.status,
            reason = ended.exit.reason,
            "instance ended"
        );
        if ended.exit.status != 0
            && self.announced
            && let Err(error) = failure::keep_console(&self.spec.paths)
        {
            tracing::warn!(%error, "console log was not kept");
        }
        if let Err(error) = ExitRecord::new(pid, &ended).write(&self.bundle) {
            tracing::warn!(%error, "exit was not written down");
        }
        // Before kubelet hears of the end, and reads it.
        if let Err(error) = last_word::write(&self.spec.shared, &ended.exit) {
            tracing::warn!(%error, "reason was not written for kubelet");
        }
        self.rootfs = None;
        self.share = None;
        self.wires = None;
        self.tpm = None;
        self.stdout = None;
        remove_dir(&self.spec.paths.vm_dir());
        if self.announced {
            self.observer.ended(pid, &ended);
        }
        self.publish(|view| {
            view.phase = Phase::Stopped;
            view.processes.clear();
            view.ended = Some(ended);
        });
    }

    fn answer(&mut self, result: Result<u32, StartError>) {
        let stage = self.view.borrow().stage();
        let result = result.map_err(|error| match error {
            StartError::Failed(reason) => {
                StartError::Failed(failure::explain(&reason, stage, &self.spec.paths))
            }
            StartError::Gone => StartError::Gone,
        });
        if let Err(error) = &result {
            tracing::error!(sandbox_id = %self.spec.id, %error, "start failed");
        }
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    fn tell(&self, control: Control) {
        if let Some(sender) = &self.control {
            let _ = sender.send(control);
        }
    }

    fn publish(&self, change: impl FnOnce(&mut View)) {
        let stages = self.stages.list();
        let known = self.view.borrow().stages.clone();
        let is_new = |stage: Stage| known.iter().all(|(one, _)| *one != stage);
        for (stage, at) in stages.iter().filter(|(stage, _)| is_new(*stage)) {
            let since_create_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            let stage = failure::word(*stage);
            tracing::info!(sandbox_id = %self.spec.id, %stage, since_create_ms, "stage");
        }
        self.view.send_modify(|view| {
            view.revision += 1;
            view.stages = stages;
            change(view);
        });
    }
}
