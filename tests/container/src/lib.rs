//! A guest's systemd in a container of namespaces on a guest's root file system: everything that a test or a
//! bench can have of a guest without a VM, at native speed.
//!
//! The root stays as it is: an overlay in memory takes what is written. `/sys` and `/proc/sys` are read-only, `/dev`
//! has the harmless nodes only, and there is no network, so nothing in there reaches the machine but what
//! [`Spec::bind`] hands in ([`Loop`] and [`Swtpm`] are devices for that). The units `seed-agent.service` and `app.service` are masked: they belong to a real boot.
//! What a container holds beside that is its user's matter; nothing here knows the agent.
//!
//! Needs root, `unshare(1)`, `nsenter(1)`, and a root as `cargo xtask image` makes it.

#![forbid(unsafe_code)]

mod device;
mod image;
mod layer;

use std::{
    env, fs,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

pub use device::{Loop, Swtpm};
pub use image::Image;
use layer::Layer;

/// Names a guest's root.
pub const ROOT_VARIABLE: &str = "SEED_TEST_GUEST";

/// A part of containerd's configuration, in place of its own limits, which are two to five seconds: on a busy machine a shim
/// that is late once would be taken for dead.
pub const CONTAINERD_LIMITS: &str = r#"[timeouts]
"io.containerd.timeout.shim.cleanup" = "60s"
"io.containerd.timeout.shim.load" = "60s"
"io.containerd.timeout.shim.shutdown" = "60s"
"io.containerd.timeout.task.state" = "60s"
"#;

/// How long systemd may take to come up, on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(240);
/// How long a wait pauses between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes a cgroup, and becomes [`SET_UP`].
const OWN_CGROUP: &str = include_str!("own-cgroup.sh");
/// Mounts, and becomes systemd.
const SET_UP: &str = include_str!("set-up.sh");

/// Units that a container never starts by itself.
const MASKED: [&str; 2] = ["seed-agent.service", "app.service"];

/// The guest's root that [`ROOT_VARIABLE`] names, where a container is possible; else why not.
pub fn guest_root() -> Result<PathBuf, &'static str> {
    if !fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
        return Err("needs root");
    }
    env::var_os(ROOT_VARIABLE)
        .map(PathBuf::from)
        .ok_or("SEED_TEST_GUEST names no guest's root")
}

/// What a container shall hold.
#[derive(Debug)]
pub struct Spec {
    root: PathBuf,
    layer: Layer,
    /// Read-only or not, where on the machine, where inside.
    binds: Vec<(&'static str, PathBuf, String)>,
}

impl Spec {
    /// A container on a guest's root. Makes a folder of its own among the temporary files.
    pub fn new(root: &Path) -> Result<Self> {
        let mut spec = Self {
            root: root.to_owned(),
            layer: Layer::make()?,
            binds: Vec::new(),
        };
        for unit in MASKED {
            spec = spec.mask(unit)?;
        }
        Ok(spec)
    }

    /// A file with this text, in place of what the root has there.
    pub fn file(self, path: &str, text: impl AsRef<[u8]>) -> Result<Self> {
        self.layer.write(path, text.as_ref())?;
        Ok(self)
    }

    /// A unit that cannot start.
    pub fn mask(self, unit: &str) -> Result<Self> {
        self.layer
            .link(&format!("/etc/systemd/system/{unit}"), "/dev/null")?;
        Ok(self)
    }

    /// A file, folder or device of the machine, seen inside, read-only. On the way to `inside` is no
    /// symbolic link.
    #[must_use]
    pub fn show(mut self, outside: &Path, inside: &str) -> Self {
        self.binds
            .push(("ro", outside.to_owned(), inside.to_owned()));
        self
    }

    /// As [`Spec::show`], and the container may write to it.
    #[must_use]
    pub fn bind(mut self, outside: &Path, inside: &str) -> Self {
        self.binds
            .push(("rw", outside.to_owned(), inside.to_owned()));
        self
    }

