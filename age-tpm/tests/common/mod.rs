//! What the integration tests share: a real swtpm on its own state, and skips that can be seen.
//!
//! Owns the processes it starts, by their handles. It never touches a TPM of the machine.
#![allow(
    dead_code,
    reason = "each test binary uses another part of this module"
)]

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use age_tpm::tpm::{Tcti, Tpm};
use tempfile::TempDir;

/// How long swtpm may take to listen on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// Says on the terminal, past the test runner's capture, that a test did nothing.
pub(crate) fn skip(test: &str, reason: &str) {
    // In one write: what other threads print must not come in between, for the line is counted.
    let _ = std::io::stderr().write_all(format!("SKIPPED {test}: {reason}\n").as_bytes());
}

/// The first program of that name in `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// The program that the variable names, or else the one that the script has put into the cache.
pub(crate) fn peer(test: &str, variable: &str, in_cache: &str) -> Option<PathBuf> {
    let cached = || {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(cache.or_else(home)?.join("seed/age-peers").join(in_cache))
    };
    let path = std::env::var_os(variable)
        .map(PathBuf::from)
        .or_else(cached);
    let path = path.filter(|path| path.is_file());
    if path.is_none() {
        let what =
            format!("no {in_cache} to compare with; run tests/fetch-peers.sh or set {variable}");
        skip(test, &what);
    }
    path
}

/// A running swtpm; dropped, it is killed and its state removed.
pub(crate) struct Swtpm {
    child: Child,
    dir: TempDir,
    listen: Tcti,
}

impl Swtpm {
    /// A TPM fresh from the factory, or `None` with a visible skip if swtpm is not installed.
    pub(crate) fn start(test: &str) -> Option<Self> {
        if program("swtpm").is_none() {
            skip(test, "swtpm is not installed");
            return None;
        }
        let dir = TempDir::new().unwrap();
        let listen = Tcti::SwtpmUnix(dir.path().join("tpm"));
        let child = spawn(dir.path(), &listen);
        Some(Self { child, dir, listen })
    }

    /// SIGKILL, as a power cut would, and a new process on the same state.
    pub(crate) fn power_cut(&mut self) {
        self.kill();
        self.child = spawn(self.dir.path(), &self.listen);
    }

    /// A new process on the same state that listens on TCP, which is all that ESYS can do.
    pub(crate) fn move_to_tcp(&mut self) {
        self.kill();
        self.listen = free_ports();
        self.child = spawn(self.dir.path(), &self.listen);
    }

    /// A new process on the same state that listens on the Unix socket again.
    pub(crate) fn move_to_unix(&mut self) {
        self.kill();
        self.listen = Tcti::SwtpmUnix(self.dir.path().join("tpm"));
        self.child = spawn(self.dir.path(), &self.listen);
    }

    /// Kills it for good; the socket is left without a listener.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Where to find it.
    pub(crate) fn tcti(&self) -> Tcti {
        self.listen.clone()
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

/// Two neighbouring free ports: libtss2 takes the control channel to be one above the data channel.
///
/// They lie below those that the kernel gives out by itself (`ip_local_port_range`, from 32768), each process begins
/// elsewhere and takes none twice: nobody comes between this look and swtpm's bind. Looked for by a connection, not by
/// a listener of our own, of which a child that another test forks holds a copy until its exec.
fn free_ports() -> Tcti {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let host = "127.0.0.1".to_owned();
    let begin = 20_000 + 24 * u16::try_from(std::process::id() % 500).unwrap();
    loop {
        let port = begin + 2 * TAKEN.fetch_add(1, Ordering::Relaxed);
        let is_free = |port| TcpStream::connect((host.as_str(), port)).is_err();
        if is_free(port) && is_free(port + 1) {
            return Tcti::SwtpmTcp { host, port };
        }
    }
}

fn spawn(dir: &Path, listen: &Tcti) -> Child {
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    command
        .arg("--tpmstate")
        .arg(format!("dir={}", dir.display()));
    let (data, control) = match listen {
        Tcti::SwtpmUnix(socket) => {
            let control = dir.join("ctrl");
            for old in [socket, &control] {
                let _ = std::fs::remove_file(old);
            }
            let unix = |path: &Path| format!("type=unixio,path={}", path.display());
            (unix(socket), unix(&control))
        }
        Tcti::SwtpmTcp { port, .. } => (
            format!("type=tcp,port={port}"),
            format!("type=tcp,port={}", port + 1),
        ),
        Tcti::Device(path) => unreachable!("swtpm does not listen on {}", path.display()),
    };
    command.arg("--server").arg(data).arg("--ctrl").arg(control);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while listen.connect().is_err() {
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
