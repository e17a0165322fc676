//! The agent and the puller as they ship: what a whole corpus costs on its way into segments, and how late live lines are.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use seed_container::{Container, wait_for};
use serde_json::Value;

use super::{AGENT_MEMORY, HOST_MEMORY, IDLE, INSTANCE, P50, P99, row};
use crate::{
    bench::{Row, figure},
    util::{self, Places, say},
};

/// How long the agent may take to listen.
pub(super) const LISTEN_LIMIT: Duration = Duration::from_secs(20);
/// How long the live part lasts: some 400 lines, and then nothing to do.
const LIVE_SECONDS: u64 = 10;
/// The agent looks most often just after a line: idle is what comes this long after the last one.
const SETTLE: Duration = Duration::from_secs(2);
/// How often the agent's memory is looked at while it works.
const LOOK: Duration = Duration::from_millis(10);
/// The agent as it ships.
pub(super) const AGENT: &str = "bench-agent.service";
pub(super) const SOCKET: &str = "/run/bench/agent.sock";

/// The agent and the puller as they ship: a whole corpus into segments, then a quiet writer.
pub(super) fn rows(places: &Places, container: &Container, scratch: &Path) -> Result<Vec<Row>> {
    say("  pulling everything into segments, then live lines");
    container.serve(AGENT, SOCKET, LISTEN_LIMIT)?;
    let socket = container.inside(SOCKET);
    let pid = container.main_pid(AGENT)?;
    let used = || used(container, pid);
    let before = used()?;
    let segments = scratch.join("state/logs/default").join(INSTANCE);
    fs::create_dir_all(&segments).context("make the segments' folder")?;
    let mut puller = Command::new(places.programs().join("examples/journal_pull"))
        .arg(&socket)
        .arg(&segments)
        .arg(LIVE_SECONDS.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .context("start journal_pull")?;
    // It says nothing until the end: it has caught up when the agent has nothing more to do.
    let mut last = before.cpu_seconds;
    let (caught_up, most_kib) = most_private_while(container, pid, || {
        wait_for("the pull to catch up", Duration::from_secs(600), || {
            ensure!(puller.try_wait()?.is_none(), "journal_pull ended early");
            thread::sleep(Duration::from_millis(500));
            let now = used()?.cpu_seconds;
            let idle = now - last < 0.01 && now > before.cpu_seconds;
            last = now;
            Ok(idle)
        })
    })?;
    caught_up?;
    let after = used()?;
    container.run(&["systemctl", "start", "live.service"])?;
    thread::sleep(SETTLE);
    let quiet = used()?;
    let quiet_from = Instant::now();
    let output = puller.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "journal_pull: {}", output.status);
    let idle = used()?.cpu_seconds - quiet.cpu_seconds;
    let idle_percent = 100.0 * idle / quiet_from.elapsed().as_secs_f64().max(0.1);
    let number = numbers(&text)?;
    let entries = number("entries")?;
    ensure!(number("missing")? == 0.0, "entries are missing: {text}");
    ensure!(number("live")? > 100.0, "hardly a live line: {text}");
    // The same again in other ways.
    let single = pull_again(places, &socket, &scratch.join("single"), &["one-at-a-time"])?;
    let packed = pull_again(places, &socket, &scratch.join("packed"), &["zstd"])?;
    let bytes = |folder: &Path| -> Result<f64> { Ok(size(folder)? / entries) };
    Ok(vec![
        row(
            "agent: CPU per entry pulled",
            "us",
            1e6 * (after.cpu_seconds - before.cpu_seconds) / entries,
            &[],
        ),
        row(
            "puller: CPU per entry",
            "us",
            1e6 * number("cpu_s")? / entries,
            &[("with zstd", packed.cpu_us)],
        ),
        row(
            "segments: on disk per entry",
            "B",
            bytes(&segments)?,
            &[("with zstd", bytes(&scratch.join("packed"))?)],
        ),
        row(
            "pull of everything: wall per entry",
            "us",
            1e6 * number("wall_s")? / entries,
            &[("one at a time", single.wall_us)],
        ),
        row(
            AGENT_MEMORY,
            "MiB",
            (most_kib - before.private_kib) / 1024.0,
            &[],
        ),
        row(HOST_MEMORY, "MiB", number("private_kib")? / 1024.0, &[]),
        row(P50, "ms", number("p50_us")? / 1e3, &[]),
        row(P99, "ms", number("p99_us")? / 1e3, &[]),
        row(IDLE, "%", idle_percent, &[]),
    ])
}

