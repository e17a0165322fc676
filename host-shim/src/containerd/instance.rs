//! One instance and its stop: the order of calls that containerd would make. How it starts is in `begin.rs`, and what it
//! leaves in `remains.rs`.
//!
//! ```text
//! stop:   Kill TERM -> Wait (limit) -> Kill KILL -> Wait -> Delete -> Shutdown -> shim delete -> clean up
//! ```
//!
//! The run folder is the claim on the name, made first and removed last. A stop takes every step that still has
//! something to act on, so it works on what a killed shim, a killed command or a killed machine left as well.
//! Commands that meet at one instance wait for each other where a shim would get lost otherwise, and never touch a
//! later instance of the same name (`claim.rs`).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::{
    bundle::{self, BundleError, OverlayError},
    claim::Claim,
    end,
    record::{Record, RecordError},
    shim::{Address, ShimBinary, ShimError},
    task::{TaskClient, TaskError},
    volumes::ImageError,
};
use crate::{
    kept,
    names::{ContainerId, Namespace},
    paths::{InstancePaths, Paths},
    sockets::has_listener,
};

/// How long another command may hold the instance: the time that a shim may take to start, and some more.
const OTHERS: Duration = Duration::from_secs(30);

/// How long the shim may take to end after Shutdown.
const SHIM_END: Duration = Duration::from_secs(10);

/// Why an instance could not be started, stopped or removed.
#[derive(Debug, Error)]
pub enum InstanceError {
    /// Another command is at work on it.
    #[error("instance {0} is just being started or stopped by another command")]
    Busy(ContainerId),
    /// The name is taken by a living instance.
    #[error("instance {0} is running already")]
    Running(ContainerId),
    /// The name is taken by an instance that is not up yet.
    #[error("instance {0} is not up yet")]
    Starting(ContainerId),
    /// The name is taken by an instance whose guest has ended.
    #[error("instance {0} has ended but was not stopped")]
    Ended(ContainerId),
    /// The name is taken by what a killed shim left.
    #[error("instance {0} is left from a shim that died")]
    Left(ContainerId),
    /// Its shim lives and answers nothing.
    #[error("the shim of instance {0} does not answer")]
    Hung(ContainerId),
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

/// The names of the instances in a namespace, sorted: those that have a run folder.
pub fn instances(paths: &Paths, namespace: &Namespace) -> Vec<ContainerId> {
    let Ok(entries) = fs::read_dir(paths.namespace_dir(namespace)) else {
        return Vec::new();
    };
    let mut ids: Vec<ContainerId> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| ContainerId::try_from(entry.file_name().to_str()?).ok())
        .collect();
    ids.sort();
    ids
}

/// One instance by its name.
#[derive(Debug, Clone)]
pub struct Instance {
    pub(super) namespace: Namespace,
    pub(super) id: ContainerId,
    pub(super) paths: InstancePaths,
    /// Where its shim listens, whatever the record says.
    socket: PathBuf,
}

impl Instance {
    /// The instance of this name, whether it exists or not.
    pub fn named(paths: &Paths, namespace: Namespace, id: ContainerId) -> Self {
        let socket = paths.task_socket(&namespace, &id, "");
        let paths = kept::paths(paths.instance(&namespace, &id));
        Self {
            namespace,
            id,
            paths,
            socket,
        }
    }

