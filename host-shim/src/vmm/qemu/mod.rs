//! QEMU: `q35`, KVM where it works and TCG where not, with its daemons.
//!
//! Start: swtpm, virtiofsd and vhost-device-vsock at once, each waited for; then QEMU, then its monitor.
//! One task owns all children from then on. End: QEMU first, then the daemons; virtiofsd and swtpm end by
//! themselves when QEMU is gone, vhost-device-vsock has to be told.

pub mod args;
pub mod grow;
pub mod qmp;

use std::{fs, os::fd::AsFd, path::PathBuf, time::Duration};

use async_trait::async_trait;
use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{
    Control, Machine, ProcessInfo, VmEnd, VmEvent, Vmm, VmmError, console,
    helpers::{self, Cache},
    process::{Ended, Launch, Supervised, wait_socket},
    programs::Found,
};
use crate::{
    config::{Limits, Programs},
    spec::VmSpec,
    sys,
    tpm::{self, StateDir},
};
use qmp::{Qmp, QmpEvent};

const QEMU: &str = "qemu";
const SWTPM: &str = "swtpm";
const VIRTIOFSD: &str = "virtiofsd";
const VSOCK: &str = "vhost-device-vsock";
/// The second virtiofsd, for what is shared beside the root.
const SHARE: &str = "virtiofsd-share";

/// How long the daemons may take to end by themselves after QEMU, before they are killed.
const DAEMON_GRACE: Duration = Duration::from_secs(2);

/// How much later than its daemons QEMU is seen to end, when it was QEMU that ended.
const QEMU_OWN_END: Duration = Duration::from_millis(500);

/// How long QEMU may take to end after SIGTERM, when a daemon of it has died.
const QEMU_GRACE: Duration = Duration::from_secs(3);

/// How long after a write that did not fit on the host the machine is let run, and tries again.
const NO_ROOM: Duration = Duration::from_secs(1);

/// How often that is told.
const TELL: Duration = Duration::from_secs(60);

/// The QEMU back end.
#[derive(Debug)]
pub struct Qemu {
    programs: Programs,
    limits: Limits,
}

impl Qemu {
    /// With these programs and limits.
    pub fn new(programs: Programs, limits: Limits) -> Self {
        Self { programs, limits }
    }
}

#[async_trait]
impl Vmm for Qemu {
    fn check(&self) -> Result<(), VmmError> {
        Found::look(&self.programs)?;
        Ok(())
    }

    async fn launch(&self, spec: &VmSpec, tpm: &StateDir) -> Result<Machine, VmmError> {
        let found = Found::look(&self.programs)?;
        let (ends, mut ended) = mpsc::unbounded_channel();
        let daemons = start_daemons(spec, tpm, &found, &ends)?;
        // Until the supervisor has them, an error drops the children, which kills them.
        let mut sockets = vec![
            (SWTPM, spec.paths.tpm_socket()),
            (VIRTIOFSD, spec.paths.virtiofs_socket()),
            (VSOCK, spec.paths.vhost_socket()),
        ];
        if !spec.shared.is_empty() {
            sockets.push((SHARE, spec.paths.share_socket()));
        }
        let ours = |name: &str| daemons.iter().any(|daemon| daemon.info().name == name);
        for (name, socket) in sockets.iter().filter(|(name, _)| ours(name)) {
            let log = spec.paths.helper_log(name);
            wait_socket(name, socket, &log, self.limits.daemon(), &mut ended).await?;
        }
        let (qemu, stdout) = Supervised::spawn(
            Launch {
                name: QEMU,
                program: &found.qemu,
                args: args::args(spec, tpm.machine_id()),
                log: spec.paths.helper_log(QEMU),
                pipe_stdout: true,
                inherited: spec.nics.iter().map(|nic| nic.tap.as_fd()).collect(),
            },
            &ends,
        )?;
        let (spoke, heard) = oneshot::channel();
        if let Some(stdout) = stdout {
            tokio::spawn(console::copy(stdout, spec.paths.console_log(), spoke));
        }
        let socket = spec.paths.qmp_socket();
        let log = spec.paths.helper_log(QEMU);
        wait_socket(QEMU, &socket, &log, self.limits.daemon(), &mut ended).await?;
        let (qmp, qmp_events) = match Qmp::connect(&socket).await {
            Ok(connected) => connected,
            // It listens before it opens its disks, and ends when it cannot.
            Err(error) => return Err(own_end(&mut ended).await.unwrap_or(error.into())),
        };

        let mut processes = vec![qemu.info().clone()];
        processes.extend(daemons.iter().map(|d| d.info().clone()));
        record_pids(spec, &processes)?;
        let (control, controls) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        let supervisor = Supervisor {
            qemu,
            daemons,
            qmp,
            ended,
            events,
            cause: None,
            console: spec.paths.console_log(),
            again: None,
            told: None,
        };
        tokio::spawn(supervisor.run(controls, qmp_events, heard));
        Ok(Machine {
            processes,
            control,
            events: receiver,
        })
    }
}

