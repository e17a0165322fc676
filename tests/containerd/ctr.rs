//! An instance's life through `ctr`, over a stub VM, with each series of containerd and that one's own limits: its shim
//! answers, is found again and is cleaned up after within them.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Error, Result, ensure};
use seed_tests::{
    Containerd, Runner, Version,
    containerd::{Options, Programs},
    limit,
    parts::signal,
};

use crate::{
    bench::{
        self, INIT, RUNTIME, STUB, TPM_SOCKET, in_order, nothing_left, status, stubs, wait_status,
    },
    group, network, restarts, still,
};

type Case = (&'static str, fn(&mut Containerd) -> Result<()>);

const CASES: [Case; 16] = [
    ("run_exec_pause_kill_and_remove", whole_life),
    ("memory_is_mounted_and_an_unknown_kind_refused", mounts),
    ("foreground_run_shows_the_journal", foreground),
    ("events_come_in_order", events),
    ("containerd_killed_and_started_finds_all", restart),
    (
        "containerd_killed_while_tasks_are_made",
        restarts::while_made,
    ),
    (
        "containerd_killed_while_a_guest_boots",
        restarts::while_booting,
    ),
    (
        "containerd_killed_with_an_open_exec",
        restarts::with_an_exec,
    ),
    ("containerd_killed_while_paused", restarts::while_paused),
    ("shim_killed_leaves_nothing", killed_shim),
    (
        "a_network_by_path_is_one_instances_at_a_time",
        network::shared,
    ),
    ("the_end_of_a_tpm_of_others_is_the_machines", tpm_of_others),
    (
        "shims_killed_while_tasks_are_made",
        restarts::shims_while_made,
    ),
    ("shim_that_stands_still_and_goes_on", still::continued),
    (
        "shim_that_never_goes_on_is_got_rid_of",
        still::never_continued,
    ),
    (still::HUNG, still::hung),
];

/// Runs them on one containerd.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let name = |case: &str| format!("containerd_{version}_{case}");
    let names: Vec<_> = CASES.iter().map(|(case, _)| name(case)).collect();
    let wanted: Vec<_> = names.iter().map(String::as_str).collect();
    if !runner.wants(&wanted) {
        for (case, _) in CASES {
            runner.case(&name(case), || Ok(()));
        }
        return;
    }
    let mut containerd = None;
    let up = name("starts");
    runner.always(&up, || {
        let options = Options {
            own_limits: true,
            ..Options::default()
        };
        containerd = Some(stubs(programs, version, &options)?);
        Ok(())
    });
    let Some(mut containerd) = containerd else {
        return;
    };
    for (case, test) in CASES {
        if case == still::HUNG && group::freezing().is_none() {
            runner.skip(&name(case), "control groups cannot be written");
            continue;
        }
        let passed = runner.case(&name(case), || test(&mut containerd));
        if !passed {
            runner.note(&bench::tail(&containerd.log()));
        }
    }
}

pub(crate) fn start(containerd: &Containerd, id: &str) -> Result<()> {
    containerd.ctr_ok(&["run", "--detach", "--runtime", RUNTIME, STUB, id, INIT])?;
    wait_status(containerd, id, "RUNNING")
}

pub(crate) fn end(containerd: &Containerd, id: &str) -> Result<()> {
    containerd.ctr_ok(&["tasks", "kill", "--signal", "SIGTERM", id])?;
    wait_status(containerd, id, "STOPPED")?;
    remove(containerd, id)
}

pub(crate) fn remove(containerd: &Containerd, id: &str) -> Result<()> {
    containerd.ctr_ok(&["tasks", "rm", id])?;
    containerd.ctr_ok(&["containers", "rm", id])?;
    nothing_left(containerd)
}

/// The output of a command with this input. Some: `ctr` that meets the end of its input before the exec has
/// begun never says that it is over.
fn piped(mut command: Command, input: &[u8]) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no pipe")?.write_all(input)?;
    Ok(child.wait_with_output()?)
}

/// An exec that gives back what it gets.
pub(crate) fn echo(containerd: &Containerd, id: &str) -> Result<()> {
    let exec = ["tasks", "exec", "--exec-id", "e1", id, "cat"];
    let echoed = piped(containerd.ctr(&exec), b"to and fro\n")?;
    ensure!(echoed.stdout == b"to and fro\n", "exec: {echoed:?}");
    Ok(())
}

