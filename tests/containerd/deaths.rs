//! Every process of a pod's machine killed at every phase of its life, by CRI: the container ends with 137 or does not start,
//! who died is named, and nothing of the pod is left. The machines of a phase live and die at the same time.

use std::{fs, thread};

use anyhow::{Context, Result, anyhow, bail, ensure};
use seed_tests::{
    Containerd, Cri, Runner, SmallDisk, Version,
    containerd::{
        Options, Programs,
        tasks::{Tasks, api::Mount},
    },
    cri::{
        api::{ContainerState, PodSandboxConfig},
        stream::{self, Stream},
    },
    limit,
    parts::{PARTS, SHIM, STARTING, signal},
};

use crate::{
    bench::{self, Hold, INIT, RUNTIME, STUB, in_order, network, nothing_left, reach, told},
    group, kubelet,
    pod::{container, end, sandbox, started, state},
};

/// What a machine has because its pod has files for it.
const SHARE: &str = "virtiofsd-share";

/// The status of a container that was killed.
const KILLED: i32 = 137;

/// What containerd itself says where its call of a shim breaks off in which it waits for the end.
const BROKEN_OFF: i32 = 255;

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// A step never comes; the last stage that is reached.
    Starting(&'static str, &'static str),
    Running,
    Exec,
    Stopping,
}

const PHASES: [(&str, Phase); 5] = [
    ("hello", Phase::Starting(STARTING[0].0, STARTING[0].1)),
    ("orders", Phase::Starting(STARTING[1].0, STARTING[1].1)),
    ("running", Phase::Running),
    ("exec", Phase::Exec),
    ("stopping", Phase::Stopping),
];

/// Runs them, each phase a case.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let name = |phase: &str| format!("deaths_{version}_{phase}");
    let mut names: Vec<_> = PHASES.iter().map(|(phase, _)| name(phase)).collect();
    names.extend(["made", "late", "full_disk"].map(name));
    let wanted: Vec<_> = names.iter().map(String::as_str).collect();
    let mut up = None;
    if runner.wants(&wanted) {
        runner.always(&name("starts"), || {
            let options = Options {
                network: true,
                ..Options::default()
            };
            let containerd = bench::stubs(programs, version, &options)?;
            containerd.import_busybox()?;
            up = Some(containerd);
            Ok(())
        });
    }
    let mut case = |name: String, test: &dyn Fn(&Containerd) -> Result<()>| {
        let passed = runner.case(&name, || test(up.as_ref().context("no containerd")?));
        if let (false, Some(containerd)) = (passed, &up) {
            runner.note(&bench::tail(&containerd.log()));
        }
    };
    for (phase, when) in PHASES {
        case(name(phase), &|containerd| all_at(containerd, phase, when));
    }
    case(name("made"), &shim_of_a_made_task);
    case(name("late"), &kubelet::start_says_why);
    case(name("full_disk"), &full_disk);
}

fn all_at(containerd: &Containerd, name: &str, phase: Phase) -> Result<()> {
    let step = match phase {
        Phase::Starting(step, _) => Some(step),
        Phase::Stopping => Some("poweroff"),
        Phase::Running | Phase::Exec => None,
    };
    let hold = step.map(|step| Hold::on(containerd, step)).transpose()?;
    let parts = PARTS.iter().map(|(part, _)| *part).chain([SHARE, SHIM]);
    thread::scope(|scope| {
        let one = |part| scope.spawn(move || one(containerd, name, phase, part).context(part));
        let threads: Vec<_> = parts.map(one).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        // Each is joined before one of them is the reason.
        let all: Vec<Result<()>> = joined
            .map(|end| end.unwrap_or_else(|_| Err(anyhow!("it panicked"))))
            .collect();
        all.into_iter().collect::<Result<()>>()
    })?;
    drop(hold);
    if group::can_be_made() {
        group::sweep()?;
    }
    nothing_left(containerd)
}

fn one(containerd: &Containerd, name: &str, phase: Phase, part: &str) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let mut config = sandbox(containerd, &format!("{name}-{part}"))?;
    let grouped = group::can_be_made().then(|| group::put(&mut config));
    let pod = cri.run_pod(&config, "seed")?;
    let network = network(containerd, &pod)?;
    let ended = dies(containerd, &cri, &config, &pod, phase, part);
    // However that was, the next ones shall find an empty machine.
    cri.stop_pod(&pod)?;
    cri.remove_pod(&pod)?;
    ended?;
    ensure!(
        !fs::exists(format!("/var/run/netns/{network}"))?,
        "the pod's network is left"
    );
    grouped.map_or(Ok(()), |parent| group::is_gone(&format!("{parent}/{pod}")))
}

