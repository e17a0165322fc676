//! The guest's packet filter, as the host's shims ask for it: `iptables-save(8)` and `iptables-restore(8)` of
//! the guest. A guest whose closure brings neither says so.

use std::sync::Arc;

use seed_protocol::kata::agent::*;

use crate::{
    agent::Context,
    exec::{ExecError, Ran},
    server::error::RequestError,
};

/// How much of a program's complaint travels.
const MAX_WORDS_CHARS: usize = 400;

pub(super) async fn get_iptables(
    ctx: &Arc<Context>,
    request: GetIPTablesRequest,
) -> Result<GetIPTablesResponse, RequestError> {
    let program = match request.is_ipv6 {
        true => "ip6tables-save",
        false => "iptables-save",
    };
    Ok(GetIPTablesResponse {
        data: run(ctx, program, &[]).await?.output,
        ..Default::default()
    })
}

/// Answers with what the rules are then.
pub(super) async fn set_iptables(
    ctx: &Arc<Context>,
    request: SetIPTablesRequest,
) -> Result<SetIPTablesResponse, RequestError> {
    let (restore, save) = match request.is_ipv6 {
        true => ("ip6tables-restore", "ip6tables-save"),
        false => ("iptables-restore", "iptables-save"),
    };
    run(ctx, restore, &request.data).await?;
    Ok(SetIPTablesResponse {
        data: run(ctx, save, &[]).await?.output,
        ..Default::default()
    })
}

async fn run(ctx: &Context, program: &str, input: &[u8]) -> Result<Ran, RequestError> {
    let ran = match ctx.execs.run(&[program], input).await {
        Err(ExecError::CommandNotFound(_)) => {
            let text = format!("this guest has no {program}: its closure has to bring iptables");
            return Err(RequestError::State(text));
        }
        other => other?,
    };
    if ran.status == 0 {
        return Ok(ran);
    }
    let words = String::from_utf8_lossy(&ran.error);
    let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
    let words: String = words.chars().take(MAX_WORDS_CHARS).collect();
    Err(RequestError::State(format!("{program} says: {words}")))
}