/// The end of QEMU as the cause of a monitor that is gone.
async fn own_end(ended: &mut mpsc::UnboundedReceiver<Ended>) -> Option<VmmError> {
    let until = Instant::now() + QEMU_OWN_END;
    while let Ok(Some(Ended { name, how, .. })) = timeout_at(until, ended.recv()).await {
        if name == QEMU {
            let said = String::new();
            return Some(VmmError::Died { name, how, said });
        }
    }
    None
}

fn start_daemons(
    spec: &VmSpec,
    tpm: &StateDir,
    found: &Found,
    ends: &mpsc::UnboundedSender<Ended>,
) -> Result<Vec<Supervised>, VmmError> {
    let paths = &spec.paths;
    let mut launches = vec![
        (
            SWTPM,
            &found.swtpm,
            tpm::args(tpm.path(), &paths.tpm_socket()),
        ),
        (
            VIRTIOFSD,
            &found.virtiofsd,
            helpers::virtiofsd(&paths.virtiofs_socket(), &spec.rootfs, Cache::Always),
        ),
        (
            VSOCK,
            &found.vhost_device_vsock,
            helpers::vsock(&paths.vhost_socket(), &paths.vsock_socket()),
        ),
    ];
    if !spec.shared.is_empty() {
        let args = helpers::virtiofsd(&paths.share_socket(), &paths.share_dir(), Cache::Auto);
        launches.push((SHARE, &found.virtiofsd, args));
    }
    let mut daemons = Vec::new();
    // A swtpm that somebody else runs is not ours to start.
    let wanted = |name| name != SWTPM || spec.tpm_socket.is_none();
    for (name, program, args) in launches.into_iter().filter(|(name, ..)| wanted(*name)) {
        let log = paths.helper_log(name);
        let launch = Launch {
            name,
            program,
            args,
            log,
            pipe_stdout: false,
            inherited: Vec::new(),
        };
        daemons.push(Supervised::spawn(launch, ends)?.0);
    }
    Ok(daemons)
}

/// Writes down who runs, for a clean-up after a crash of the shim.
fn record_pids(spec: &VmSpec, processes: &[ProcessInfo]) -> Result<(), VmmError> {
    let entry =
        |name: &str, pid: u32| json!({"name": name, "pid": pid, "start": sys::start_time(pid)});
    let mut all = vec![entry("shim", std::process::id())];
    all.extend(processes.iter().map(|p| entry(p.name, p.pid)));
    let path = spec.paths.pids();
    fs::write(&path, json!(all).to_string()).map_err(|source| VmmError::File { path, source })
}

/// Owns every child of one machine.
struct Supervisor {
    qemu: Supervised,
    daemons: Vec<Supervised>,
    qmp: Qmp,
    ended: mpsc::UnboundedReceiver<Ended>,
    events: mpsc::UnboundedSender<VmEvent>,
    /// What QEMU said of its own end, or what we did to it.
    cause: Option<VmEnd>,
    console: PathBuf,
    /// When a machine that stopped for lack of room on the host is let run again.
    again: Option<Instant>,
    /// When that was last told.
    told: Option<Instant>,
}

impl Supervisor {
    async fn run(
        mut self,
        mut controls: mpsc::UnboundedReceiver<Control>,
        mut qmp_events: mpsc::UnboundedReceiver<QmpEvent>,
        mut heard: oneshot::Receiver<()>,
    ) {
        let mut spoken = false;
        let first = loop {
            let again = self.again.unwrap_or_else(Instant::now);
            tokio::select! {
                () = sleep_until(again), if self.again.is_some() => self.control(Control::Resume).await,
                control = controls.recv() => self.control(control.unwrap_or(Control::Kill)).await,
                Some(event) = qmp_events.recv() => self.monitor(event),
                heard = &mut heard, if !spoken => {
                    spoken = true;
                    if heard.is_ok() {
                        let _ = self.events.send(VmEvent::ConsoleSpoke);
                    }
                }
                ended = self.ended.recv() => break ended,
            }
        };
        // `ended` cannot be closed: each child's task holds a sender until it has sent.
        let Some(mut first) = first else { return };
        if first.name != QEMU {
            let own = self.stop_qemu().await;
            // A daemon that ended well had lost its client: it was QEMU, which was noticed later.
            if let Some(own) = own.filter(|_| first.success) {
                first = own;
            }
        }
        // What it said last is still on its way: the channel ends with the socket.
        while let Some(event) = qmp_events.recv().await {
            self.monitor(event);
        }
        let end = match self.verdict(first) {
            // With panic=-1 a guest without a pvpanic driver just resets.
            VmEnd::Reboot if console::panicked(&self.console) => VmEnd::Panic,
            end => end,
        };
        self.stop_daemons().await;
        let _ = self.events.send(VmEvent::Ended(end));
    }

