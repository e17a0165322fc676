//! The standard streams of processes that the host started.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, empty::Empty};

use crate::{agent::Context, server::error::RequestError};

pub(super) async fn write_stdin(
    _: &Arc<Context>,
    _: WriteStreamRequest,
) -> Result<WriteStreamResponse, RequestError> {
    Err(RequestError::Unsupported("WriteStdin"))
}

pub(super) async fn read_stdout(
    _: &Arc<Context>,
    _: ReadStreamRequest,
) -> Result<ReadStreamResponse, RequestError> {
    Err(RequestError::Unsupported("ReadStdout"))
}

pub(super) async fn read_stderr(
    _: &Arc<Context>,
    _: ReadStreamRequest,
) -> Result<ReadStreamResponse, RequestError> {
    Err(RequestError::Unsupported("ReadStderr"))
}

pub(super) async fn close_stdin(
    _: &Arc<Context>,
    _: CloseStdinRequest,
) -> Result<Empty, RequestError> {
    Err(RequestError::Unsupported("CloseStdin"))
}
