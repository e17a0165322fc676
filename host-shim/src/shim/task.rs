//! The one instance of a shim, as containerd's Task API sees it: made from a bundle, started, waited for,
//! deleted. Validation is complete before anything is started, and a failed Create leaves nothing.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    TaskError,
    events::{Publisher, TaskObserver},
    instance::Instance,
    prepare::{Order, Prepared, RunFolder},
    process::{Exec, ExecPhase},
    restart::Restarter,
};
use crate::{
    access, apart,
    config::Config,
    logs::fifo::Output,
    management,
    names::{ContainerId, ExecId, Namespace},
    net,
    paths::{InstancePaths, Paths},
    rootfs::RootMount,
    sandbox::{Ended, Kill, Parts, Phase, Sandbox},
    spec::{self, Annotations, Bundle, PodSpec, SpecError, WRITABLE_ROOT},
    tpm::StateDir,
    vmm::Vmm,
};

/// More execs than this at once are refused.
const MAX_EXECS: usize = 512;

/// Where streams of a process go: paths of FIFOs, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Input.
    pub stdin: String,
    /// Output, or the terminal.
    pub stdout: String,
    /// Errors.
    pub stderr: String,
    /// There is a terminal.
    pub terminal: bool,
}

/// What Create is asked for.
#[derive(Debug)]
pub struct Request {
    /// The container.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its root's mounts.
    pub mounts: Vec<RootMount>,
    /// Its streams.
    pub stdio: Stdio,
    /// Its pod.
    pub pod: PodSpec,
}

/// What a task needs of its shim.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The containerd namespace.
    pub namespace: Namespace,
    /// The configuration.
    pub config: Config,
    /// What runs VMs.
    pub vmm: Arc<dyn Vmm>,
    /// Where events go.
    pub publisher: Publisher,
    /// The mounts of the host: those that the shim had before it took its own.
    pub host_mounts: Arc<fs::File>,
    /// The host's network, from before a pod's was entered.
    pub host_network: net::Network,
    /// The host's address in it.
    pub host_address: Option<IpAddr>,
}

/// The task.
#[derive(Debug)]
pub struct Task {
    /// The container.
    pub id: ContainerId,
    /// Its bundle.
    pub bundle: PathBuf,
    /// Its streams.
    pub stdio: Stdio,
    /// Its VM.
    pub sandbox: Sandbox,
    own_bundle: Folder,
    paths: InstancePaths,
    execs: Mutex<HashMap<ExecId, Arc<Exec>>>,
    management: Mutex<Option<management::Server>>,
}

impl Task {
    /// Reads and checks everything that a start needs. Nothing runs yet.
    pub async fn create(environment: &Environment, request: Request) -> Result<Self, TaskError> {
        let created = Instant::now();
        let Environment {
            namespace,
            config,
            vmm,
            publisher,
            host_mounts,
            host_network,
            ..
        } = environment;
        let Request {
            id,
            bundle: bundle_path,
            mounts,
            stdio,
            pod,
        } = request;
        let id = ContainerId::try_from(id.as_str())?;
        let bundle = Bundle::read(&bundle_path)?;
        let own_bundle = Folder::at(&bundle_path)?;
        let paths = Paths::new(config).instance(namespace, &id);
        let kept = spec::state_name(&bundle.annotations);
        let paths = match &kept {
            Some(name) => paths.kept_as(name),
            None => paths,
        };
        let annotations = Annotations::parse(&bundle.annotations).map_err(SpecError::Annotation)?;
        let wires = match &bundle.network_namespace {
            Some(network) if annotations.has_cards_of_pod() => {
                net::Wires::in_pod(network, *host_network)?
            }
            Some(network) => {
                net::enter(network)?;
                None
            }
            None => None,
        };
        let tpm = StateDir::lock(&paths)?;
        let order = Order {
            environment: environment.clone(),
            id: id.clone(),
            paths: paths.clone(),
            bundle,
            annotations,
            mounts,
            pod,
            nics: wires
                .as_ref()
                .map(net::Wires::nics)
                .unwrap_or_default()
                .to_vec(),
        };
        let prepared = apart::run(config.limits.create(), move |progress| {
            order.carry_out(progress)
        });
        let Prepared {
            folder,
            rootfs,
            spec,
            share,
        } = prepared.await?;
        if spec.wants_read_only_root {
            tracing::warn!(container_id = %id, "{WRITABLE_ROOT}");
        }
        let group = config.group.as_deref().map(access::group).transpose()?;
        let stdout = Output::open(&stdio.stdout, &stdio.stderr)?;
        if let Some(name) = &kept {
            let path = paths.kept_name();
            fs::write(&path, name).map_err(|source| TaskError::File {
                what: path.display().to_string(),
                source,
            })?;
        }
        if let Some(group) = group {
            access::share(&Paths::new(config), &paths, group)?;
        }
        let observer = TaskObserver {
            publisher: publisher.clone(),
            id: id.clone(),
        };
        let sandbox = Sandbox::create(Parts {
            spec: Arc::new(spec),
            vmm: Arc::clone(vmm),
            tpm,
            rootfs,
            share,
            wires,
            bundle: bundle_path.clone(),
            stdout,
            limits: config.limits.clone(),
            log_limits: config.logs.limits(),
            observer: Arc::new(observer),
            created,
        });
        let restarter = Restarter {
            namespace: namespace.clone(),
            id: id.clone(),
            paths: paths.clone(),
            pod: spec::pod(&sandbox.spec().annotations),
            begun: Arc::default(),
            host_mounts: Arc::clone(host_mounts),
        };
        let backend = Arc::new(Instance::new(
            sandbox.clone(),
            restarter,
            config.management_exec,
        ));
        let server = management::serve(&paths.management_socket(), group, backend).await?;
        folder.keep();
        Ok(Self {
            id,
            bundle: bundle_path,
            stdio,
            sandbox,
            own_bundle,
            paths,
            execs: Mutex::default(),
            management: Mutex::new(Some(server)),
        })
    }

