//! Both Kata shims' full orders of calls, from the first to the last, in namespaces of their own: the Go
//! shim's with a pod of a pause container and one more, and the Rust shim's with a single container.
//! Neither order is ours: they are what the shims do (Kata 4.1).

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{fs, path::Path, time::Duration};

use common::{Agent, container, in_namespaces, limit, refusal, run, unlimited};
use seed_protocol::kata::{
    agent::*,
    health::{CheckRequest, health_check_response::ServingStatus},
    health_ttrpc::HealthClient,
    types::{ARPNeighbor, IPAddress, Interface, Route},
};
use tokio::{task::JoinHandle, time::timeout};
use ttrpc::Code;

const HARDWARE: &str = "02:5e:ed:00:00:01";
const POD: &str = "1d0c5bf4a0ee";
const WORK: &str = "7f3ac2de9b11";

/// The steps that both shims have, each as one function.
struct Shim {
    agent: Agent,
}

impl Shim {
    async fn dial() -> Self {
        run("ip link add veth-a type veth peer name veth-b");
        run(&format!("ip link set veth-a address {HARDWARE}"));
        let agent = Agent::start().await;
        // The folder that the host shares is a mount of its own in a guest.
        let shared = agent.at("shared");
        fs::create_dir_all(&shared).unwrap();
        run(&format!("mount -t tmpfs none {}", shared.display()));
        for (name, text) in [
            ("devices/system/cpu/cpu1/online", "0"),
            ("devices/system/memory/memory1/state", "offline"),
            ("devices/system/memory/block_size_bytes", "8000000\n"),
        ] {
            let path = agent.at("sysfs").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { agent }
    }

    async fn check(&self) {
        let health = HealthClient::new(self.agent.client.clone());
        let answer = health.check(limit(), &CheckRequest::new()).await.unwrap();
        assert_eq!(answer.status, ServingStatus::SERVING.into());
    }

    async fn version(&self) {
        let health = HealthClient::new(self.agent.client.clone());
        let answer = health.version(limit(), &CheckRequest::new()).await.unwrap();
        assert!(!answer.agent_version.is_empty() && !answer.grpc_version.is_empty());
    }

    async fn interface(&self) {
        let address = IPAddress {
            address: "192.0.2.7".into(),
            mask: "24".into(),
            ..Default::default()
        };
        let interface = Interface {
            device: "eth0".into(),
            name: "eth0".into(),
            IPAddresses: vec![address],
            mtu: 1500,
            hwAddr: HARDWARE.into(),
            ..Default::default()
        };
        let request = UpdateInterfaceRequest {
            interface: Some(interface).into(),
            ..Default::default()
        };
        let kata = self.agent.kata();
        kata.update_interface(limit(), &request).await.unwrap();
    }

    async fn routes(&self) {
        let route = Route {
            gateway: "192.0.2.1".into(),
            device: "eth0".into(),
            ..Default::default()
        };
        let routes = Routes {
            Routes: vec![route],
            ..Default::default()
        };
        let request = UpdateRoutesRequest {
            routes: Some(routes).into(),
            ..Default::default()
        };
        let all = self.agent.kata().update_routes(limit(), &request).await;
        assert!(
            all.unwrap()
                .Routes
                .iter()
                .any(|route| route.dest.is_empty())
        );
    }

    async fn neighbours(&self) {
        let neighbour = ARPNeighbor {
            toIPAddress: Some(IPAddress {
                address: "192.0.2.1".into(),
                ..Default::default()
            })
            .into(),
            device: "eth0".into(),
            lladdr: "02:5e:ed:00:00:02".into(),
            state: 0x80,
            ..Default::default()
        };
        let neighbors = ARPNeighbors {
            ARPNeighbors: vec![neighbour],
            ..Default::default()
        };
        let request = AddARPNeighborsRequest {
            neighbors: Some(neighbors).into(),
            ..Default::default()
        };
        let kata = self.agent.kata();
        kata.add_arp_neighbors(limit(), &request).await.unwrap();
    }

    fn storage(&self, driver: &str, place: &Path, source: &str, options: &[&str]) -> Storage {
        Storage {
            driver: driver.into(),
            source: source.into(),
            fstype: if driver == "ephemeral" { "tmpfs" } else { "" }.into(),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            mount_point: place.to_str().unwrap().into(),
            ..Default::default()
        }
    }

    async fn sandbox(&self) {
        let shm = self.agent.at("shared/sandbox/shm");
        let options = ["noexec", "mode=1777", "size=1048576"];
        let request = CreateSandboxRequest {
            dns: vec!["nameserver 192.0.2.53".into()],
            sandbox_id: POD.into(),
            storages: vec![self.storage("ephemeral", &shm, "shm", &options)],
            ..Default::default()
        };
        let kata = self.agent.kata();
        kata.create_sandbox(limit(), &request).await.unwrap();
        let shown = run(&format!("findmnt -n -o FSTYPE,OPTIONS {}", shm.display()));
        for wanted in ["tmpfs", "nosuid", "nodev", "noexec", "size=1024k"] {
            assert!(shown.contains(wanted), "{shown}");
        }
        let resolver = fs::read_to_string(self.agent.at("resolv.conf")).unwrap();
        assert_eq!(resolver, "nameserver 192.0.2.53\n");
    }

    async fn details(&self) {
        let request = GuestDetailsRequest {
            mem_block_size: true,
            mem_hotplug_probe: true,
            ..Default::default()
        };
        let kata = self.agent.kata();
        let details = kata.get_guest_details(limit(), &request).await.unwrap();
        assert_eq!(details.mem_block_size_bytes, 128 << 20);
        assert!(!details.support_mem_hotplug_probe);
        let handlers = &details.agent_details.storage_handlers;
        assert!(handlers.iter().any(|handler| handler == "virtio-fs"));
    }

    async fn online(&self, cpus: u32, cpu_only: bool) {
        let request = OnlineCPUMemRequest {
            nb_cpus: cpus,
            cpu_only,
            ..Default::default()
        };
        let kata = self.agent.kata();
        kata.online_cpu_mem(limit(), &request).await.unwrap();
    }

    async fn copy(&self, name: &str, data: &[u8]) -> ttrpc::Result<()> {
        let copies = self.agent.at("shared/shared/containers");
        let request = CopyFileRequest {
            path: format!("{}/{name}", copies.display()),
            file_size: data.len().try_into().unwrap(),
            file_mode: 0o100_644,
            dir_mode: 0o755,
            data: data.into(),
            ..Default::default()
        };
        let done = self.agent.kata().copy_file(limit(), &request).await;
        done.map(drop)
    }

    async fn create_pause(&self) {
        let mut request = container(POD, &["PATH=/bin"], vec![]);
        let key = "io.katacontainers.pkg.oci.container_type".to_owned();
        let annotations = &mut request.OCI.as_mut().unwrap().Annotations;
        annotations.insert(key, "pod_sandbox".to_owned());
        let kata = self.agent.kata();
        kata.create_container(limit(), &request).await.unwrap();
    }

    async fn create(&self) {
        let local = self.agent.at("shared/sandbox/local/cache");
        let storage = self.storage("local", &local, "local", &["mode=0770", "fsgid=4711"]);
        let request = container(WORK, &["A=1"], vec![storage]);
        let kata = self.agent.kata();
        kata.create_container(limit(), &request).await.unwrap();
        let shown = run(&format!("stat -c %g:%a {}", local.display()));
        assert_eq!(shown.trim(), "4711:2770");
    }

    fn read(&self, exec: &str, stderr: bool) -> JoinHandle<Vec<u8>> {
        let kata = self.agent.kata();
        let request = ReadStreamRequest {
            container_id: WORK.into(),
            exec_id: exec.into(),
            len: 32 * 1024,
            ..Default::default()
        };
        tokio::spawn(async move {
            let mut all = Vec::new();
            loop {
                let read = if stderr {
                    kata.read_stderr(unlimited(), &request).await
                } else {
                    kata.read_stdout(unlimited(), &request).await
                };
                let data = read.unwrap().data;
                if data.is_empty() {
                    return all;
                }
                all.extend(data);
            }
        })
    }

    fn oom(&self) -> JoinHandle<ttrpc::Result<OOMEvent>> {
        let kata = self.agent.kata();
        tokio::spawn(async move {
            kata.get_oom_event(unlimited(), &GetOOMEventRequest::new())
                .await
        })
    }

    async fn wait(&self, id: &str, exec: &str) -> i32 {
        let request = WaitProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            ..Default::default()
        };
        let waited = self.agent.kata().wait_process(limit(), &request).await;
        waited.unwrap().status
    }