/// What journal_pull printed, by its names.
pub(super) fn numbers(text: &str) -> Result<impl Fn(&str) -> Result<f64>> {
    let found: Value = serde_json::from_str(text).context("read what journal_pull printed")?;
    Ok(move |name: &str| {
        let number = found[name].as_f64();
        number.with_context(|| format!("no {name} in {found}"))
    })
}

/// What a pull of everything costs.
pub(super) struct Once {
    /// For each entry.
    pub(super) wall_us: f64,
    pub(super) agent_mib: f64,
    pub(super) puller_mib: f64,
}

/// A whole corpus into segments, by an agent that nobody asked before.
pub(super) fn once(places: &Places, container: &Container, segments: &Path) -> Result<Once> {
    container.serve(AGENT, SOCKET, LISTEN_LIMIT)?;
    let socket = container.inside(SOCKET);
    let pid = container.main_pid(AGENT)?;
    let before = used(container, pid)?;
    let pull = || pull_again(places, &socket, segments, &[]);
    let (pulled, most_kib) = most_private_while(container, pid, pull)?;
    let pulled = pulled?;
    Ok(Once {
        wall_us: pulled.wall_us,
        agent_mib: (most_kib - before.private_kib) / 1024.0,
        puller_mib: pulled.private_mib,
    })
}

/// What the puller says of a whole corpus, for each entry; and of itself.
struct Pulled {
    cpu_us: f64,
    wall_us: f64,
    private_mib: f64,
}

/// A pull of everything, that ends when it has caught up.
fn pull_again(places: &Places, socket: &Path, folder: &Path, how: &[&str]) -> Result<Pulled> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let mut puller = Command::new(places.programs().join("examples/journal_pull"));
    puller.args([socket, folder]).arg("0").args(how);
    let text = util::read(&mut puller)?;
    let number = numbers(&text)?;
    let entries = number("entries")?;
    ensure!(number("missing")? == 0.0, "entries are missing: {text}");
    Ok(Pulled {
        cpu_us: 1e6 * number("cpu_s")? / entries,
        wall_us: 1e6 * number("wall_s")? / entries,
        private_mib: number("private_kib")? / 1024.0,
    })
}

/// The bytes of a folder's files.
pub(super) fn size(folder: &Path) -> Result<f64> {
    let mut bytes = 0;
    for file in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        bytes += file?.metadata()?.len();
    }
    Ok(f64::from(u32::try_from(bytes)?))
}

/// What the agent has used so far.
struct Used {
    cpu_seconds: f64,
    private_kib: f64,
}

/// What the agent, which is this process, has used so far.
fn used(container: &Container, pid: u32) -> Result<Used> {
    let mut cpu_seconds = 0.0;
    for task in fs::read_dir(container.inside(&format!("/proc/{pid}/task")))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let nanoseconds: f64 = text.split(' ').next().context("empty schedstat")?.parse()?;
        cpu_seconds += nanoseconds / 1e9;
    }
    Ok(Used {
        cpu_seconds,
        private_kib: private_kib(container, pid)?,
    })
}

/// Pages that only the process has and that no file backs. (`Private_Dirty` also counts those of a program that was built a
/// moment ago.)
fn private_kib(container: &Container, pid: u32) -> Result<f64> {
    let path = container.inside(&format!("/proc/{pid}/smaps_rollup"));
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    figure(&text, "Anonymous:")
}

/// What the work gives, and the most that the process had of it at any look meanwhile.
fn most_private_while<T>(
    container: &Container,
    pid: u32,
    work: impl FnOnce() -> T,
) -> Result<(T, f64)> {
    thread::scope(|scope| {
        // Closed when the work is over, however it ends.
        let (working, done) = mpsc::channel::<()>();
        let looker = scope.spawn(move || {
            let mut most = private_kib(container, pid)?;
            while done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                most = most.max(private_kib(container, pid)?);
            }
            Ok(most)
        });
        let given = work();
        drop(working);
        let most: Result<f64> = looker.join().expect("it does not panic");
        Ok((given, most?))
    })
}
