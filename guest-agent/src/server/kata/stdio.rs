//! The standard streams of processes that the host started. Reads are long polls without a limit: no
//! bytes means the end. A call that is given up takes nothing with it: nothing is awaited between taking
//! bytes from a stream and answering.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, empty::Empty};

use super::process::key;
use crate::{agent::Context, server::error::RequestError};

/// No data means: close it.
pub(super) async fn write_stdin(
    ctx: &Arc<Context>,
    request: WriteStreamRequest,
) -> Result<WriteStreamResponse, RequestError> {
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    if request.data.is_empty() {
        ctx.execs.close_stdin(&key).await?;
    } else {
        ctx.execs.write_stdin(&key, &request.data).await?;
    }
    // A frame has at most 4 MiB.
    let len = u32::try_from(request.data.len()).unwrap_or(u32::MAX);
    Ok(WriteStreamResponse {
        len,
        ..Default::default()
    })
}

pub(super) async fn read_stdout(
    ctx: &Arc<Context>,
    request: ReadStreamRequest,
) -> Result<ReadStreamResponse, RequestError> {
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    let data = ctx.execs.read_stdout(&key, max(request.len)).await?;
    Ok(ReadStreamResponse {
        data,
        ..Default::default()
    })
}

pub(super) async fn read_stderr(
    ctx: &Arc<Context>,
    request: ReadStreamRequest,
) -> Result<ReadStreamResponse, RequestError> {
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    let data = ctx.execs.read_stderr(&key, max(request.len)).await?;
    Ok(ReadStreamResponse {
        data,
        ..Default::default()
    })
}

pub(super) async fn close_stdin(
    ctx: &Arc<Context>,
    request: CloseStdinRequest,
) -> Result<Empty, RequestError> {
    let key = key(ctx, &request.container_id, &request.exec_id)?;
    ctx.execs.close_stdin(&key).await?;
    Ok(Empty::default())
}

fn max(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