    async fn signal(&self, id: &str, exec: &str, signal: u32) {
        let request = SignalProcessRequest {
            container_id: id.into(),
            exec_id: exec.into(),
            signal,
            ..Default::default()
        };
        let kata = self.agent.kata();
        kata.signal_process(limit(), &request).await.unwrap();
    }

    async fn remove(&self, id: &str) {
        let request = RemoveContainerRequest {
            container_id: id.into(),
            ..Default::default()
        };
        let kata = self.agent.kata();
        kata.remove_container(limit(), &request).await.unwrap();
    }

    async fn stats(&self) {
        let request = StatsContainerRequest {
            container_id: WORK.into(),
            ..Default::default()
        };
        let kata = self.agent.kata();
        let stats = kata.stats_container(limit(), &request).await.unwrap();
        let eth0 = stats.network_stats.iter().find(|link| link.name == "eth0");
        assert!(eth0.is_some());
        let memory = &stats.cgroup_stats.memory_stats;
        assert!(memory.stats.contains_key("inactive_file") && memory.usage.usage > 0);
    }
}

#[tokio::test]
async fn the_go_shims_order_from_dial_to_destroy() {
    if !in_namespaces("the_go_shims_order_from_dial_to_destroy") {
        return;
    }
    let shim = Shim::dial().await;
    shim.check().await;
    shim.interface().await;
    shim.routes().await;
    shim.neighbours().await;
    shim.sandbox().await;
    shim.details().await;
    shim.create_pause().await;
    shim.online(2, true).await;
    shim.agent.start_container(POD).await.unwrap();
    let oom = shim.oom();
    shim.copy("hosts", b"127.0.0.1 localhost\n").await.unwrap();
    let (code, _) = refusal(shim.copy("../../../etc/x", b"x").await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
    shim.create().await;
    shim.online(1, true).await;
    shim.online(0, false).await;
    let state = shim.agent.at("sysfs/devices/system/memory/memory1/state");
    assert_eq!(fs::read_to_string(state).unwrap(), "online");
    shim.agent.start_container(WORK).await.unwrap();
    let (stdout, stderr) = (shim.read(WORK, false), shim.read(WORK, true));
    let close = CloseStdinRequest {
        container_id: WORK.into(),
        exec_id: WORK.into(),
        ..Default::default()
    };
    shim.agent
        .kata()
        .close_stdin(limit(), &close)
        .await
        .unwrap();
    let resize = TtyWinResizeRequest {
        container_id: WORK.into(),
        exec_id: WORK.into(),
        row: 24,
        column: 80,
        ..Default::default()
    };
    let kata = shim.agent.kata();
    kata.tty_win_resize(limit(), &resize).await.unwrap();
    for _ in 0..3 {
        shim.check().await;
        shim.stats().await;
    }
    // A second container beside the instance is refused with a sentence.
    let (code, message) = refusal(shim.agent.create("second", &[]).await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("needs a guest of its own"), "{message}");
    assert!(!oom.is_finished() && !stdout.is_finished() && !stderr.is_finished());

    shim.agent.ctx.end.declare();
    assert!(stdout.await.unwrap().is_empty() && stderr.await.unwrap().is_empty());
    assert_eq!(shim.wait(WORK, WORK).await, 0);
    shim.signal(WORK, "", 9).await;
    assert_eq!(shim.wait(WORK, WORK).await, 0);
    let request = GetDiagnosticDataRequest {
        log_type: "termination_log".into(),
        container_id: WORK.into(),
        ..Default::default()
    };
    fs::write(shim.agent.at("termination-log"), "bye").unwrap();
    let words = kata.get_diagnostic_data(limit(), &request).await.unwrap();
    assert_eq!(words.data, "bye");
    shim.remove(WORK).await;
    let stale = RemoveStaleVirtiofsShareMountsRequest::new();
    kata.remove_stale_virtiofs_share_mounts(limit(), &stale)
        .await
        .unwrap();
    shim.signal(POD, "", 9).await;
    assert_eq!(shim.wait(POD, POD).await, 137);
    shim.remove(POD).await;
    kata.destroy_sandbox(limit(), &DestroySandboxRequest::new())
        .await
        .unwrap();
    oom.abort();
}

#[tokio::test]
async fn the_rust_shims_order_without_check_and_destroy() {
    if !in_namespaces("the_rust_shims_order_without_check_and_destroy") {
        return;
    }
    let shim = Shim::dial().await;
    shim.interface().await;
    shim.neighbours().await;
    shim.routes().await;
    shim.sandbox().await;
    shim.details().await;
    let oom = shim.oom();
    shim.check().await;
    shim.version().await;
    shim.online(2, false).await;
    shim.create().await;
    shim.agent.start_container(WORK).await.unwrap();
    let (stdout, stderr) = (shim.read("", false), shim.read("", true));
    // It closes the input by writing nothing.
    let nothing = WriteStreamRequest {
        container_id: WORK.into(),
        ..Default::default()
    };
    let kata = shim.agent.kata();
    assert_eq!(kata.write_stdin(limit(), &nothing).await.unwrap().len, 0);
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let kata = shim.agent.kata();
            let request = WaitProcessRequest {
                container_id: WORK.into(),
                ..Default::default()
            };
            tokio::spawn(async move { kata.wait_process(unlimited(), &request).await })
        })
        .collect();
    let update = UpdateContainerRequest {
        container_id: WORK.into(),
        ..Default::default()
    };
    kata.update_container(limit(), &update).await.unwrap();
    shim.online(2, false).await;
    shim.stats().await;

    shim.agent.ctx.end.declare();
    for waiter in waiters {
        let waited = timeout(Duration::from_secs(5), waiter).await.unwrap();
        assert_eq!(waited.unwrap().unwrap().status, 0);
    }
    assert!(stdout.await.unwrap().is_empty() && stderr.await.unwrap().is_empty());
    shim.signal(WORK, "", 15).await;
    shim.remove(WORK).await;
    assert!(!oom.is_finished());
    oom.abort();
}
