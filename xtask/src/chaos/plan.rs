//! What goes wrong and when: a pure function of the seed, so that a run can be had again.
//!
//! Faults come in rounds. A round holds each fault once with everything that it can hit (every part, every service, every end), in
//! an order of its own, so that a run of an hour meets all of them several times; lengths and moments are drawn for each.

use std::fmt;

/// Processes of the host that an instance rests on, by the names of `seed status`; the shim is their parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Shim,
    Helper(&'static str),
}

const PARTS: [Part; 6] = [
    Part::Shim,
    Part::Helper("qemu"),
    Part::Helper("virtiofsd"),
    SHARE,
    Part::Helper("swtpm"),
    Part::Helper("vsock"),
];
/// Shows a guest what the host shares with it, which only containerd has something to share for.
const SHARE: Part = Part::Helper("virtiofsd-share");
/// Services of the guest.
const UNITS: [&str; 2] = ["seed-agent.service", "systemd-journald.service"];
const ENDS: [GuestEnd; 3] = [GuestEnd::Poweroff, GuestEnd::Reboot, GuestEnd::Panic];

/// Hours by which the host's clock is stepped: by more than a day a file system's check takes its times for wrong.
const STEPS: [i64; 4] = [-72, -1, 1, 72];

/// How a guest ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GuestEnd {
    Poweroff,
    Reboot,
    Panic,
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL.
    Kill(Part),
    /// SIGSTOP, and SIGCONT after so many seconds.
    Pause(Part, u64),
    /// The guest's only connection to the host stands still for half a minute, and the network of one in a pod is cut.
    LinkCut,
    /// SIGKILL for a service's main process in the guest.
    KillUnit(&'static str),
    /// SIGSTOP and SIGCONT there.
    PauseUnit(&'static str, u64),
    /// The guest ends by itself.
    End(GuestEnd),
    /// A process in the guest takes all memory.
    OutOfMemory,
    /// The volume is full for a while.
    VolumeFull,
    /// The host has no room for volumes and logs, for so many seconds.
    HostFull(u64),
    /// The guest's clock goes back an hour, forth two, and back again.
    ClockStep,
    /// The host's clock is off by so many hours; the instance boots under it, and goes on when it is right again.
    HostClock(i64),
    /// Killed while it boots, so many times, after so many milliseconds each.
    RestartStorm { times: u64, after_ms: u64 },
    /// An orderly restart.
    Restart,
    /// So many commands at once.
    ExecStorm(u64),
    /// SIGKILL for containerd so many times; it is away for so long each time.
    EngineKilled { times: u64, away_ms: u64 },
    /// SIGSTOP for containerd, and SIGCONT after so many seconds.
    EnginePaused(u64),
    /// SIGKILL for a part while containerd is away.
    EndUnseen(Part),
    /// SIGKILL for containerd so long after it was told to start a task.
    StartCut(u64),
}

impl Fault {
    /// Whether it can only hit an instance that containerd runs.
    fn is_of_containerd(self) -> bool {
        matches!(
            self,
            Self::Kill(SHARE)
                | Self::Pause(SHARE, _)
                | Self::EngineKilled { .. }
                | Self::EnginePaused(_)
                | Self::EndUnseen(_)
                | Self::StartCut(_)
        )
    }

    /// Whether it takes the shim away without notice, and with it what the shim had not written to the container's stdout.
    pub(super) fn kills_shim(self) -> bool {
        matches!(self, Self::Kill(Part::Shim) | Self::EndUnseen(Part::Shim))
    }
}

/// A fault, whom it hits, and what is going on then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// From 1.
    pub(super) number: u64,
    /// Which instance.
    pub(super) subject: usize,
    /// Lines that are logged at full speed around it.
    pub(super) flood: u64,
    /// From the flood's beginning to the fault.
    pub(super) delay_ms: u64,
    pub(super) fault: Fault,
}

/// All that will happen. It never ends; the clock ends a run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    random: Random,
    subjects: u64,
    /// The first of those that containerd runs; they are the last.
    contained: u64,
    number: u64,
    /// What is left of the round.
    round: Vec<Fault>,
}

