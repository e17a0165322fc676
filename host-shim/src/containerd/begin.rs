//! The start of an instance: the order of calls that containerd would make.
//!
//! ```text
//! claim the name -> layer, volumes, bundle -> shim start -> Create -> Start
//! ```
//!
//! The run folder is the claim: it is made with one mkdir, which fails for the second. A start that fails takes
//! everything back. One that was killed leaves a record without an address, and at most a shim that was told
//! nothing: the next start takes that away.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::Duration,
};

use containerd_shim_protos::{api::CreateTaskRequest, ttrpc::Code};

use super::{
    bundle,
    claim::Claim,
    end::{is_running, is_stopped},
    instance::{Instance, InstanceError, Phase, StopOptions},
    record::Record,
    shim::ShimBinary,
    task::{TaskClient, TaskError},
    volumes,
};
use crate::{shim::options::with_config_path, tpm::StateDir};

/// How what a start began in vain is ended.
const IN_VAIN: StopOptions = StopOptions {
    kill: true,
    limit: Duration::ZERO,
    keep: false,
};

/// How often the namespace's folder may vanish between two steps.
const TRIES: u32 = 100;

impl Instance {
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
        let claim = self.claim(keep).await?;
        let mut made = Vec::new();
        match self
            .launch(&mut record, &claim, &mut made, &mut progress)
            .await
        {
            Ok(()) => Ok(()),
            Err(error) => {
                let options = StopOptions { keep, ..IN_VAIN };
                self.take_back_images(&claim, &made).await;
                // Where somebody stopped it meanwhile, nothing of ours is left, and perhaps a later one is there.
                if claim.is_current()
                    && let Err(second) = self.take_back(&claim, Some(&record), options).await
                {
                    tracing::warn!(%second, "failed start is not cleaned up");
                }
                Err(error)
            }
        }
    }

    /// Makes the run folder, which is the claim on the name; with `again` it is there already. Locked.
    async fn claim(&self, again: bool) -> Result<Claim, InstanceError> {
        let dir = self.paths.run_dir();
        if !make_run_dir(dir).map_err(self.fault())? && !again {
            self.make_way().await?;
            if !make_run_dir(dir).map_err(self.fault())? {
                return Err(InstanceError::Busy(self.id.clone()));
            }
        }
        match Claim::open(dir) {
            Ok(claim) if claim.try_lock().map_err(self.fault())? && claim.is_current() => Ok(claim),
            Ok(_) => Err(InstanceError::Busy(self.id.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(InstanceError::Busy(self.id.clone()))
            }
            Err(error) => Err(self.fault()(error)),
        }
    }

    /// Takes away what a start left that was killed before its shim was told anything. The error says by what else the
    /// name is taken.
    async fn make_way(&self) -> Result<(), InstanceError> {
        let busy = || InstanceError::Busy(self.id.clone());
        let claim = Claim::open(self.paths.run_dir()).map_err(|_| busy())?;
        if !claim.try_lock().map_err(self.fault())? || !claim.is_current() {
            return Err(busy());
        }
        let record = self.record().ok();
        match self.taken(record.as_ref()).await {
            Some(error) => Err(error),
            None => self.take_back(&claim, record.as_ref(), IN_VAIN).await,
        }
    }

    /// By what the name is taken; `None` is a start that was cut short. The claim is held.
    async fn taken(&self, record: Option<&Record>) -> Option<InstanceError> {
        let id = self.id.clone();
        let Some(record) = record else {
            let managed = crate::management::Client::connect(&self.paths.management_socket()).await;
            // A shim of containerd locks the TPM's state before it makes this folder.
            return match (managed, StateDir::lock(&self.paths)) {
                (Err(_), Ok(_)) => None,
                _ => Some(InstanceError::Foreign(id)),
            };
        };
        let address = self.address(Some(record));
        let task = match TaskClient::connect(&address).await {
            Ok(task) => task,
            // What a restart left that was cut short has what the guest wrote: it is no start anew.
            Err(TaskError::Absent(_)) if record.address.is_none() && !self.has_layer() => {
                return None;
            }
            Err(_) => return Some(InstanceError::Left(id)),
        };
        match task.state(id.as_str()).await {
            Ok(state) if is_stopped(&state) => Some(InstanceError::Ended(id)),
            // It lives, and nobody ever told it to make anything.
            Err(error) if error.code() == Some(Code::NOT_FOUND) && !self.has_layer() => None,
            Err(error) if error.code() == Some(Code::NOT_FOUND) => Some(InstanceError::Left(id)),
            Err(TaskError::Late(_)) => Some(InstanceError::Hung(id)),
            Ok(state) if is_running(&state) => Some(InstanceError::Running(id)),
            _ => Some(InstanceError::Starting(id)),
        }
    }

    /// Whether a guest has written to its root.
    fn has_layer(&self) -> bool {
        let upper = fs::read_dir(bundle::upper(&self.paths));
        upper.is_ok_and(|mut entries| entries.next().is_some())
    }

    async fn launch(
        &self,
        record: &mut Record,
        claim: &Claim,
        made: &mut Vec<PathBuf>,
        progress: &mut impl FnMut(Phase),
    ) -> Result<(), InstanceError> {
        let paths = &self.paths;
        record.address = None;
        record.write(&paths.record())?;
        let mounts = bundle::root_mounts(record, paths)?;
        let sources = record
            .volumes
            .iter()
            .map(|volume| volumes::provide(volume, paths, made))
            .collect::<Result<Vec<_>, _>>()?;
        let bundle = bundle::write(record, &sources, self.id.as_str(), paths)?;
        let options = record.config.as_deref().map(with_config_path);
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
        // From here on a stop finds something to stop, and a start something that has begun.
        claim.unlock();
        // A guest may write to them from now on.
        made.clear();
        progress(Phase::Created);
        task.start(self.id.as_str(), "").await?;
        progress(Phase::Started);
        Ok(())
    }

    /// Removes the images that a start has made in vain.
    async fn take_back_images(&self, claim: &Claim, made: &[PathBuf]) {
        if self.lock(claim).await.is_ok() {
            // A later instance of this name has the same images.
            if claim.is_current()
                && let Err(error) = volumes::take_back(made, &self.paths)
            {
                tracing::warn!(%error, "an empty volume image is left");
            }
            claim.unlock();
        }
    }
}

/// Makes a run folder; false when it is there already. The namespace's folder comes and goes with the instances in it.
fn make_run_dir(dir: &Path) -> io::Result<bool> {
    let mut tries = 0;
    loop {
        if let Some(namespace) = dir.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(namespace)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}
