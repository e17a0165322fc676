//! Tests that need a running systemd. They run wherever systemd is PID 1 and the caller is root. Elsewhere
//! [`container`] takes them to one, if it can; if not, each says that it is skipped.

#![allow(
    clippy::unwrap_used,
    reason = "a test may panic, and so may what it is made of"
)]

mod agent;
mod container;
mod env;
mod exec;
mod kills;
mod restart;
mod stuck;
mod systemd;

use std::{fs, future::Future, io::Write, sync::Arc, time::Duration};

use seed_agent::{
    exec::{ExecError, ExecKey, Memory, ProcessSpec, Sessions, User},
    status::Board,
    sys::descriptors::Keeper,
    systemd::{Handle, SYSTEM_BUS_SOCKET},
};

/// One test's own connection and table.
struct Guest {
    board: Board,
    systemd: Handle,
    execs: Sessions,
    /// What another agent would find.
    _directory: Option<tempfile::TempDir>,
}

/// Runs a test, or says why not.
fn with_systemd<F: Future<Output = ()>>(test: impl FnOnce(Guest) -> F) {
    if is_skipped() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limit = Duration::from_secs(300);
    runtime.block_on(async {
        tokio::time::timeout(limit, async { test(Guest::connect().await).await })
            .await
            .expect("the test ends within its limit");
    });
}

/// Says why a test cannot run here, if it cannot.
fn is_skipped() -> bool {
    let Some(reason) = missing() else {
        return false;
    };
    if seed_container::guest_root().is_ok() {
        return true;
    }
    // Past libtest's capture, and in one write: a skip must be seen.
    let test = std::thread::current();
    let line = format!(
        "SKIPPED {}: {reason}\n",
        test.name().unwrap_or("a guest test")
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    true
}

fn missing() -> Option<&'static str> {
    let init = fs::read_to_string("/proc/1/comm").unwrap_or_default();
    if init.trim() != "systemd" {
        return Some("systemd is not PID 1 here");
    }
    if !rustix::process::geteuid().is_root() {
        return Some("not root");
    }
    (!fs::exists(SYSTEM_BUS_SOCKET).unwrap_or(false)).then_some("there is no system bus")
}

impl Guest {
    async fn connect() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keeper = Keeper::Memory(Arc::default());
        let memory = Memory::new(directory.path().join("execs"), keeper.clone());
        Self {
            _directory: Some(directory),
            ..Self::connect_with(memory, keeper).await
        }
    }

    /// What an agent finds that starts again.
    async fn connect_with(memory: Memory, keeper: Keeper) -> Self {
        let board = Board::new();
        let systemd = Handle::spawn(board.clone(), keeper);
        let execs = Sessions::new(systemd.clone(), memory);
        while board.now().system_state.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self {
            board,
            systemd,
            execs,
            _directory: None,
        }
    }

    /// Starts a process under the id.
    async fn start(&self, id: &str, spec: &ProcessSpec) -> Result<ExecKey, ExecError> {
        let key = ExecKey {
            container: "test".to_owned(),
            exec: id.to_owned(),
        };
        self.execs.start(key.clone(), spec).await?;
        Ok(key)
    }

    /// Runs a shell script to its end: status, output, error output.
    async fn script(&self, script: &str) -> (i32, String, String) {
        self.run(&spec(&["sh", "-c", script])).await
    }

    /// Runs a process to its end.
    async fn run(&self, spec: &ProcessSpec) -> (i32, String, String) {
        let key = self.start("run", spec).await.unwrap();
        let (status, output, error) = tokio::join!(
            self.execs.wait(&key),
            self.all(&key, false),
            self.all(&key, true)
        );
        (status.unwrap(), output, error)
    }

    /// Everything up to the end of one stream.
    async fn all(&self, key: &ExecKey, error: bool) -> String {
        let mut all = Vec::new();
        loop {
            let part = match error {
                true => self.execs.read_stderr(key, 8192, None).await.unwrap(),
                false => self.execs.read_stdout(key, 8192, None).await.unwrap(),
            };
            if part.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            all.extend(part);
        }
    }
}

/// A process of root's.
fn spec(arguments: &[&str]) -> ProcessSpec {
    ProcessSpec {
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        environment: Vec::new(),
        directory: String::new(),
        user: User::Number { uid: 0, gid: None },
        no_new_privileges: false,
        terminal: None,
    }
}