/// Every fault with everything that it can hit. What a fault draws anew each time ([`Plan::drawn`]) says nothing here.
fn round() -> Vec<Fault> {
    let mut all = vec![
        Fault::LinkCut,
        Fault::OutOfMemory,
        Fault::VolumeFull,
        Fault::HostFull(0),
        Fault::ClockStep,
        Fault::HostClock(0),
        Fault::RestartStorm {
            times: 0,
            after_ms: 0,
        },
        Fault::Restart,
        Fault::ExecStorm(0),
        Fault::EngineKilled {
            times: 0,
            away_ms: 0,
        },
        Fault::EnginePaused(0),
        Fault::EndUnseen(Part::Shim),
        Fault::StartCut(0),
    ];
    all.extend(PARTS.map(Fault::Kill));
    all.extend(PARTS.map(|part| Fault::Pause(part, 0)));
    all.extend(UNITS.map(Fault::KillUnit));
    all.extend(UNITS.map(|unit| Fault::PauseUnit(unit, 0)));
    all.extend(ENDS.map(Fault::End));
    all
}

impl Plan {
    /// For so many instances, of which containerd runs the last ones, from number `contained` (of 0) on.
    pub(super) fn new(seed: u64, subjects: usize, contained: usize) -> Self {
        let subjects = u64::try_from(subjects).unwrap_or(1).max(1);
        Self {
            random: Random(seed),
            subjects,
            contained: u64::try_from(contained).unwrap_or(0).min(subjects - 1),
            number: 0,
            round: Vec::new(),
        }
    }

    /// The next fault of the round, or the first of another one.
    fn fault(&mut self) -> Fault {
        if self.round.is_empty() {
            self.round = round();
            // Fisher and Yates.
            for last in (1..self.round.len()).rev() {
                let other = self.random.index(last + 1);
                self.round.swap(last, other);
            }
        }
        let fault = self.round.pop().unwrap_or(Fault::Restart);
        self.drawn(fault)
    }

    /// A fault with lengths and moments of its own.
    fn drawn(&mut self, fault: Fault) -> Fault {
        let random = &mut self.random;
        match fault {
            Fault::Pause(part, _) => Fault::Pause(part, random.between(1, 10)),
            Fault::PauseUnit(unit, _) => Fault::PauseUnit(unit, random.between(1, 10)),
            Fault::HostFull(_) => Fault::HostFull(random.between(2, 15)),
            Fault::HostClock(_) => Fault::HostClock(STEPS[random.index(STEPS.len())]),
            Fault::RestartStorm { .. } => Fault::RestartStorm {
                times: random.between(1, 3),
                after_ms: random.between(0, 12_000),
            },
            Fault::ExecStorm(_) => Fault::ExecStorm(random.between(4, 24)),
            Fault::EngineKilled { .. } => Fault::EngineKilled {
                times: random.between(1, 3),
                away_ms: random.between(0, 5000),
            },
            Fault::EnginePaused(_) => Fault::EnginePaused(random.between(1, 10)),
            Fault::EndUnseen(_) => Fault::EndUnseen(PARTS[random.index(PARTS.len())]),
            Fault::StartCut(_) => Fault::StartCut(random.between(0, 5000)),
            Fault::Kill(_)
            | Fault::LinkCut
            | Fault::KillUnit(_)
            | Fault::End(_)
            | Fault::OutOfMemory
            | Fault::VolumeFull
            | Fault::ClockStep
            | Fault::Restart => fault,
        }
    }
}

impl Iterator for Plan {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let fault = self.fault();
        self.number += 1;
        let first = if fault.is_of_containerd() {
            self.contained
        } else {
            0
        };
        let subject = self.random.between(first, self.subjects - 1);
        Some(Event {
            number: self.number,
            subject: usize::try_from(subject).unwrap_or_default(),
            flood: self.random.between(100, 1500),
            delay_ms: self.random.between(0, 3000),
            fault,
        })
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): one word of state.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Both ends included. The bias is of no interest here.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Below `length`.
    fn index(&mut self, length: usize) -> usize {
        let length = u64::try_from(length).unwrap_or(1);
        usize::try_from(self.between(0, length - 1)).unwrap_or_default()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shim => "the shim",
            Self::Helper(name) => name,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(part) => write!(f, "kill {part}"),
            Self::Pause(part, seconds) => write!(f, "stop {part} for {seconds} s"),
            Self::LinkCut => f.write_str("cut the link"),
            Self::KillUnit(unit) => write!(f, "kill {unit} in the guest"),
            Self::PauseUnit(unit, seconds) => write!(f, "stop {unit} in the guest for {seconds} s"),
            Self::End(GuestEnd::Poweroff) => f.write_str("guest powers off"),
            Self::End(GuestEnd::Reboot) => f.write_str("guest reboots"),
            Self::End(GuestEnd::Panic) => f.write_str("guest panics"),
            Self::OutOfMemory => f.write_str("guest out of memory"),
            Self::VolumeFull => f.write_str("volume full"),
            Self::HostFull(seconds) => write!(f, "host's disk full for {seconds} s"),
            Self::ClockStep => f.write_str("guest's clock an hour back and forth"),
            Self::HostClock(hours) => write!(f, "host's clock off by {hours} h for a boot"),
            Self::RestartStorm { times, after_ms } => {
                write!(f, "{times} boots cut after {after_ms} ms")
            }
            Self::Restart => f.write_str("restart"),
            Self::ExecStorm(count) => write!(f, "{count} commands at once"),
            Self::EngineKilled { times, away_ms } => {
                write!(f, "kill containerd {times} times, {away_ms} ms away")
            }
            Self::EnginePaused(seconds) => write!(f, "stop containerd for {seconds} s"),
            Self::EndUnseen(part) => write!(f, "kill {part} while containerd is away"),
            Self::StartCut(after_ms) => write!(f, "kill containerd {after_ms} ms into a start"),
        }
    }
}