fn dies(
    containerd: &Containerd,
    cri: &Cri,
    config: &PodSandboxConfig,
    pod: &str,
    phase: Phase,
    part: &str,
) -> Result<()> {
    let id = cri.create(pod, &container("app"), config)?;
    let kill = |stage: &str| {
        let parts = reach(containerd, "k8s.io", &id, stage)?;
        let pid = parts.get(part).with_context(|| format!("only {parts:?}"))?;
        signal(*pid, "KILL")
    };
    let reason = format!("{part} ended (signal 9)");
    let is_shim = part == SHIM;
    match phase {
        Phase::Starting(_, stage) => {
            let started = beside(|| Cri::connect(containerd)?.start(&id), || kill(stage))?;
            let said = format!("{:#}", started.err().context("it has started")?);
            ensure!(is_shim || said.contains(&reason), "{said}");
        }
        Phase::Running => {
            cri.start(&id)?;
            kill("running")?;
        }
        Phase::Exec => {
            cri.start(&id)?;
            let mut exec = Stream::open(&cri.exec_url(&id, &["cat"])?)?;
            exec.send(stream::STDIN, b"here\n")?;
            exec.read_until(stream::STDOUT, "here\n", limit::COMMAND)?;
            kill("running")?;
            let said = exec.read_until(stream::ERROR, "ExitCode", limit::COMMAND)?;
            ensure!(is_shim || said.contains("\"137\""), "the exec: {said:?}");
        }
        Phase::Stopping => {
            cri.start(&id)?;
            let stop = || Cri::connect(containerd)?.stop(&id, 300);
            let stopped = beside(stop, || {
                limit::until("the poweroff", limit::COMMAND, || {
                    let status = told(containerd, "k8s.io", &id).unwrap_or_default();
                    Ok((status["state"] == "stopping").then_some(()))
                })?;
                kill("running")
            })?;
            // containerd may have been told by a shim that is gone.
            if !is_shim {
                stopped?;
            }
        }
    }
    limit::until("the end", limit::COMMAND, || {
        Ok((state(cri, &id)? == ContainerState::EXITED).then_some(()))
    })?;
    let status = cri.status(&id)?;
    // What does not start has a status of CRI's own.
    let is_right = match phase {
        Phase::Starting(..) => status.exit_code != 0,
        _ if is_shim => [KILLED, BROKEN_OFF].contains(&status.exit_code),
        Phase::Running | Phase::Exec | Phase::Stopping => status.exit_code == KILLED,
    };
    ensure!(is_right, "{status:?}");
    if !is_shim {
        limit::until("the reason in the log", limit::LOG_LINE, || {
            let log = containerd.log();
            let mut lines = log.lines().filter(|line| line.contains("instance ended"));
            let has = lines.any(|line| line.contains(&id) && line.contains(&reason));
            Ok(has.then_some(()))
        })?;
    }
    Ok(())
}

/// What comes of a call in the midst of which something is done.
fn beside<T: Send>(
    call: impl FnOnce() -> Result<T> + Send,
    act: impl FnOnce() -> Result<()>,
) -> Result<Result<T>> {
    thread::scope(|scope| {
        let call = scope.spawn(call);
        let acted = act();
        let called = call.join();
        acted?;
        called.map_err(|_| anyhow!("it panicked"))
    })
}

/// Between Create and Start there is the shim alone.
fn shim_of_a_made_task(containerd: &Containerd) -> Result<()> {
    let root = containerd.dir().join("stub-root").display().to_string();
    containerd.ctr_ok(&[
        "containers",
        "create",
        "--runtime",
        RUNTIME,
        STUB,
        "made",
        INIT,
    ])?;
    let tasks = Tasks::connect(containerd)?;
    let mount = Mount {
        type_: "bind".to_owned(),
        source: root,
        options: vec!["rbind".to_owned(), "ro".to_owned()],
        ..Default::default()
    };
    tasks.create("made", vec![mount])?;
    let [shim] = containerd.shims()?[..] else {
        bail!("shims: {:?}", containerd.shims()?);
    };
    signal(shim, "KILL")?;
    limit::until("its end", limit::COMMAND, || {
        let status = bench::status(containerd, "made")?;
        Ok(status
            .is_none_or(|status| status == "STOPPED")
            .then_some(()))
    })?;
    ensure!(tasks.start("made", "").is_err(), "it was started");
    let _ = containerd.ctr_output(&["tasks", "rm", "--force", "made"]);
    containerd.ctr_ok(&["containers", "rm", "made"])?;
    nothing_left(containerd)
}

/// Entries of the stub's flood.
const FLOOD: usize = 200_000;

/// The disk under the logs is full before the start and again in the midst of a flood: the instance runs on, and what could not be
/// written follows when there is room.
fn full_disk(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let disk = SmallDisk::mount(&containerd.state_dir().join("logs"), "64m")?;
    disk.fill()?;
    let (_, pod, id) = started(containerd, &cri, "full")?;
    let before = reach(containerd, "k8s.io", &id, "running")?;
    disk.make_room()?;
    let log = || -> Result<String> {
        let args = [
            "--namespace",
            "k8s.io",
            "logs",
            "test_full_app",
            "--lines",
            "all",
        ];
        let output = containerd.seed(&args).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    limit::until("the log to go on", limit::LOG_LINE, || {
        Ok(log()?.contains("stub guest is up").then_some(()))
    })?;
    ensure!(cri.exec_sync(&id, &["flood"])?.exit_code == 0, "exec");
    limit::until("some of the flood", limit::LOG_LINE, || {
        Ok(log()?.contains("flood 5000\n").then_some(()))
    })?;
    disk.fill()?;
    ensure!(cri.exec_sync(&id, &["false"])?.exit_code == 3, "no exec");
    ensure!(
        !log()?.contains(&format!("flood {FLOOD}\n")),
        "it was not full in time"
    );
    disk.make_room()?;
    let last = format!("flood {FLOOD}\n");
    let text = limit::until("the end of the flood", limit::LOG_LINE, || {
        Ok(Some(log()?).filter(|text| text.contains(&last)))
    })?;
    in_order(
        &text,
        &["flood 1\n", "flood 5000\n", "flood 100000\n", &last],
    )?;
    let lines = text
        .lines()
        .filter(|line| line.contains(": flood "))
        .count();
    ensure!(lines == FLOOD, "{lines} lines of {FLOOD}");
    ensure!(
        reach(containerd, "k8s.io", &id, "running")? == before,
        "it is another machine"
    );
    cri.stop(&id, 60)?;
    ensure!(cri.status(&id)?.exit_code == 0, "{:?}", cri.status(&id)?);
    end(containerd, &cri, &pod)
}
