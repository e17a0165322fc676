//! The agent killed at random, again and again, while everything is asked of it: in a container of namespaces, under the
//! unit that it has in a guest, with real systemd and journald. What must hold in the end: every process that was
//! acknowledged ran once and its true status is told, every line of the journal was pulled once and in its order,
//! every volume and share is mounted once, every file that was copied is whole.
//!
//! The moments come from one seed, which is printed; `SEED_TEST_DICE` takes it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    future::Future,
    io::Write,
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use seed_container::{Container, Loop, Spec, guest_root, wait_for};
use seed_kata_client::{Kata, calm, order::storage, unix};
use seed_protocol::{
    kata::agent::{ResizeVolumeRequest, Storage, VolumeStatsRequest},
    seed::{
        v1::{Position, ReadJournalRequest},
        v1_ttrpc::GuestClient,
    },
    status,
};
use tokio::{
    sync::watch,
    task::{LocalSet, spawn_local},
    time::{sleep, timeout},
};
use ttrpc::Code;

use crate::agent::take;

const KILLS: u32 = 50;
/// Of all of it, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);
/// Until an agent that was killed answers again.
pub(crate) const AGAIN: Duration = Duration::from_secs(120);

const ID: &str = "killed";
pub(crate) const UNIT: &str = "agent-under-test.service";
pub(crate) const SOCKET: &str = "/run/seed/agent.sock";
const DICE: &str = "SEED_TEST_DICE";
/// Where processes write that they ran.
const RAN: &str = "/seed/storage/v0/ran";
const DISK_BYTES: u64 = 64 << 20;

/// The unit of a real boot, with a socket that is reached from outside.
pub(crate) fn unit() -> String {
    let unit = include_str!("../../systemd/seed-agent.service");
    let begin = "ExecStart=/usr/bin/seed-agent";
    assert!(unit.contains(begin));
    let unit = unit.replace(
        begin,
        &format!("ExecStart=/opt/seed-agent --listen unix:{SOCKET}"),
    );
    // The boot is over here, and a name of its own must not hold it up.
    unit.replace("Before=sysinit.target", "")
        .replace("RestartSec=200ms", "RestartSec=20ms")
}

/// xorshift64*: one seed, one order of events.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// The agent as the load sees it: a connection, which is made again when it breaks.
struct Link {
    socket: PathBuf,
    kata: watch::Sender<Option<Kata>>,
}

impl Link {
    async fn kata(&self) -> Kata {
        if let Some(kata) = self.kata.borrow().clone() {
            return kata;
        }
        let dialled = timeout(AGAIN, async {
            loop {
                // The old socket stays where it is until the next agent listens.
                if let Ok(client) = unix(&self.socket).await {
                    let kata = Kata::new(client);
                    if kata.check().await.unwrap_or(false) {
                        return kata;
                    }
                }
                sleep(Duration::from_millis(10)).await;
            }
        });
        let kata = dialled
            .await
            .expect("an agent that was killed answers again");
        self.kata.send_replace(Some(kata.clone()));
        kata
    }

