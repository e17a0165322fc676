//! `cargo xtask chaos [--minutes N] [--events N] [--seed S]`: instances at work, things going wrong at random, and after each of them
//! everything that must be true, looked at.
//!
//! One instance is run by `seed run`, two by a real containerd ([`contained`]), each of those in a pod's network ([`wire`]).
//! [`plan`] says what goes wrong, from the seed alone; [`faults`] does it, [`outage`] to containerd; [`writer`] is the work;
//! [`subject`] knows what must be true of an instance, [`journal`] of its log, [`stream`] of its container's stdout. The first
//! violation ends the run: the seed, the event and what was found are printed, and all logs are kept.
//!
//! The machine's own clock is never set, which would hit everything else on it (a time namespace has the monotonic clocks
//! only, time_namespaces(7)): [`clock`] steps the one that the instances' programs see.

mod clock;
mod contained;
mod faults;
mod journal;
mod outage;
mod plan;
mod stream;
mod subject;
mod wire;
mod writer;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    image,
    lab::{COMMAND, Lab, until},
    left, programs, setup, table,
    util::{self, Places, print, say},
};
use clock::Clock;
use contained::Containerd;
use plan::{Event, Fault, Plan};
use subject::Subject;
use writer::Flood;

/// How long a run is unless told otherwise.
const MINUTES: u64 = 10;
/// Its first events ([`LEAST_OF_THE_TEST`]) are all that a host and a guest must stand: a test below says which.
const SEED_OF_THE_TEST: u64 = 5_247_467;
/// The test ends with no fewer, however slow the machine is: one where an event takes 26 s does them in eleven minutes,
/// one half as fast in twenty.
const LEAST_OF_THE_TEST: u64 = 25;
/// Unless told otherwise: where nothing has happened there is nothing to say.
const LEAST: u64 = 1;
/// The instances. Those that are not hit must not notice.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// From this one on containerd runs them.
const CONTAINED: usize = 1;
/// Room for the volumes, logs and layers of all, and no more: it is filled.
const DISK_MIB: u32 = 1152;
/// A flood whose command was cut off ends with its link.
const FLOOD: Duration = Duration::from_secs(540);
/// The shim's: a slow machine is no fault.
const LIMITS: &str = "log_level = \"debug\"\n[limits]\ndaemon_seconds = 60\nhello_seconds = 600\nprovision_seconds = 600\npoweroff_seconds = 300\n";

/// What the command line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) minutes: u64,
    /// As many events at least, however long they take.
    least: u64,
    pub(crate) seed: u64,
    /// Only say what would happen.
    plan: bool,
    /// `auto`, `kvm` or `tcg`.
    pub(crate) accel: String,
}

impl Options {
    /// From the rest of the command line.
    pub(crate) fn parse(parser: &mut lexopt::Parser) -> Result<Self> {
        use lexopt::prelude::*;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut options = Self {
            minutes: MINUTES,
            least: LEAST,
            seed: now.map_or(1, |now| now.as_secs()),
            plan: false,
            accel: "auto".to_owned(),
        };
        while let Some(arg) = parser.next()? {
            match arg {
                Long("minutes") => options.minutes = parser.value()?.parse()?,
                Long("events") => options.least = parser.value()?.parse()?,
                Long("seed") => options.seed = parser.value()?.parse()?,
                Long("plan") => options.plan = true,
                Long("accel") => options.accel = parser.value()?.string()?,
                other => return Err(other.unexpected().into()),
            }
        }
        ensure!(
            (1..=24 * 60).contains(&options.minutes),
            "--minutes {}: from 1 to 1440",
            options.minutes
        );
        ensure!(options.least > 0, "--events 0: at least one");
        Ok(options)
    }

    /// What the test command does: the same faults each time, so that a failure is this change's, and all of those that count.
    pub(crate) fn of_the_test() -> Self {
        let accel = std::env::var("SEED_TEST_ACCEL").unwrap_or_else(|_| "auto".to_owned());
        Self {
            minutes: MINUTES,
            least: LEAST_OF_THE_TEST,
            seed: SEED_OF_THE_TEST,
            plan: false,
            accel,
        }
    }

