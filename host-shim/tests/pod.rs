//! A pod from the engine's side of the socket, over a stub VM: its sandbox by the Task API and by the Sandbox API, its
//! limits, and what it costs.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod netns;
mod stub;

use std::{fs, io, time::Duration};

use containerd_shim_protos::{
    api::PauseRequest,
    cgroups_v2::metrics::Metrics,
    protobuf::Message,
    sandbox_api::{
        CreateSandboxRequest, PingRequest, PlatformRequest, SandboxMetricsRequest,
        SandboxStatusRequest, ShutdownSandboxRequest, StartSandboxRequest, StopSandboxRequest,
        WaitSandboxRequest,
    },
};
use netns::Network;
use seed_shim::{management, shim::state_file::StateFile};
use serde_json::json;
use stub::{
    Bench, Guest, LIMIT,
    calls::{code, soon},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use ttrpc::Code;

const SOON: Duration = Duration::from_secs(20);

impl Bench {
    async fn create_sandbox(&self, id: &str) -> ttrpc::Result<()> {
        let request = CreateSandboxRequest {
            sandbox_id: id.into(),
            bundle_path: self.dir.path().to_string_lossy().into_owned(),
            ..Default::default()
        };
        self.sandboxes
            .create_sandbox(soon(), &request)
            .await
            .map(drop)
    }

    async fn sandbox_state(&self, id: &str) -> ttrpc::Result<String> {
        let request = SandboxStatusRequest {
            sandbox_id: id.into(),
            ..Default::default()
        };
        let status = self.sandboxes.sandbox_status(soon(), &request).await?;
        assert_eq!(
            (status.sandbox_id.as_str(), status.pid),
            (id, std::process::id())
        );
        Ok(status.state)
    }

    async fn size(&self, id: &str) -> (u32, u32) {
        let socket = self.paths(id).management_socket();
        let client = management::Client::connect(&socket).await.unwrap();
        let status = client.status(0, Duration::ZERO).await.unwrap();
        (status.vcpus, status.memory_mib)
    }
}

#[tokio::test]
async fn a_sandbox_lives_by_the_sandbox_api() {
    let bench = Bench::new(Guest::Good).await;
    let id = || "pod".to_owned();
    let ping = PingRequest {
        sandbox_id: id(),
        ..Default::default()
    };
    let missing = bench.sandboxes.ping_sandbox(soon(), &ping).await;
    assert_eq!(code(missing).0, Code::NOT_FOUND);
    bench.create_sandbox("pod").await.unwrap();
    assert_eq!(
        code(bench.create_sandbox("other").await).0,
        Code::ALREADY_EXISTS
    );
    assert_eq!(
        bench.sandbox_state("pod").await.unwrap(),
        "SANDBOX_NOTREADY"
    );
    let start = StartSandboxRequest {
        sandbox_id: id(),
        ..Default::default()
    };
    let started = bench.sandboxes.start_sandbox(soon(), &start).await.unwrap();
    assert_eq!(started.pid, std::process::id());
    assert!(started.created_at.seconds > 0);
    assert_eq!(
        code(bench.sandboxes.start_sandbox(soon(), &start).await).0,
        Code::FAILED_PRECONDITION
    );
    assert_eq!(bench.sandbox_state("pod").await.unwrap(), "SANDBOX_READY");
    bench.sandboxes.ping_sandbox(soon(), &ping).await.unwrap();
    let platform = PlatformRequest {
        sandbox_id: id(),
        ..Default::default()
    };
    let platform = bench.sandboxes.platform(soon(), &platform).await.unwrap();
    assert_eq!(platform.platform.os, "linux");

    // The container in it comes by the Task API, and ends with the sandbox.
    bench.running("app").await;
    let metrics = SandboxMetricsRequest {
        sandbox_id: id(),
        ..Default::default()
    };
    let answer = bench
        .sandboxes
        .sandbox_metrics(soon(), &metrics)
        .await
        .unwrap();
    let metric = Metrics::parse_from_bytes(&answer.metrics.data.value).unwrap();
    assert!(metric.memory.usage > 0 && metric.memory.usage_limit == 512 << 20);
    let wait = WaitSandboxRequest {
        sandbox_id: id(),
        ..Default::default()
    };
    let stop = StopSandboxRequest {
        sandbox_id: id(),
        // Far more than its guest takes, which is killed after that.
        timeout_secs: 60,
        ..Default::default()
    };
    let (waited, stopped) = tokio::join!(
        bench.sandboxes.wait_sandbox(soon(), &wait),
        bench.sandboxes.stop_sandbox(soon(), &stop)
    );
    stopped.unwrap();
    assert_eq!(waited.unwrap().exit_status, 137);
    assert_eq!(bench.wait("app", "").await.unwrap().exit_status, 0);
    bench.delete("app", "").await.unwrap();
    assert_eq!(
        bench.sandbox_state("pod").await.unwrap(),
        "SANDBOX_NOTREADY"
    );
    let shutdown = ShutdownSandboxRequest {
        sandbox_id: id(),
        ..Default::default()
    };
    bench
        .sandboxes
        .shutdown_sandbox(soon(), &shutdown)
        .await
        .unwrap();
    timeout(LIMIT, bench.shutdown.notified())
        .await
        .expect("the shim goes with its sandbox");
    let again = bench.sandboxes.shutdown_sandbox(soon(), &shutdown).await;
    assert_eq!(code(again).0, Code::NOT_FOUND);
    bench.stop().await;
}

#[tokio::test]
async fn a_container_that_is_refused_is_not_cleaned_up_after_in_place_of_the_one_that_runs() {
    let bench = Bench::new(Guest::Good).await;
    let sandbox = bench.dir.path();
    let started = StateFile {
        config: bench.config.clone(),
        socket: sandbox.join("task.sock"),
        member: None,
    };
    started.write(sandbox).unwrap();
    bench.create_sandbox("pod").await.unwrap();
    for id in ["app", "sidecar"] {
        bench.bundle(id);
    }
    bench.create("app").await.unwrap();
    let (kind, message) = code(bench.create("sidecar").await);
    assert_eq!(kind, Code::FAILED_PRECONDITION);
    assert!(message.contains("is in this pod"), "{message}");
    let member = StateFile::read(sandbox).unwrap().member;
    assert_eq!(member.as_deref(), Some("app"));
    bench.delete("app", "").await.unwrap();
    bench.create("sidecar").await.unwrap();
    let member = StateFile::read(sandbox).unwrap().member;
    assert_eq!(member.as_deref(), Some("sidecar"));
    bench.delete("sidecar", "").await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_pods_limits_are_its_machines_and_it_grows_with_them() {
    let bench = Bench::new(Guest::Good).await;
    let sandbox = bench.dir.path().join("bundles/pod");
    fs::create_dir_all(&sandbox).unwrap();
    bench.configure("pod", |config| {
        config["annotations"] = json!({
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": "pod",
            "io.kubernetes.cri.sandbox-cpu-quota": "200000",
            "io.kubernetes.cri.sandbox-cpu-period": "100000",
            "io.kubernetes.cri.sandbox-memory": "805306368",
        });
        config["process"]["args"] = json!(["/pause"]);
    });
    bench.create("pod").await.unwrap();
    bench.start("pod", "").await.unwrap();
    // The shim alone: some memory, no limit.
    let alone = bench.stats("pod").await.unwrap();
    assert!(alone.memory.usage > 0 && alone.memory.usage_limit == 0);

    bench.bundle("app");
    bench.configure("app", |config| {
        config["annotations"]["seed.loom.farm/max_vcpus"] = json!("4");
        config["annotations"]["seed.loom.farm/max_memory_mib"] = json!("2048");
    });
    bench.create("app").await.unwrap();
    bench.start("app", "").await.unwrap();
    assert_eq!(bench.size("app").await, (2, 768));
    let limits =
        json!({"cpu": {"quota": 300_000, "period": 100_000}, "memory": {"limit": 1_073_741_824}});
    bench.update("pod", limits).await.unwrap();
    assert_eq!(bench.size("app").await, (3, 1024));
    let (kind, message) = code(
        bench
            .update("pod", json!({"cpu": {"quota": 900_000}}))
            .await,
    );
    assert_eq!(kind, Code::FAILED_PRECONDITION, "{message}");
    let both = bench.stats("pod").await.unwrap();
    assert_eq!(both.memory.usage_limit, 1024 << 20);

    let pause = PauseRequest {
        id: "pod".into(),
        ..Default::default()
    };
    let (kind, message) = code(bench.client.pause(soon(), &pause).await);
    assert_eq!(kind, Code::FAILED_PRECONDITION);
    assert!(message.contains("no process"), "{message}");
    bench.kill("app", "", 9).await.unwrap();
    bench.wait("app", "").await.unwrap();
    bench.delete("app", "").await.unwrap();
    bench.kill("pod", "", 9).await.unwrap();
    bench.delete("pod", "").await.unwrap();
    bench.stop().await;
}

async fn connected(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// What comes of a connection that is not taken on.
async fn reset(port: u16) -> io::ErrorKind {
    let mut stream = connected(port).await;
    let read = timeout(SOON, stream.read_u8()).await.expect("an end");
    read.unwrap_err().kind()
}

#[tokio::test]
async fn the_loopback_of_a_pods_network_is_its_guests() {
    let Some(network) = Network::make("forward") else {
        return;
    };
    network.run("ip link set lo up");
    let bench = Bench::new(Guest::Good).await;
    let request = CreateSandboxRequest {
        sandbox_id: "pod".into(),
        bundle_path: bench.dir.path().to_string_lossy().into_owned(),
        netns_path: network.path().to_string_lossy().into_owned(),
        ..Default::default()
    };
    let created = bench.sandboxes.create_sandbox(soon(), &request).await;
    created.unwrap();
    // This thread is in the pod's network now, as the shim and its engine are. Nobody is there yet.
    assert_eq!(reset(8080).await, io::ErrorKind::ConnectionReset);
    bench.running("app").await;

    // More than a call takes, while it comes back; the end of the question is not that of the answer.
    let much: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    for port in [1, 8080, 65_535] {
        let (mut read, mut write) = connected(port).await.into_split();
        let ask = async {
            write.write_all(&much).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut answer = Vec::new();
        let (_, read) = tokio::join!(ask, timeout(SOON, read.read_to_end(&mut answer)));
        read.expect("the end").unwrap();
        let greeting = format!("port {port}\n");
        assert!(answer.starts_with(greeting.as_bytes()), "{port}");
        assert!(answer[greeting.len()..] == much, "{} bytes", answer.len());
    }
    assert_eq!(reset(9).await, io::ErrorKind::ConnectionReset);

    // Many at a time, and one too many.
    let mut all = Vec::new();
    for port in 1000..1064 {
        let mut stream = connected(port).await;
        let mut greeting = [0; 10];
        let read = timeout(SOON, stream.read_exact(&mut greeting)).await;
        read.expect("a greeting").unwrap();
        assert_eq!(greeting, format!("port {port}\n").as_bytes());
        all.push(stream);
    }
    assert_eq!(reset(1064).await, io::ErrorKind::ConnectionReset);
    drop(all);
    let closed = || {
        let agent = bench.vmm.agent.lock().unwrap();
        let (opened, closed) = agent.as_ref().unwrap().told.lock().unwrap().ports;
        opened == 67 && closed == opened
    };
    stub::until("the ends of all connections", closed).await;

    // With the sandbox it ends: nobody listens there then.
    bench.kill("app", "", 9).await.unwrap();
    bench.wait("app", "").await.unwrap();
    bench.delete("app", "").await.unwrap();
    let shutdown = ShutdownSandboxRequest {
        sandbox_id: "pod".into(),
        ..Default::default()
    };
    let ended = bench.sandboxes.shutdown_sandbox(soon(), &shutdown).await;
    ended.unwrap();
    bench.stop().await;
    let refused = async || {
        let again = TcpStream::connect(("127.0.0.1", 8080)).await;
        again.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    timeout(SOON, async {
        while !refused().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("nobody listens any more");
}

#[tokio::test]
async fn a_second_machine_on_a_network_is_refused_and_the_first_one_stays_on_it() {
    let Some(network) = Network::make("taken") else {
        return;
    };
    network.run("ip link add eth0 type veth peer name far");
    network.run("ip link set far up");
    network.run("ip link set eth0 up");
    let (first, second) = (Bench::new(Guest::Good).await, Bench::new(Guest::Good).await);
    for (bench, id) in [(&first, "first"), (&second, "second")] {
        bench.bundle(id);
        bench.configure(id, |config| {
            let namespaces = json!([{"type": "network", "path": network.path()}]);
            config["linux"] = json!({"namespaces": namespaces});
        });
    }
    first.create("first").await.unwrap();
    first.start("first", "").await.unwrap();
    let wire = || network.run("tc filter show dev eth0 ingress");
    let before = wire();
    assert!(before.contains("mirred"), "{before}");
    let (kind, message) = code(second.create("second").await);
    assert_eq!(kind, Code::FAILED_PRECONDITION, "{message}");
    let wanted = format!("network namespace {} is wired to", network.path().display());
    assert!(message.starts_with(&wanted), "{message}");
    let holder = format!("process {}, ", std::process::id());
    assert!(message.contains(&holder), "{message}");
    assert_eq!(wire(), before);
    assert!(!second.paths("second").run_dir().exists());

    // A machine that has ended has no network any more, also where nobody has deleted it.
    first.kill("first", "", 9).await.unwrap();
    first.wait("first", "").await.unwrap();
    assert_eq!(wire(), "");
    second.create("second").await.unwrap();
    second.start("second", "").await.unwrap();
    let before = wire();
    assert!(before.contains("mirred"), "{before}");
    first.delete("first", "").await.unwrap();
    assert_eq!(wire(), before, "it has another machine's");
    second.kill("second", "", 9).await.unwrap();
    second.wait("second", "").await.unwrap();
    second.delete("second", "").await.unwrap();
    assert_eq!(wire(), "");
    for bench in [first, second] {
        bench.stop().await;
    }
}
