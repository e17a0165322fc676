//! Each call as one function. What comes back is the agent's answer, or its refusal as it came.

use std::time::Duration;

use seed_protocol::kata::{
    agent::*,
    agent_ttrpc::AgentServiceClient,
    health::{CheckRequest, health_check_response::ServingStatus},
    health_ttrpc::HealthClient,
    oci,
    types::{ARPNeighbor, IPAddress, Interface, Route},
};
use tokio::task::JoinHandle;
use ttrpc::{Result, asynchronous::Client, context};

/// How long a call may take that does not wait for something to happen. The shims' own is a minute.
const LIMIT: Duration = Duration::from_secs(60);

/// What a Go shim asks for at a time.
const READ_BYTES: u32 = 32 * 1024;

/// Kata's mark of a pod's pause container.
const TYPE_ANNOTATION: &str = "io.katacontainers.pkg.oci.container_type";

/// For calls that answer at once.
pub fn limit() -> context::Context {
    context::with_duration(LIMIT)
}

/// For calls that wait until something happens: no limit.
pub fn calm() -> context::Context {
    context::with_duration(Duration::ZERO)
}

/// One connection to an agent.
#[derive(Clone)]
pub struct Kata {
    /// For calls that have no function here.
    pub agent: AgentServiceClient,
    /// For services beside Kata's.
    pub client: Client,
}

impl std::fmt::Debug for Kata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kata").finish_non_exhaustive()
    }
}

impl Kata {
    /// Calls over this connection.
    pub fn new(client: Client) -> Self {
        let agent = AgentServiceClient::new(client.clone());
        Self { agent, client }
    }

    /// True when the agent says that it serves.
    pub async fn check(&self) -> Result<bool> {
        let health = HealthClient::new(self.client.clone());
        let answer = health.check(limit(), &CheckRequest::new()).await?;
        Ok(answer.status == ServingStatus::SERVING.into())
    }

    /// Versions of the API and of the agent.
    pub async fn version(&self) -> Result<(String, String)> {
        let health = HealthClient::new(self.client.clone());
        let answer = health.version(limit(), &CheckRequest::new()).await?;
        Ok((answer.grpc_version, answer.agent_version))
    }

    /// The link with this hardware address becomes `name` and gets `addresses` (with their prefix length).
    pub async fn interface(&self, hardware: &str, name: &str, addresses: &[&str]) -> Result<()> {
        let address = |text: &&str| {
            let (address, mask) = text.split_once('/').unwrap_or((text, ""));
            IPAddress {
                address: address.into(),
                mask: mask.into(),
                ..Default::default()
            }
        };
        let interface = Interface {
            device: name.into(),
            name: name.into(),
            IPAddresses: addresses.iter().map(address).collect(),
            mtu: 1500,
            hwAddr: hardware.into(),
            ..Default::default()
        };
        let request = UpdateInterfaceRequest {
            interface: Some(interface).into(),
            ..Default::default()
        };
        self.agent.update_interface(limit(), &request).await?;
        Ok(())
    }

