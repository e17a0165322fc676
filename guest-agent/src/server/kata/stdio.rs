//! The standard streams of processes that the host started. Reads are long polls without a limit: no
//! bytes means the end. A call that is given up takes nothing with it: nothing is awaited between taking
//! bytes from a stream and answering.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, empty::Empty};

use super::process::key;
use crate::{
    agent::Context,
    exec::ExecError,
    sandbox::{Container, Pause},
    server::error::RequestError,
};

/// No data means: close it. systemd reads no input; a shim that closes it is content.
pub(super) async fn write_stdin(
    ctx: &Arc<Context>,
    request: WriteStreamRequest,
) -> Result<WriteStreamResponse, RequestError> {
    if is_containers_own(ctx, &request.container_id, &request.exec_id)?.is_some() {
        if !request.data.is_empty() {
            let text = "the container's own process is systemd, which reads no input";
            return Err(RequestError::State(text.to_owned()));
        }
        return Ok(WriteStreamResponse::default());
    }
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    if request.data.is_empty() {
        ctx.execs.close_stdin(&key).await?;
    } else {
        let data = &request.data;
        ctx.execs.write_stdin(&key, data, request.position).await?;
    }
    // A frame has at most 4 MiB.
    let len = u32::try_from(request.data.len()).unwrap_or(u32::MAX);
    Ok(WriteStreamResponse {
        len,
        ..Default::default()
    })
}

/// The output of the container's own process is the journal.
pub(super) async fn read_stdout(
    ctx: &Arc<Context>,
    request: ReadStreamRequest,
) -> Result<ReadStreamResponse, RequestError> {
    let most = max(request.len);
    let data = match is_containers_own(ctx, &request.container_id, &request.exec_id)? {
        Some(Container::Instance(_)) => ctx.console.read(most).await,
        Some(Container::Pause(pause)) => end_of(&pause).await,
        None => {
            let key = key(ctx, &request.container_id, &request.exec_id)?;
            ctx.execs.read_stdout(&key, most, request.position).await?
        }
    };
    Ok(ReadStreamResponse {
        data,
        ..Default::default()
    })
}

/// The journal has everything in one stream, so the other one has nothing but an end.
pub(super) async fn read_stderr(
    ctx: &Arc<Context>,
    request: ReadStreamRequest,
) -> Result<ReadStreamResponse, RequestError> {
    let data = match is_containers_own(ctx, &request.container_id, &request.exec_id)? {
        Some(Container::Instance(_)) => {
            ctx.end.wait().await;
            Vec::new()
        }
        Some(Container::Pause(pause)) => end_of(&pause).await,
        None => {
            let key = key(ctx, &request.container_id, &request.exec_id)?;
            let most = max(request.len);
            ctx.execs.read_stderr(&key, most, request.position).await?
        }
    };
    Ok(ReadStreamResponse {
        data,
        ..Default::default()
    })
}

pub(super) async fn close_stdin(
    ctx: &Arc<Context>,
    request: CloseStdinRequest,
) -> Result<Empty, RequestError> {
    if is_containers_own(ctx, &request.container_id, &request.exec_id)?.is_some() {
        return Ok(Empty::default());
    }
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    ctx.execs.close_stdin(&key).await?;
    Ok(Empty::default())
}

/// The container, when the request means its own process and no exec.
pub(super) fn is_containers_own(
    ctx: &Context,
    container: &str,
    exec: &str,
) -> Result<Option<Container>, RequestError> {
    let found = ctx.sandbox.find(container)?;
    let own = exec.is_empty() || exec == container;
    match found {
        Container::Pause(_) if !own => Err(ExecError::NotFound(exec.to_owned()).into()),
        found => Ok(own.then_some(found)),
    }
}

async fn end_of(pause: &Pause) -> Vec<u8> {
    pause.wait().await;
    Vec::new()
}

fn max(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
