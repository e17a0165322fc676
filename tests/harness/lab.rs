//! Where the programs and the guest root are, and a run and state directory of our own, so that the
//! cases never touch instances of the machine.
//!
//! `cargo xtask test` builds everything and sets the two variables; without them the cases are skipped
//! and say so.

use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// The folder with `seed`, `containerd-shim-seed-v2`, `age-plugin-tpm`.
pub const BIN_VARIABLE: &str = "SEED_TEST_BIN";
/// The guest's root, as `cargo xtask image` prints it.
pub const GUEST_VARIABLE: &str = "SEED_TEST_GUEST";
/// `kvm`, `tcg` or `auto`.
pub const ACCEL_VARIABLE: &str = "SEED_TEST_ACCEL";

/// The programs.
const PROGRAMS: [&str; 3] = ["seed", "containerd-shim-seed-v2", "age-plugin-tpm"];

/// One set of directories; everything in it is gone when it is dropped.
#[derive(Debug)]
pub struct Lab {
    bin: PathBuf,
    guest: PathBuf,
    dir: tempfile::TempDir,
}

impl Lab {
    /// `Err` is the reason why there is no lab: the caller skips with it.
    pub fn find() -> Result<Self, String> {
        let folder = |name: &str| match env::var_os(name).map(PathBuf::from) {
            Some(path) if path.is_dir() => Ok(path),
            Some(path) => Err(format!(
                "{name} names {}, which is no folder",
                path.display()
            )),
            None => Err(format!("{name} is not set: run `cargo xtask test`")),
        };
        let (bin, guest) = (folder(BIN_VARIABLE)?, folder(GUEST_VARIABLE)?);
        // Short: Unix socket paths end at 108 bytes.
        let dir = tempfile::Builder::new().prefix("sd").tempdir_in("/tmp");
        let dir = dir.map_err(|error| format!("no temporary folder: {error}"))?;
        let lab = Self { bin, guest, dir };
        lab.write_config("").map_err(|error| error.to_string())?;
        Ok(lab)
    }

    /// The same with programs of its own: another user may not see where they were built.
    pub fn with_copies(mut self) -> Result<Self> {
        let own = self.scratch("bin");
        fs::create_dir(&own)?;
        for name in PROGRAMS {
            fs::copy(self.bin.join(name), own.join(name))
                .with_context(|| format!("copy {name}"))?;
        }
        self.bin = own;
        Ok(self)
    }

    /// Rewrites the shim's configuration: our directories, then `extra` lines of TOML.
    pub fn write_config(&self, extra: &str) -> Result<()> {
        let accel = env::var(ACCEL_VARIABLE).unwrap_or_else(|_| "auto".to_owned());
        let text = format!(
            "run_dir = {:?}\nstate_dir = {:?}\naccel = {accel:?}\n{extra}\n",
            self.run_dir(),
            self.state_dir(),
        );
        fs::write(self.config(), text).context("write the shim's configuration")
    }

    /// The shim's configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("shim.toml")
    }

    /// Sockets and records of running instances.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("r")
    }

    /// Volumes, TPM state, logs, layers.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// A place for a case's own files.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The guest's root on the host.
    pub fn guest(&self) -> &Path {
        &self.guest
    }

    /// One of our programs, with the lab's configuration and our folder first in `PATH`.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        let path = env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.bin.display()))
            .env("SEED_CONFIG", self.config())
            .stdin(Stdio::null());
        command
    }

    /// Runs `seed ARGS` to its end, whatever its exit status.
    pub fn seed<S: AsRef<std::ffi::OsStr>>(&self, args: &[S], limit: Duration) -> Result<Output> {
        let mut command = self.program("seed");
        command.args(args);
        output(command, limit)
    }

    /// Runs `seed ARGS`, which must succeed; its standard output.
    pub fn seed_ok<S: AsRef<std::ffi::OsStr>>(
        &self,
        args: &[S],
        limit: Duration,
    ) -> Result<String> {
        let result = self.seed(args, limit)?;
        if !result.status.success() {
            let args: Vec<_> = args
                .iter()
                .map(|arg| arg.as_ref().to_string_lossy())
                .collect();
            bail!(
                "`seed {}` ended with {}: {}",
                args.join(" "),
                result.status,
                String::from_utf8_lossy(&result.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }
}

/// Runs a command to its end; kills it when the limit is over.
pub fn output(mut command: Command, limit: Duration) -> Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                // A broken pipe ends the output like its end does.
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("{command:?} did not end within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let join = |thread: thread::JoinHandle<Vec<u8>>| thread.join().unwrap_or_default();
    Ok(Output {
        status,
        stdout: join(stdout),
        stderr: join(stderr),
    })
}
