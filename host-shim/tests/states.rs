//! What the Task API does in each state of a container: its processes, Pause, Resume and Exec, over a stub VM.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod stub;

use std::time::Duration;

use containerd_shim_protos::api::{
    Empty, PauseRequest, PidsRequest, ResumeRequest, StateRequest, Status,
};
use seed_protocol::{seed::management::State, status};
use seed_shim::management;
use stub::{
    Bench, Guest,
    calls::{self, soon},
};
use ttrpc::Code;

/// Ids of execs differ.
const EXECS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The answer of a call: none, or its refusal.
type Answer = Option<(Code, String)>;

fn answer(result: ttrpc::Result<Empty>) -> Answer {
    result.err().map(|error| {
        let (code, message) = status::of(&error).unwrap();
        (code, message.to_owned())
    })
}

fn refused(message: &str) -> Answer {
    Some((Code::FAILED_PRECONDITION, message.to_owned()))
}

impl Bench {
    async fn pause(&self, id: &str) -> Answer {
        let request = PauseRequest {
            id: id.into(),
            ..Default::default()
        };
        answer(self.client.pause(soon(), &request).await)
    }

    async fn resume(&self, id: &str) -> Answer {
        let request = ResumeRequest {
            id: id.into(),
            ..Default::default()
        };
        answer(self.client.resume(soon(), &request).await)
    }

    async fn exec(&self, id: &str, exec_id: &str) -> Answer {
        let request = calls::exec(id, exec_id, "cat");
        answer(self.client.exec(soon(), &request).await)
    }

    /// The processes are one, that of State: never none, which containerd takes for a container that leaked.
    async fn has_its_process(&self, id: &str) {
        let pids = PidsRequest {
            id: id.into(),
            ..Default::default()
        };
        let state = StateRequest {
            id: id.into(),
            ..Default::default()
        };
        let found = self.client.pids(soon(), &pids).await.unwrap().processes;
        let pids: Vec<u32> = found.iter().map(|one| one.pid).collect();
        assert_eq!(pids, [self.client.state(soon(), &state).await.unwrap().pid]);
        assert_ne!(pids, [0]);
    }

    /// Returns when it has taken the order to stop.
    async fn is_stopping(&self, id: &str) {
        let socket = self.paths(id).management_socket();
        let client = management::Client::connect(&socket).await.unwrap();
        let mut status = client.status(0, Duration::ZERO).await.unwrap();
        while status.state.enum_value() != Ok(State::STATE_STOPPING) {
            let changed = client.status(status.revision, Duration::from_secs(5));
            status = changed.await.unwrap();
        }
    }

    /// In this state it has its process, and all three are refused.
    async fn does_not_run(&self, state: Status, exec_id: &str) {
        assert_eq!(self.state("demo").await, state);
        self.has_its_process("demo").await;
        let wanted = refused("container demo does not run");
        assert_eq!(self.pause("demo").await, wanted, "{state:?}");
        assert_eq!(self.resume("demo").await, wanted, "{state:?}");
        assert_eq!(self.exec("demo", exec_id).await, wanted, "{state:?}");
    }
}

#[tokio::test]
async fn each_state_allows_what_it_can_and_says_why_not_the_rest() {
    let bench = Bench::new(Guest::Stubborn).await;
    bench.bundle("demo");
    bench.create("demo").await.unwrap();
    bench.does_not_run(Status::CREATED, EXECS[0]).await;

    bench.start("demo", "").await.unwrap();
    bench.has_its_process("demo").await;
    assert_eq!(bench.exec("demo", EXECS[1]).await, None);
    // What is so already is no failure.
    assert_eq!(bench.resume("demo").await, None);
    for _ in 0..2 {
        assert_eq!(bench.pause("demo").await, None);
        assert_eq!(bench.state("demo").await, Status::PAUSED);
    }
    bench.has_its_process("demo").await;
    let paused = refused("container demo is paused: resume it first");
    assert_eq!(bench.exec("demo", EXECS[2]).await, paused);
    assert_eq!(bench.resume("demo").await, None);
    assert_eq!(bench.state("demo").await, Status::RUNNING);

    // It was told to power off, and does not.
    bench.kill("demo", "", 15).await.unwrap();
    bench.is_stopping("demo").await;
    bench.does_not_run(Status::RUNNING, EXECS[3]).await;

    bench.kill("demo", "", 9).await.unwrap();
    bench.wait("demo", "").await.unwrap();
    bench.does_not_run(Status::STOPPED, EXECS[4]).await;
    bench.delete("demo", "").await.unwrap();
    let missing = Some((Code::NOT_FOUND, "container demo does not exist".to_owned()));
    for answer in [
        bench.pause("demo").await,
        bench.resume("demo").await,
        bench.exec("demo", "f").await,
    ] {
        assert_eq!(answer, missing);
    }
    bench.stop().await;
}
