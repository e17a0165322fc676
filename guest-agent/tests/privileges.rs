//! What the program may still do once it has provisioned the instance, seen from outside: the capabilities of
//! each of its threads, in namespaces where it harms nobody.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command},
    time::{Duration, Instant},
};

use common::{LIMIT, container, in_namespaces, limit, run};
use seed_protocol::kata::{agent::*, agent_ttrpc::AgentServiceClient};
use tokio::{net::UnixStream, time::sleep};
use ttrpc::r#async::{Client, transport::Socket};

/// `linux/capability.h`: what a provisioned agent has given up, although its unit lets it have them.
const GIVEN_UP: [(&str, u32); 2] = [("SETPCAP", 8), ("SYS_MODULE", 16)];

struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// `CapPrm` and `CapBnd` of every thread, by its name.
fn capabilities(pid: u32) -> BTreeMap<String, (u64, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.filter_map(|task| {
        // A thread may end meanwhile.
        fs::read_to_string(task.unwrap().path().join("status")).ok()
    });
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    let set = |status: &str, name: &str| u64::from_str_radix(&field(status, name), 16).unwrap();
    statuses
        .map(|status| {
            let id = format!("{} {}", field(&status, "Name:"), field(&status, "Pid:"));
            (id, (set(&status, "CapPrm:"), set(&status, "CapBnd:")))
        })
        .collect()
}

async fn client(path: &str) -> AgentServiceClient {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return AgentServiceClient::new(Client::new(Socket::new(stream))),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

#[tokio::test]
async fn no_thread_of_a_provisioned_agent_has_more_than_is_kept() {
    if !in_namespaces("no_thread_of_a_provisioned_agent_has_more_than_is_kept") {
        return;
    }
    // What the agent writes has its place in memory.
    run("mount -t tmpfs none /run");
    let socket = "/run/agent.sock";
    fs::create_dir_all("/run/kata-containers/config").unwrap();
    let agent = Command::new(env!("CARGO_BIN_EXE_seed-agent"))
        .args(["--listen", &format!("unix:{socket}")])
        .spawn()
        .unwrap();
    let agent = Agent(agent);
    let kata = client(socket).await;
    let before = capabilities(agent.0.id());
    let all = before.values().map(|(permitted, _)| permitted).max();
    // A copy that follows its original has a thread, and metrics are read on one of the pool's.
    let storage = Storage {
        driver: "watchable-bind".into(),
        source: "/run/kata-containers/config".into(),
        mount_point: "/run/kata-containers/copy".into(),
        ..Default::default()
    };
    let request = container("demo", &["A=1"], vec![storage]);
    kata.create_container(limit(), &request).await.unwrap();
    let start = StartContainerRequest {
        container_id: "demo".into(),
        ..Default::default()
    };
    kata.start_container(limit(), &start).await.unwrap();
    kata.get_metrics(limit(), &GetMetricsRequest::new())
        .await
        .unwrap();
    // A thread takes its name and gives up what it has a moment after it was started.
    let mut threads = capabilities(agent.0.id());
    let narrow = |threads: &BTreeMap<String, (u64, u64)>| {
        let named = |name: &str| threads.keys().any(|id| id.starts_with(name));
        named("journal") && named("watch") && threads.values().all(|(has, _)| Some(has) < all)
    };
    let begin = Instant::now();
    while !narrow(&threads) && begin.elapsed() < LIMIT {
        sleep(Duration::from_millis(20)).await;
        threads = capabilities(agent.0.id());
    }
    assert!(narrow(&threads), "{threads:?}");
    for (thread, (permitted, bounding)) in &threads {
        for (capability, bit) in GIVEN_UP {
            let has = |set: u64| set & (1 << bit) != 0;
            assert!(!has(*permitted), "{thread} has {capability}: {permitted:x}");
            assert!(
                !has(*bounding),
                "{thread} may get {capability}: {bounding:x}"
            );
        }
    }
}
