//! A containerd of one's own: folders, sockets, configuration and images in one temporary directory, the
//! runtime `seed` among its runtimes, its programs from the cache that `cargo xtask setup` fills. Started,
//! killed and started again as a test likes; when it is dropped, nothing of it is left.

mod config;
pub mod image;
pub mod service;
pub mod tasks;

use std::{
    env,
    ffi::OsStr,
    fmt::{self, Display, Formatter},
    fs::{self, File},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, Child, Command, Output, Stdio},
    str::FromStr,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    lab::{BIN_VARIABLE, output},
    limit,
    parts::signal,
};

/// Where containerd's programs are unpacked: `<cache>/containerd`.
pub const VARIABLE: &str = "SEED_TEST_CONTAINERD";

/// Numbers the containerds of one process: names and networks differ.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The programs on this machine.
#[derive(Debug, Clone)]
pub struct Programs {
    /// containerd's, runc's, the plugins'.
    folder: PathBuf,
    /// Ours.
    bin: PathBuf,
}

impl Programs {
    /// `Err` is the reason why there are none: the caller skips with it.
    pub fn find() -> Result<Self, String> {
        let folder = |name: &str| match env::var_os(name).map(PathBuf::from) {
            Some(path) if path.is_dir() => Ok(path),
            Some(path) => Err(format!(
                "{name} names {}, which is no folder",
                path.display()
            )),
            None => Err(format!("{name} is not set: run `cargo xtask test`")),
        };
        let found = Self {
            folder: folder(VARIABLE)?,
            bin: folder(BIN_VARIABLE)?,
        };
        if !is_root() {
            return Err("containerd needs root".to_owned());
        }
        Ok(found)
    }

    /// Fails where one of [`SERIES`] is missing, or is another one.
    pub fn check(&self) -> Result<()> {
        for series in SERIES {
            let mut command = Command::new("containerd");
            command.arg("--version").env("PATH", self.path(series));
            let program = self.folder.join(series.to_string());
            ensure!(program.is_dir(), "there is no {}", program.display());
            let said = output(command, limit::COMMAND)?;
            let said = String::from_utf8_lossy(&said.stdout);
            ensure!(
                said.contains(&format!(" {series}.")),
                "{} has {said}",
                program.display()
            );
        }
        Ok(())
    }

    /// The series that are there, oldest first: every folder that is called like one.
    pub fn versions(&self) -> Vec<Version> {
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut versions: Vec<_> = folders
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        versions.sort_unstable();
        versions
    }

    /// A static busybox.
    pub fn busybox(&self) -> PathBuf {
        self.folder.join("busybox/bin/busybox")
    }

    /// One of ours.
    pub fn ours(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    fn cni(&self) -> PathBuf {
        self.folder.join("cni/usr/lib/cni")
    }

    /// What the package of this series has below `usr`.
    fn package(&self, version: Version) -> PathBuf {
        self.folder.join(version.to_string()).join("usr")
    }

    /// What a machine needs to run this series with our runtime and pods' networks, as paths on this machine and below a
    /// folder like [`VARIABLE`]'s.
    pub fn needed(&self, version: Version) -> Vec<(PathBuf, PathBuf)> {
        let series = PathBuf::from(version.to_string());
        let unit = Path::new("usr/lib/systemd/system").join(service::UNIT);
        let mut needed = vec![
            series.join("usr/bin/containerd"),
            series.join("usr/bin/ctr"),
            series.join(unit),
            "busybox/bin/busybox".into(),
        ];
        let plugins = ["bridge", "host-local", "loopback"];
        needed.extend(plugins.map(|plugin| Path::new("cni/usr/lib/cni").join(plugin)));
        let pair = |path: PathBuf| (self.folder.join(&path), path);
        needed.into_iter().map(pair).collect()
    }

    fn path(&self, version: Version) -> String {
        let containerd = self.package(version).join("bin");
        let runc = self.folder.join("runc/usr/sbin");
        let rest = env::var("PATH").unwrap_or_default();
        [&containerd, &runc, &self.bin]
            .map(|folder| folder.display().to_string())
            .join(":")
            + ":"
            + &rest
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// A series of containerd, written as its folder is called: `1.6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The series `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (major, minor) = text.split_once('.').context("a series has one dot")?;
        Ok(Self::new(major.parse()?, minor.parse()?))
    }
}

impl Display for Version {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Those in which every change is tried.
const SERIES: [Version; 3] = [Version::new(1, 6), Version::new(1, 7), Version::new(2, 1)];

/// What containerd is configured for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The shim's configuration is in the runtime's options, not in a file that they name (containerd 1.7).
    pub inline: bool,
    /// CRI asks the shim for a sandbox instead of making a pause container (containerd 2).
    pub sandboxer: bool,
    /// CNI makes networks for pods. Without it only pods in the host's network can be made.
    pub network: bool,
    /// containerd waits for a shim as long as it does everywhere (two to five seconds), not as long as a busy machine takes.
    pub own_limits: bool,
    /// It is a service of this machine's systemd ([`service`]), and no child of ours.
    pub service: bool,
}

/// A containerd. It is killed and its folders are removed when this is dropped.
#[derive(Debug)]
pub struct Containerd {
    programs: Programs,
    version: Version,
    options: Options,
    dir: tempfile::TempDir,
    child: Option<Child>,
    number: u32,
}

impl Containerd {
    /// The runtime for CRI whose shim makes the sandboxes (containerd 2).
    pub const SANDBOXER: &str = "seed-sandboxer";

