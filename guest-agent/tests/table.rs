//! The table of supported methods against a running server: every method is called with an empty request,
//! and what it answers must be what the table says of it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::time::Duration;

use common::{Agent, LIMIT};
use seed_protocol::kata::{AGENT_METHODS, AGENT_SERVICE, HEALTH_SERVICE, Support};
use ttrpc::{Code, Request};

/// A method that has not refused by then is one that waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status of an empty request; `None` when it is fulfilled or waits longer than `limit`.
async fn answer(
    agent: &Agent,
    service: &str,
    method: &str,
    limit: Duration,
) -> Option<(Code, String)> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        timeout_nano: limit.as_nanos().try_into().unwrap(),
        ..Default::default()
    };
    match agent.client.request(request).await {
        Ok(response) => {
            let status = response.status.into_option()?;
            (status.code() != Code::OK).then(|| (status.code(), status.message().to_owned()))
        }
        Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::DEADLINE_EXCEEDED => None,
        Err(ttrpc::Error::RpcStatus(status)) => Some((status.code(), status.message().to_owned())),
        // The client's own clock.
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains("deadline elapsed"), "{method}: {text}");
            None
        }
    }
}

#[tokio::test]
async fn every_method_answers_as_the_table_says() {
    let agent = Agent::start().await;
    // Nothing of this machine is switched off: the instance has ended.
    agent.ctx.end.declare();
    for (method, support) in AGENT_METHODS {
        // One that is refused does not wait, however busy the machine is.
        let limit = if support.is_refused() {
            LIMIT
        } else {
            PATIENCE
        };
        let answered = answer(&agent, AGENT_SERVICE, method, limit).await;
        match support {
            Support::Unsupported(reason) => {
                let wanted = format!("{method} is not supported: {reason}");
                assert_eq!(answered, Some((Code::UNIMPLEMENTED, wanted)), "{method}");
            }
            Support::Accepted(_) | Support::Done => {
                let Some((code, message)) = answered else {
                    continue;
                };
                // The generated default answers NOT_FOUND with these words.
                assert_ne!(code, Code::UNIMPLEMENTED, "{method}: {message}");
                assert!(!message.contains("not supported"), "{method}: {message}");
                assert!(!message.contains("backtrace"), "{method}: {message}");
            }
        }
    }
    for method in ["Check", "Version"] {
        assert_eq!(
            answer(&agent, HEALTH_SERVICE, method, LIMIT).await,
            None,
            "{method}"
        );
    }
}

/// What a Kata shim cannot live without.
#[test]
fn only_policy_and_the_memory_agent_are_refused() {
    let refused: Vec<_> = AGENT_METHODS
        .iter()
        .filter(|(_, support)| support.is_refused())
        .map(|(name, _)| *name)
        .collect();
    let wanted = ["MemAgentMemcgSet", "MemAgentCompactSet", "SetPolicy"];
    assert_eq!(refused, wanted);
}
