//! Both shims' orders of calls, from the first to the last (`src/runtime` is the Go shim's, of Kata 3.30, and
//! `src/runtime-rs` the Rust shim's, of 4.1; both were also watched while each drove a guest). They end where something has to happen in between: a test looks at the guest
//! then, and lets the guest end before it goes on.

use anyhow::{Context, Result, ensure};
use seed_protocol::kata::{agent::*, oci};
use tokio::task::JoinHandle;

use crate::{
    Kata,
    call::{joined, limit},
};

const SIGKILL: u32 = 9;
/// What the Rust shim gives a removal.
const REMOVE_S: u32 = 10;

/// A pod with one container, and the network that it gets.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// The pod's id, which is its pause container's.
    pub id: String,
    /// The container's id.
    pub container: String,
    /// The link's hardware address.
    pub hardware: String,
    /// The link's address, with the length of its network.
    pub address: String,
    /// The way out.
    pub gateway: String,
    /// A line of `resolv.conf`.
    pub dns: String,
    /// Storage of the pod.
    pub pod_storages: Vec<Storage>,
    /// Storage of the container.
    pub storages: Vec<Storage>,
    /// Where its engine wants them.
    pub mounts: Vec<oci::Mount>,
    /// The container's environment.
    pub env: Vec<String>,
    /// Where files are copied to.
    pub copies: String,
    /// How many processors to bring online.
    pub cpus: u32,
}

/// A container that runs, and who waits for it.
#[derive(Debug)]
pub struct Running {
    /// Its output.
    pub stdout: JoinHandle<ttrpc::Result<Vec<u8>>>,
    /// Its error output.
    pub stderr: JoinHandle<ttrpc::Result<Vec<u8>>>,
    /// The next kill for lack of memory.
    pub oom: JoinHandle<ttrpc::Result<OOMEvent>>,
}

impl Running {
    /// True while nothing has ended by itself.
    pub fn is_whole(&self) -> bool {
        !(self.stdout.is_finished() || self.stderr.is_finished() || self.oom.is_finished())
    }
}

impl Pod {
    async fn network(&self, kata: &Kata, routes_first: bool) -> Result<()> {
        let addresses = [self.address.as_str()];
        let interface = kata.interface(&self.hardware, "eth0", &addresses);
        interface.await.context("UpdateInterface")?;
        if !routes_first {
            self.neighbour(kata).await?;
        }
        let routes = kata.default_route(&self.gateway, "eth0").await;
        let routes = routes.context("UpdateRoutes")?;
        let default = routes.iter().any(|route| route.dest.is_empty());
        ensure!(default, "no default route in {routes:?}");
        if routes_first {
            self.neighbour(kata).await?;
        }
        Ok(())
    }

    async fn neighbour(&self, kata: &Kata) -> Result<()> {
        let done = kata.neighbour(&self.gateway, "eth0", "02:5e:ed:00:00:02");
        done.await.context("AddARPNeighbors")
    }

    async fn sandbox(&self, kata: &Kata) -> Result<()> {
        let storages = self.pod_storages.clone();
        let done = kata.sandbox(&self.id, &[&self.dns], storages).await;
        done.context("CreateSandbox")?;
        let details = kata.details().await.context("GetGuestDetails")?;
        let handlers = &details.agent_details.storage_handlers;
        ensure!(
            handlers.iter().any(|name| name == "virtio-fs"),
            "{details:?}"
        );
        Ok(())
    }

    async fn create(&self, kata: &Kata) -> Result<()> {
        let env: Vec<&str> = self.env.iter().map(String::as_str).collect();
        let (storages, mounts) = (self.storages.clone(), self.mounts.clone());
        let done = kata.create_with_mounts(&self.container, &env, storages, mounts);
        done.await.context("CreateContainer")
    }

    async fn check(&self, kata: &Kata) -> Result<()> {
        ensure!(
            kata.check().await.context("Check")?,
            "the agent does not serve"
        );
        Ok(())
    }

    async fn stats(&self, kata: &Kata) -> Result<()> {
        let stats = kata
            .stats(&self.container)
            .await
            .context("StatsContainer")?;
        let eth0 = stats.network_stats.iter().any(|link| link.name == "eth0");
        let memory = &stats.cgroup_stats.memory_stats;
        ensure!(eth0 && memory.usage.usage > 0, "{stats:?}");
        ensure!(memory.stats.contains_key("inactive_file"), "{stats:?}");
        Ok(())
    }

    /// The Go shim, up to a container that runs: first the pause container, then the other one.
    pub async fn go_up(&self, kata: &Kata) -> Result<Running> {
        self.check(kata).await?;
        self.network(kata, true).await?;
        self.sandbox(kata).await?;
        let pause = kata.create_pause(&self.id).await;
        pause.context("CreateContainer of the pause container")?;
        kata.online(self.cpus, true).await.context("OnlineCPUMem")?;
        kata.start(&self.id).await.context("StartContainer")?;
        let oom = kata.oom();
        let hosts = format!("{}/hosts", self.copies);
        let copied = kata.copy(&hosts, b"127.0.0.1 localhost\n").await;
        copied.context("CopyFile")?;
        self.create(kata).await?;
        kata.online(self.cpus, true).await.context("OnlineCPUMem")?;
        kata.online(0, false).await.context("OnlineCPUMem")?;
        kata.start(&self.container)
            .await
            .context("StartContainer")?;
        let id = self.container.as_str();
        let (stdout, stderr) = (kata.read(id, id, false), kata.read(id, id, true));
        let close = CloseStdinRequest {
            container_id: id.into(),
            exec_id: id.into(),
            ..Default::default()
        };
        let closed = kata.agent.close_stdin(limit(), &close).await;
        closed.context("CloseStdin")?;
        let resize = TtyWinResizeRequest {
            container_id: id.into(),
            exec_id: id.into(),
            row: 24,
            column: 80,
            ..Default::default()
        };
        let resized = kata.agent.tty_win_resize(limit(), &resize).await;
        resized.context("TtyWinResize")?;
        for _ in 0..3 {
            self.check(kata).await?;
            self.stats(kata).await?;
        }
        Ok(Running {
            stdout,
            stderr,
            oom,
        })
    }

