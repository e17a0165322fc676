//! The life of one VM as a pure state machine: events in, actions out, no I/O, no clock.
//!
//! ```text
//!          Start            Launched          Hello              Provisioned
//! Created ------> Launching --------> Booting ------> Provisioning ---------> Running
//!    |                |                  |                 |                   |   |
//!    | Kill           | LaunchFailed     | Kill, a failure, a deadline         |   | Kill(Terminate)
//!    |                |                  v                 |          Kill(Now)|   v
//!    |                |               Ending <-------------+-------------------+  PoweringOff
//!    |                |                  | VmEnded                                 |
//!    +----------------+--------------> Cleaning <-----------------------------------+ VmEnded
//!                                        | CleanedUp
//!                                        v
//!                                     Stopped
//! ```
//!
//! Failure paths: whatever ends a VM before it is `Running` is the answer of `Start`. A VM that ends by
//! itself goes from any living phase to `Cleaning`. The first reason wins: a VM that is killed because
//! its guest said nothing ended for that reason, not because it was killed. A `Kill` while the VM is being
//! launched has the launch given up; one that has just succeeded leaves a VM, which is ended. The driver owns all I/O
//! and every timer.

use crate::vmm::VmEnd;

/// Where in its life a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs yet.
    Created,
    /// Daemons and VMM are being started.
    Launching,
    /// The VMM runs, the guest has said nothing.
    Booting,
    /// The agent has said hello and gets its orders.
    Provisioning,
    /// The boot goes on, or is done.
    Running,
    /// The guest was asked to power off.
    PoweringOff,
    /// The VM has been killed and is not gone yet.
    Ending,
    /// The VM is gone, its remains are being removed.
    Cleaning,
    /// The end.
    Stopped,
}

/// How the VM ended, as containerd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// 0 after an orderly poweroff.
    pub status: u32,
    /// One sentence without a full stop.
    pub reason: String,
}

/// The exit status of a VM that never came up.
pub const START_FAILED: u32 = 1;

/// How hard to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// Ask the guest to power off.
    Terminate,
    /// End the VM.
    Now,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The agent's hello.
    Hello,
    /// The guest's end after it was asked to power off.
    Poweroff,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants it to run.
    Start,
    /// The VMM runs.
    Launched,
    /// There is no VM, and nothing of it is left.
    LaunchFailed(String),
    /// The agent listens.
    Hello,
    /// The guest says that it cannot go on, or refused its orders.
    GuestFailed(String),
    /// The agent has done what it was told, and let the boot go on.
    Provisioned,
    /// Somebody wants it to end.
    Kill(Kill),
    /// The armed timer is over; the text says what was waited for.
    Deadline(Timer, String),
    /// The VM is gone.
    VmEnded(VmEnd),
    /// Its remains are removed.
    CleanedUp,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start daemons and VMM.
    Launch,
    /// Start no more of them, and end those that run: [`Event::LaunchFailed`], if it was not over before.
    GiveUpLaunch,
    /// Arm this timer instead of any other.
    Arm(Timer),
    /// Forget the timer.
    Disarm,
    /// Give the agent its orders.
    Provision,
    /// Tell who called Start that it runs.
    Started,
    /// Tell who called Start that it failed.
    StartFailed(String),
    /// Ask the guest to power off.
    AskPoweroff,
    /// Press the power button, as the guest did not hear or did not end.
    PowerButton,
    /// Get what the guest still has to say, then end the VM.
    DrainAndKill,
    /// End the VM.
    KillVm,
    /// Remove what is left.
    CleanUp,
    /// It has ended, for good.
    Exited(Exit),
}

/// The state machine.
#[derive(Debug, Clone)]
pub struct Machine {
    phase: Phase,
    /// Start was called and is not answered.
    starting: bool,
    /// Why it will end or has ended: the first reason.
    exit: Option<Exit>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            phase: Phase::Created,
            starting: false,
            exit: None,
        }
    }
}

fn killed(reason: &str) -> Exit {
    Exit {
        status: VmEnd::Killed.exit_status(),
        reason: reason.to_owned(),
    }
}

fn failed(reason: String) -> Exit {
    Exit {
        status: START_FAILED,
        reason,
    }
}

