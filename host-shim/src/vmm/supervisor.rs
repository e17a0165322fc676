//! The one task that owns every child of a machine, whichever VMM it is. It passes orders on, listens to what the
//! VMM says of itself, and when the first of them ends it ends the rest: the VMM first, then its daemons.
//!
//! Orders go through a queue of their own, so that one that is answered late keeps neither the end nor a kill.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Control, Machine, MachineSize, VmEnd, VmEvent, VmmError, VmmKind, console,
    daemons::Daemons,
    process::{Ended, GOING, Supervised, end_of},
};
use crate::{cgroup::Group, oom, spec::VmSpec};

/// How long a VMM may take to end after SIGTERM, when a daemon of it has died.
const GRACE: Duration = Duration::from_secs(3);

/// How long after a write that did not fit on the host the machine is let run, and tries again.
const NO_ROOM: Duration = Duration::from_secs(1);

/// How often that is told.
const TELL: Duration = Duration::from_secs(60);

/// What a VMM is told over its monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    PowerButton,
    Pause,
    Resume,
}

/// What a VMM says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// The processors stopped.
    Paused,
    /// They run on.
    Resumed,
    /// A write of the guest did not fit on the host: the machine stands still until it is let run.
    NoRoom,
    /// The machine ends, and the VMM with it.
    End(VmEnd),
    /// The machine has ended, and the VMM stays: it is of no more use.
    Over(VmEnd),
}

/// A connection to a VMM.
#[async_trait]
pub(super) trait Monitor: Send + Sync + 'static {
    /// Gives an order. What comes of it is heard.
    async fn order(&self, order: Order) -> Result<(), VmmError>;

    /// Adds what lacks to this size.
    async fn grow(&self, size: MachineSize) -> Result<(), VmmError>;
}

/// What a machine consists of once its VMM runs.
pub(super) struct Running {
    pub(super) kind: VmmKind,
    pub(super) vmm: Supervised,
    pub(super) daemons: Daemons,
    pub(super) ended: mpsc::UnboundedReceiver<Ended>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) heard: mpsc::UnboundedReceiver<Heard>,
    /// Where all of them run.
    pub(super) group: Option<Arc<Group>>,
    /// The console's first bytes.
    pub(super) spoke: oneshot::Receiver<()>,
}

/// Writes down who runs, and gives them to a task of their own.
pub(super) fn supervise(running: Running, spec: &VmSpec) -> Result<Machine, VmmError> {
    let Running {
        kind,
        vmm,
        daemons,
        ended,
        monitor,
        heard,
        group,
        spoke,
    } = running;
    let processes = daemons.record(&vmm, spec)?;
    if let Some(adj) = spec.oom_score_adj
        && let Err(error) = oom::set(vmm.info().pid, adj)
    {
        tracing::warn!(adj, %error, "VMM has not the out-of-memory score of its container");
    }
    let (control, controls) = mpsc::unbounded_channel();
    let (events, receiver) = mpsc::unbounded_channel();
    let supervisor = Supervisor {
        name: kind.as_str(),
        vmm,
        daemons,
        orders: queue(Arc::clone(&monitor), kind),
        monitor,
        ended,
        events,
        cause: None,
        group,
        console: spec.paths.console_log(),
        room: Room::default(),
    };
    tokio::spawn(supervisor.run(controls, heard, spoke));
    Ok(Machine {
        processes,
        control,
        events: receiver,
    })
}

/// Gives orders to the VMM, one after another.
fn queue(monitor: Arc<dyn Monitor>, vmm: VmmKind) -> mpsc::UnboundedSender<Order> {
    let (orders, mut given) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(order) = given.recv().await {
            if let Err(error) = monitor.order(order).await {
                tracing::warn!(?order, %vmm, %error, "VMM did not take an order");
            }
        }
    });
    orders
}

/// The end of this VMM as the cause of a monitor that does not answer: it listens before it opens its disks, and
/// ends when it cannot.
pub(super) async fn own_end(
    kind: VmmKind,
    ended: &mut mpsc::UnboundedReceiver<Ended>,
) -> Option<VmmError> {
    let Ended { name, how, .. } = end_of(kind.as_str(), GOING, ended).await?;
    let said = String::new();
    Some(VmmError::Died { name, how, said })
}

/// Owns every child of one machine.
struct Supervisor {
    name: &'static str,
    vmm: Supervised,
    daemons: Daemons,
    monitor: Arc<dyn Monitor>,
    orders: mpsc::UnboundedSender<Order>,
    ended: mpsc::UnboundedReceiver<Ended>,
    events: mpsc::UnboundedSender<VmEvent>,
    /// What the VMM said of its own end, or what we did to it.
    cause: Option<VmEnd>,
    console: PathBuf,
    /// Where all of them run. Let go of before the end is told: who starts the machine again makes it again.
    group: Option<Arc<Group>>,
    room: Room,
}

/// A machine that stops for lack of room on the host, and is let run again.
#[derive(Debug, Default)]
struct Room {
    /// When it is.
    again: Option<Instant>,
    /// Somebody has ordered it to stand still: it is not let run for this.
    held: bool,
    /// When the lack was last told.
    told: Option<Instant>,
}

impl Room {
    /// Whoever orders a pause, or its end, means it.
    fn ordered(&mut self, pause: bool) {
        (self.again, self.held) = (None, pause);
    }

    /// A write did not fit. Whether that is to be told.
    fn lacks(&mut self, now: Instant) -> bool {
        // The write may have been under way when the pause was ordered.
        if !self.held {
            self.again = Some(now + NO_ROOM);
        }
        let tell = self.told.is_none_or(|told| now - told >= TELL);
        if tell {
            self.told = Some(now);
        }
        tell
    }
}