    /// Asks until there is an answer that is the agent's own. A connection that broke is no answer.
    async fn ask<T, F: Future<Output = ttrpc::Result<T>>>(
        &self,
        ask: impl Fn(Kata) -> F,
    ) -> Result<T, (Code, String)> {
        loop {
            let error = match ask(self.kata().await).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if let Some((code, message)) = status::of(&error) {
                // It has just started, and systemd is not known to it yet.
                if !message.contains("not yet") {
                    return Err((code, message.to_owned()));
                }
            } else {
                self.kata.send_replace(None);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[test]
fn an_agent_in_a_container_killed_fifty_times_under_load_loses_nothing() {
    let root = match guest_root() {
        _ if crate::missing().is_none() => return,
        Ok(root) => root,
        Err(reason) => {
            let line = format!("SKIPPED an agent killed fifty times: {reason}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return;
        }
    };
    let dice = match env::var(DICE) {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    };
    let _ = writeln!(std::io::stderr(), "{DICE}={dice}");
    let scratch = tempfile::tempdir().unwrap();
    let disks = ["a", "b"].map(|name| Loop::make(&scratch.path().join(name), DISK_BYTES).unwrap());
    let container = boot(&root, &disks);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let test = async {
        let done = timeout(LIMIT, all(&container, &disks, Dice(dice | 1))).await;
        done.expect("the test ends within its limit");
    };
    LocalSet::new().block_on(&runtime, test);
}

fn boot(root: &Path, disks: &[Loop; 2]) -> Container {
    let agent = Path::new(env!("CARGO_BIN_EXE_seed-agent"));
    let spec = Spec::new(root)
        .and_then(|spec| spec.file(&format!("/etc/systemd/system/{UNIT}"), unit()))
        .and_then(|spec| spec.file("/etc/seed/instance.json", "{}"))
        .unwrap()
        .show(agent, "/opt/seed-agent");
    let spec = disks.iter().fold(spec, |spec, disk| {
        spec.bind(Path::new(disk.node()), disk.node())
    });
    let container = spec.boot().unwrap();
    container.serve(UNIT, SOCKET, AGAIN).unwrap();
    container
}

/// The host's order: two disks, memory, and a folder of the guest.
fn storages(disks: &[Loop; 2]) -> Vec<Storage> {
    let mut storages: Vec<_> = disks
        .iter()
        .enumerate()
        .map(|(number, disk)| {
            let place = format!("/seed/storage/v{number}");
            let mut storage = storage("blk", disk.node(), "ext4", &place, &[]);
            storage.driver_options = vec![format!("name=v{number}")];
            storage
        })
        .collect();
    let memory = "/run/kata-containers/sandbox/shm";
    storages.push(storage(
        "ephemeral",
        "shm",
        "tmpfs",
        memory,
        &["size=1048576"],
    ));
    storages
}

async fn all(container: &Container, disks: &[Loop; 2], mut dice: Dice) {
    let link = Rc::new(Link {
        socket: container.inside(SOCKET),
        kata: watch::Sender::new(None),
    });
    let stop = Rc::new(watch::Sender::new(false));
    // The first kills meet the provisioning.
    let provisioned = spawn_local({
        let (link, storages) = (link.clone(), storages(disks));
        async move { provision(&link, storages).await }
    });
    let mut kills = 0;
    while kills < 5 || !provisioned.is_finished() {
        sleep(Duration::from_millis(20 + dice.roll(150))).await;
        kill(container);
        kills += 1;
        if kills >= 5 {
            // From here on it comes to its end, on a busy machine after some more.
            sleep(Duration::from_secs(2) * (kills - 4)).await;
        }
    }
    provisioned.await.unwrap();

    let execs: Vec<_> = (0..3)
        .map(|worker| spawn_local(execs(link.clone(), worker, stop.clone())))
        .collect();
    let pulls = spawn_local(pulls(link.clone(), stop.clone()));
    let calls = spawn_local(volumes_and_copies(link.clone(), stop.clone()));
    let writer = container
        .command(&["sh", "-c", WRITER])
        .spawn()
        .expect("a writer in the container");
    while kills < KILLS {
        sleep(Duration::from_millis(30 + dice.roll(300))).await;
        kill(container);
        kills += 1;
    }
    sleep(Duration::from_secs(1)).await;
    let written = end_of(container, writer);
    stop.send_replace(true);
    let mut seen = Execs::default();
    for worker in execs {
        seen.join(worker.await.unwrap());
    }
    let (copies, answers) = calls.await.unwrap();
    let pulled = pulls.await.unwrap();
    let line = format!(
        "{kills} kills; {} processes, {} of them with their status; {} lines of {written} pulled; {answers} calls, {copies} files\n",
        seen.started.len(),
        seen.told,
        pulled.len(),
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    check(container, &seen, copies);
    // In their order, each once.
    let all: Vec<u64> = (0..written).collect();
    assert_eq!(pulled, all, "what was pulled is not what was written");
    assert!(seen.told > 0 && answers > 0 && copies > 0 && written > 0);
}

/// Writes numbered lines until it is told to end; then the number of lines stands in a file.
const WRITER: &str = "{ n=0; while ! [ -e /tmp/stop ]; do echo \"kills line $n\"; n=$((n+1)); \
    [ $((n % 20)) = 0 ] && sleep 0.05; done; echo $n > /tmp/written; } | systemd-cat -t kills; \
    journalctl --sync";

fn end_of(container: &Container, mut writer: std::process::Child) -> u64 {
    container.run(&["touch", "/tmp/stop"]).unwrap();
    assert!(writer.wait().unwrap().success());
    let written = container.run(&["cat", "/tmp/written"]).unwrap();
    written.trim().parse().unwrap()
}

fn kill(container: &Container) {
    let words = ["systemctl", "kill", "--kill-whom=main", "-s", "KILL", UNIT];
    // Between two lives it has no main process; that is a moment like any other.
    let _ = container.command(&words).output();
}

async fn provision(link: &Link, storages: Vec<Storage>) {
    let created = link
        .ask(|kata| {
            let storages = storages.clone();
            async move { kata.create(ID, &["A=1"], storages).await }
        })
        .await;
    match created {
        Ok(()) => {}
        // The agent that did it did not live to say so.
        Err((Code::ALREADY_EXISTS, _)) => {}
        Err(other) => panic!("CreateContainer: {other:?}"),
    }
    link.ask(|kata| async move { kata.start(ID).await })
        .await
        .unwrap();
}

/// What one or more workers know of their processes.
#[derive(Default)]
struct Execs {
    /// Those that the agent said were started.
    started: BTreeSet<String>,
    /// Those of which the agent never said anything: each may or may not have run.
    unclear: BTreeSet<String>,
    /// How many statuses came.
    told: usize,
}

impl Execs {
    fn join(&mut self, other: Self) {
        self.started.extend(other.started);
        self.unclear.extend(other.unclear);
        self.told += other.told;
    }
}

/// Starts one process after the other; each writes down that it ran, and ends with a status of its own.
async fn execs(link: Rc<Link>, worker: u32, stop: Rc<watch::Sender<bool>>) -> Execs {
    let mut execs = Execs::default();
    for number in 0.. {
        if *stop.borrow() {
            break;
        }
        let exec = format!("w{worker}-{number}");
        let status = number % 100;
        let script = format!(
            "echo {exec} >> {RAN}; sleep 0.0{}; exit {status}",
            number % 10
        );
        let kata = link.kata().await;
        match kata.exec(ID, &exec, &["/bin/sh", "-c", &script]).await {
            Ok(()) => {
                execs.started.insert(exec.clone());
            }
            Err(error) => {
                assert_says_nothing_wrong(&error);
                if status::of(&error).is_none() {
                    execs.unclear.insert(exec);
                    link.kata.send_replace(None);
                }
                sleep(Duration::from_millis(5)).await;
                continue;
            }
        }
        let told = link
            .ask(|kata| {
                let exec = exec.clone();
                async move { kata.wait(ID, &exec).await }
            })
            .await;
        match told {
            Ok(told) => {
                assert_eq!(told, status, "the status of {exec}");
                execs.told += 1;
                read_to_the_end(&link, &exec).await;
            }
            Err(other) => panic!("WaitProcess of {exec}: {other:?}"),
        }
    }
    execs
}

/// As every shim does: what nobody has read is held for a while, and only so much of it.
async fn read_to_the_end(link: &Link, exec: &str) {
    for stderr in [false, true] {
        let read = |kata: Kata| async move {
            let ended = kata.read(ID, exec, stderr).await;
            ended.expect("a task that does not panic")
        };
        assert_eq!(link.ask(read).await, Ok(Vec::new()), "output of {exec}");
    }
}

/// The one refusal that a process may get here.
fn assert_says_nothing_wrong(error: &ttrpc::Error) {
    if let Some((code, message)) = status::of(error) {
        assert!(message.contains("not yet"), "{code:?}: {message}");
    }
}

/// Pulls the journal from its beginning; the numbers of the writer's lines, as they came.
async fn pulls(link: Rc<Link>, stop: Rc<watch::Sender<bool>>) -> Vec<u64> {
    let mut after = Position::default();
    let mut numbers = Vec::new();
    let mut stopping = false;
    loop {
        let request = ReadJournalRequest {
            after: Some(after.clone()).into(),
            wait_ms: 200,
            ..Default::default()
        };
        let batch = link
            .ask(|kata| {
                let request = request.clone();
                async move {
                    let guest = GuestClient::new(kata.client.clone());
                    guest.read_journal(calm(), &request).await
                }
            })
            .await
            .unwrap();
        if batch.count > 0 {
            let mut messages = Vec::new();
            after = take(&batch, &mut messages);
            let number = |text: &String| text.strip_prefix("kills line ")?.parse::<u64>().ok();
            numbers.extend(messages.iter().filter_map(number));
        }
        // Once more after the end: everything is written by then.
        if batch.count == 0 && stopping {
            return numbers;
        }
        stopping = *stop.borrow();
    }
}

/// Asks for room, lets volumes grow, and copies files; how many files, and how many answers in all.
async fn volumes_and_copies(link: Rc<Link>, stop: Rc<watch::Sender<bool>>) -> (u32, u32) {
    let (mut copies, mut answers) = (0, 0);
    while !*stop.borrow() {
        let path = format!("/run/kata-containers/shared/containers/copied/{copies}");
        let data = copies.to_string().repeat(1000);
        link.ask(|kata| {
            let (path, data) = (path.clone(), data.clone());
            async move { kata.copy(&path, data.as_bytes()).await }
        })
        .await
        .unwrap();
        copies += 1;
        let place = format!("/seed/storage/v{}", copies % 2);
        let stats = VolumeStatsRequest {
            volume_guest_path: place.clone(),
            ..Default::default()
        };
        let room = link
            .ask(|kata| {
                let stats = stats.clone();
                async move { kata.agent.get_volume_stats(calm(), &stats).await }
            })
            .await
            .unwrap();
        assert_eq!(room.usage.len(), 2);
        let grow = ResizeVolumeRequest {
            volume_guest_path: place,
            size: DISK_BYTES,
            ..Default::default()
        };
        link.ask(|kata| {
            let grow = grow.clone();
            async move { kata.agent.resize_volume(calm(), &grow).await }
        })
        .await
        .unwrap();
        answers += 3;
        sleep(Duration::from_millis(20)).await;
    }
    (copies, answers)
}

/// What the guest itself says in the end.
fn check(container: &Container, seen: &Execs, copies: u32) {
    let mut ran: BTreeMap<String, u32> = BTreeMap::new();
    for line in container.run(&["cat", RAN]).unwrap().lines() {
        *ran.entry(line.to_owned()).or_default() += 1;
    }
    let twice: Vec<_> = ran.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "these ran more than once: {twice:?}");
    let never: Vec<_> = seen
        .started
        .iter()
        .filter(|id| !ran.contains_key(*id))
        .collect();
    assert!(
        never.is_empty(),
        "these were started and never ran: {never:?}"
    );
    let known = |id: &&String| seen.started.contains(*id) || seen.unclear.contains(*id);
    let unknown: Vec<_> = ran.keys().filter(|id| !known(id)).collect();
    assert!(unknown.is_empty(), "nobody started these: {unknown:?}");
    let mounts = container.run(&["findmnt", "-rno", "TARGET"]).unwrap();
    for place in [
        "/seed/storage/v0",
        "/seed/storage/v1",
        "/run/kata-containers/sandbox/shm",
    ] {
        let times = mounts.lines().filter(|line| *line == place).count();
        assert_eq!(times, 1, "{place} in\n{mounts}");
    }
    let folder = "/run/kata-containers/shared/containers/copied";
    let script =
        format!("cd {folder}; ls -A | wc -l; for f in *; do printf '%s ' $f; wc -c < $f; done");
    let listed = container.run(&["sh", "-c", &script]).unwrap();
    let mut lines = listed.lines();
    assert_eq!(
        lines.next().unwrap().trim(),
        copies.to_string(),
        "parts are left"
    );
    for line in lines {
        let (name, size) = line.split_once(' ').unwrap();
        assert_eq!(size.trim(), (name.len() * 1000).to_string(), "{name}");
    }
    let units = [
        "systemctl",
        "list-units",
        "--plain",
        "--no-legend",
        "--state=failed",
        "seed-exec-*",
    ];
    // Of a process whose start nobody confirmed nobody has waited for the end: the last agent may still be at it.
    wait_for("an agent that leaves no failed units", AGAIN, || {
        Ok(container.run(&units)?.is_empty())
    })
    .unwrap();
}
