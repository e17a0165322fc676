//! A flood while the host stalls: what another unit of the guest feels of it, and whether the host counts exactly what the
//! journal's size cap deleted meanwhile.
//!
//! Three times the same in one guest whose journal may take 32 MiB: the host reads on; it stalls (the puller is stopped by a
//! signal, with its requests under way); and journald forwards by itself (`ForwardToSocket=`, journald.conf(5)) to a reader that
//! stalls as long. The other unit logs and has journald write out what it got, over and over (`other.sh`).

use std::{
    fs,
    io::Read,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use seed_container::{Container, wait_for};

use super::{
    Background, FLOOD_CALL, FLOOD_SYNC, FLOOD_UNCOUNTED, corpus,
    pull::{AGENT, LISTEN_LIMIT, SOCKET, numbers, size},
    row,
};
use crate::{
    bench::Row,
    lab,
    util::{self, Places, say},
};

/// How many entries come at once, and how long the host stalls from their first on.
const FLOOD: u32 = 200_000;
const STALL: Duration = Duration::from_secs(12);
/// How long the flood may take on a busy machine, and the other unit to end.
const LIMIT: Duration = Duration::from_secs(180);
/// How often whoever waits looks again.
const PAUSE: Duration = Duration::from_millis(10);

const JOURNALD: &str = "\
[Journal]
Storage=persistent
RateLimitIntervalSec=0
RateLimitBurst=0
SystemMaxUse=32M
SystemKeepFree=1M
";
const FORWARD: &str = "[Journal]\nForwardToSocket=/run/forward.sock\n";
const OTHER: &str = "[Service]\nExecStart=/bin/bash /opt/other.sh /run/other\n";
const OTHER_SCRIPT: &str = include_str!("other.sh");

pub(super) fn rows(places: &Places, guest: &Path, scratch: &Path) -> Result<Vec<Row>> {
    say("  flooding while the host stalls");
    let container = corpus::spec(places, guest, JOURNALD)?
        .file("/etc/systemd/system/other.service", OTHER)?
        .file("/opt/other.sh", OTHER_SCRIPT)?
        .boot()?;
    container.serve(AGENT, SOCKET, LISTEN_LIMIT)?;
    let segments = scratch.join("flood");
    let first = number(&container, "--lines=+1")?;
    let puller = Background(
        pull(places, &container, &segments, LIMIT * 4)
            .stdout(Stdio::null())
            .spawn()
            .context("start journal_pull")?,
    );
    wait_for("the pull to begin", LISTEN_LIMIT, || {
        Ok(segments.exists() && size(&segments)? > 1e3)
    })?;
    let reads = delays(&container, |_| Ok(()))?;
    let stalled = delays(&container, |stalls| {
        lab::signal(puller.0.id(), if stalls { "STOP" } else { "CONT" })
    })?;
    drop(puller);
    container.run(&["logger", "there is something left to pull"])?;
    container.run(&["journalctl", "--sync"])?;
    let last = number(&container, "--lines=1")?;
    let text = util::read(&mut pull(places, &container, &segments, Duration::ZERO))?;
    let held = numbers(&text)?;
    let missing = held("held_missing")?;
    // Numbers are given out once each: journald took so many.
    let taken = held("last")? - first + 1.0;
    ensure!(
        held("last")? >= last,
        "the host has no entry {last}: {text}"
    );
    ensure!(
        taken > f64::from(2 * FLOOD) + reads.lines + stalled.lines,
        "journald took {taken} entries only"
    );
    ensure!(missing > 0.0, "the cap deleted nothing: {text}");
    let forwarded = forwarded(&container)?;
    let peers = |of: fn(&Delays) -> f64| {
        [
            ("host reads", of(&reads)),
            ("ForwardToSocket", of(&forwarded)),
        ]
    };
    Ok(vec![
        row(FLOOD_CALL, "ms", stalled.call_ms, &peers(|it| it.call_ms)),
        row(FLOOD_SYNC, "ms", stalled.sync_ms, &peers(|it| it.sync_ms)),
        row(
            "host stalls 12 s: entries that the cap deleted unread",
            "entries",
            missing,
            &[],
        ),
        row(
            FLOOD_UNCOUNTED,
            "entries",
            (taken - held("held")? - missing).abs(),
            &[],
        ),
    ])
}

/// The puller, that ends so long after it has caught up.
fn pull(places: &Places, container: &Container, segments: &Path, more: Duration) -> Command {
    let mut command = Command::new(places.programs().join("examples/journal_pull"));
    command.arg(container.inside(SOCKET)).arg(segments);
    command.arg(more.as_secs().to_string());
    command
}

/// The number of the one entry that journalctl prints.
fn number(container: &Container, which: &str) -> Result<f64> {
    let text = container.run(&["journalctl", "--quiet", "--output=export", which])?;
    let mut lines = text.lines();
    let number = lines.find_map(|line| line.strip_prefix("__SEQNUM="));
    Ok(number.context("journalctl printed no entry")?.parse()?)
}

/// What the other unit met.
struct Delays {
    lines: f64,
    /// The longest of its calls, and of the calls with what follows.
    call_ms: f64,
    sync_ms: f64,
}

/// Runs the flood and the other unit, and has the host stall meanwhile.
fn delays(container: &Container, mut stall: impl FnMut(bool) -> Result<()>) -> Result<Delays> {
    let notes = container.inside("/run/other");
    let stop = container.inside("/run/other.stop");
    for path in [&notes, &stop] {
        if path.exists() {
            fs::remove_file(path).with_context(|| format!("delete {}", path.display()))?;
        }
    }
    container.run(&["systemctl", "start", "other.service"])?;
    wait_for("the other unit", LIMIT, || Ok(notes.exists()))?;
    let flood = format!("corpus@1-{FLOOD}.service");
    stall(true)?;
    container.run(&["systemctl", "start", "--no-block", &flood])?;
    thread::sleep(STALL);
    stall(false)?;
    wait_for_end(container, &flood)?;
    fs::write(&stop, "").context("stop the other unit")?;
    wait_for_end(container, "other.service")?;
    let text = fs::read_to_string(&notes).context("read the other unit's notes")?;
    let mut delays = Delays {
        lines: 0.0,
        call_ms: 0.0,
        sync_ms: 0.0,
    };
    for line in text.lines() {
        let (call, sync) = line.split_once(' ').context("a note without two figures")?;
        delays.lines += 1.0;
        delays.call_ms = delays.call_ms.max(call.parse::<f64>()? / 1e3);
        delays.sync_ms = delays.sync_ms.max(sync.parse::<f64>()? / 1e3);
    }
    Ok(delays)
}

/// Waits until a unit has done what it was started for.
fn wait_for_end(container: &Container, unit: &str) -> Result<()> {
    let mut state = String::new();
    wait_for(&format!("{unit} to end"), LIMIT, || {
        let words = [
            "systemctl",
            "show",
            "--property=ActiveState",
            "--value",
            unit,
        ];
        state = container.run(&words)?;
        Ok(!["active", "activating", "deactivating"].contains(&state.trim()))
    })?;
    ensure!(state.trim() == "inactive", "{unit}: {state}");
    Ok(())
}

/// The same with journald's own forwarding.
fn forwarded(container: &Container) -> Result<Delays> {
    let listener = UnixListener::bind(container.inside("/run/forward.sock"))?;
    listener.set_nonblocking(true)?;
    let folder = container.inside("/run/systemd/journald.conf.d");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("zz-forward.conf"), FORWARD)?;
    let reader = Reader::default();
    thread::scope(|scope| {
        scope.spawn(|| reader.read_all(&listener));
        let delays = (|| {
            container.run(&["systemctl", "restart", "systemd-journald.service"])?;
            wait_for("journald to forward", LISTEN_LIMIT, || {
                container.run(&["logger", "to be forwarded"])?;
                Ok(reader.bytes.load(Ordering::SeqCst) > 0)
            })?;
            delays(container, |stalls| {
                reader.stalls.store(stalls, Ordering::SeqCst);
                Ok(())
            })
        })();
        reader.ended.store(true, Ordering::SeqCst);
        delays
    })
}

/// Who reads what journald forwards.
#[derive(Default)]
struct Reader {
    bytes: AtomicU64,
    stalls: AtomicBool,
    ended: AtomicBool,
}

impl Reader {
    /// Reads whatever comes until it is told to end.
    fn read_all(&self, listener: &UnixListener) {
        let mut stream: Option<UnixStream> = None;
        let mut buffer = vec![0; 1 << 16];
        while !self.ended.load(Ordering::SeqCst) {
            let stalls = self.stalls.load(Ordering::SeqCst);
            let Some(open) = stream.as_mut().filter(|_| !stalls) else {
                stream = stream.or_else(|| {
                    let (stream, _) = listener.accept().ok()?;
                    stream.set_read_timeout(Some(PAUSE)).ok()?;
                    Some(stream)
                });
                thread::sleep(PAUSE);
                continue;
            };
            match open.read(&mut buffer) {
                Ok(0) => stream = None,
                Ok(read) => drop(self.bytes.fetch_add(read as u64, Ordering::SeqCst)),
                // Nothing has come for a while.
                Err(_) => {}
            }
        }
    }
}
