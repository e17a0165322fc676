//! From Create to a launched VMM, and how long the very same programs take that are started by hand, in turns.
//!
//! By hand means: the command lines of a running instance, with its folders replaced by scratch ones, and names of files
//! where it was given open ones; the daemons at once, each waited for by its listening socket, then QEMU until its monitor takes commands. So the difference is what the shim itself takes: reading and
//! checking bundle and closure, the root's mounts, the TPM's lock, noticing what listens.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{ONE, Row, row};
use crate::{
    bench::median,
    lab::{BOOT, COMMAND, Lab, STOP, until},
};

/// The instance that is started and killed again.
pub(super) const NAME: &str = "launch";
/// How often a socket is looked for.
const POLL: Duration = Duration::from_millis(1);
/// Its state is in its working directory.
const SWTPM: &str = "swtpm";
/// So are its sockets; the shim starts it as a copy of itself.
const VSOCK: &str = "vsock";
/// What QEMU needs first; the socket of each.
const DAEMONS: [(&str, &str); 3] = [
    (SWTPM, "tpm.sock"),
    ("virtiofsd", "virtiofs.sock"),
    (VSOCK, "vhost"),
];
/// The VMM and its monitor.
const QEMU: (&str, &str) = ("qemu", "qmp.sock");

/// What the shim and QEMU take until QEMU's monitor answers.
pub(super) const BEYOND_DAEMONS: &str = "  of it beyond the daemons, QEMU's start with it";

/// `processes` are those of [`ONE`], which runs.
pub(super) fn measure(
    lab: &Lab,
    processes: &BTreeMap<String, u32>,
    runs: usize,
) -> Result<Vec<Row>> {
    let by_hand = ByHand::of(lab, processes)?;
    let [mut ours, mut daemons, mut all] = [const { Vec::new() }; 3];
    for _ in 0..runs {
        ours.push(create(lab)?);
        let (first, both) = by_hand.start()?;
        daemons.push(first);
        all.push(both);
    }
    let middle = |values: &[f64]| median(values).context("nothing was launched");
    let (ours, daemons, all) = (middle(&ours)?, middle(&daemons)?, middle(&all)?);
    Ok(vec![
        row("Create to VMM launched", "ms", ours, &[("by hand", all)]),
        row("  of it the daemons, by hand", "ms", daemons, &[]),
        row(BEYOND_DAEMONS, "ms", ours - daemons, &[]),
        row("  less all of it by hand", "ms", ours - all, &[]),
    ])
}

/// Starts an instance as far as its VMM; the time since Create, as its status has it, ms.
fn create(lab: &Lab) -> Result<f64> {
    let guest = lab.guest().to_string_lossy().into_owned();
    let mut run = lab.command("seed");
    run.args(["run", &guest, "--name", NAME]);
    run.stdout(Stdio::null()).stderr(Stdio::null());
    let mut run = run.spawn().context("start seed")?;
    let launched = until("the VMM's launch", BOOT, || {
        let output = lab.try_seed(&["status", NAME, "--json"], COMMAND)?;
        let status = serde_json::from_slice::<serde_json::Value>(&output.stdout).ok();
        let stage = status.as_ref().and_then(|s| s["stages"].get(0));
        let vmm = stage.filter(|stage| stage["stage"] == "vmm");
        Ok(vmm.and_then(|stage| stage["since_create_ms"].as_f64()))
    });
    let stopped = lab.seed(&["stop", NAME, "--kill"], STOP);
    until("the end of `seed run`", STOP, || Ok(run.try_wait()?))?;
    let launched = launched?;
    stopped?;
    Ok(launched)
}

/// The command lines of a running instance, in a folder of their own.
#[derive(Debug)]
struct ByHand {
    scratch: PathBuf,
    commands: BTreeMap<String, Vec<String>>,
}

impl ByHand {
    fn of(lab: &Lab, processes: &BTreeMap<String, u32>) -> Result<Self> {
        let scratch = lab.dir().join("hand");
        let state = |kind: &str| lab.state_dir().join(kind).join("default").join(ONE);
        let run = lab.run_dir().join("default").join(ONE);
        // The longest first: one is inside the other.
        let places = [
            (run.join("bundle/rootfs"), lab.guest().to_owned()),
            (run.join("vm"), scratch.join("vm")),
            (state("tpm"), scratch.join("tpm")),
            (state("volumes"), scratch.join("volumes")),
        ];
        let mut commands = BTreeMap::new();
        for (name, pid) in processes {
            let line = fs::read(format!("/proc/{pid}/cmdline")).context("read a command line")?;
            let line = String::from_utf8(line).context("a command line is text")?;
            let words = line.trim_end_matches('\0').split('\0').map(str::to_owned);
            let mut words = named(words.collect(), *pid, &scratch.join("vm"))?;
            if name == VSOCK {
                let shim = fs::read_link(format!("/proc/{pid}/exe")).context("find a program")?;
                words[0] = shim.display().to_string();
            }
            let words = words.into_iter().map(|word| {
                places.iter().fold(word, |word, (from, to)| {
                    word.replace(&from.display().to_string(), &to.display().to_string())
                })
            });
            commands.insert(name.clone(), words.collect());
        }
        let volumes = scratch.join("volumes");
        fs::create_dir_all(&volumes).context("make a scratch folder")?;
        for entry in fs::read_dir(state("volumes"))? {
            let image = fs::File::create(volumes.join(entry?.file_name()))?;
            image.set_len(64 << 20)?;
        }
        Ok(Self { scratch, commands })
    }