    /// The default route; all routes afterwards.
    pub async fn default_route(&self, gateway: &str, device: &str) -> Result<Vec<Route>> {
        let routes = Routes {
            Routes: vec![Route {
                gateway: gateway.into(),
                device: device.into(),
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = UpdateRoutesRequest {
            routes: Some(routes).into(),
            ..Default::default()
        };
        Ok(self.agent.update_routes(limit(), &request).await?.Routes)
    }

    /// A neighbour that is known for good.
    pub async fn neighbour(&self, address: &str, device: &str, hardware: &str) -> Result<()> {
        /// `NUD_PERMANENT` of `linux/neighbour.h`.
        const PERMANENT: i32 = 0x80;
        let to = IPAddress {
            address: address.into(),
            ..Default::default()
        };
        let neighbors = ARPNeighbors {
            ARPNeighbors: vec![ARPNeighbor {
                toIPAddress: Some(to).into(),
                device: device.into(),
                lladdr: hardware.into(),
                state: PERMANENT,
                ..Default::default()
            }],
            ..Default::default()
        };
        let request = AddARPNeighborsRequest {
            neighbors: Some(neighbors).into(),
            ..Default::default()
        };
        self.agent.add_arp_neighbors(limit(), &request).await?;
        Ok(())
    }

    /// The guest as a whole.
    pub async fn sandbox(&self, id: &str, dns: &[&str], storages: Vec<Storage>) -> Result<()> {
        let request = CreateSandboxRequest {
            dns: words(dns),
            sandbox_id: id.into(),
            storages,
            ..Default::default()
        };
        self.agent.create_sandbox(limit(), &request).await?;
        Ok(())
    }

    /// What the agent can do.
    pub async fn details(&self) -> Result<GuestDetailsResponse> {
        let request = GuestDetailsRequest {
            mem_block_size: true,
            mem_hotplug_probe: true,
            ..Default::default()
        };
        self.agent.get_guest_details(limit(), &request).await
    }

    /// Processors, and memory unless `cpu_only`.
    pub async fn online(&self, cpus: u32, cpu_only: bool) -> Result<()> {
        let request = OnlineCPUMemRequest {
            nb_cpus: cpus,
            cpu_only,
            ..Default::default()
        };
        self.agent.online_cpu_mem(limit(), &request).await?;
        Ok(())
    }

    /// A whole file at an absolute path of the guest.
    pub async fn copy(&self, path: &str, data: &[u8]) -> Result<()> {
        let request = CopyFileRequest {
            path: path.into(),
            file_size: data.len().try_into().unwrap_or(i64::MAX),
            file_mode: 0o100_644,
            dir_mode: 0o755,
            data: data.into(),
            ..Default::default()
        };
        self.agent.copy_file(limit(), &request).await?;
        Ok(())
    }

    /// A pod's pause container.
    pub async fn create_pause(&self, id: &str) -> Result<()> {
        let mut request = container(id, &["PATH=/bin"], Vec::new());
        if let Some(spec) = request.OCI.as_mut() {
            let kind = (TYPE_ANNOTATION.to_owned(), "pod_sandbox".to_owned());
            spec.Annotations.extend([kind]);
        }
        self.agent.create_container(limit(), &request).await?;
        Ok(())
    }

    /// A container.
    pub async fn create(&self, id: &str, env: &[&str], storages: Vec<Storage>) -> Result<()> {
        self.create_with_mounts(id, env, storages, Vec::new()).await
    }

    /// A container with mounts of its engine's.
    pub async fn create_with_mounts(
        &self,
        id: &str,
        env: &[&str],
        storages: Vec<Storage>,
        mounts: Vec<oci::Mount>,
    ) -> Result<()> {
        let mut request = container(id, env, storages);
        if let Some(spec) = request.OCI.as_mut() {
            spec.Mounts = mounts;
        }
        self.agent.create_container(limit(), &request).await?;
        Ok(())
    }

    /// A container that was created.
    pub async fn start(&self, id: &str) -> Result<()> {
        let request = StartContainerRequest {
            container_id: id.into(),
            ..Default::default()
        };
        self.agent.start_container(limit(), &request).await?;
        Ok(())
    }

    /// A process in a container, as root, without a terminal.
    pub async fn exec(&self, id: &str, exec: &str, arguments: &[&str]) -> Result<()> {
        let process = oci::Process {
            Args: words(arguments),
            Cwd: "/".into(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            process: Some(process).into(),
            ..Default::default()
        };
        self.agent.exec_process(limit(), &request).await?;
        Ok(())
    }

    /// Runs a process to its end: its status and its output.
    pub async fn output(&self, id: &str, exec: &str, arguments: &[&str]) -> Result<(i32, Vec<u8>)> {
        self.exec(id, exec, arguments).await?;
        let (stdout, stderr) = (self.read(id, exec, false), self.read(id, exec, true));
        let stdout = joined(stdout).await?;
        joined(stderr).await?;
        Ok((self.wait(id, exec).await?, stdout))
    }

    /// Reads a stream up to its end, on a task of its own.
    pub fn read(&self, id: &str, exec: &str, stderr: bool) -> JoinHandle<Result<Vec<u8>>> {
        let agent = self.agent.clone();
        let request = ReadStreamRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            len: READ_BYTES,
            ..Default::default()
        };
        tokio::spawn(async move {
            let mut all = Vec::new();
            loop {
                let part = match stderr {
                    true => agent.read_stderr(calm(), &request).await?,
                    false => agent.read_stdout(calm(), &request).await?,
                };
                if part.data.is_empty() {
                    return Ok(all);
                }
                all.extend(part.data);
            }
        })
    }

    /// Waits for the next kill for lack of memory, on a task of its own.
    pub fn oom(&self) -> JoinHandle<Result<OOMEvent>> {
        let agent = self.agent.clone();
        tokio::spawn(async move {
            agent
                .get_oom_event(calm(), &GetOOMEventRequest::new())
                .await
        })
    }

    /// Waits for a process' end; its status.
    pub async fn wait(&self, id: &str, exec: &str) -> Result<i32> {
        let request = WaitProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        Ok(self.agent.wait_process(calm(), &request).await?.status)
    }

    /// Signals a process.
    pub async fn signal(&self, id: &str, exec: &str, signal: u32) -> Result<()> {
        let request = SignalProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        self.agent.signal_process(limit(), &request).await?;
        Ok(())
    }

    /// Takes a container away.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let request = RemoveContainerRequest {
            container_id: id.into(),
            ..Default::default()
        };
        self.agent.remove_container(limit(), &request).await?;
        Ok(())
    }

    /// What a container uses.
    pub async fn stats(&self, id: &str) -> Result<StatsContainerResponse> {
        let request = StatsContainerRequest {
            container_id: id.into(),
            ..Default::default()
        };
        self.agent.stats_container(limit(), &request).await
    }
}

/// What a task found out.
pub(crate) async fn joined<T>(task: JoinHandle<Result<T>>) -> Result<T> {
    let ended = task.await;
    ended.unwrap_or_else(|error| Err(ttrpc::Error::Others(error.to_string())))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn container(id: &str, env: &[&str], storages: Vec<Storage>) -> CreateContainerRequest {
    let process = oci::Process {
        Env: words(env),
        ..Default::default()
    };
    let spec = oci::Spec {
        Process: Some(process).into(),
        ..Default::default()
    };
    CreateContainerRequest {
        container_id: id.into(),
        storages,
        OCI: Some(spec).into(),
        ..Default::default()
    }
}