    async fn control(&mut self, control: Control) {
        let what = control.name();
        // Whoever orders a pause means it.
        if matches!(control, Control::Pause | Control::Resume) {
            self.again = None;
        }
        let sent = match control {
            Control::PowerButton => self.qmp.send("system_powerdown").await,
            Control::Pause => self.qmp.send("stop").await,
            Control::Resume => self.qmp.send("cont").await,
            Control::Grow(size, answer) => {
                // It takes several questions and answers: nobody else waits for them.
                let qmp = self.qmp.clone();
                tokio::spawn(async move {
                    let grown = grow::grow(&qmp, size.vcpus, size.memory_mib).await;
                    let _ = answer.send(grown.map_err(VmmError::from));
                });
                return;
            }
            Control::Kill => {
                self.cause.get_or_insert(VmEnd::Killed);
                self.qemu.signal(Signal::KILL);
                Ok(())
            }
        };
        if let Err(error) = sent {
            tracing::warn!(what, %error, "QEMU was not told");
        }
    }

    fn monitor(&mut self, event: QmpEvent) {
        match event {
            // A machine that ends is stopped first; that is no pause.
            QmpEvent::Stopped if self.cause.is_some() => {}
            QmpEvent::Stopped => drop(self.events.send(VmEvent::Paused)),
            QmpEvent::Resumed => drop(self.events.send(VmEvent::Resumed)),
            QmpEvent::NoRoom => {
                self.again = Some(Instant::now() + NO_ROOM);
                if self.told.is_none_or(|told| told.elapsed() >= TELL) {
                    self.told = Some(Instant::now());
                    tracing::warn!(
                        "the host's disk is full: the guest stands still until there is room"
                    );
                }
            }
            QmpEvent::Panicked => drop(self.cause.get_or_insert(VmEnd::Panic)),
            QmpEvent::Shutdown { reason } => {
                let cause = match reason.as_str() {
                    "guest-shutdown" => VmEnd::Poweroff,
                    "guest-reset" => VmEnd::Reboot,
                    "guest-panic" => VmEnd::Panic,
                    other => VmEnd::Died {
                        name: QEMU,
                        how: other.to_owned(),
                    },
                };
                self.cause.get_or_insert(cause);
            }
        }
    }

    fn verdict(&mut self, first: Ended) -> VmEnd {
        let Ended { name, how, success } = first;
        match self.cause.take() {
            // virtiofsd and swtpm see QEMU's end through their sockets, and may be faster than it.
            Some(cause @ (VmEnd::Poweroff | VmEnd::Reboot | VmEnd::Panic | VmEnd::Killed)) => cause,
            Some(cause) if name == QEMU && success => cause,
            _ => VmEnd::Died { name, how },
        }
    }

    /// Waits for QEMU, which may be ending by itself, and ends it if not. Its end where it was its own.
    async fn stop_qemu(&mut self) -> Option<Ended> {
        let own = self.wait_for(QEMU, Instant::now() + QEMU_OWN_END).await;
        if own.is_none() {
            for signal in [Signal::TERM, Signal::KILL] {
                self.qemu.signal(signal);
                let ended = self.wait_for(QEMU, Instant::now() + QEMU_GRACE).await;
                if ended.is_some() {
                    break;
                }
            }
        }
        own
    }

    async fn wait_for(&mut self, name: &str, until: Instant) -> Option<Ended> {
        while let Ok(Some(ended)) = timeout_at(until, self.ended.recv()).await {
            self.daemons.retain(|d| d.info().name != ended.name);
            if ended.name == name {
                return Some(ended);
            }
        }
        None
    }

    async fn stop_daemons(&mut self) {
        for daemon in self.daemons.iter().filter(|d| d.info().name == VSOCK) {
            daemon.signal(Signal::TERM);
        }
        let until = Instant::now() + DAEMON_GRACE;
        // The first that ended, if it was a daemon, is still in the list: its pidfd tells.
        self.daemons
            .retain(|d| sys::start_time(d.info().pid).is_some());
        while !self.daemons.is_empty() {
            match timeout_at(until, self.ended.recv()).await {
                Ok(Some(ended)) => self.daemons.retain(|d| d.info().name != ended.name),
                Ok(None) | Err(_) => break,
            }
        }
        for daemon in &self.daemons {
            tracing::warn!(process = daemon.info().name, "daemon had to be killed");
            daemon.signal(Signal::KILL);
        }
        let until = Instant::now() + DAEMON_GRACE;
        while !self.daemons.is_empty() && Instant::now() < until {
            self.daemons
                .retain(|d| sys::start_time(d.info().pid).is_some());
            sleep(Duration::from_millis(5)).await;
        }
    }
}
