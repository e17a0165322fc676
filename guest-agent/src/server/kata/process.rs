//! Processes that the host starts in the guest.

use std::sync::Arc;

use seed_protocol::kata::{agent::*, empty::Empty};

use crate::{agent::Context, server::error::RequestError};

pub(super) async fn exec_process(
    _: &Arc<Context>,
    _: ExecProcessRequest,
) -> Result<Empty, RequestError> {
    Err(RequestError::Unsupported("ExecProcess"))
}

pub(super) async fn signal_exec(
    _: &Arc<Context>,
    _: SignalProcessRequest,
) -> Result<(), RequestError> {
    Err(RequestError::Unsupported("SignalProcess"))
}

pub(super) async fn wait_exec(
    _: &Arc<Context>,
    _: WaitProcessRequest,
) -> Result<i32, RequestError> {
    Err(RequestError::Unsupported("WaitProcess"))
}

pub(super) async fn tty_win_resize(
    _: &Arc<Context>,
    _: TtyWinResizeRequest,
) -> Result<Empty, RequestError> {
    Err(RequestError::Unsupported("TtyWinResize"))
}