    /// Makes folders and configuration. [`Containerd::run`] starts it.
    pub fn make(programs: &Programs, version: Version, options: &Options) -> Result<Self> {
        // Short: Unix socket paths end at 108 bytes.
        let dir = tempfile::Builder::new().prefix("cd").tempdir_in("/tmp")?;
        let number = (process::id() << 4) + NUMBER.fetch_add(1, Ordering::Relaxed);
        let containerd = Self {
            programs: programs.clone(),
            version,
            options: options.clone(),
            dir,
            child: None,
            number,
        };
        containerd.write_shim_config("")?;
        Ok(containerd)
    }

    /// Rewrites the shim's configuration: our directories, then `extra` lines of TOML; and containerd's, in which it is named
    /// or stands.
    pub fn write_shim_config(&self, extra: &str) -> Result<()> {
        let text = format!(
            "run_dir = {:?}\nstate_dir = {:?}\n{extra}\n",
            self.run_dir(),
            self.state_dir()
        );
        fs::write(self.shim_config(), &text).context("write the shim's configuration")?;
        config::write(self, &text)
    }

    /// Which it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Everything of it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its socket: containerd's own services and CRI.
    pub fn socket(&self) -> PathBuf {
        self.dir().join("c.sock")
    }

    /// The shim's configuration.
    pub fn shim_config(&self) -> PathBuf {
        self.dir().join("shim.toml")
    }

    /// The shim's folder for what runs.
    pub fn run_dir(&self) -> PathBuf {
        self.dir().join("r")
    }

    /// The shim's folder for what stays.
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("s")
    }

    /// What containerd and its shims said.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.dir().join("containerd.log")
    }

    /// Whether systemd runs it.
    pub fn is_service(&self) -> bool {
        self.options.service
    }

    /// Its pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it and its shims find in their environment.
    fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("PATH", self.programs.path(self.version)),
            ("SEED_CONFIG", self.shim_config().display().to_string()),
            // A stub of a VM writes down there what its agent was told.
            ("STUB_RECORD", self.dir().display().to_string()),
        ]
    }

    /// Starts it, the first time or after [`Containerd::kill`].
    pub fn run(&mut self) -> Result<()> {
        if self.options.service {
            service::start(self)?;
        } else {
            self.spawn()?;
        }
        limit::until("containerd's socket", limit::COMMAND, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("containerd ended: {status}\n{}", self.log());
            }
            Ok(UnixStream::connect(self.socket()).is_ok().then_some(()))
        })?;
        limit::until("an answer from containerd", limit::COMMAND, || {
            let answer = output(self.ctr(&["version"]), limit::COMMAND)?;
            Ok(answer.status.success().then_some(()))
        })
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = Command::new("containerd");
        command
            .arg("--config")
            .arg(self.dir().join("containerd.toml"))
            .envs(self.environment())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("start containerd")?);
        Ok(())
    }

    /// Kills it, or stops the service that it is; its shims live on.
    pub fn kill(&mut self) -> Result<()> {
        if self.options.service {
            return service::stop();
        }
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// One of our programs, with the shim's configuration.
    pub fn ours(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.ours(name));
        command
            .env("SEED_CONFIG", self.shim_config())
            .stdin(Stdio::null());
        command
    }

    /// `ctr ARGS`, in the namespace `default`.
    pub fn ctr<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(args)
            .env("PATH", self.programs.path(self.version))
            .env_remove("CONTAINERD_NAMESPACE")
            .stdin(Stdio::null());
        command
    }

    /// `seed ARGS`, for the instances of this containerd's shims.
    pub fn seed(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.ours("seed"));
        command
            .args(args)
            .env("SEED_CONFIG", self.shim_config())
            .stdin(Stdio::null());
        command
    }

    /// `ctr ARGS` to its end, whatever its exit status.
    pub fn ctr_output(&self, args: &[&str]) -> Result<Output> {
        output(self.ctr(args), limit::BOOT)
    }

    /// `ctr ARGS`, which must succeed; its standard output.
    pub fn ctr_ok(&self, args: &[&str]) -> Result<String> {
        let result = self.ctr_output(args)?;
        ensure!(
            result.status.success(),
            "`ctr {}` ended with {}: {}",
            args.join(" "),
            result.status,
            String::from_utf8_lossy(&result.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&result.stdout).trim().to_owned())
    }

    /// Pids of the shims that this containerd has started and that still live.
    pub fn shims(&self) -> Result<Vec<u32>> {
        let ours = self.dir().as_os_str().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_shim = line
                .split(|&byte| byte == 0)
                .next()
                .is_some_and(|word| word.windows(16).any(|part| part == b"containerd-shim-"));
            if is_shim && line.windows(ours.len()).any(|part| part == ours) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // A failed test leaves tasks: their shims are asked to go before containerd is.
        for namespace in ["default", "k8s.io"] {
            let list = self.ctr_output(&["-n", namespace, "tasks", "ls", "-q"]);
            let list = list.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
            for id in list.unwrap_or_default().lines() {
                let _ = self.ctr_output(&["-n", namespace, "tasks", "rm", "--force", id]);
            }
        }
        let _ = self.kill();
        for pid in self.shims().unwrap_or_default() {
            // It may have ended meanwhile.
            let _ = signal(pid, "KILL");
        }
        config::remove_network(self);
        // Mounts of snapshots and of pods' /dev/shm would keep the folder.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = self.dir().display().to_string();
        for mount in mounts
            .lines()
            .rev()
            .filter_map(|line| line.split(' ').nth(1))
        {
            if mount.starts_with(&ours) {
                let _ = Command::new("umount").args(["--lazy", mount]).status();
            }
        }
    }
}
