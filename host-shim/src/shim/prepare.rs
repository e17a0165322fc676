//! The files of a Create: its root is mounted, its spec is read and checked, what it shares is bound. All of it is the host's,
//! some of it on mounts of others, so it is done apart from the shim's one thread ([`crate::apart`]), and what is on such a
//! mount is looked at first: who waits can tell which.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt,
    path::Path,
};

use super::{TaskError, task::Environment};
use crate::{
    apart::{ApartError, Progress},
    names::ContainerId,
    net::Nic,
    paths::InstancePaths,
    rootfs::{RootMount, Rootfs},
    share::Share,
    spec::{self, Annotations, Bundle, Cpu, Inputs, PodSpec, VmSpec},
    writes::InMemory,
};

/// Where memory for writes to the root is mounted until the root is whole: in the bundle, which is there and goes as a
/// whole, so that a Create that fails leaves no folder of ours.
const WRITES: &str = "writes";

/// What is to be prepared.
#[derive(Debug)]
pub(super) struct Order {
    /// The shim's.
    pub environment: Environment,
    /// The container.
    pub id: ContainerId,
    /// Its paths.
    pub paths: InstancePaths,
    /// Its bundle.
    pub bundle: Bundle,
    /// What its annotations say to us.
    pub annotations: Annotations,
    /// Its root's mounts.
    pub mounts: Vec<RootMount>,
    /// Its pod.
    pub pod: PodSpec,
    /// Its cards.
    pub nics: Vec<Nic>,
}

/// What is there. Dropped as a whole it is taken away in this order.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What is shared beside the root, if anything is.
    pub share: Option<Share>,
    /// The root.
    pub rootfs: Rootfs,
    /// Everything else that a start needs.
    pub spec: VmSpec,
    /// The instance's folder.
    pub folder: RunFolder,
}

impl Order {
    /// Does it. Blocks for as long as the servers of all mounts do.
    pub(super) fn carry_out(&self, progress: &Progress) -> Result<Prepared, TaskError> {
        let Self {
            environment,
            id,
            paths,
            bundle,
            annotations,
            mounts,
            pod,
            nics,
        } = self;
        self.look(progress)?;
        progress.at("the root file system")?;
        let at = bundle.path.join(WRITES);
        let config = &environment.config;
        let writes =
            spec::root_writes(bundle, annotations, config)?.map(|mib| InMemory { at: &at, mib });
        let rootfs = Rootfs::mount(&bundle.root, mounts, writes)?;
        progress.at("what the closure and the bundle name")?;
        let spec = spec::build(&Inputs {
            namespace: &environment.namespace,
            id,
            paths,
            bundle,
            annotations,
            rootfs: rootfs.path(),
            pod,
            config,
            cpu: Cpu::look(),
            host_address: environment.host_address,
            nics,
        })?;
        environment.vmm.check(&spec)?;
        progress.at("the folder that is shared")?;
        let folder = RunFolder::make(paths)?;
        let share = match spec.shared.as_slice() {
            [] => None,
            shared => Some(Share::make(&paths.share_dir(), shared)?),
        };
        Ok(Prepared {
            share,
            rootfs,
            spec,
            folder,
        })
    }

    /// Looks at everything that is named, each under its name. What is wrong with it is for those to say who need it.
    fn look(&self, progress: &Progress) -> Result<(), ApartError> {
        let own = self.bundle.mounts.iter();
        let own = own.map(|mount| {
            (
                mount.source.as_path(),
                mount.destination.display().to_string(),
            )
        });
        let of_root = self.mounts.iter();
        let of_root = of_root.map(|mount| {
            (
                Path::new(&mount.source),
                format!("the root's /{}", mount.target.trim_matches('/')),
            )
        });
        // A file system that has no source has a word in its place.
        for (source, what_for) in own
            .chain(of_root)
            .filter(|(source, _)| source.is_absolute())
        {
            progress.at(format!("{} for {what_for}", source.display()))?;
            let _ = fs::metadata(source);
        }
        Ok(())
    }
}

/// An instance's folder for what runs. Dropping this removes what is a task's in it.
#[derive(Debug)]
pub(super) struct RunFolder(Option<InstancePaths>);

impl RunFolder {
    fn make(paths: &InstancePaths) -> Result<Self, TaskError> {
        let path = paths.run_dir();
        let made = DirBuilder::new().recursive(true).mode(0o711).create(path);
        made.map_err(|source| TaskError::File {
            what: path.display().to_string(),
            source,
        })?;
        Ok(Self::left(paths))
    }

    /// That of a task which is over.
    pub(super) fn left(paths: &InstancePaths) -> Self {
        Self(Some(paths.clone()))
    }

    pub(super) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        let Some(paths) = &self.0 else { return };
        let _ = fs::remove_file(paths.kept_name());
        // `seed run` keeps its own files there; containerd's instances have none, and leave no folder.
        let _ = fs::remove_dir(paths.run_dir());
    }
}
