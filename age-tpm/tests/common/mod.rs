//! What the integration tests share: a real swtpm on its own state, and skips that can be seen.
//!
//! Owns the processes it starts, by their handles. It never touches a TPM of the machine.
#![allow(
    dead_code,
    reason = "each test binary uses another part of this module"
)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use age_tpm::tpm::{Tcti, Tpm};
use tempfile::TempDir;

/// How long swtpm may take to listen on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Says on the terminal, past the test runner's capture, that a test did nothing.
pub(crate) fn skip(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {reason}");
}

/// The first program of that name in `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// A running swtpm; dropped, it is killed and its state removed.
pub(crate) struct Swtpm {
    child: Child,
    dir: TempDir,
}

impl Swtpm {
    /// A TPM fresh from the factory, or `None` with a visible skip if swtpm is not installed.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if program("swtpm").is_none() {
            skip(test, "swtpm is not installed");
            return None;
        }
        let dir = TempDir::new().unwrap();
        let child = spawn(dir.path());
        Some(Self { child, dir })
    }

    /// SIGKILL, as a power cut would, and a new process on the same state.
    pub(crate) fn power_cut(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path());
    }

    /// Kills it for good; the socket is left without a listener.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Where to find it.
    pub(crate) fn tcti(&self) -> Tcti {
        Tcti::SwtpmUnix(self.dir.path().join("tpm"))
    }

    /// An open connection. swtpm serves one at a time, so drop it before the next.
    pub(crate) fn open(&self) -> Tpm {
        Tpm::open(&self.tcti()).unwrap()
    }

    /// A folder for the test's own files, removed with the TPM.
    pub(crate) fn scratch(&self) -> PathBuf {
        let path = self.dir.path().join("scratch");
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

fn spawn(dir: &Path) -> Child {
    let socket = dir.join("tpm");
    let _ = std::fs::remove_file(&socket);
    let _ = std::fs::remove_file(dir.join("ctrl"));
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--tpmstate")
        .arg(format!("dir={}", dir.display()))
        .arg("--server")
        .arg(format!("type=unixio,path={}", socket.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}/ctrl", dir.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        assert!(begin.elapsed() < START_TIMEOUT, "swtpm does not listen");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The plugin's folder in front of `PATH`, so that age finds the program just built.
pub(crate) fn path_with_plugin() -> std::ffi::OsString {
    let plugin = Path::new(env!("CARGO_BIN_EXE_age-plugin-tpm"));
    let mut dirs = vec![plugin.parent().unwrap().to_owned()];
    dirs.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    std::env::join_paths(dirs).unwrap()
}

/// A command that sees the plugin and the TPM, and nothing of the developer's settings.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, tcti: Option<&Tcti>) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", path_with_plugin())
        .env_remove("AGE_TPM_PIN")
        .env_remove("AGEDEBUG");
    match tcti {
        Some(tcti) => command.env("AGE_TPM_TCTI", tcti.to_string()),
        None => command.env_remove("AGE_TPM_TCTI"),
    };
    command
}

/// The plugin itself.
pub(crate) fn plugin(tcti: Option<&Tcti>) -> Command {
    command(env!("CARGO_BIN_EXE_age-plugin-tpm"), tcti)
}

/// Runs to the end with `input` on stdin.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // A program that stops reading early is its own affair; the output tells.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Runs and demands success; returns stdout.
pub(crate) fn run_ok(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let output = run(command, input);
    assert!(
        output.status.success(),
        "{command:?} failed with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