    /// Starts all; ms until the daemons listened, and until QEMU did. Ends them again.
    fn start(&self) -> Result<(f64, f64)> {
        let (vm, tpm) = (self.scratch.join("vm"), self.scratch.join("tpm"));
        for folder in [&vm, &tpm] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        let begin = Instant::now();
        let passed = || begin.elapsed().as_secs_f64() * 1000.0;
        let mut children = Children(Vec::new());
        for (name, _) in DAEMONS {
            children.0.push(self.spawn(name)?);
        }
        for (name, socket) in DAEMONS {
            // What it listens on is named as it named it.
            let socket = vm.join(socket);
            wait(if name == VSOCK {
                Path::new("./vhost")
            } else {
                &socket
            })?;
        }
        let daemons = passed();
        children.0.push(self.spawn(QEMU.0)?);
        greet(&vm.join(QEMU.1))?;
        Ok((daemons, passed()))
    }

    fn spawn(&self, name: &str) -> Result<Child> {
        let words = self.commands.get(name);
        let (program, args) = words
            .and_then(|words| words.split_first())
            .with_context(|| format!("the instance has no {name}"))?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        if name == SWTPM {
            command.current_dir(self.scratch.join("tpm"));
        }
        if name == VSOCK {
            command.current_dir(self.scratch.join("vm"));
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().with_context(|| format!("start {name}"))
    }
}

/// A command line with names in `vm` in place of the open files that the process was given.
fn named(words: Vec<String>, pid: u32, vm: &Path) -> Result<Vec<String>> {
    let socket = |name: &str| vm.join(name).display().to_string();
    let mut sets = BTreeMap::new();
    let mut named = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "-add-fd" {
            let set = words.next().context("-add-fd has no value")?;
            let (_, rest) = set.split_once(",set=").context("a set has a number")?;
            let (number, file) = rest.split_once(",opaque=").context("a set has a name")?;
            sets.insert(format!("/dev/fdset/{number}"), file.to_owned());
            continue;
        }
        let word = sets
            .iter()
            .fold(word, |word, (set, file)| word.replace(set, file));
        named.push(if let Some(number) = word.strip_prefix("/proc/self/fd/") {
            let file = fs::read_link(format!("/proc/{pid}/fd/{number}"));
            file.context("find an open file")?.display().to_string()
        } else if let Some((channel, _)) = word.split_once(",clientfd=") {
            format!("{channel},path={}", socket(DAEMONS[0].1))
        } else if let Some((connection, _)) = word.split_once(",fd=") {
            let name = match connection {
                "socket,id=tpm" => DAEMONS[0].1,
                "socket,id=root" => DAEMONS[1].1,
                "socket,id=vsock" => DAEMONS[2].1,
                "socket,id=monitor" => QEMU.1,
                other => anyhow::bail!("{other} is nothing that is known here"),
            };
            let listens = if name == QEMU.1 {
                ",server=on,wait=off"
            } else {
                ""
            };
            format!("{connection},path={}{listens}", socket(name))
        } else {
            word
        });
    }
    Ok(named)
}

/// Until QEMU's monitor takes commands: it listens before its machine is made, and answers after.
fn greet(socket: &Path) -> Result<()> {
    wait(socket)?;
    let mut stream = UnixStream::connect(socket).context("connect to QEMU's monitor")?;
    stream.set_read_timeout(Some(COMMAND))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut line = || {
        lines
            .next()
            .context("QEMU's monitor was closed")?
            .context("read from QEMU's monitor")
    };
    line()?;
    stream.write_all(b"{\"execute\": \"qmp_capabilities\"}\n")?;
    line().map(drop)
}

/// Ended when dropped, the last first.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.0.iter_mut().rev() {
            // It may have ended with the one before it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Until a process listens there; `/proc/net/unix` names it.
fn wait(socket: &Path) -> Result<()> {
    let name = socket.display().to_string();
    let begin = Instant::now();
    loop {
        let table = fs::read_to_string("/proc/net/unix").context("read /proc/net/unix")?;
        let listens = |line: &str| line.ends_with(&name) && line.contains(" 00010000 ");
        if table.lines().any(listens) {
            return Ok(());
        }
        anyhow::ensure!(begin.elapsed() < COMMAND, "nobody listens at {name}");
        thread::sleep(POLL);
    }
}
