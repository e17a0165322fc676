//! An agent with files of its own, served over a Unix socket, and a client of it. What the tests of the
//! API share.

#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "helpers of tests: what fails here fails the test, and no test file uses all of them"
)]

use std::{fs, io::Write, path::PathBuf, sync::Arc, time::Duration};

use seed_agent::{
    agent::Context,
    config::{Config, Host, Instance, Listen, Paths},
    server::{self, Server},
};
use seed_protocol::{
    kata::{agent::*, agent_ttrpc::AgentServiceClient, oci},
    seed::{v1::Stage, v1_ttrpc::GuestClient},
    status,
};
use tokio::net::UnixStream;
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context::with_duration,
};

/// How long one call may take, on a machine that is busy with other things.
pub const LIMIT: Duration = Duration::from_secs(60);

/// An agent with files of its own, and a client of it.
pub struct Agent {
    pub directory: tempfile::TempDir,
    pub ctx: Arc<Context>,
    pub client: Client,
    _server: Server,
}

impl Agent {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Instance::default()).await
    }

    pub async fn start_in(directory: tempfile::TempDir, instance: Instance) -> Self {
        Self::start_with(directory, instance, |_| {}).await
    }

    /// `change` has the last word on the configuration.
    pub async fn start_with(
        directory: tempfile::TempDir,
        instance: Instance,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let at = |name: &str| directory.path().join(name);
        for name in ["sys", "dev", "etc", "sysfs", "cgroup"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let mut config = Config {
            listen: Listen::Unix(at("agent.sock")),
            host: Host::Expected { beacon_port: None },
            drop_privileges: false,
            paths: Paths {
                env_file: at("env"),
                identity_file: at("age-identity"),
                key_socket: at("tpm.sock"),
                record_file: at("agent.json"),
                resolv_conf: at("resolv.conf"),
                journal_dirs: vec![at("journal")],
                sys_block: at("sys"),
                dev: at("dev"),
                etc: at("etc"),
                shared: at("shared"),
                sys: at("sysfs"),
                cgroup: at("cgroup"),
                termination_log: at("termination-log"),
                ..Paths::default()
            },
            ..Config::from_cmdline("", instance)
        };
        change(&mut config);
        let ctx = Context::start(config);
        let server = server::start(&ctx).await.unwrap().unwrap();
        ctx.status.reach(Stage::STAGE_HELLO);
        let stream = UnixStream::connect(at("agent.sock")).await.unwrap();
        let client = Client::new(Socket::new(stream));
        Self {
            directory,
            ctx,
            client,
            _server: server,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn kata(&self) -> AgentServiceClient {
        AgentServiceClient::new(self.client.clone())
    }

    pub fn seed(&self) -> GuestClient {
        GuestClient::new(self.client.clone())
    }

    pub async fn create(&self, id: &str, env: &[&str]) -> ttrpc::Result<()> {
        let request = container(id, env, vec![]);
        self.kata()
            .create_container(limit(), &request)
            .await
            .map(drop)
    }

    pub async fn start_container(&self, id: &str) -> ttrpc::Result<()> {
        let request = StartContainerRequest {
            container_id: id.into(),
            ..Default::default()
        };
        self.kata()
            .start_container(limit(), &request)
            .await
            .map(drop)
    }
}

pub fn limit() -> ttrpc::context::Context {
    with_duration(LIMIT)
}

/// No limit: for calls that wait until something happens.
pub fn unlimited() -> ttrpc::context::Context {
    with_duration(Duration::ZERO)
}

pub fn container(id: &str, env: &[&str], storages: Vec<Storage>) -> CreateContainerRequest {
    let env = env.iter().map(|entry| (*entry).to_owned()).collect();
    let process = oci::Process {
        Env: env,
        ..Default::default()
    };
    let spec = oci::Spec {
        Process: Some(process).into(),
        ..Default::default()
    };
    let container_id = id.to_owned();
    CreateContainerRequest {
        container_id,
        storages,
        OCI: Some(spec).into(),
        ..Default::default()
    }
}

pub fn refusal<T>(result: ttrpc::Result<T>) -> (Code, String) {
    let Err(error) = result else {
        panic!("the request was not refused")
    };
    let (code, message) = status::of(&error).unwrap_or_else(|| panic!("{error}"));
    (code, message.to_owned())
}

/// Says that a test did nothing, past the test runner, which shows the output of failed tests only.
pub fn skip(test: &str, reason: &str) {
    told(&format!("SKIPPED {test}: {reason}\n"));
}

/// In one write: several tests speak at a time.
fn told(line: &str) {
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// After so many seconds a test in namespaces of its own is taken to hang.
const HANG: &str = "300";

/// Runs this test once more in namespaces of its own, where it is root over network and mounts and
/// harms nobody. True inside of them; false when the test has been run there, or cannot be.
pub fn in_namespaces(test: &str) -> bool {
    const MARK: &str = "SEED_TEST_NAMESPACES";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let probe = std::process::Command::new("unshare")
        .args(["--net", "--mount", "--", "ip", "link"])
        .output();
    match probe {
        Ok(output) if output.status.success() => {}
        _ => {
            skip(
                test,
                "needs root, unshare(1) and ip(8) for namespaces of its own",
            );
            return false;
        }
    }
    let output = std::process::Command::new("timeout")
        .args([HANG, "unshare", "--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n{errors}"
    );
    // What it could not do in there is a skip here.
    let skips = errors.lines().filter(|line| line.starts_with("SKIPPED "));
    skips.for_each(|line| told(&format!("{line}\n")));
    false
}

/// Runs a program that must succeed, and gives back what it says.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output = std::process::Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