    /// The pid that stands for the task.
    pub fn pid(&self) -> u32 {
        self.sandbox.view().pid
    }

    /// Whether there is a machine: it has begun to start and has not ended.
    pub fn has_machine(&self) -> bool {
        !matches!(self.sandbox.view().phase, Phase::Created | Phase::Stopped)
    }

    /// Whether nobody will ever delete it: containerd takes a shim that does not answer a restarted one in time for dead, has
    /// `delete` end the machine, and removes the bundle.
    pub fn is_given_up(&self) -> bool {
        !self.has_machine() && !self.own_bundle.is_there()
    }

    /// Registers an exec.
    pub fn add_exec(&self, id: ExecId, exec: Exec) -> Result<(), TaskError> {
        let view = self.sandbox.view();
        let refused = match (view.phase, view.paused) {
            (Phase::Running, false) => None,
            // Its agent would not answer.
            (Phase::Running, true) => Some("is paused: resume it first"),
            _ => Some("does not run"),
        };
        if let Some(why) = refused {
            return Err(TaskError::State(format!("container {} {why}", self.id)));
        }
        let mut execs = lock(&self.execs);
        // Nobody is left who would forget these.
        execs.retain(|_, exec| !exec.is_abandoned());
        if execs.len() >= MAX_EXECS {
            // Nor these: containerd's CRI forgets its execs when it is started again, and deletes none of them.
            execs.retain(|_, exec| !matches!(exec.phase(), ExecPhase::Stopped(_)));
        }
        if execs.contains_key(&id) {
            return Err(TaskError::Exists(format!(
                "exec {id} of container {}",
                self.id
            )));
        }
        if execs.len() >= MAX_EXECS {
            return Err(TaskError::State(format!(
                "container {} has {MAX_EXECS} execs",
                self.id
            )));
        }
        execs.insert(id, Arc::new(exec));
        Ok(())
    }

    /// Finds an exec.
    pub fn exec(&self, id: &str) -> Result<Arc<Exec>, TaskError> {
        let missing = || TaskError::NotFound(format!("exec {id} of container {}", self.id));
        let id = ExecId::try_from(id)?;
        lock(&self.execs).get(&id).cloned().ok_or_else(missing)
    }

    /// Forgets an exec.
    pub fn remove_exec(&self, id: &str) {
        let known = ExecId::try_from(id).ok();
        if let Some(exec) = known.and_then(|id| lock(&self.execs).remove(&id)) {
            exec.forget();
        }
    }

    /// Ends a task that has ended or was never started, and removes what is left of it. Twice is harmless.
    pub async fn delete(&self) -> Result<Ended, TaskError> {
        match self.sandbox.view().phase {
            Phase::Created => self.sandbox.kill(Kill::Now),
            Phase::Stopped | Phase::Cleaning => {}
            _ => {
                return Err(TaskError::State(format!(
                    "container {} still runs",
                    self.id
                )));
            }
        }
        let ended = self.sandbox.wait().await;
        lock(&self.execs).values().for_each(|exec| exec.forget());
        let server = lock(&self.management).take();
        if let Some(server) = server {
            server.stop().await;
        }
        drop(RunFolder::left(&self.paths));
        Ok(ended)
    }
}

/// A folder that is told from another one that gets its name later: as long as it is open nobody has its number.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    open: fs::File,
}

impl Folder {
    fn at(path: &Path) -> Result<Self, TaskError> {
        let open = fs::File::open(path).map_err(|source| TaskError::File {
            what: path.display().to_string(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Self { path, open })
    }

    /// Whether its name still leads to it.
    fn is_there(&self) -> bool {
        let number = |of: fs::Metadata| (of.dev(), of.ino());
        let ours = self.open.metadata().map(number);
        matches!((ours, fs::metadata(&self.path).map(number)), (Ok(ours), Ok(there)) if ours == there)
    }
}

/// A lock whose holder panicked holds data that is as good as before: nothing in here is changed half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_same_name_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        fs::create_dir(&path).unwrap();
        let folder = Folder::at(&path).unwrap();
        assert!(folder.is_there());
        fs::remove_dir(&path).unwrap();
        assert!(!folder.is_there());
        fs::create_dir(&path).unwrap();
        assert!(!folder.is_there());
        assert!(Folder::at(&dir.path().join("none")).is_err());
    }
}
