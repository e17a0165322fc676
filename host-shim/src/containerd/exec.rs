//! One command in the guest: `Exec`, `Start`, `Wait`, `Delete`, and its streams over FIFOs in a folder of
//! their own, as containerd's client does it. The streams are copied on plain threads: a FIFO's open waits
//! for the other side.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use containerd_shim_protos::api::ExecProcessRequest;
use protobuf::well_known_types::any::Any;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use thiserror::Error;
use tokio::{sync::oneshot, time::timeout};

use super::task::{TaskClient, TaskError};
use crate::sys;

/// The type of a process in an Exec request, as containerd's client names it.
const PROCESS_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// How long output may still be silent after the command's end before it is given up: a process that the
/// command left behind may hold the stream open for ever.
const SILENCE: Duration = Duration::from_secs(10);

/// How the ids of our commands begin; the pid of who made them follows.
const EXEC_PREFIX: &str = "exec-";

/// Why a command did not run.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The streams' folder.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The shim or the guest refused it.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// A command.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, besides what the guest sets.
    pub env: Vec<String>,
    /// Its working directory.
    pub cwd: String,
    /// Give it a terminal, of this size (columns, rows).
    pub terminal: Option<(u16, u16)>,
    /// Pass on our standard input.
    pub stdin: bool,
}

/// A command that was started.
#[derive(Debug)]
pub struct Session {
    task: TaskClient,
    container: String,
    id: String,
    dir: Fifos,
    outputs: Vec<Output>,
    stdin_ended: Option<oneshot::Receiver<()>>,
}

#[derive(Debug)]
struct Output {
    bytes: Arc<AtomicU64>,
    ended: oneshot::Receiver<()>,
}

/// A folder of FIFOs, removed when dropped.
#[derive(Debug)]
struct Fifos(PathBuf);

