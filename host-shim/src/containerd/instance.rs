//! Start, stop, remove: the order of calls that containerd would make, for one instance.
//!
//! ```text
//! start:  claim the name -> layer, volumes, bundle -> shim start -> Create -> Start
//! stop:   Kill TERM -> Wait (limit) -> Kill KILL -> Wait -> Delete -> Shutdown -> shim delete -> clean up
//! ```
//!
//! The run folder is the claim: it is made with one mkdir, which fails for the second. A start that fails
//! takes everything back. A stop takes every step that still has something to act on, so it works on what a
//! killed shim or a killed machine left as well.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use containerd_shim_protos::{api::CreateTaskRequest, ttrpc::Code};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use super::{
    bundle::{self, BundleError, OverlayError},
    record::{Record, RecordError},
    shim::{self, ShimBinary, ShimError},
    task::{TaskClient, TaskError},
    volumes::{self, ImageError},
};
use crate::{
    names::{ContainerId, Namespace},
    paths::{InstancePaths, Paths},
};

/// How long a killed VM may take to be gone.
const KILLED: Duration = Duration::from_secs(30);

/// How long the shim may take to end after Shutdown.
const SHIM_END: Duration = Duration::from_secs(10);

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// Why an instance could not be started, stopped or removed.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// The name is taken by a living instance.
    #[error("instance {0} is running already")]
    Running(ContainerId),
    /// The name is taken by an instance whose guest has ended.
    #[error("instance {0} has ended but was not stopped")]
    Ended(ContainerId),
    /// The name is taken by what a killed shim left.
    #[error("instance {0} is left from a shim that died")]
    Left(ContainerId),
    /// The name is taken by an instance that containerd runs.
    #[error("instance {0} is run by containerd")]
    Foreign(ContainerId),
    /// There is no such instance.
    #[error("there is no instance {id} in namespace {namespace}")]
    Unknown {
        /// Its name.
        id: ContainerId,
        /// Where it was looked for.
        namespace: Namespace,
    },
    /// It is running, and should not be.
    #[error("instance {0} is running")]
    StillRunning(ContainerId),
    /// A file or folder.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The root's path.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A volume's image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The shim's binary.
    #[error(transparent)]
    Shim(#[from] ShimError),
    /// A call to the shim.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// How far a start is, for whoever shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The shim runs and has checked everything; its management socket answers.
    Created,
    /// The guest is provisioned.
    Started,
}

/// How to stop.
#[derive(Debug, Clone, Copy)]
pub struct StopOptions {
    /// Not even try an orderly poweroff.
    pub kill: bool,
    /// How long the orderly one may take.
    pub limit: Duration,
    /// Keep layer and record: the instance is started again.
    pub keep: bool,
}

/// One instance by its name.
#[derive(Debug, Clone)]
pub struct Instance {
    namespace: Namespace,
    id: ContainerId,
    paths: InstancePaths,
}

impl Instance {
    /// The instance of this name, whether it exists or not.
    pub fn named(paths: &Paths, namespace: Namespace, id: ContainerId) -> Self {
        let paths = paths.instance(&namespace, &id);
        Self {
            namespace,
            id,
            paths,
        }
    }

    /// Its name.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Its paths.
    pub fn paths(&self) -> &InstancePaths {
        &self.paths
    }

    /// How it was started.
    pub fn record(&self) -> Result<Record, InstanceError> {
        match Record::read(&self.paths.record()) {
            Err(RecordError::Absent(_)) => Err(self.unknown()),
            other => Ok(other?),
        }
    }

    fn unknown(&self) -> InstanceError {
        InstanceError::Unknown {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
        }
    }

    /// A connection to its shim.
    pub async fn task(&self, record: &Record) -> Result<TaskClient, InstanceError> {
        match &record.address {
            Some(address) => match TaskClient::connect(address).await {
                Err(TaskError::Absent(_)) => Err(InstanceError::Left(self.id.clone())),
                other => Ok(other?),
            },
            None => Err(InstanceError::Left(self.id.clone())),
        }
    }

