//! Commands of a played instance: programs of this machine, through pipes.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use seed_protocol::seed::management::{
    ControlExecRequest, Output, ReadExecRequest, StartExecRequest, WriteExecRequest,
    control_exec_request::What,
};
use seed_shim::management::BackendError;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    sync::Mutex as Turn,
};

type Reader = Box<dyn AsyncRead + Send + Unpin>;

/// The commands.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    all: Mutex<HashMap<String, Arc<Running>>>,
    /// What they were asked with.
    pub(crate) asked: Mutex<Vec<StartExecRequest>>,
    /// How often one was given up by whoever waited for it.
    pub(crate) abandoned: AtomicUsize,
    /// Signals that came, the size at last.
    pub(crate) signals: Mutex<Vec<u32>>,
    pub(crate) size: Mutex<Option<(u32, u32)>>,
}

struct Running {
    child: Turn<Child>,
    pid: i32,
    input: Turn<Option<ChildStdin>>,
    outputs: [Turn<Reader>; 2],
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

struct Waiting<'c>(&'c Commands);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.abandoned.fetch_add(1, Ordering::SeqCst);
    }
}

impl Commands {
    fn find(&self, id: &str) -> Arc<Running> {
        Arc::clone(&self.all.lock().unwrap()[id])
    }

    pub(crate) fn start(&self, request: StartExecRequest) -> Result<String, BackendError> {
        let mut child = Command::new(&request.args[0])
            .args(&request.args[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| BackendError::Invalid(error.to_string()))?;
        let running = Running {
            pid: i32::try_from(child.id().unwrap()).unwrap(),
            input: Turn::new(child.stdin.take()),
            outputs: [
                Turn::new(Box::new(child.stdout.take().unwrap())),
                Turn::new(Box::new(child.stderr.take().unwrap())),
            ],
            child: Turn::new(child),
        };
        let mut asked = self.asked.lock().unwrap();
        asked.push(request);
        let id = asked.len().to_string();
        let mut all = self.all.lock().unwrap();
        all.insert(id.clone(), Arc::new(running));
        Ok(id)
    }

    pub(crate) async fn read(&self, request: ReadExecRequest) -> Vec<u8> {
        let running = self.find(&request.exec_id);
        let at = usize::from(request.output.enum_value() == Ok(Output::OUTPUT_STDERR));
        let mut data = vec![0; 32 << 10];
        let count = running.outputs[at].lock().await.read(&mut data).await;
        data.truncate(count.unwrap());
        data
    }

    pub(crate) async fn write(&self, request: WriteExecRequest) -> Result<u32, BackendError> {
        let running = self.find(&request.exec_id);
        let mut input = running.input.lock().await;
        let written = input.as_mut().unwrap().write(&request.data).await;
        let taken = written.map_err(|error| BackendError::NotReady(error.to_string()))?;
        Ok(u32::try_from(taken).unwrap())
    }

    pub(crate) async fn control(&self, request: ControlExecRequest) {
        let running = self.find(&request.exec_id);
        match request.what.unwrap() {
            What::CloseInput(_) => drop(running.input.lock().await.take()),
            What::Signal(number) => {
                self.signals.lock().unwrap().push(number);
                let number = i32::try_from(number).unwrap();
                let signal = rustix::process::Signal::from_named_raw(number).unwrap();
                let pid = rustix::process::Pid::from_raw(running.pid).unwrap();
                rustix::process::kill_process(pid, signal).unwrap();
            }
            What::Size(size) => *self.size.lock().unwrap() = Some((size.columns, size.rows)),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn wait(&self, id: &str) -> u32 {
        use std::os::unix::process::ExitStatusExt;
        let running = self.find(id);
        let waiting = Waiting(self);
        let status = running.child.lock().await.wait().await.unwrap();
        std::mem::forget(waiting);
        let code = status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap());
        u32::try_from(code).unwrap()
    }
}
