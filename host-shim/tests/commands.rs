//! What the management socket is asked to do, from the client library over the real shim to a guest that is played:
//! commands in the guest, and restarts that are another's business.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod stub;

use std::time::Duration;

use containerd_shim_protos::api::{CreateTaskRequest, KillRequest, StartRequest};
use seed_protocol::seed::management::{Output, StartExecRequest, State};
use seed_shim::management::{Client, ClientError, Command};
use stub::{
    Bench, Guest,
    agent::Told,
    calls::{code, exec, soon},
    until,
};
use tokio::time::timeout;
use ttrpc::Code;

async fn running(bench: &Bench) {
    run(bench, |_| {}).await;
}

async fn run(bench: &Bench, configure: impl FnOnce(&mut serde_json::Value)) {
    let create = CreateTaskRequest {
        id: "demo".into(),
        bundle: bench.bundle("demo").to_string_lossy().into_owned(),
        ..Default::default()
    };
    bench.configure("demo", configure);
    bench.client.create(soon(), &create).await.unwrap();
    let start = StartRequest {
        id: "demo".into(),
        ..Default::default()
    };
    bench.client.start(soon(), &start).await.unwrap();
    let socket = bench.paths("demo").management_socket();
    let client = Client::connect(&socket).await.unwrap();
    let mut status = client.status(0, Duration::ZERO).await.unwrap();
    while status.state.enum_value() != Ok(State::STATE_RUNNING) {
        let changed = client.status(status.revision, Duration::from_secs(5));
        status = changed.await.unwrap();
    }
}

async fn start(bench: &Bench, words: &[&str], terminal: bool) -> Result<Command, ClientError> {
    let request = StartExecRequest {
        args: words.iter().map(|word| (*word).to_owned()).collect(),
        terminal,
        ..Default::default()
    };
    Command::start(&bench.paths("demo").management_socket(), &request).await
}

async fn all(command: &Command, output: Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let more = command.read(output, bytes.len() as u64).await.unwrap();
        if more.is_empty() {
            return bytes;
        }
        bytes.extend(more);
    }
}

fn refusal(ended: Result<impl std::fmt::Debug, ClientError>) -> String {
    match ended.unwrap_err() {
        ClientError::Refused { message, .. } => message,
        other => panic!("{other:?}"),
    }
}

impl Bench {
    fn told<T>(&self, what: impl FnOnce(&Told) -> T) -> T {
        let agent = self.vmm.agent.lock().unwrap();
        what(&agent.as_ref().unwrap().told.lock().unwrap())
    }

    fn signals(&self) -> Vec<u32> {
        self.told(|told| told.signals.clone())
    }

    fn unanswered(&self) -> usize {
        self.told(|told| told.unanswered)
    }
}

#[tokio::test]
async fn input_output_and_status_pass_and_the_status_is_last() {
    let bench = Bench::new(Guest::Good).await;
    running(&bench).await;
    let command = start(&bench, &["cat"], false).await.unwrap();
    let input: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let (status, (), output, errors) = tokio::join!(
        command.wait(),
        async {
            command.write(0, &input).await.unwrap();
            command.close_input().await.unwrap();
        },
        all(&command, Output::OUTPUT_STDOUT),
        all(&command, Output::OUTPUT_STDERR),
    );
    assert_eq!((status.unwrap(), errors.len()), (0, 0));
    assert_eq!(output, input);
    assert!(refusal(command.wait().await).contains("there is no command"));

    let failing = start(&bench, &["false"], true).await.unwrap();
    let (status, _) = tokio::join!(failing.wait(), all(&failing, Output::OUTPUT_STDOUT));
    assert_eq!(status.unwrap(), 3);

    let sleeping = start(&bench, &["sleep"], true).await.unwrap();
    let (status, _, ()) = tokio::join!(
        sleeping.wait(),
        all(&sleeping, Output::OUTPUT_STDOUT),
        async {
            sleeping.resize(120, 40).await.unwrap();
            sleeping.signal(15).await.unwrap();
        }
    );
    assert_eq!((status.unwrap(), bench.signals()), (143, vec![15]));
    assert_eq!(bench.told(|told| told.resized), Some((40, 120)));
    bench.stop().await;
}

