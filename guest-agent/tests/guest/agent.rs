//! The whole agent against a real systemd, driven over its socket as the host does it: exec by Kata's
//! calls, units and journal by `seed.v1`.

use std::{process::Command, sync::Arc, time::Duration};

use seed_agent::{
    agent::Context,
    config::{Config, Host, Instance, Listen, Paths},
    console::{Console, End, render},
    journal,
    server::{self, Server},
};
use seed_protocol::{
    journal::BatchDecoder,
    kata::{agent::*, agent_ttrpc::AgentServiceClient, oci},
    seed::{
        v1::{self, ControlUnitRequest, ListUnitsRequest, ReadJournalRequest, ShowUnitRequest},
        v1_ttrpc::GuestClient,
    },
    status,
};
use tokio::net::UnixStream;
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context::{self, with_duration},
};

use crate::{Guest, with_systemd};

const CONTAINER: &str = "instance";

struct Agent {
    kata: AgentServiceClient,
    seed: GuestClient,
    _context: Arc<Context>,
    _server: Server,
    _directory: tempfile::TempDir,
}

/// No limit of its own: the test has one.
fn calm() -> context::Context {
    with_duration(Duration::ZERO)
}

impl Agent {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let config = Config {
            listen: Listen::Unix(at("agent.sock")),
            host: Host::Expected { beacon_port: None },
            drop_privileges: false,
            paths: Paths {
                env_file: at("env"),
                identity_file: at("age-identity"),
                key_socket: at("tpm.sock"),
                record_file: at("agent.json"),
                resolv_conf: at("resolv.conf"),
                ..Paths::default()
            },
            ..Config::from_cmdline("", Instance::default())
        };
        let context = Context::start(config);
        let server = server::start(&context).await.unwrap().unwrap();
        let stream = UnixStream::connect(at("agent.sock")).await.unwrap();
        let client = Client::new(Socket::new(stream));
        let kata = AgentServiceClient::new(client.clone());
        let create = CreateContainerRequest {
            container_id: CONTAINER.into(),
            OCI: Some(oci::Spec::default()).into(),
            ..Default::default()
        };
        kata.create_container(calm(), &create).await.unwrap();
        let start = StartContainerRequest {
            container_id: CONTAINER.into(),
            ..Default::default()
        };
        kata.start_container(calm(), &start).await.unwrap();
        let seed = GuestClient::new(client);
        Self {
            kata,
            seed,
            _context: context,
            _server: server,
            _directory: directory,
        }
    }

    async fn exec(&self, id: &str, arguments: &[&str]) -> ttrpc::Result<()> {
        let process = oci::Process {
            Args: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            Cwd: "/".into(),
            ..Default::default()
        };
        let request = ExecProcessRequest {
            container_id: CONTAINER.into(),
            exec_id: id.into(),
            process: Some(process).into(),
            ..Default::default()
        };
        self.kata.exec_process(calm(), &request).await.map(drop)
    }

    /// Everything up to the end, as bytes.
    async fn stdout(&self, id: &str) -> Vec<u8> {
        let mut all = Vec::new();
        let request = ReadStreamRequest {
            container_id: CONTAINER.into(),
            exec_id: id.into(),
            len: 32 * 1024,
            ..Default::default()
        };
        loop {
            let part = self.kata.read_stdout(calm(), &request).await.unwrap().data;
            if part.is_empty() {
                return all;
            }
            all.extend(part);
        }
    }

    async fn wait(&self, id: &str) -> ttrpc::Result<i32> {
        let request = WaitProcessRequest {
            container_id: CONTAINER.into(),
            exec_id: id.into(),
            ..Default::default()
        };
        Ok(self.kata.wait_process(calm(), &request).await?.status)
    }

    async fn journal(&self, after: &v1::Position, wait_ms: u32) -> v1::JournalBatch {
        let request = ReadJournalRequest {
            after: Some(after.clone()).into(),
            wait_ms,
            ..Default::default()
        };
        self.seed.read_journal(calm(), &request).await.unwrap()
    }
}