    /// The instance of this name; where none runs under it, the one that keeps what stays under it.
    pub fn called(paths: &Paths, namespace: &Namespace, name: ContainerId) -> Self {
        let named = |id| Self::named(paths, namespace.clone(), id);
        let own = named(name);
        if own.paths.run_dir().exists() {
            return own;
        }
        let mut all = instances(paths, namespace).into_iter().map(named);
        let keeps = |one: &Self| one.paths.kept_under() == own.id.as_str();
        all.find(keeps).unwrap_or(own)
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
            Err(RecordError::Absent(_)) if self.is_served() => {
                Err(InstanceError::Foreign(self.id.clone()))
            }
            Err(RecordError::Absent(_)) => Err(self.unknown()),
            other => Ok(other?),
        }
    }

    /// A shim serves it, whoever started it.
    fn is_served(&self) -> bool {
        has_listener(&self.paths.management_socket())
    }

    pub(super) fn unknown(&self) -> InstanceError {
        InstanceError::Unknown {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
        }
    }

    /// A connection to its shim.
    pub async fn task(&self, record: &Record) -> Result<TaskClient, InstanceError> {
        match TaskClient::connect(&self.address(Some(record))).await {
            Err(TaskError::Absent(_)) => Err(InstanceError::Left(self.id.clone())),
            other => Ok(other?),
        }
    }

    /// Where its shim listens, or would listen where no record says so.
    pub(super) fn address(&self, record: Option<&Record>) -> Address {
        let known = record.and_then(|record| record.address.clone());
        known.unwrap_or_else(|| Address {
            socket: self.socket.clone(),
            version: 2,
        })
    }

    /// A fault of the run folder.
    pub(super) fn fault(&self) -> impl Fn(io::Error) -> InstanceError + use<> {
        let path = self.paths.run_dir().to_owned();
        move |source| InstanceError::Io {
            path: path.clone(),
            source,
        }
    }

    /// Stops it and removes everything that is not its owner's: what stays are volumes, TPM state and logs.
    pub async fn stop(&self, options: StopOptions) -> Result<(), InstanceError> {
        let claim = match Claim::open(self.paths.run_dir()) {
            Ok(claim) => claim,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.unknown()),
            Err(error) => return Err(self.fault()(error)),
        };
        // A start that is under way is past the point where only it knows the shim.
        self.lock(&claim).await?;
        let record = match Record::read(&self.paths.record()) {
            Ok(record) => Some(record),
            Err(RecordError::Absent(_)) => {
                if self.is_served() {
                    return Err(InstanceError::Foreign(self.id.clone()));
                }
                None
            }
            // Without it there is no way to start again, but there is one to clean up.
            Err(RecordError::Parse { .. }) if !options.keep => None,
            Err(error) => return Err(error.into()),
        };
        claim.unlock();
        self.take_back(&claim, record.as_ref(), options).await
    }

    pub(super) async fn lock(&self, claim: &Claim) -> Result<(), InstanceError> {
        if claim.lock(OTHERS).await.map_err(self.fault())? {
            return Ok(());
        }
        Err(InstanceError::Busy(self.id.clone()))
    }

    /// Ends what runs and cleans up. Without a record its shim is looked for where it would listen.
    pub(super) async fn take_back(
        &self,
        claim: &Claim,
        record: Option<&Record>,
        options: StopOptions,
    ) -> Result<(), InstanceError> {
        let address = self.address(record);
        match TaskClient::connect(&address).await {
            // A later instance of this name listens there too.
            Ok(task) if claim.is_current() => {
                match end::orderly(&task, self.id.as_str(), options).await {
                    Err(TaskError::Late(_)) if options.kill => {
                        self.kill_hung(claim, &address.socket).await?;
                    }
                    Err(TaskError::Late(_)) => return Err(InstanceError::Hung(self.id.clone())),
                    other => other?,
                }
                self.wait_for_shim(&address, claim).await;
            }
            Ok(_) | Err(TaskError::Absent(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.lock(claim).await?;
        if !claim.is_current() {
            // Somebody else has stopped it too, and was faster.
            return Ok(());
        }
        let bundle = self.paths.bundle();
        if bundle.is_dir() {
            let shim = match record {
                Some(record) => ShimBinary::at(record.shim.clone()),
                None => ShimBinary::find()?,
            };
            shim.delete(&self.namespace, &self.id, &bundle).await?;
        }
        self.clean_up(options.keep)
    }

    /// Ends a shim that does not answer, and what it runs.
    async fn kill_hung(&self, claim: &Claim, socket: &Path) -> Result<(), InstanceError> {
        // Locked, so that the pids are not those of a later instance.
        self.lock(claim).await?;
        if claim.is_current() && !end::kill_hung(&self.paths, socket).await {
            return Err(InstanceError::Hung(self.id.clone()));
        }
        Ok(())
    }

    async fn wait_for_shim(&self, address: &Address, claim: &Claim) {
        let deadline = Instant::now() + SHIM_END;
        while claim.is_current()
            && TaskClient::connect(address).await.is_ok()
            && Instant::now() < deadline
        {
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes layer and run folder; the run folder is the claim, and so the last. With `keep` the record and the layer
    /// stay.
    fn clean_up(&self, keep: bool) -> Result<(), InstanceError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |source| InstanceError::Io { path, source }
        };
        let run = self.paths.run_dir();
        if keep {
            return self.remove_all_but_the_record().map_err(fault(run));
        }
        bundle::remove_layer(&self.paths).map_err(fault(self.paths.layers_dir()))?;
        match fs::remove_dir_all(run) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fault(run)(error)),
            _ => {}
        }
        // Others may live beside it.
        if let Some(namespace) = run.parent() {
            let _ = fs::remove_dir(namespace);
        }
        Ok(())
    }

    fn remove_all_but_the_record(&self) -> io::Result<()> {
        let record = self.paths.record();
        for entry in fs::read_dir(self.paths.run_dir())? {
            let entry = entry?;
            if entry.path() == record {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