#[tokio::test]
async fn a_command_ends_with_whoever_waits_for_it() {
    let bench = Bench::new(Guest::Good).await;
    running(&bench).await;
    let command = start(&bench, &["sleep"], false).await.unwrap();
    {
        let mut waiting = Box::pin(command.wait());
        timeout(Duration::from_millis(100), &mut waiting)
            .await
            .unwrap_err();
        // It is owned, by one alone.
        assert!(refusal(command.wait().await).contains("somebody else waits"));
        assert!(bench.signals().is_empty());
    }
    drop(command);
    until("it is hung up on", || bench.signals() == [1]).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_process_whose_start_gives_no_answer_is_killed_before_that_is_told() {
    let bench = Bench::new(Guest::Good).await;
    running(&bench).await;
    for (round, command) in ["mute", "late"].into_iter().enumerate() {
        let breaks = async |times: usize| {
            until("a start without an answer", || bench.unanswered() == times).await;
            let agent = bench.vmm.agent.lock().unwrap();
            agent.as_ref().unwrap().break_off();
        };
        let words = [command];
        let (started, ()) = tokio::join!(start(&bench, &words, false), breaks(2 * round + 1));
        let message = refusal(started);
        assert!(message.contains("does not answer"), "{message}");
        assert_eq!(bench.signals(), vec![9; 2 * round + 1]);

        let request = exec("demo", command, command);
        bench.client.exec(soon(), &request).await.unwrap();
        let (started, ()) = tokio::join!(bench.start("demo", command), breaks(2 * round + 2));
        let (kind, message) = code(started);
        assert_eq!(kind, Code::UNAVAILABLE, "{message}");
        assert_eq!(bench.signals(), vec![9; 2 * round + 2]);
        let ended = bench.wait("demo", command).await.unwrap();
        assert_eq!(ended.exit_status, 137);
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_command_that_cannot_be_run_says_why() {
    let bench = Bench::new(Guest::Good).await;
    running(&bench).await;
    let refused = start(&bench, &["no-such-program"], false).await;
    assert!(refusal(refused).contains("executable file not found"));
    assert!(refusal(start(&bench, &[], false).await).contains("which program?"));
    // The instance ends: so does the wait.
    let command = start(&bench, &["sleep"], false).await.unwrap();
    let (ended, killed) = tokio::join!(command.wait(), async {
        let kill = KillRequest {
            id: "demo".into(),
            signal: 9,
            ..Default::default()
        };
        bench.client.kill(soon(), &kill).await
    });
    killed.unwrap();
    assert!(refusal(ended).contains("the instance has ended"));
    assert!(refusal(start(&bench, &["sleep"], false).await).contains("does not run"));
    bench.stop().await;

    let off = Bench::without_commands(Guest::Good).await;
    running(&off).await;
    assert!(refusal(start(&off, &["cat"], false).await).contains("are switched off"));
    off.stop().await;
}

#[tokio::test]
async fn a_restart_that_is_the_engines_says_whom_to_ask() {
    let asked = async |bench: &Bench| {
        let socket = bench.paths("demo").management_socket();
        refusal(Client::connect(&socket).await.unwrap().restart().await)
    };
    let alone = Bench::new(Guest::Good).await;
    running(&alone).await;
    let said = asked(&alone).await;
    assert!(
        said.contains("run by containerd") && said.contains("end its task and start it there"),
        "{said}"
    );
    alone.stop().await;
    let pod = Bench::new(Guest::Good).await;
    run(&pod, |config| {
        config["annotations"]["io.kubernetes.cri.sandbox-namespace"] = "shop".into();
        config["annotations"]["io.kubernetes.cri.sandbox-name"] = "web-0".into();
    })
    .await;
    let said = asked(&pod).await;
    assert!(
        said.contains("kubectl --namespace shop delete pod web-0"),
        "{said}"
    );
    pod.stop().await;
}