/// The container's id has to be known, so the first call waits for the bus like a patient shim.
fn with_agent<F: Future<Output = ()>>(test: impl FnOnce(Agent, Guest) -> F) {
    with_systemd(async |guest| {
        let agent = Agent::start().await;
        let units = ListUnitsRequest::default();
        while agent.seed.list_units(calm(), &units).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        test(agent, guest).await;
    });
}

fn code<T>(result: ttrpc::Result<T>) -> Code {
    let error = result.err().unwrap();
    status::of(&error).unwrap().0
}

#[test]
fn an_exec_over_katas_calls_gives_all_of_its_output_then_its_status() {
    with_agent(|agent, _| async move {
        agent
            .exec("seq", &["sh", "-c", "seq 1 200000; exit 6"])
            .await
            .unwrap();
        let (output, status) = tokio::join!(agent.stdout("seq"), agent.wait("seq"));
        let expected: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
        assert!(output == expected.as_bytes());
        assert_eq!(status.unwrap(), 6);
        assert_eq!(agent.wait("seq").await.unwrap(), 6);

        agent.exec("cat", &["cat"]).await.unwrap();
        let write = |data: &[u8]| WriteStreamRequest {
            container_id: CONTAINER.into(),
            exec_id: "cat".into(),
            data: data.to_vec(),
            ..Default::default()
        };
        assert_eq!(
            agent
                .kata
                .write_stdin(calm(), &write(b"hello"))
                .await
                .unwrap()
                .len,
            5
        );
        // The Rust shim closes by writing nothing.
        assert_eq!(
            agent
                .kata
                .write_stdin(calm(), &write(b""))
                .await
                .unwrap()
                .len,
            0
        );
        assert_eq!(agent.stdout("cat").await, b"hello");
        assert_eq!(agent.wait("cat").await.unwrap(), 0);
    });
}

#[test]
fn refusals_have_katas_codes() {
    with_agent(|agent, _| async move {
        let error = agent.exec("e", &["no-such-command"]).await.unwrap_err();
        let (code_of_missing, message) = status::of(&error).unwrap();
        assert_eq!(code_of_missing, Code::INVALID_ARGUMENT);
        assert_eq!(
            message,
            "exec: \"no-such-command\": executable file not found in $PATH"
        );
        assert_eq!(code(agent.exec("e", &[]).await), Code::INVALID_ARGUMENT);
        assert_eq!(code(agent.wait("unknown").await), Code::NOT_FOUND);
        let signal = SignalProcessRequest {
            container_id: CONTAINER.into(),
            exec_id: "done".into(),
            signal: 9,
            ..Default::default()
        };
        agent.exec("done", &["true"]).await.unwrap();
        agent.wait("done").await.unwrap();
        // The Rust shim does both after each process: it kills it, and closes its input by writing nothing.
        assert_eq!(
            code(agent.kata.signal_process(calm(), &signal).await),
            Code::NOT_FOUND
        );
        let nothing = WriteStreamRequest {
            container_id: CONTAINER.into(),
            exec_id: "done".into(),
            ..Default::default()
        };
        let written = agent.kata.write_stdin(calm(), &nothing).await;
        assert_eq!(written.unwrap().len, 0);
        let resize = TtyWinResizeRequest {
            container_id: CONTAINER.into(),
            exec_id: "done".into(),
            row: 1,
            column: 1,
            ..Default::default()
        };
        assert_eq!(
            code(agent.kata.tty_win_resize(calm(), &resize).await),
            Code::FAILED_PRECONDITION
        );
        let unknown = ControlUnitRequest {
            name: "no-such-unit".into(),
            action: v1::control_unit_request::Action::ACTION_START.into(),
            ..Default::default()
        };
        assert_eq!(
            code(agent.seed.control_unit(calm(), &unknown).await),
            Code::NOT_FOUND
        );
        let show = |name: &str| ShowUnitRequest {
            name: name.into(),
            ..Default::default()
        };
        for (name, expected) in [
            ("no-such-unit", Code::NOT_FOUND),
            ("no name", Code::INVALID_ARGUMENT),
        ] {
            assert_eq!(
                code(agent.seed.show_unit(calm(), &show(name)).await),
                expected
            );
        }
        let shown = show("systemd-journald");
        let journald = agent.seed.show_unit(calm(), &shown);
        let journald = journald.await.unwrap();
        assert_eq!(journald.unit.name, "systemd-journald.service");
        assert!(journald.main_pid > 1 && journald.since_realtime_us > 0);
    });
}

