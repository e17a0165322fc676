//! A virtual machine without a machine: a [`Vmm`] whose guest is a [`FakeAgent`] behind the vsock socket.
//!
//! What it cannot show, and so what these tests cannot: that QEMU takes our command line, that daemons come
//! up and die in order, that a real agent reads what we send, and how long anything takes. The cases that
//! boot a guest are in the workspace's `tests` crate.

#![allow(dead_code, reason = "each test crate uses a part of it")]

pub(crate) mod agent;
pub(crate) mod calls;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use containerd_shim_protos::{sandbox_async::SandboxClient, shim_async::TaskClient};
use seed_protocol::{
    beacon,
    seed::v1::{Beacon, Stage},
};
use seed_shim::{
    config::{Accel, Config, Limits},
    names::{ContainerId, Namespace},
    net::Network,
    paths::{InstancePaths, Paths},
    shim::{events::Publisher, pod::service::Pod, service::Service, task::Environment},
    spec::VmSpec,
    tpm::StateDir,
    vmm::{Control, Machine, MachineSize, ProcessInfo, VmEnd, VmEvent, Vmm, VmmError},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{Notify, mpsc},
    time::sleep,
};
use ttrpc::r#async::{Client, Server};

pub(crate) use agent::FakeAgent;

/// Far more than anything takes that shall happen, also on a machine that is busy with other things.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// How the guest behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guest {
    /// It boots, says hello and does what it is told.
    Good,
    /// It never comes so far that there is a machine.
    Unlaunched,
    /// Its console speaks, and no more comes.
    Silent,
    /// It ends before it has said anything.
    Panics,
    /// It says that it failed.
    Fails,
    /// It takes SIGTERM and does not power off.
    Stubborn,
}

/// The stub.
#[derive(Debug)]
pub(crate) struct StubVmm {
    guest: Guest,
    /// The agent of the last launch.
    pub(crate) agent: Arc<Mutex<Option<FakeAgent>>>,
    /// The last size that it was given.
    pub(crate) grown: Arc<Mutex<Option<MachineSize>>>,
    /// Ends the running machine as if it had crashed.
    pub(crate) crash: Arc<Notify>,
}

#[async_trait]
impl Vmm for StubVmm {
    fn check(&self, _: &VmSpec) -> Result<(), VmmError> {
        Ok(())
    }

    async fn launch(&self, spec: &VmSpec, tpm: &StateDir) -> Result<Machine, VmmError> {
        let (control, mut controls) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        fs::write(tpm.path().join("tpm2-00.permall"), "state").unwrap();
        if self.guest == Guest::Unlaunched {
            std::future::pending::<()>().await;
        }
        let agent = FakeAgent::serve(&spec.paths.vsock_socket());
        let poweroff = agent.poweroff.clone();
        *self.agent.lock().unwrap() = Some(agent);
        fs::write(
            spec.paths.console_log(),
            "Linux version 6.12\r\nloading\r\n",
        )
        .unwrap();
        let listener = spec.paths.vsock_listener(spec.beacon_port);
        let (guest, crash) = (self.guest, Arc::clone(&self.crash));
        let slot = Arc::clone(&self.agent);
        let grown = Arc::clone(&self.grown);
        tokio::spawn(async move {
            let _ = events.send(VmEvent::ConsoleSpoke);
            if guest == Guest::Panics {
                let _ = events.send(VmEvent::Ended(VmEnd::Panic));
                return;
            }
            if guest != Guest::Silent {
                send_hello(&listener, guest == Guest::Fails).await;
            }
            let end = loop {
                tokio::select! {
                    control = controls.recv() => match control {
                        None | Some(Control::Kill) => break VmEnd::Killed,
                        Some(Control::Pause) => drop(events.send(VmEvent::Paused)),
                        Some(Control::Resume) => drop(events.send(VmEvent::Resumed)),
                        Some(Control::PowerButton) => {}
                        Some(Control::Grow(size, answer)) => {
                            *grown.lock().unwrap() = Some(size);
                            let _ = answer.send(Ok(()));
                        }
                    },
                    () = poweroff.notified() => if guest != Guest::Stubborn {
                        break VmEnd::Poweroff;
                    },
                    () = crash.notified() => break VmEnd::Died { name: "vmm", how: "signal 11".into() },
                }
            };
            slot.lock().unwrap().take();
            let _ = events.send(VmEvent::Ended(end));
        });
        let processes = vec![ProcessInfo {
            name: "qemu",
            pid: std::process::id(),
        }];
        Ok(Machine {
            processes,
            control,
            events: receiver,
        })
    }
}

async fn send_hello(listener: &Path, failed: bool) {
    let beacon = Beacon {
        version: 1,
        stage: if failed {
            Stage::STAGE_UNSPECIFIED
        } else {
            Stage::STAGE_HELLO
        }
        .into(),
        boot_id: "0123456789abcdef0123456789abcdef".into(),
        boottime_us: 10_000,
        error: if failed {
            "no /dev/vsock\x1b[2J".into()
        } else {
            String::new()
        },
        ..Beacon::default()
    };
    let mut stream = UnixStream::connect(listener).await.unwrap();
    stream
        .write_all(&beacon::encode(&beacon).unwrap())
        .await
        .unwrap();
}