    /// The Go shim, from a container that ends to the last call: its output and its last words.
    pub async fn go_down(&self, kata: &Kata, running: Running) -> Result<(Vec<u8>, String)> {
        let id = self.container.as_str();
        let output = joined(running.stdout).await.context("ReadStdout")?;
        joined(running.stderr).await.context("ReadStderr")?;
        ensure!(kata.wait(id, id).await.context("WaitProcess")? == 0);
        kata.signal(id, "", SIGKILL)
            .await
            .context("SignalProcess")?;
        ensure!(kata.wait(id, id).await.context("WaitProcess")? == 0);
        let request = GetDiagnosticDataRequest {
            log_type: "termination_log".into(),
            container_id: id.into(),
            ..Default::default()
        };
        let words = kata.agent.get_diagnostic_data(limit(), &request).await;
        let words = words.context("GetDiagnosticData")?.data;
        kata.remove(id).await.context("RemoveContainer")?;
        let stale = RemoveStaleVirtiofsShareMountsRequest::new();
        let removed = kata
            .agent
            .remove_stale_virtiofs_share_mounts(limit(), &stale);
        removed.await.context("RemoveStaleVirtiofsShareMounts")?;
        let pause = self.id.as_str();
        let signalled = kata.signal(pause, "", SIGKILL).await;
        signalled.context("SignalProcess")?;
        let status = kata.wait(pause, pause).await.context("WaitProcess")?;
        ensure!(status == 137, "the pause container ended with {status}");
        kata.remove(pause).await.context("RemoveContainer")?;
        let destroy = DestroySandboxRequest::new();
        let destroyed = kata.agent.destroy_sandbox(limit(), &destroy).await;
        destroyed.context("DestroySandbox")?;
        running.oom.abort();
        Ok((output, words))
    }

    /// The Rust shim, up to a container that runs: a single one, and no Check first.
    pub async fn rs_up(&self, kata: &Kata) -> Result<Running> {
        self.network(kata, false).await?;
        self.sandbox(kata).await?;
        let oom = kata.oom();
        self.check(kata).await?;
        let (api, agent) = kata.version().await.context("Version")?;
        ensure!(!api.is_empty() && !agent.is_empty(), "{api:?}, {agent:?}");
        kata.online(self.cpus, false)
            .await
            .context("OnlineCPUMem")?;
        self.create(kata).await?;
        let id = self.container.as_str();
        kata.start(id).await.context("StartContainer")?;
        let (stdout, stderr) = (kata.read(id, "", false), kata.read(id, "", true));
        // It closes the input by writing nothing.
        let nothing = WriteStreamRequest {
            container_id: id.into(),
            ..Default::default()
        };
        let written = kata.agent.write_stdin(limit(), &nothing).await;
        ensure!(written.context("WriteStdin")?.len == 0);
        let update = UpdateContainerRequest {
            container_id: id.into(),
            ..Default::default()
        };
        let updated = kata.agent.update_container(limit(), &update).await;
        updated.context("UpdateContainer")?;
        kata.online(self.cpus, false)
            .await
            .context("OnlineCPUMem")?;
        self.stats(kata).await?;
        Ok(Running {
            stdout,
            stderr,
            oom,
        })
    }

    /// The Rust shim, from a container that ends to the last call, which is no DestroySandbox: its output.
    pub async fn rs_down(&self, kata: &Kata, running: Running) -> Result<Vec<u8>> {
        let id = self.container.as_str();
        let output = joined(running.stdout).await.context("ReadStdout")?;
        joined(running.stderr).await.context("ReadStderr")?;
        ensure!(kata.wait(id, "").await.context("WaitProcess")? == 0);
        kata.signal(id, "", SIGKILL)
            .await
            .context("SignalProcess")?;
        let remove = RemoveContainerRequest {
            container_id: id.into(),
            timeout: REMOVE_S,
            ..Default::default()
        };
        let removed = kata.agent.remove_container(limit(), &remove).await;
        removed.context("RemoveContainer")?;
        running.oom.abort();
        Ok(output)
    }
}

/// An entry of storage.
pub fn storage(driver: &str, source: &str, fstype: &str, place: &str, options: &[&str]) -> Storage {
    Storage {
        driver: driver.into(),
        source: source.into(),
        fstype: fstype.into(),
        options: options.iter().map(|word| (*word).to_owned()).collect(),
        mount_point: place.into(),
        ..Default::default()
    }
}

/// What an engine wants bound to a place of the container's: of the kind `bind`, or of a Kata shim's `local`.
pub fn bound(kind: &str, source: &str, place: &str, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: place.into(),
        source: source.into(),
        type_: kind.into(),
        options: options.iter().map(|word| (*word).to_owned()).collect(),
        ..Default::default()
    }
}
