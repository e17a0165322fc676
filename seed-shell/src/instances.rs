//! The instances of repositories, through `seed-shim`'s client library: which there are, how they are, where their
//! logs are.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use seed_protocol::seed::management::{InstanceStatus, StartExecRequest};
use seed_shim::{
    config::Config,
    containerd::instance::instances,
    management::{Client, ClientError, Command},
    names::{ContainerId, Namespace},
    paths::Paths,
};
use tokio::time::timeout;

use crate::registry::{Registry, RegistryError, Repo};

/// How long one instance may delay a list of them. One that takes longer is shown as not answering.
const LIST: Duration = Duration::from_secs(2);

/// How an instance is.
#[derive(Debug, Clone)]
pub enum Condition {
    /// Its own word.
    Known(Box<InstanceStatus>),
    /// It has a run folder and nobody behind it: its shim has ended.
    Dead,
    /// It is recorded and nothing runs.
    Absent,
    /// It runs and does not answer in time, or not to us.
    Silent,
}

/// Where instances are.
#[derive(Debug, Clone)]
pub struct Instances {
    paths: Paths,
}

impl Instances {
    /// Those of the shim with this configuration.
    pub fn new(config: &Config) -> Self {
        Self {
            paths: Paths::new(config),
        }
    }

    /// The instances of a repository, sorted: those that are recorded, and those that are there. All of them are in
    /// the repository's own namespace.
    pub fn of(&self, registry: &Registry, repo: &Repo) -> Result<Vec<ContainerId>, RegistryError> {
        let mut names = registry.instances(repo)?;
        names.extend(instances(&self.paths, &repo.namespace));
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The folder of its log.
    pub fn logs(&self, namespace: &Namespace, id: &ContainerId) -> PathBuf {
        self.paths.instance(namespace, id).logs_dir().into()
    }

    fn run_dir_exists(&self, namespace: &Namespace, id: &ContainerId) -> bool {
        let paths = self.paths.instance(namespace, id);
        Path::new(paths.run_dir()).exists()
    }

    /// Its management socket.
    pub async fn client(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
    ) -> Result<Client, ClientError> {
        let paths = self.paths.instance(namespace, id);
        Client::connect(&paths.management_socket()).await
    }

    /// A command in it, which ends when it is dropped.
    pub async fn command(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        request: &StartExecRequest,
    ) -> Result<Command, ClientError> {
        let paths = self.paths.instance(namespace, id);
        Command::start(&paths.management_socket(), request).await
    }

    /// How it is, soon.
    pub async fn condition(&self, namespace: &Namespace, id: &ContainerId) -> Condition {
        let asked = async {
            let client = self.client(namespace, id).await?;
            client.status(0, Duration::ZERO).await
        };
        match timeout(LIST, asked).await {
            Ok(Ok(status)) => Condition::Known(Box::new(status)),
            Ok(Err(ClientError::Absent { .. })) if self.run_dir_exists(namespace, id) => {
                Condition::Dead
            }
            Ok(Err(ClientError::Absent { .. })) => Condition::Absent,
            Ok(Err(_)) | Err(_) => Condition::Silent,
        }
    }
}
