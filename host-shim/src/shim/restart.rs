//! Starts the restart of an instance that was asked for over its management socket: `seed restart`, as a process
//! of its own, for it ends the shim that began it.
//!
//! Only instances of `seed run` have a record to be started from. Of others their engine decides: whether something
//! that ended is started again is a matter of the engine's rules (a pod's `restartPolicy`, say), so ending it here
//! could be its end for good. Who asks is told whom to ask.

use std::{
    env,
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use thiserror::Error;

use crate::{
    config::CONFIG_ENV,
    containerd::{Record, RecordError},
    names::{ContainerId, Namespace},
    paths::InstancePaths,
    sys,
};

/// The program that does it; installed beside the shim.
const PROGRAM: &str = "seed";

/// What it printed, in the instance's log folder.
const LOG: &str = "restart.log";

/// Why it has not begun.
#[derive(Debug, Error)]
pub enum RestartError {
    /// A pod's instance.
    #[error(
        "instance {id} belongs to Kubernetes, which alone can start it again: kubectl --namespace {namespace} delete pod {pod}, where a Deployment or the like makes it anew, or kubectl rollout restart"
    )]
    Pod {
        /// The instance.
        id: ContainerId,
        /// Of Kubernetes.
        namespace: String,
        /// The pod's name.
        pod: String,
    },
    /// containerd runs it.
    #[error(
        "instance {0} is run by containerd, which alone can start it again: end its task and start it there, or have poweroff inside and start it there"
    )]
    Foreign(ContainerId),
    /// Another one is under way.
    #[error("instance {0} is being restarted already")]
    Begun(ContainerId),
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The process.
    #[error("{what} failed")]
    Process {
        /// Which step.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What a restart needs.
#[derive(Debug)]
pub struct Restarter {
    /// The instance.
    pub namespace: Namespace,
    /// Its name.
    pub id: ContainerId,
    /// Its paths.
    pub paths: InstancePaths,
    /// `namespace/name` of its pod.
    pub pod: Option<String>,
    /// A restart is under way.
    pub begun: Arc<AtomicBool>,
    /// The mounts of the host, which the shim itself has left.
    pub host_mounts: Arc<File>,
}

impl Restarter {
    /// Starts it. The process leads a session of its own, and ends by itself.
    pub fn begin(&self) -> Result<(), RestartError> {
        let record = match Record::read(&self.paths.record()) {
            Err(RecordError::Absent(_)) => return Err(self.foreign()),
            other => other?,
        };
        if self.begun.swap(true, Ordering::Relaxed) {
            return Err(RestartError::Begun(self.id.clone()));
        }
        let started = self.start(&record);
        if started.is_err() {
            self.begun.store(false, Ordering::Relaxed);
        }
        started
    }

    fn foreign(&self) -> RestartError {
        let pod = self.pod.as_deref().and_then(|pod| pod.split_once('/'));
        match pod {
            Some((namespace, pod)) => RestartError::Pod {
                id: self.id.clone(),
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
            },
            None => RestartError::Foreign(self.id.clone()),
        }
    }

    fn start(&self, record: &Record) -> Result<(), RestartError> {
        let fault = |what| move |source| RestartError::Process { what, source };
        let program = env::current_exe()
            .map_err(fault("finding this program"))?
            .with_file_name(PROGRAM);
        let log = self.log().map_err(fault("opening the log of restarts"))?;
        let mut command = Command::new(program);
        command
            .args(["--namespace", self.namespace.as_str(), "restart"])
            .arg(self.id.as_str())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(config) = &record.config {
            command.env(CONFIG_ENV, config);
        }
        let mounts = Arc::clone(&self.host_mounts);
        let begun = Arc::clone(&self.begun);
        // A thread of its own: it changes its view of the file system and ends. It waits for the process, so
        // that one that fails at once leaves no zombie.
        thread::Builder::new()
            .name("restart".into())
            .spawn(move || {
                match sys::spawn_with_mounts(&mut command, &*mounts) {
                    Ok(mut child) => {
                        tracing::info!(pid = child.id(), "restart begins");
                        if let Ok(status) = child.wait() {
                            tracing::warn!(%status, "restart ended before this shim did");
                        }
                    }
                    Err(error) => tracing::error!(%error, "restart did not begin"),
                }
                begun.store(false, Ordering::Relaxed);
            })
            .map(drop)
            .map_err(fault("starting a thread"))
    }

    fn log(&self) -> io::Result<File> {
        let dir: PathBuf = self.paths.logs_dir().into();
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o640)
            .open(dir.join(LOG))
    }
}