#[test]
fn the_journal_is_pulled_from_its_first_entry_and_then_as_it_grows() {
    with_agent(|agent, _| async move {
        let mut position = v1::Position::default();
        let mut last = 0;
        let mut messages = Vec::new();
        // A boot that was quick has hardly said anything.
        let talk = "seq 60 | systemd-cat && journalctl --sync";
        assert!(
            Command::new("sh")
                .args(["-c", talk])
                .status()
                .unwrap()
                .success()
        );
        // What is there already, in order and without a hole.
        loop {
            let batch = agent.journal(&position, 0).await;
            if batch.count == 0 {
                break;
            }
            assert!(
                batch.gap.is_none() && batch.first_seqnum > last,
                "{last} {batch:?}"
            );
            last = batch.last_seqnum;
            position = take(&batch, &mut messages);
        }
        assert!(messages.len() > 50, "{}", messages.len());

        // A poll that waits gets what is written meanwhile.
        let text = format!("seed-test-{}", std::process::id());
        let write = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let status = Command::new("logger").arg(&text).status().unwrap();
            assert!(status.success());
        };
        let read = async {
            loop {
                let batch = agent.journal(&position, 5000).await;
                let mut new = Vec::new();
                position = take(&batch, &mut new);
                if new.contains(&text) {
                    break;
                }
            }
        };
        tokio::join!(write, read);
    });
}

/// The messages of a batch; gives the position after it.
pub(crate) fn take(batch: &v1::JournalBatch, messages: &mut Vec<String>) -> v1::Position {
    let mut position = v1::Position {
        seqnum_id: batch.seqnum_id.clone(),
        ..v1::Position::default()
    };
    for entry in BatchDecoder::new(&batch.block).unwrap() {
        let entry = entry.unwrap();
        position.seqnum = entry.head.seqnum;
        position.boot_id = entry.head.boot_id.to_vec();
        position.realtime_us = entry.head.realtime_us;
        position.monotonic_us = entry.head.monotonic_us;
        position.xor_hash = entry.head.xor_hash;
        let message = entry.get("MESSAGE").unwrap_or_default();
        messages.push(String::from_utf8_lossy(message).into_owned());
    }
    position
}

#[test]
fn the_containers_output_goes_on_at_its_position_under_the_next_agent() {
    with_systemd(|_| async {
        let directory = tempfile::tempdir().unwrap();
        let journals = || Paths::default().journal_dirs;
        let console = |name: &str| {
            let journal = journal::Service::spawn(journals());
            let console = Console::new(journal, End::default(), render::human);
            console.remembering(directory.path().join(name))
        };
        let last = format!("last line of {}", std::process::id());
        let talk = format!("(seq 3000; echo {last}) | systemd-cat && journalctl --sync");
        let talked = Command::new("sh").args(["-c", &talk]).status().unwrap();
        assert!(talked.success());
        let has_last = |text: &[u8]| text.windows(last.len()).any(|part| part == last.as_bytes());

        let (mut all, mut life) = (Vec::new(), 0);
        while !has_last(&all) {
            // Each agent ends when it has answered; its last answer does not arrive.
            let agent = console("restarted");
            life += 1;
            // Behind the last line there may be nothing more to wait for.
            for call in 0..5 {
                if !has_last(&all) {
                    all.extend(agent.read(1 + 1009 * life % 20_011 + call).await);
                }
            }
            if !has_last(&all) {
                agent.read(7777).await;
            }
        }
        assert!(life > 3, "{life}");
        let (calm, mut whole) = (console("calm"), Vec::new());
        while whole.len() < all.len() {
            whole.extend(calm.read(64 * 1024).await);
        }
        let same = whole.iter().zip(&all).take_while(|(a, b)| a == b).count();
        assert_eq!(same, all.len(), "not the same bytes");
    });
}