/// A shim in this process, with folders of its own, and a client to it.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) config: Config,
    pub(crate) vmm: Arc<StubVmm>,
    pub(crate) client: TaskClient,
    /// The same connection, for the Sandbox service.
    pub(crate) sandboxes: SandboxClient,
    pub(crate) pod: Arc<Pod>,
    pub(crate) publisher: Publisher,
    pub(crate) shutdown: Arc<Notify>,
    server: Server,
}

impl Bench {
    pub(crate) async fn new(guest: Guest) -> Self {
        Self::publishing(guest, "").await
    }

    /// Its events go to this socket.
    pub(crate) async fn publishing(guest: Guest, events: &str) -> Self {
        Self::configured(guest, events, true).await
    }

    /// Nobody may run commands over its management socket.
    pub(crate) async fn without_commands(guest: Guest) -> Self {
        Self::configured(guest, "", false).await
    }

    async fn configured(guest: Guest, events: &str, management_exec: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            // Short only where a test waits for the end of it.
            hello_seconds: if guest == Guest::Silent { 1 } else { 60 },
            poweroff_seconds: if guest == Guest::Stubborn { 1 } else { 60 },
            drain_seconds: 2,
            exec_reader_seconds: 1,
            ..Limits::default()
        };
        let config = Config {
            run_dir: dir.path().join("run"),
            state_dir: dir.path().join("state"),
            accel: Accel::Tcg,
            limits,
            management_exec,
            ..Config::default()
        };
        Self::with(dir, config, guest, events).await
    }

    /// Another shim over the same folders.
    pub(crate) async fn beside(&self, guest: Guest) -> Self {
        Self::with(tempfile::tempdir().unwrap(), self.config.clone(), guest, "").await
    }

    async fn with(dir: TempDir, config: Config, guest: Guest, events: &str) -> Self {
        let vmm = Arc::new(StubVmm {
            guest,
            agent: Arc::default(),
            grown: Arc::default(),
            crash: Arc::new(Notify::new()),
        });
        let namespace = Namespace::try_from("default").unwrap();
        let publisher = Publisher::start(events, &namespace);
        let environment = Environment {
            publisher: publisher.clone(),
            namespace,
            config: config.clone(),
            vmm: Arc::clone(&vmm) as Arc<dyn Vmm>,
            host_mounts: Arc::new(std::fs::File::open("/proc/self/ns/mnt").unwrap()),
            host_network: Network::own().unwrap(),
            host_address: None,
        };
        let shutdown = Arc::new(Notify::new());
        let service = Arc::new(Service::new(environment, Arc::clone(&shutdown)));
        let pod = Arc::new(Pod::new(service, publisher.clone()));
        let address = format!("unix://{}", dir.path().join("task.sock").display());
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(pod.methods());
        server.start().await.unwrap();
        let connection = Client::connect(&address).await.unwrap();
        Self {
            dir,
            config,
            vmm,
            client: TaskClient::new(connection.clone()),
            sandboxes: SandboxClient::new(connection),
            pod,
            publisher,
            shutdown,
            server,
        }
    }

    /// The paths of an instance.
    pub(crate) fn paths(&self, id: &str) -> InstancePaths {
        let namespace = Namespace::try_from("default").unwrap();
        Paths::new(&self.config).instance(&namespace, &ContainerId::try_from(id).unwrap())
    }

    /// A bundle that can be created, with a volume and an environment.
    pub(crate) fn bundle(&self, id: &str) -> PathBuf {
        let bundle = self.dir.path().join("bundles").join(id);
        let system = bundle.join("rootfs/seed-system");
        fs::create_dir_all(&system).unwrap();
        let mut kernel = vec![0; 1024];
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        fs::write(system.join("kernel"), kernel).unwrap();
        fs::write(system.join("initrd"), "initrd").unwrap();
        fs::write(
            system.join("boot.json"),
            json!({
                "org.nixos.bootspec.v1": {
                    "init": "/seed-system/init", "kernel": "/seed-system/kernel",
                    "initrd": "/seed-system/initrd", "kernelParams": ["quiet"],
                },
                "farm.loom.seed.v1": {"name": "demo", "size": "xs"},
            })
            .to_string(),
        )
        .unwrap();
        let image = bundle.join("data.img");
        fs::write(&image, [0; 4096]).unwrap();
        self.configure(id, |_| {});
        bundle
    }

    /// Writes the bundle's `config.json` after `change`.
    pub(crate) fn configure(&self, id: &str, change: impl FnOnce(&mut serde_json::Value)) {
        let bundle = self.dir.path().join("bundles").join(id);
        let mut config = json!({
            "ociVersion": "1.2.0",
            "process": {"args": ["/seed-system/init"], "env": ["GREETING=hello 'you'"]},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/seed/storage/data", "type": "ext4",
                 "source": bundle.join("data.img"),
                 "options": ["x-seed.name=data", "x-seed.user=app"]},
            ],
            "annotations": {"seed.loom.farm/accel": "tcg"},
        });
        change(&mut config);
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    }

    /// Ends the server.
    pub(crate) async fn stop(mut self) {
        self.server.shutdown().await.unwrap();
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < LIMIT, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Makes a FIFO.
pub(crate) fn fifo(path: &Path) {
    use rustix::fs::{CWD, Mode, mkfifoat};
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