    /// The command that runs as root, with a guest's root that is built.
    pub(crate) fn command(&self, places: &Places, guest: &Path) -> Result<Command> {
        let mut command = util::again_as_root(places, "chaos-of")?;
        command.arg(guest).args(self.words());
        command.args(["--accel", &self.accel]);
        Ok(command)
    }

    /// What makes it this run, as words.
    fn words(&self) -> Vec<String> {
        let words = [
            ("--minutes", self.minutes),
            ("--events", self.least),
            ("--seed", self.seed),
        ];
        let words = words.map(|(name, value)| [name.to_owned(), value.to_string()]);
        words.concat()
    }
}

/// Makes everything ready, then lets things go wrong.
pub(crate) fn run(places: &Places, options: &Options) -> Result<ExitCode> {
    if options.plan {
        for event in Plan::new(options.seed, NAMES.len(), CONTAINED).take(50) {
            print(&line(&event))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    // containerd and links in namespaces are the tests'.
    setup::run(places, setup::Need::Test)?;
    programs::build(places)?;
    let guest = image::build(places)?;
    util::passed_on(&mut options.command(places, &guest)?)
}

fn line(event: &Event) -> String {
    format!(
        "{:>4}  {}  {} ({} lines, after {} ms)",
        event.number, NAMES[event.subject], event.fault, event.flood, event.delay_ms
    )
}

/// As root. Fails at the first violation.
pub(crate) fn torment(places: &Places, guest: PathBuf, options: &Options) -> Result<ExitCode> {
    let start = Instant::now();
    let seed = options.seed;
    let words = options.words().join(" ");
    print(&format!("this run again: `cargo xtask chaos {words}`"))?;
    let mut lab = Lab::make(places, guest, &options.accel, &NAMES)?.with_small_disk(DISK_MIB)?;
    lab.configure(LIMITS)?;
    let clock = Clock::make(&mut lab)?;
    let mut counts = BTreeMap::new();
    let result = Containerd::start(places, &lab, seed).and_then(|containerd| {
        let host = Host {
            lab: &lab,
            clock,
            containerd,
            mounts: left::own_mounts_below(lab.dir())?,
        };
        all(&host, options, start, &mut counts)
    });
    if let Err(error) = result {
        let evidence = keep_evidence(places, &lab, seed);
        print(&format!("VIOLATION: {error:#}"))?;
        print(&format!(
            "seed {seed}; what is known is in {}",
            evidence.display()
        ))?;
        return Ok(ExitCode::FAILURE);
    }
    lab.remove()?;
    let mut cells = vec![["fault", "times"].map(str::to_owned).to_vec()];
    cells.extend(
        counts
            .iter()
            .map(|(kind, count)| vec![(*kind).to_owned(), count.to_string()]),
    );
    table::aligned(&cells)
        .iter()
        .try_for_each(|line| print(line))?;
    Ok(ExitCode::SUCCESS)
}

/// What all instances share.
struct Host<'a> {
    lab: &'a Lab,
    clock: Clock,
    containerd: Arc<Containerd>,
    /// What is mounted on the host itself for all of it; an instance's own mounts are its shim's.
    mounts: Vec<String>,
}

/// Boots, torments, ends; nothing may be left.
fn all(
    host: &Host<'_>,
    options: &Options,
    start: Instant,
    counts: &mut BTreeMap<&'static str, u64>,
) -> Result<()> {
    let lab = host.lab;
    let mut subjects = boot(lab, &host.containerd)?;
    say(&format!(
        "  {} instances run after {} s",
        NAMES.len(),
        start.elapsed().as_secs()
    ));
    let end = Duration::from_secs(options.minutes * 60);
    let mut late = false;
    for event in Plan::new(options.seed, NAMES.len(), CONTAINED) {
        if start.elapsed() >= end {
            let (done, least) = (event.number - 1, options.least);
            if done >= least {
                break;
            }
            if !late {
                let minutes = options.minutes;
                say(&format!(
                    "  {minutes} min are over after {done} events; {least} are to be done"
                ));
            }
            late = true;
        }
        let begin = Instant::now();
        let result = one(host, &mut subjects, &event);
        let how = if result.is_ok() { "ok" } else { "FAILED" };
        print(&format!(
            "{}: {how}, {} s",
            line(&event),
            begin.elapsed().as_secs()
        ))?;
        result.with_context(|| format!("event {} ({})", event.number, event.fault))?;
        *counts.entry(event.kind()).or_default() += 1;
    }
    let records: u64 = subjects.iter().map(Subject::acknowledged).sum();
    for subject in &mut subjects {
        subject.end(lab)?;
    }
    host.containerd.end()?;
    nothing_left(lab)?;
    let events: u64 = counts.values().sum();
    print(&format!(
        "{events} events, {records} records acknowledged, nothing lost, nothing left"
    ))
}

/// All at once.
fn boot(lab: &Lab, containerd: &Arc<Containerd>) -> Result<Vec<Subject>> {
    thread::scope(|scope| {
        let one = |(number, name): (usize, &'static str)| {
            let containerd = (number >= CONTAINED).then_some(containerd);
            scope.spawn(move || Subject::boot(lab, name, containerd))
        };
        let threads: Vec<_> = NAMES.into_iter().enumerate().map(one).collect();
        let ended = threads.into_iter().map(|thread| {
            let subject = thread.join();
            subject.unwrap_or_else(|_| bail!("a thread that boots an instance panicked"))
        });
        ended.collect()
    })
}

/// One event and all that must be true after it.
fn one(host: &Host<'_>, subjects: &mut [Subject], event: &Event) -> Result<()> {
    let lab = host.lab;
    let (before, rest) = subjects.split_at_mut(event.subject);
    let (subject, after) = rest
        .split_first_mut()
        .context("there is no such instance")?;
    let mut flood = Flood::start(subject.command(lab), event.number, event.flood)?;
    thread::sleep(Duration::from_millis(event.delay_ms));
    let anew = faults::apply(lab, &host.clock, subject, event.fault);
    // One whose instance ended has no more to say; `seed exec` notices by itself.
    let over = until("the end of the flood's command", FLOOD, || {
        Ok(flood.is_over().then_some(()))
    });
    let journald = |unit: &str| unit == "systemd-journald.service";
    let before_journald =
        matches!(event.fault, Fault::KillUnit(unit) | Fault::PauseUnit(unit, _) if journald(unit));
    subject.flooded(flood, before_journald);
    let anew = anew?;
    over?;
    subject.check(lab, anew, event.fault.kills_shim())?;
    let mut others = before.iter_mut().chain(after);
    others.try_for_each(|other| other.undisturbed(lab))?;
    nothing_mounted(host)
}

/// Nothing is mounted on the host that was not before the first instance, also not a second time.
fn nothing_mounted(host: &Host<'_>) -> Result<()> {
    let mut now = Vec::new();
    let as_before = until("a host without mounts of instances", COMMAND, || {
        now = left::own_mounts_below(host.lab.dir())?;
        Ok((now == host.mounts).then_some(()))
    });
    as_before.with_context(|| format!("mounted were {:?}, now are {now:?}", host.mounts))
}

/// No process, mount, socket or folder, once the instances are removed.
fn nothing_left(lab: &Lab) -> Result<()> {
    let mut left = Vec::new();
    let gone = until("the end of every process", COMMAND, || {
        left = left::processes_in(lab.dir())?;
        Ok(left.is_empty().then_some(()))
    });
    gone.with_context(|| format!("processes are left: {left:?}"))?;
    let mut mounts = left::mounts_below(lab.dir())?;
    mounts.retain(|point| Path::new(point) != lab.state_dir());
    ensure!(mounts.is_empty(), "mounts are left: {mounts:?}");
    // The folders that all instances share may stay.
    let mut files = left::below(&lab.run_dir());
    files.retain(|path| ![".s", ".u", "default"].contains(&path.as_str()));
    ensure!(files.is_empty(), "left in the run directory: {files:?}");
    let state = left::below(&lab.state_dir());
    let of_instance = |path: &&String| {
        NAMES
            .iter()
            .any(|name| path.contains(&format!("/default/{name}")))
    };
    let state: Vec<_> = state.iter().filter(of_instance).collect();
    ensure!(state.is_empty(), "left in the state directory: {state:?}");
    Ok(())
}

/// Copies what is needed to understand a violation; the folder.
fn keep_evidence(places: &Places, lab: &Lab, seed: u64) -> PathBuf {
    let folder = places.cache.join("chaos").join(format!("seed-{seed}"));
    // The evidence of an earlier run with this seed is of no use beside this one's.
    let _ = fs::remove_dir_all(&folder);
    let _ = fs::create_dir_all(&folder);
    for name in NAMES {
        for (what, words) in [
            ("status", &["status", name][..]),
            ("log", &["logs", name, "--lines", "all"]),
        ] {
            let text = lab
                .try_seed(words, COMMAND)
                .map(|output| [output.stdout, output.stderr].concat());
            let text = text.unwrap_or_else(|error| format!("{error:#}").into_bytes());
            let _ = fs::write(folder.join(format!("{name}.{what}")), text);
        }
    }
    for (what, from) in [
        ("run", lab.run_dir().join("default")),
        ("logs", lab.state_dir().join("logs")),
        ("containerd", lab.dir().join("containerd/state")),
    ] {
        let to = folder.join(what);
        let _ = fs::create_dir_all(&to);
        // Sockets and mounted roots are no evidence.
        let script =
            "cd \"$1\" && find . -xdev -type f -not -path '*/rootfs/*' | cpio -pdm --quiet \"$2\"";
        let mut copy = Command::new("sh");
        copy.args(["-c", script, "copy"]).arg(&from).arg(&to);
        if let Err(error) = util::output(&mut copy) {
            say(&format!("  {} was not copied: {error:#}", from.display()));
        }
    }
    for name in ["log", "events"] {
        let from = lab.dir().join("containerd").join(name);
        // Without it there is a little less to know.
        let _ = fs::copy(from, folder.join(format!("containerd.{name}")));
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_is_read_and_a_run_has_bounds() {
        let parsed = |words: &[&str]| Options::parse(&mut lexopt::Parser::from_args(words));
        let options = parsed(&["--seed", "7", "--minutes", "60"]).expect("a command line");
        assert_eq!((options.seed, options.minutes, options.least), (7, 60, 1));
        assert!(parsed(&["--minutes", "0"]).is_err());
        assert!(parsed(&["--events", "0"]).is_err());
        assert!(parsed(&["--speed", "1"]).is_err());
    }

    #[test]
    fn who_runs_it_as_root_is_told_all_of_the_command_line() {
        let test = Options::of_the_test();
        let words = test.words();
        let told = Options::parse(&mut lexopt::Parser::from_args(words)).expect("a command line");
        let accel = test.accel.clone();
        assert_eq!(Options { accel, ..told }, test);
    }

    #[test]
    fn the_least_that_the_test_does_is_all_that_must_be_stood() {
        let least = usize::try_from(LEAST_OF_THE_TEST).expect("few");
        let events: Vec<_> = Plan::new(SEED_OF_THE_TEST, NAMES.len(), CONTAINED)
            .take(least)
            .collect();
        let faults: Vec<_> = events.iter().map(|event| event.fault.to_string()).collect();
        let parts = [
            "the shim",
            "qemu",
            "virtiofsd",
            "virtiofsd-share",
            "swtpm",
            "vsock",
            "containerd",
            "seed-agent.service",
            "systemd-journald.service",
        ];
        let parts = parts.iter().flat_map(|part| {
            let begin = |verb: &str| format!("{verb} {part} ");
            [begin("kill"), begin("stop")]
        });
        let others = [
            "cut the link",
            "host's disk full",
            "host's clock off",
            "guest powers off",
            "guest panics",
            "guest out of memory",
        ];
        for fault in parts.chain(others.map(str::to_owned)) {
            let is_it = |one: &String| format!("{one} ").starts_with(&fault);
            assert!(faults.iter().any(is_it), "{fault}");
        }
        assert!(faults.iter().any(|fault| fault.contains("boots cut after")));
        // A shim of a pod, whose network it leaves behind.
        let killed = events.iter().find(|event| event.fault.kills_shim());
        assert!(killed.is_some_and(|event| event.subject >= CONTAINED));
    }

    #[test]
    fn an_event_is_one_line() {
        let event = Plan::new(1, NAMES.len(), CONTAINED)
            .next()
            .expect("it never ends");
        assert!(line(&event).starts_with("   1  "));
    }
}