pub(crate) fn whole_life(containerd: &mut Containerd) -> Result<()> {
    start(containerd, "life")?;
    echo(containerd, "life")?;
    let failed = containerd.ctr_output(&["tasks", "exec", "--exec-id", "e2", "life", "false"])?;
    ensure!(failed.status.code() == Some(3), "exec of false: {failed:?}");
    let none = containerd.ctr_output(&["tasks", "exec", "--exec-id", "e3", "life", "nonesuch"])?;
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    ensure!(
        !none.status.success() && said.contains("nonesuch"),
        "exec of nothing: {said}"
    );
    containerd.ctr_ok(&["tasks", "pause", "life"])?;
    wait_status(containerd, "life", "PAUSED")?;
    containerd.ctr_ok(&["tasks", "resume", "life"])?;
    wait_status(containerd, "life", "RUNNING")?;
    end(containerd, "life")?;

    start(containerd, "again")?;
    containerd.ctr_ok(&["tasks", "kill", "--signal", "SIGKILL", "again"])?;
    wait_status(containerd, "again", "STOPPED")?;
    remove_killed(containerd, "again")?;
    nothing_left(containerd)
}

fn mounts(containerd: &mut Containerd) -> Result<()> {
    let run = |mount: &str, id: &str| {
        let mount = format!("type={mount}");
        let words = ["run", "--detach", "--runtime", RUNTIME, "--mount", &mount];
        containerd.ctr_output(&[&words[..], &[STUB, id, INIT]].concat())
    };
    let memory = "tmpfs,src=tmpfs,dst=/scratch,options=size=1m:mode=0700:ro";
    let ran = run(memory, "memory")?;
    ensure!(ran.status.success(), "{ran:?}");
    wait_status(containerd, "memory", "RUNNING")?;
    let told = bench::orders(containerd, "memory")?;
    let wanted = "destination: \"/scratch\" source: \"tmpfs\" type: \"tmpfs\" options: \"size=1m\" \
                  options: \"mode=0700\" options: \"ro\"";
    ensure!(told.contains(wanted), "no {wanted} in {told}");
    end(containerd, "memory")?;

    for (mount, sentence) in [
        (
            "nfs,src=server:/data,dst=/data",
            "mount of type \"nfs\" at /data is not supported",
        ),
        (
            "tmpfs,src=tmpfs,dst=/scratch,options=size=lots",
            "memory at /scratch: option \"size=lots\" is not one of tmpfs's",
        ),
    ] {
        let refused = run(mount, "refused")?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(
            !refused.status.success() && said.contains(sentence),
            "{refused:?}"
        );
        containerd.ctr_ok(&["containers", "rm", "refused"])?;
    }
    nothing_left(containerd)
}

/// Removes a task that was killed, and hears its status: `ctr` warns of one that is not 0.
fn remove_killed(containerd: &Containerd, id: &str) -> Result<()> {
    let removed = containerd.ctr_output(&["tasks", "rm", id])?;
    let said = String::from_utf8_lossy(&removed.stderr);
    ensure!(said.contains("137"), "rm: {removed:?}");
    containerd.ctr_ok(&["containers", "rm", id]).map(drop)
}

/// Two of them: the first powers itself off with its TPM there, the second loses it.
fn tpm_of_others(containerd: &mut Containerd) -> Result<()> {
    let path = containerd.dir().join("others.sock");
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let annotation = format!("{TPM_SOCKET}={}", path.display());
    let begin = || {
        let named = ["--annotation", annotation.as_str(), STUB, "tpm", INIT];
        let words = [&["run", "--detach", "--runtime", RUNTIME][..], &named].concat();
        containerd.ctr_ok(&words)?;
        wait_status(containerd, "tpm", "RUNNING")?;
        // The machine could not have begun without it.
        Ok::<_, Error>(listener.accept()?.0)
    };
    let served = begin()?;
    end(containerd, "tpm")?;
    drop(served);

    let served = begin()?;
    drop(served);
    wait_status(containerd, "tpm", "STOPPED")?;
    let exit = &bench::told(containerd, "default", "tpm")?["exit"];
    let reason = format!(
        "swtpm ended (whoever served {} has hung up)",
        path.display()
    );
    ensure!(exit["status"] == 137 && exit["reason"] == reason, "{exit}");
    remove_killed(containerd, "tpm")?;
    nothing_left(containerd)
}