impl Drop for Fifos {
    fn drop(&mut self) {
        // Best effort: the run folder goes with the instance.
        let _ = fs::remove_dir_all(&self.0);
        if let Some(parent) = self.0.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

impl Fifos {
    fn make(parent: &Path, id: &str) -> Result<Self, ExecError> {
        sweep(parent);
        let dir = parent.join(id);
        let fault = |source| ExecError::Io {
            path: dir.clone(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(fault)?;
        Ok(Self(dir))
    }

    fn fifo(&self, name: &str) -> Result<PathBuf, ExecError> {
        let path = self.0.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(|errno| {
            ExecError::Io {
                path: path.clone(),
                source: errno.into(),
            }
        })?;
        Ok(path)
    }
}

/// Removes the folders of commands that were killed: their names have the pid of who made them.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            name.strip_prefix(EXEC_PREFIX)?
                .split('-')
                .next()?
                .parse()
                .ok()
        });
        if pid.is_some_and(|pid: u32| sys::start_time(pid).is_none()) {
            // Best effort: the run folder goes with the instance.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Session {
    /// Starts a command in the task `container`. `parent` is a folder for the FIFOs. What the command prints goes to
    /// `stdout` and `stderr` as it comes, on threads of theirs; no bytes are a stream's end.
    pub async fn start(
        task: TaskClient,
        container: &str,
        parent: &Path,
        command: &Command,
        stdout: impl FnMut(&[u8]) + Send + 'static,
        stderr: impl FnMut(&[u8]) + Send + 'static,
    ) -> Result<Self, ExecError> {
        let id = exec_id();
        let dir = Fifos::make(parent, &id)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let stdin = if command.stdin {
            Some(dir.fifo("stdin")?)
        } else {
            None
        };
        let stdout_path = dir.fifo("stdout")?;
        let stderr_path = if command.terminal.is_none() {
            Some(dir.fifo("stderr")?)
        } else {
            None
        };
        let request = ExecProcessRequest {
            id: container.into(),
            exec_id: id.clone(),
            terminal: command.terminal.is_some(),
            stdin: stdin.as_deref().map(text).unwrap_or_default(),
            stdout: text(&stdout_path),
            stderr: stderr_path.as_deref().map(text).unwrap_or_default(),
            spec: Some(process_spec(command)).into(),
            ..Default::default()
        };
        task.exec(&request).await?;
        let mut outputs = vec![copy_out(stdout_path, stdout)];
        outputs.extend(stderr_path.map(|path| copy_out(path, stderr)));
        let stdin_ended = stdin.map(copy_in);
        let mut session = Self {
            task,
            container: container.into(),
            id,
            dir,
            outputs,
            stdin_ended,
        };
        match session.task.start(&session.container, &session.id).await {
            Ok(_) => {}
            Err(error) => {
                session.outputs.clear();
                session.forget().await;
                return Err(error.into());
            }
        }
        if let Some(size) = command.terminal {
            session.resize(size).await;
        }
        Ok(session)
    }

    /// Tells the terminal's size. A failure is only logged.
    pub async fn resize(&self, size: (u16, u16)) {
        if let Err(error) = self.task.resize(&self.container, &self.id, size).await {
            tracing::debug!(%error, "terminal is not resized");
        }
    }

    /// Sends a signal. A failure is only logged: the command may have ended.
    pub async fn signal(&self, signal: u32) {
        if let Err(error) = self.task.kill(&self.container, &self.id, signal).await {
            tracing::debug!(%error, "signal is not sent");
        }
    }

    /// Resolves once when our standard input is at its end, then never again. Tells the guest.
    pub async fn stdin_end(&mut self) {
        match self.stdin_ended.take() {
            Some(ended) => {
                let _ = ended.await;
                if let Err(error) = self.task.close_stdin(&self.container, &self.id).await {
                    tracing::debug!(%error, "standard input is not closed");
                }
            }
            None => std::future::pending().await,
        }
    }

    /// The task client and the ids, to wait for the end beside other things.
    pub fn waiter(&self) -> (TaskClient, String, String) {
        (self.task.clone(), self.container.clone(), self.id.clone())
    }

    /// Takes what is still on its way and forgets the process. To be called after its end.
    pub async fn finish(mut self) {
        for output in std::mem::take(&mut self.outputs) {
            let Output { bytes, mut ended } = output;
            let mut before = bytes.load(Ordering::Relaxed);
            while timeout(SILENCE, &mut ended).await.is_err() {
                let now = bytes.load(Ordering::Relaxed);
                if now == before {
                    break;
                }
                before = now;
            }
        }
        self.forget().await;
    }

    async fn forget(&mut self) {
        if let Err(error) = self.task.delete(&self.container, &self.id).await {
            tracing::debug!(%error, folder = %self.dir.0.display(), "process is not forgotten");
        }
    }
}

fn process_spec(command: &Command) -> Any {
    let Command {
        args,
        env,
        cwd,
        terminal,
        stdin: _,
    } = command;
    let size = terminal.map(|(columns, rows)| json!({ "width": columns, "height": rows }));
    let mut spec = json!({
        "args": args,
        "env": env,
        "cwd": cwd,
        "terminal": terminal.is_some(),
        "user": { "uid": 0, "gid": 0 },
    });
    if let Some(size) = size {
        spec["consoleSize"] = size;
    }
    Any {
        type_url: PROCESS_TYPE.into(),
        value: spec.to_string().into_bytes(),
        ..Default::default()
    }
}

/// Unique among the processes of this machine: one command line runs one at a time.
fn exec_id() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{EXEC_PREFIX}{}-{:x}", process::id(), now.as_nanos())
}

fn copy_out(path: PathBuf, mut to: impl FnMut(&[u8]) + Send + 'static) -> Output {
    let bytes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&bytes);
    let (end, ended) = oneshot::channel();
    thread::spawn(move || {
        let copied = File::open(&path).and_then(|mut from| {
            let mut buffer = vec![0; 64 << 10];
            loop {
                let n = match from.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                counted.fetch_add(n as u64, Ordering::Relaxed);
                to(&buffer[..n]);
            }
        });
        to(&[]);
        if let Err(error) = copied {
            tracing::debug!(%error, "stream ended early");
        }
        let _ = end.send(());
    });
    Output { bytes, ended }
}

fn copy_in(path: PathBuf) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    thread::spawn(move || {
        let copied = OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut to| {
                let mut from = io::stdin();
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match from.read(&mut buffer) {
                        Ok(0) => return Ok(()),
                        Ok(n) => to.write_all(&buffer[..n])?,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            });
        if let Err(error) = copied {
            tracing::debug!(%error, "standard input ended early");
        }
        let _ = end.send(());
    });
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_command_left_goes_with_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut ended = process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        let (left, lives) = (
            dir.path().join(format!("{EXEC_PREFIX}{}-1", ended.id())),
            dir.path().join(format!("{EXEC_PREFIX}{}-1", process::id())),
        );
        for folder in [&left, &lives] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("stdout"), "").unwrap();
        }
        let next = Fifos::make(dir.path(), &exec_id()).unwrap();
        assert!(!left.exists() && lives.exists());
        let made = next.0.clone();
        drop(next);
        assert!(!made.exists());
    }
}