    /// Starts it and returns when the guest is provisioned. `progress` hears how far it is. What fails is
    /// taken back; with `keep` the layer and the record stay all the same.
    pub async fn start(
        &self,
        mut record: Record,
        keep: bool,
        mut progress: impl FnMut(Phase),
    ) -> Result<(), InstanceError> {
        bundle::check_overlay_path(&record.root)?;
        bundle::check_overlay_path(self.paths.layers_dir())?;
        self.claim(keep).await?;
        match self.launch(&mut record, &mut progress).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let options = StopOptions {
                    kill: true,
                    limit: Duration::ZERO,
                    keep,
                };
                if let Err(second) = self.take_back(&record, options).await {
                    tracing::warn!(%second, "failed start is not cleaned up");
                }
                Err(error)
            }
        }
    }

    /// Makes the run folder, which is the claim on the name; with `again` it is ours already.
    async fn claim(&self, again: bool) -> Result<(), InstanceError> {
        let dir = self.paths.run_dir();
        let fault = |source| InstanceError::Io {
            path: dir.into(),
            source,
        };
        if let Some(parent) = dir.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(fault)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && again => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(self.taken().await),
            other => other.map_err(fault),
        }
    }

    /// By what the name is taken.
    async fn taken(&self) -> InstanceError {
        let id = self.id.clone();
        let Ok(record) = self.record() else {
            let managed = crate::management::Client::connect(&self.paths.management_socket()).await;
            return if managed.is_ok() {
                InstanceError::Foreign(id)
            } else {
                InstanceError::Left(id)
            };
        };
        let Ok(task) = self.task(&record).await else {
            return InstanceError::Left(id);
        };
        match task.state(id.as_str()).await {
            Ok(state) if is_stopped(&state) => InstanceError::Ended(id),
            _ => InstanceError::Running(id),
        }
    }

    async fn launch(
        &self,
        record: &mut Record,
        progress: &mut impl FnMut(Phase),
    ) -> Result<(), InstanceError> {
        let paths = &self.paths;
        record.address = None;
        record.write(&paths.record())?;
        let mounts = bundle::root_mounts(record, paths)?;
        let sources = record
            .volumes
            .iter()
            .map(|volume| volumes::provide(volume, paths))
            .collect::<Result<Vec<_>, _>>()?;
        let bundle = bundle::write(record, &sources, self.id.as_str(), paths)?;
        let options = record.config.as_deref().map(shim::options);
        let binary = ShimBinary::at(record.shim.clone());
        let address = binary
            .start(&self.namespace, &self.id, &bundle, options.as_ref())
            .await?;
        record.address = Some(address.clone());
        record.write(&paths.record())?;
        let task = TaskClient::connect(&address).await?;
        let request = CreateTaskRequest {
            id: self.id.to_string(),
            bundle: bundle.to_string_lossy().into_owned(),
            rootfs: mounts,
            options: options.into(),
            ..Default::default()
        };
        task.create(&request).await?;
        progress(Phase::Created);
        task.start(self.id.as_str(), "").await?;
        progress(Phase::Started);
        Ok(())
    }

    /// Stops it and removes everything that is not its owner's: what stays are volumes, TPM state and logs.
    pub async fn stop(&self, options: StopOptions) -> Result<(), InstanceError> {
        let record = match Record::read(&self.paths.record()) {
            Ok(record) => record,
            Err(RecordError::Absent(_)) if self.paths.run_dir().exists() => {
                if crate::management::Client::connect(&self.paths.management_socket())
                    .await
                    .is_ok()
                {
                    return Err(InstanceError::Foreign(self.id.clone()));
                }
                // A start that was interrupted before its first write.
                return self.clean_up(options.keep);
            }
            Err(RecordError::Absent(_)) => return Err(self.unknown()),
            Err(error) => return Err(error.into()),
        };
        self.take_back(&record, options).await
    }

    async fn take_back(&self, record: &Record, options: StopOptions) -> Result<(), InstanceError> {
        if let Some(address) = &record.address {
            match TaskClient::connect(address).await {
                Ok(task) => self.end(&task, options).await?,
                Err(TaskError::Absent(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.wait_for_shim(address).await;
        }
        let bundle = self.paths.bundle();
        if bundle.is_dir() {
            ShimBinary::at(record.shim.clone())
                .delete(&self.namespace, &self.id, &bundle)
                .await?;
        }
        self.clean_up(options.keep)
    }

    /// Ends task and shim.
    async fn end(&self, task: &TaskClient, options: StopOptions) -> Result<(), InstanceError> {
        let id = self.id.as_str();
        let state = task.state(id).await;
        let running = match &state {
            Ok(state) => !is_stopped(state),
            Err(error) if error.code() == Some(Code::NOT_FOUND) => false,
            Err(_) => true,
        };
        if running {
            let wait = task.wait(id, "");
            tokio::pin!(wait);
            let orderly = !options.kill
                && signalled(task.kill(id, "", SIGTERM).await)?
                && timeout(options.limit, &mut wait).await.is_ok();
            if !orderly && signalled(task.kill(id, "", SIGKILL).await)? {
                let _ = timeout(KILLED, &mut wait).await;
            }
        }
        for result in [task.delete(id, "").await.map(drop), task.shutdown(id).await] {
            match result {
                // Already forgotten, or already gone.
                Err(TaskError::Broken { .. }) | Ok(()) => {}
                Err(error) if error.code() == Some(Code::NOT_FOUND) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn wait_for_shim(&self, address: &shim::Address) {
        let deadline = Instant::now() + SHIM_END;
        while TaskClient::connect(address).await.is_ok() && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes run folder and layer. With `keep` the record and the layer stay.
    fn clean_up(&self, keep: bool) -> Result<(), InstanceError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| InstanceError::Io { path, source }
        };
        let run = self.paths.run_dir();
        let kept = if keep {
            fs::read(self.paths.record()).ok()
        } else {
            None
        };
        match fs::remove_dir_all(run) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(run)(error)),
            _ => {}
        }
        if let Some(text) = kept {
            DirBuilder::new()
                .mode(0o700)
                .create(run)
                .map_err(fault(run))?;
            fs::write(self.paths.record(), text).map_err(fault(run))?;
            return Ok(());
        }
        // Others may live beside it.
        if let Some(namespace) = run.parent() {
            let _ = fs::remove_dir(namespace);
        }
        bundle::remove_layer(&self.paths).map_err(fault(self.paths.layers_dir()))
    }

    /// What of the instance's own is there: volumes, TPM state, logs.
    pub fn belongings(&self) -> Vec<PathBuf> {
        [
            self.paths.volumes_dir(),
            self.paths.tpm_dir(),
            self.paths.logs_dir(),
        ]
        .into_iter()
        .filter(|dir| dir.exists())
        .map(Path::to_owned)
        .collect()
    }

    /// Deletes volumes, TPM state and logs of an instance that does not run.
    pub fn remove(&self) -> Result<Vec<PathBuf>, InstanceError> {
        if self.paths.run_dir().exists() {
            return Err(InstanceError::StillRunning(self.id.clone()));
        }
        let belongings = self.belongings();
        if belongings.is_empty() {
            return Err(self.unknown());
        }
        for dir in &belongings {
            fs::remove_dir_all(dir).map_err(|source| InstanceError::Io {
                path: dir.clone(),
                source,
            })?;
            if let Some(namespace) = dir.parent() {
                let _ = fs::remove_dir(namespace);
            }
        }
        Ok(belongings)
    }
}

fn is_stopped(state: &containerd_shim_protos::api::StateResponse) -> bool {
    state.status.enum_value() == Ok(containerd_shim_protos::api::Status::STOPPED)
}

/// Whether there was something to signal. An ended or a never started task is no failure.
fn signalled(result: Result<(), TaskError>) -> Result<bool, InstanceError> {
    match result {
        Ok(()) => Ok(true),
        Err(TaskError::Broken { .. }) => Ok(false),
        Err(TaskError::Refused {
            code: Code::NOT_FOUND | Code::FAILED_PRECONDITION,
            ..
        }) => Ok(false),
        // An orderly end that cannot be asked for is followed by the other one.
        Err(TaskError::Refused { .. } | TaskError::Late(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