fn foreground(containerd: &mut Containerd) -> Result<()> {
    let mut run = containerd.ctr(&["run", "--rm", "--runtime", RUNTIME, STUB, "front", INIT]);
    let child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    wait_status(containerd, "front", "RUNNING")?;
    containerd.ctr_ok(&["tasks", "kill", "--signal", "SIGTERM", "front"])?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{output:?}");
    in_order(&text, &["stub guest is up", "stub guest has nothing to do"])?;
    nothing_left(containerd)
}

fn events(containerd: &mut Containerd) -> Result<()> {
    let heard = containerd.dir().join("events");
    let mut listen = containerd.ctr(&["events"]);
    let mut child = listen
        .stdout(File::create(&heard)?)
        .stderr(Stdio::null())
        .spawn()?;
    let until_heard = |what: &str, then: &dyn Fn(u32) -> Result<()>| {
        let mut turn = 0;
        limit::until(&format!("event {what}"), limit::COMMAND, || {
            turn += 1;
            then(turn)?;
            Ok(fs::read_to_string(&heard)?.contains(what).then_some(()))
        })
    };
    // The listener is up when it has heard something.
    until_heard("/namespaces/create", &|turn| {
        containerd
            .ctr_ok(&["namespaces", "create", &format!("n{turn}")])
            .map(drop)
    })?;
    start(containerd, "told")?;
    echo(containerd, "told")?;
    end(containerd, "told")?;
    let result = until_heard("/tasks/delete", &|_| Ok(()));
    child.kill()?;
    child.wait()?;
    result?;
    let text = fs::read_to_string(&heard)?;
    in_order(
        &text,
        &[
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit",
            "/tasks/exit",
            "/tasks/delete",
        ],
    )
}

fn restart(containerd: &mut Containerd) -> Result<()> {
    start(containerd, "stays")?;
    let shims = containerd.shims()?;
    containerd.kill()?;
    containerd.run()?;
    wait_status(containerd, "stays", "RUNNING")?;
    ensure!(
        containerd.shims()? == shims,
        "another shim after the restart"
    );
    echo(containerd, "stays")?;

    // What ends while nobody listens is known afterwards, with its true status.
    start(containerd, "ends")?;
    let pid: u32 = vmm_pid(containerd, "ends")?;
    containerd.kill()?;
    signal(pid, "KILL")?;
    containerd.run()?;
    wait_status(containerd, "ends", "STOPPED")?;
    remove_killed(containerd, "ends")?;
    end(containerd, "stays")
}

/// The pid that `ctr tasks ls` shows: the VMM's. It shows 0 for a shim that was late, and is asked again then.
fn vmm_pid(containerd: &Containerd, id: &str) -> Result<u32> {
    limit::until(&format!("the pid of {id}"), limit::COMMAND, || {
        let list = containerd.ctr_ok(&["tasks", "ls"])?;
        let line = list
            .lines()
            .find(|line| line.split_whitespace().next() == Some(id));
        let pid = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(pid
            .and_then(|pid| pid.parse::<u32>().ok())
            .filter(|pid| *pid > 1))
    })
}

fn killed_shim(containerd: &mut Containerd) -> Result<()> {
    start(containerd, "orphan")?;
    for pid in containerd.shims()? {
        signal(pid, "KILL")?;
    }
    // containerd notices, calls `delete`, and has either a stopped task or none.
    limit::until("the end of the orphan", limit::COMMAND, || {
        let status = status(containerd, "orphan")?;
        Ok(status
            .is_none_or(|status| status == "STOPPED")
            .then_some(()))
    })?;
    let _ = containerd.ctr_output(&["tasks", "rm", "--force", "orphan"]);
    containerd.ctr_ok(&["containers", "rm", "orphan"])?;
    nothing_left(containerd)
}