impl Machine {
    /// The phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes one event. Events that mean nothing in this phase change nothing.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        use Phase::{
            Booting, Cleaning, Created, Ending, Launching, PoweringOff, Provisioning, Running,
            Stopped,
        };
        match (self.phase, event) {
            (Created, Event::Start) => {
                self.starting = true;
                self.go(Launching, vec![Action::Launch])
            }
            (_, Event::Start) => {
                vec![Action::StartFailed("it was started already".to_owned())]
            }

            (Launching, Event::Launched) if self.exit.is_some() => {
                self.go(Ending, vec![Action::KillVm])
            }
            (Launching, Event::Launched) => self.go(Booting, vec![Action::Arm(Timer::Hello)]),
            (Launching, Event::LaunchFailed(reason)) => {
                self.end(failed(reason), Cleaning, vec![Action::CleanUp])
            }

            (Booting, Event::Hello) => {
                self.go(Provisioning, vec![Action::Disarm, Action::Provision])
            }
            (Provisioning, Event::Provisioned) => {
                self.starting = false;
                self.go(Running, vec![Action::Started])
            }
            (Booting | Provisioning, Event::GuestFailed(reason)) => {
                let actions = vec![Action::Disarm, self.kill_unready()];
                self.end(failed(reason), Ending, actions)
            }
            (Booting, Event::Deadline(Timer::Hello, what)) => {
                self.end(failed(what), Ending, vec![Action::KillVm])
            }

            (Created, Event::Kill(_)) => self.end(
                killed("killed before it was started"),
                Cleaning,
                vec![Action::CleanUp],
            ),
            (Launching, Event::Kill(_)) => {
                let exit = killed("killed while it was started");
                self.end(exit, Launching, vec![Action::GiveUpLaunch])
            }
            (Booting | Provisioning, Event::Kill(_)) => {
                let exit = killed("killed before the guest was ready");
                let actions = vec![Action::Disarm, self.kill_unready()];
                self.end(exit, Ending, actions)
            }
            (Running, Event::Kill(Kill::Terminate)) => self.go(
                PoweringOff,
                vec![Action::Arm(Timer::Poweroff), Action::AskPoweroff],
            ),
            (Running | PoweringOff, Event::Kill(Kill::Now)) => self.end(
                killed("killed"),
                Ending,
                vec![Action::Disarm, Action::DrainAndKill],
            ),
            (PoweringOff, Event::Kill(Kill::Terminate)) => vec![Action::AskPoweroff],
            (PoweringOff, Event::Deadline(Timer::Poweroff, _)) => vec![Action::PowerButton],

            (Booting | Provisioning, Event::VmEnded(end)) => {
                let exit = failed(format!("the VM ended before the guest was ready: {end}"));
                self.end(exit, Cleaning, vec![Action::Disarm, Action::CleanUp])
            }
            (Running | PoweringOff | Ending, Event::VmEnded(end)) => {
                let exit = Exit {
                    status: end.exit_status(),
                    reason: end.to_string(),
                };
                self.end(exit, Cleaning, vec![Action::Disarm, Action::CleanUp])
            }
            (Cleaning, Event::CleanedUp) => self.stopped(),

            // Late or repeated: a second hello of an agent that was restarted, a deadline that was
            // overtaken, orders that were answered after the end.
            (
                Created | Launching | Booting | Provisioning | Running | PoweringOff | Ending
                | Cleaning | Stopped,
                Event::Launched
                | Event::LaunchFailed(_)
                | Event::Hello
                | Event::GuestFailed(_)
                | Event::Provisioned
                | Event::Kill(_)
                | Event::Deadline(..)
                | Event::VmEnded(_)
                | Event::CleanedUp,
            ) => Vec::new(),
        }
    }

    /// A journal that is read since the hello says more of why.
    fn kill_unready(&self) -> Action {
        match self.phase {
            Phase::Provisioning => Action::DrainAndKill,
            _ => Action::KillVm,
        }
    }

    fn go(&mut self, phase: Phase, actions: Vec<Action>) -> Vec<Action> {
        self.phase = phase;
        actions
    }

    fn end(&mut self, exit: Exit, phase: Phase, actions: Vec<Action>) -> Vec<Action> {
        self.exit.get_or_insert(exit);
        self.go(phase, actions)
    }

    fn stopped(&mut self) -> Vec<Action> {
        self.phase = Phase::Stopped;
        let exit = self.exit.clone().unwrap_or_else(|| killed("ended"));
        let mut actions = Vec::new();
        if std::mem::take(&mut self.starting) {
            actions.push(Action::StartFailed(exit.reason.clone()));
        }
        actions.push(Action::Exited(exit));
        actions
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(machine: &mut Machine, events: &[Event]) -> Vec<Action> {
        events
            .iter()
            .flat_map(|event| machine.on(event.clone()))
            .collect()
    }

    fn to_running() -> Machine {
        let mut machine = Machine::default();
        let events = [
            Event::Start,
            Event::Launched,
            Event::Hello,
            Event::Provisioned,
        ];
        let actions = run(&mut machine, &events);
        let wanted = [
            Action::Launch,
            Action::Arm(Timer::Hello),
            Action::Disarm,
            Action::Provision,
            Action::Started,
        ];
        assert_eq!(actions, wanted);
        machine
    }

    fn exit_of(actions: &[Action]) -> Option<&Exit> {
        actions.iter().find_map(|action| match action {
            Action::Exited(exit) => Some(exit),
            _ => None,
        })
    }

    #[test]
    fn a_poweroff_that_was_asked_for_is_a_success() {
        let mut machine = to_running();
        let actions = run(
            &mut machine,
            &[
                Event::Kill(Kill::Terminate),
                Event::VmEnded(VmEnd::Poweroff),
                Event::CleanedUp,
            ],
        );
        assert_eq!(exit_of(&actions).unwrap().status, 0);
        assert_eq!(machine.phase(), Phase::Stopped);
    }

    #[test]
    fn a_guest_that_says_nothing_is_the_reason_although_it_was_killed_for_it() {
        let mut machine = Machine::default();
        let deadline = Event::Deadline(Timer::Hello, "the guest never said hello".into());
        let ended = Event::VmEnded(VmEnd::Killed);
        let events = [
            Event::Start,
            Event::Launched,
            deadline,
            ended,
            Event::CleanedUp,
        ];
        let actions = run(&mut machine, &events);
        assert!(actions.contains(&Action::StartFailed("the guest never said hello".into())));
        assert_eq!(exit_of(&actions).unwrap().status, START_FAILED);
    }

    #[test]
    fn what_a_guest_that_cannot_go_on_still_has_to_say_is_read_since_its_hello() {
        let failed = || Event::GuestFailed("no volume".into());
        let mut machine = Machine::default();
        run(&mut machine, &[Event::Start, Event::Launched]);
        let mut later = machine.clone();
        assert_eq!(machine.on(failed()), [Action::Disarm, Action::KillVm]);
        later.on(Event::Hello);
        assert_eq!(later.on(failed()), [Action::Disarm, Action::DrainAndKill]);
    }

    #[test]
    fn a_kill_during_the_launch_gives_it_up_and_ends_a_vm_that_is_there_all_the_same() {
        let mut machine = Machine::default();
        let actions = run(&mut machine, &[Event::Start, Event::Kill(Kill::Now)]);
        assert_eq!(actions, [Action::Launch, Action::GiveUpLaunch]);
        let mut launched = machine.clone();
        assert_eq!(launched.on(Event::Launched), [Action::KillVm]);
        let given_up = Event::LaunchFailed("given up".into());
        assert_eq!(machine.on(given_up), [Action::CleanUp]);
        let ended = machine.on(Event::CleanedUp);
        let exit = exit_of(&ended).unwrap();
        assert_eq!(
            (exit.status, exit.reason.as_str()),
            (137, "killed while it was started")
        );
    }

    #[test]
    fn a_guest_that_does_not_power_off_is_told_once_more_and_left_to_the_caller() {
        let mut machine = to_running();
        machine.on(Event::Kill(Kill::Terminate));
        let actions = machine.on(Event::Deadline(Timer::Poweroff, String::new()));
        assert_eq!(actions, [Action::PowerButton]);
        assert_eq!(machine.phase(), Phase::PoweringOff);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Start),
            Just(Event::Launched),
            Just(Event::LaunchFailed("launch".into())),
            Just(Event::Hello),
            Just(Event::GuestFailed("guest".into())),
            Just(Event::Provisioned),
            Just(Event::Kill(Kill::Terminate)),
            Just(Event::Kill(Kill::Now)),
            Just(Event::Deadline(Timer::Hello, "hello".into())),
            Just(Event::Deadline(Timer::Poweroff, "poweroff".into())),
            Just(Event::VmEnded(VmEnd::Poweroff)),
            Just(Event::VmEnded(VmEnd::Reboot)),
            Just(Event::VmEnded(VmEnd::Panic)),
            Just(Event::VmEnded(VmEnd::Killed)),
            Just(Event::VmEnded(VmEnd::Died {
                name: "swtpm",
                how: "signal 9".into()
            })),
            Just(Event::CleanedUp),
        ]
    }

    /// What the driver sends only when it is so: a VM that never launched cannot end.
    fn possible(event: &Event, launching: bool, vm: bool, cleaning: bool) -> bool {
        match event {
            Event::Launched | Event::LaunchFailed(_) => launching,
            Event::VmEnded(_) | Event::Hello | Event::Provisioned | Event::GuestFailed(_) => vm,
            Event::CleanedUp => cleaning,
            Event::Start | Event::Kill(_) | Event::Deadline(..) => true,
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_start_is_answered_once_and_the_end_is_told_once_and_truly(
            events in proptest::collection::vec(any_event(), 0..40)
        ) {
            let mut machine = Machine::default();
            let (mut launching, mut vm, mut cleaning) = (false, false, false);
            let (mut ready, mut by_itself, mut told) = (false, None, None);
            let (mut answers, mut exits, mut launches, mut starts) = (0, 0, 0, 0);
            let finish = [
                Event::Kill(Kill::Now),
                Event::Launched,
                Event::VmEnded(VmEnd::Killed),
                Event::CleanedUp,
            ];
            for event in events.into_iter().chain(finish) {
                if !possible(&event, launching, vm, cleaning) {
                    continue;
                }
                match &event {
                    Event::Start => starts += 1,
                    Event::Launched => (launching, vm) = (false, true),
                    Event::LaunchFailed(_) => launching = false,
                    Event::VmEnded(end) => {
                        vm = false;
                        // Nothing but the guest or its machine has ended what was let be.
                        by_itself = Some(end.clone()).filter(|_| ready);
                    }
                    Event::CleanedUp => cleaning = false,
                    _ => {}
                }
                let was_stopped = machine.phase() == Phase::Stopped;
                for action in machine.on(event) {
                    match action {
                        Action::Launch => {
                            launches += 1;
                            launching = true;
                        }
                        Action::KillVm | Action::DrainAndKill | Action::AskPoweroff
                        | Action::PowerButton | Action::Provision => {
                            prop_assert!(vm, "asked of a VM that is not there");
                            ready &= !matches!(action, Action::KillVm | Action::DrainAndKill);
                        }
                        Action::Started => {
                            answers += 1;
                            ready = true;
                        }
                        Action::StartFailed(_) => answers += 1,
                        Action::GiveUpLaunch => prop_assert!(launching, "nothing is launched"),
                        Action::CleanUp => {
                            prop_assert!(!vm && !launching, "cleaned under a VM");
                            cleaning = true;
                        }
                        Action::Exited(exit) => {
                            prop_assert!(!was_stopped);
                            exits += 1;
                            told = Some(exit);
                        }
                        Action::Arm(_) | Action::Disarm => {}
                    }
                }
            }
            prop_assert_eq!(machine.phase(), Phase::Stopped);
            prop_assert_eq!(answers, starts);
            prop_assert_eq!(exits, 1);
            prop_assert!(launches <= 1);
            match (by_itself, told) {
                (Some(end), Some(exit)) => {
                    let wanted = (end.exit_status(), end.to_string());
                    prop_assert_eq!((exit.status, exit.reason), wanted);
                }
                (None, told) => prop_assert!(told.is_some_and(|exit| exit.status != 0)),
                (Some(_), None) => prop_assert!(false, "its end is not told"),
            }
        }
    }
}