impl Event {
    /// Two faults of one kind have the same.
    pub(super) fn kind(&self) -> &'static str {
        match self.fault {
            Fault::Kill(_) => "kill on the host",
            Fault::Pause(..) => "stop on the host",
            Fault::LinkCut => "link cut",
            Fault::KillUnit(_) => "kill in the guest",
            Fault::PauseUnit(..) => "stop in the guest",
            Fault::End(_) => "guest's own end",
            Fault::OutOfMemory => "out of memory",
            Fault::VolumeFull => "volume full",
            Fault::HostFull(_) => "host's disk full",
            Fault::ClockStep => "guest's clock",
            Fault::HostClock(_) => "host's clock",
            Fault::RestartStorm { .. } => "restart storm",
            Fault::Restart => "restart",
            Fault::ExecStorm(_) => "exec storm",
            Fault::EngineKilled { .. } => "kill of containerd",
            Fault::EnginePaused(_) => "stop of containerd",
            Fault::EndUnseen(_) => "kill without containerd",
            Fault::StartCut(_) => "start cut",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_another_seed_another() {
        let plan = |seed| Plan::new(seed, 3, 1).take(100).collect::<Vec<_>>();
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
        assert!(plan(7).iter().any(|event| event.subject == 1));
    }

    /// A fault and what it hits, less what is drawn for it.
    fn card(fault: Fault) -> String {
        let fault = match fault {
            Fault::EndUnseen(_) => Fault::EndUnseen(Part::Shim),
            fault => fault,
        };
        let drawn = |c: &char| c.is_ascii_digit() || *c == '-';
        fault.to_string().chars().filter(|c| !drawn(c)).collect()
    }

    #[test]
    fn each_round_has_every_fault_once_with_all_that_it_can_hit() {
        let all: BTreeSet<_> = round().into_iter().map(card).collect();
        assert_eq!(all.len(), round().len(), "{all:?}");
        let events: Vec<_> = Plan::new(1, 3, 1).take(2 * all.len()).collect();
        for round in events.chunks(all.len()) {
            let found: BTreeSet<_> = round.iter().map(|event| card(event.fault)).collect();
            assert_eq!(found, all);
        }
    }

    #[test]
    fn what_is_containerds_hits_what_containerd_runs() {
        let events: Vec<_> = Plan::new(2, 3, 1).take(500).collect();
        let of_containerd = |event: &&Event| event.fault.is_of_containerd();
        let hit: BTreeSet<_> = events
            .iter()
            .filter(of_containerd)
            .map(|event| event.subject)
            .collect();
        assert_eq!(hit, BTreeSet::from([1, 2]));
        assert!(events.iter().any(|event| event.subject == 0));
    }

    #[test]
    fn a_round_has_what_can_happen_to_a_host_and_a_guest() {
        let all: BTreeSet<_> = round().iter().map(ToString::to_string).collect();
        let helpers = ["qemu", "virtiofsd", "virtiofsd-share", "swtpm", "vsock"];
        for part in ["the shim"].into_iter().chain(helpers) {
            assert!(all.contains(&format!("kill {part}")), "{part}");
            assert!(all.contains(&format!("stop {part} for 0 s")), "{part}");
        }
        for unit in ["seed-agent.service", "systemd-journald.service"] {
            assert!(all.contains(&format!("kill {unit} in the guest")), "{unit}");
            let stop = format!("stop {unit} in the guest for 0 s");
            assert!(all.contains(&stop), "{unit}");
        }
        for end in ["guest powers off", "guest reboots", "guest panics"] {
            assert!(all.contains(end), "{end}");
        }
    }
}