    /// Boots, and blocks until systemd has done so and the journal is on the disk. `degraded` is as good as `running`.
    pub fn boot(self) -> Result<Container> {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "--propagation", "private", "--pid", "--uts"])
            .args(["--ipc", "--net", "--fork", "--kill-child"])
            .args(["--", "sh", "-c", OWN_CGROUP, "sh", SET_UP])
            .args([&self.root, &self.layer.files(), &self.layer.mounts()]);
        for (mode, outside, inside) in &self.binds {
            unshare.arg(mode).arg(outside).arg(inside);
        }
        let unshare = unshare
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start unshare")?;
        let mut container = Container {
            unshare,
            init: 0,
            _layer: self.layer,
        };
        wait_for("systemd in the container", BOOT_LIMIT, || {
            let ended = container.unshare.try_wait()?;
            ensure!(ended.is_none(), "the container ended: {ended:?}");
            Ok(container.is_up())
        })?;
        Ok(container)
    }
}

/// Ends with all of its processes and mounts when it is dropped: as a machine whose power is cut.
#[derive(Debug)]
pub struct Container {
    unshare: Child,
    /// As the machine numbers it.
    init: u32,
    _layer: Layer,
}

impl Container {
    fn is_up(&mut self) -> bool {
        let pid = self.unshare.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let first = children.split_whitespace().next();
        let Some(init) = first.and_then(|pid| pid.parse().ok()) else {
            return false;
        };
        let comm = fs::read_to_string(format!("/proc/{init}/comm")).unwrap_or_default();
        self.init = init;
        comm.trim() == "systemd"
            && self.inside("/run/systemd/journal/flushed").exists()
            && self
                .command(&["systemctl", "is-system-running"])
                .stderr(Stdio::null())
                .output()
                .is_ok_and(|output| matches!(output.stdout.trim_ascii(), b"running" | b"degraded"))
    }

    /// A path of the guest, as the machine sees it.
    pub fn inside(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{path}", self.init).into()
    }

    /// A command in it, with a clean environment and no input.
    pub fn command(&self, words: &[&str]) -> Command {
        let init = self.init.to_string();
        let root = self.inside("").display().to_string();
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &init, "--mount", "--pid", "--uts", "--ipc"])
            .args(["--cgroup", "--net"])
            .args([&format!("--root={root}"), &format!("--wd={root}"), "--"])
            .args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// What a command in it prints. It must succeed; if not, the error has what it said.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let bytes = self.read(words)?;
        String::from_utf8(bytes).with_context(|| format!("{} printed no text", words.join(" ")))
    }

    /// As [`Container::run`], for what is no text.
    pub fn read(&self, words: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(words).output().context("start nsenter")?;
        ensure!(
            output.status.success(),
            "{}: {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(output.stdout)
    }

    /// Starts a unit, and blocks until somebody listens at a socket of its. It need not have started by then.
    pub fn serve(&self, unit: &str, socket: &str, limit: Duration) -> Result<()> {
        self.run(&["systemctl", "start", "--no-block", unit])?;
        let path = self.inside(socket);
        // The name is there a moment before anybody listens, and where the unit ran before all the time.
        wait_for(socket, limit, || Ok(UnixStream::connect(&path).is_ok()))
    }

    /// Blocks until it has ended by itself.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<()> {
        wait_for("the container's end", limit, || {
            Ok(self.unshare.try_wait()?.is_some())
        })
    }

    /// The main process of a service, as the container numbers it.
    pub fn main_pid(&self, unit: &str) -> Result<u32> {
        let text = self.run(&["systemctl", "show", "--property=MainPID", "--value", unit])?;
        let pid = text.trim();
        pid.parse()
            .ok()
            .filter(|pid| *pid > 0)
            .with_context(|| format!("{unit} has no main process: {pid:?}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may have ended by itself; a drop must not panic.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Blocks until it is so; an error that names it when that takes too long.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut is_so: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