impl Supervisor {
    async fn run(
        mut self,
        mut controls: mpsc::UnboundedReceiver<Control>,
        mut heard: mpsc::UnboundedReceiver<Heard>,
        mut spoke: oneshot::Receiver<()>,
    ) {
        let (mut spoken, mut ordered) = (false, true);
        let first = loop {
            let again = self.room.again;
            tokio::select! {
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => self.control(Control::Resume),
                control = controls.recv(), if ordered => {
                    // Nobody is left to order anything: that is the last order.
                    ordered = control.is_some();
                    self.control(control.unwrap_or(Control::Kill));
                }
                Some(heard) = heard.recv() => self.hear(heard),
                spoke = &mut spoke, if !spoken => {
                    spoken = true;
                    if spoke.is_ok() {
                        let _ = self.events.send(VmEvent::ConsoleSpoke);
                    }
                }
                ended = self.ended.recv() => break ended,
            }
        };
        // `ended` cannot be closed: each child's task holds a sender until it has sent.
        let Some(mut first) = first else { return };
        if first.name != self.name {
            while let Ok(heard) = heard.try_recv() {
                self.hear(heard);
            }
            let own = self.stop_vmm(&first).await;
            // A daemon that ended well had lost its client: it was the VMM, which was noticed later.
            if let Some(own) = own.filter(|_| first.success) {
                first = own;
            }
        }
        // What it said last is still on its way: the channel ends with the connection.
        while let Some(heard) = heard.recv().await {
            self.hear(heard);
        }
        let starved = self.group.take().is_some_and(|group| group.has_killed());
        let end = match self.verdict(first) {
            VmEnd::Died { name, how } if starved => {
                let _ = self.events.send(VmEvent::KilledForMemory);
                let how =
                    format!("{how}: the host, or the pod's control group, had no more memory");
                VmEnd::Died { name, how }
            }
            // With panic=-1 a guest without a pvpanic driver just resets.
            VmEnd::Reboot if console::panicked(&self.console) => VmEnd::Panic,
            end => end,
        };
        self.daemons.stop(&mut self.ended).await;
        let _ = self.events.send(VmEvent::Ended(end));
    }

    fn control(&mut self, control: Control) {
        if matches!(control, Control::Pause | Control::Resume) {
            self.room.ordered(matches!(control, Control::Pause));
        }
        let order = match control {
            Control::PowerButton => Order::PowerButton,
            Control::Pause => Order::Pause,
            Control::Resume => Order::Resume,
            Control::Grow(size, answer) => {
                // It takes several questions and answers: nobody else waits for them.
                let monitor = Arc::clone(&self.monitor);
                tokio::spawn(async move {
                    let _ = answer.send(monitor.grow(size).await);
                });
                return;
            }
            Control::Kill => {
                self.cause.get_or_insert(VmEnd::Killed);
                self.vmm.signal(Signal::KILL);
                return;
            }
        };
        let _ = self.orders.send(order);
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            // A machine that ends is stopped first; that is no pause.
            Heard::Paused if self.cause.is_some() => {}
            Heard::Paused => drop(self.events.send(VmEvent::Paused)),
            Heard::Resumed => drop(self.events.send(VmEvent::Resumed)),
            Heard::NoRoom => {
                if self.room.lacks(Instant::now()) {
                    tracing::warn!(
                        "the host's disk is full: the guest stands still until there is room"
                    );
                }
            }
            Heard::End(end) => drop(self.cause.get_or_insert(end)),
            Heard::Over(end) => {
                self.cause.get_or_insert(end);
                self.vmm.signal(Signal::KILL);
            }
        }
    }

    fn verdict(&mut self, first: Ended) -> VmEnd {
        let Ended { name, how, success } = first;
        match self.cause.take() {
            // virtiofsd and swtpm see the VMM's end through their sockets, and may be faster than it.
            Some(cause @ (VmEnd::Poweroff | VmEnd::Reboot | VmEnd::Panic | VmEnd::Killed)) => cause,
            Some(cause) if name == self.name && success => cause,
            _ => VmEnd::Died { name, how },
        }
    }

    /// Waits for the VMM, which may be ending by itself, and ends it if not, for `first` has ended. Its end where it
    /// was its own.
    async fn stop_vmm(&mut self, first: &Ended) -> Option<Ended> {
        let until = Instant::now() + first.vmm_follows_within();
        let own = self.wait_for_vmm(until).await;
        if own.is_none() {
            // What it says from here on is our doing.
            let Ended { name, how, .. } = first.clone();
            self.cause.get_or_insert(VmEnd::Died { name, how });
            for signal in [Signal::TERM, Signal::KILL] {
                self.vmm.signal(signal);
                let ended = self.wait_for_vmm(Instant::now() + GRACE).await;
                if ended.is_some() {
                    break;
                }
            }
        }
        own
    }

    async fn wait_for_vmm(&mut self, until: Instant) -> Option<Ended> {
        while let Ok(Some(ended)) = timeout_at(until, self.ended.recv()).await {
            self.daemons.forget(ended.name);
            if ended.name == self.name {
                return Some(ended);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_lacks_room_is_let_run_again_unless_it_was_paused() {
        let now = Instant::now();
        let mut room = Room::default();
        assert!(room.lacks(now), "it is told");
        assert_eq!(room.again, Some(now + NO_ROOM));
        assert!(!room.lacks(now + NO_ROOM), "and not again at once");
        assert!(room.lacks(now + TELL));
        room.ordered(true);
        assert_eq!(room.again, None);
        // Of a write that was under way.
        room.lacks(now + TELL);
        assert_eq!(room.again, None, "a pause is a pause");
        room.ordered(false);
        assert_eq!(room.again, None);
        room.lacks(now + TELL);
        assert_eq!(room.again, Some(now + TELL + NO_ROOM));
    }
}
