//! Calls about processes in the guest: signals, and execs with their streams. The instance itself is the process without
//! an exec.

use std::time::Duration;

use seed_protocol::kata::{
    agent::{
        CloseStdinRequest, ExecProcessRequest, ReadStreamRequest, SignalProcessRequest,
        TtyWinResizeRequest, WaitProcessRequest, WriteStreamRequest,
    },
    oci,
};
use ttrpc::context::Context;

use super::{
    Agent, AgentError,
    client::{SHORT, within},
};
use crate::names::{ContainerId, ExecId};

/// The start of a process. systemd starts one after the other; without KVM on a busy host one takes a second.
const EXEC: Duration = Duration::from_secs(120);

/// An output stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Agent {
    /// `SignalProcess`. Without an exec, SIGTERM asks the guest to power off.
    pub async fn signal(
        &self,
        id: &ContainerId,
        exec: Option<&ExecId>,
        signal: u32,
    ) -> Result<(), AgentError> {
        let request = SignalProcessRequest {
            container_id: id.to_string(),
            exec_id: exec_id(exec),
            signal,
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .signal_process(within(SHORT), &request)
            .await;
        self.sorted("SignalProcess", result).await.map(drop)
    }

    /// `ExecProcess`.
    pub async fn exec(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        process: oci::Process,
    ) -> Result<(), AgentError> {
        let request = ExecProcessRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            process: Some(process).into(),
            ..Default::default()
        };
        // Never closed, so this only waits.
        let _turn = self.starts.acquire().await;
        let result = self
            .kata()
            .await?
            .exec_process(within(EXEC), &request)
            .await;
        self.sorted("ExecProcess", result).await.map(drop)
    }

    /// `WaitProcess`: its exit status. No limit: a process runs as long as it likes.
    pub async fn wait(&self, id: &ContainerId, exec: &ExecId) -> Result<i32, AgentError> {
        let request = WaitProcessRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .wait_process(Context::default(), &request)
            .await;
        self.sorted("WaitProcess", result)
            .await
            .map(|response| response.status)
    }

    /// `ReadStdout` or `ReadStderr`: a long poll without a limit; nothing means the end. `position` is how much
    /// of the stream came already, so a call whose answer was lost may be made again.
    pub async fn read(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        stream: Stream,
        position: u64,
        bytes: u32,
    ) -> Result<Vec<u8>, AgentError> {
        let request = ReadStreamRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            len: bytes,
            position: Some(position),
            ..Default::default()
        };
        let kata = self.kata().await?;
        let (call, result) = match stream {
            Stream::Stdout => (
                "ReadStdout",
                kata.read_stdout(Context::default(), &request).await,
            ),
            Stream::Stderr => (
                "ReadStderr",
                kata.read_stderr(Context::default(), &request).await,
            ),
        };
        self.sorted(call, result)
            .await
            .map(|response| response.data)
    }

    /// `WriteStdin`: how much of `data` was taken. No limit: a process reads when it likes. `position` is how much
    /// was taken before; what was taken since, unknown to us, is not given again.
    pub async fn write_stdin(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        position: u64,
        data: Vec<u8>,
    ) -> Result<u32, AgentError> {
        let request = WriteStreamRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            data,
            position: Some(position),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .write_stdin(Context::default(), &request)
            .await;
        self.sorted("WriteStdin", result)
            .await
            .map(|response| response.len)
    }

    /// `CloseStdin`.
    pub async fn close_stdin(&self, id: &ContainerId, exec: &ExecId) -> Result<(), AgentError> {
        let request = CloseStdinRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .close_stdin(within(SHORT), &request)
            .await;
        self.sorted("CloseStdin", result).await.map(drop)
    }

    /// `TtyWinResize`.
    pub async fn resize(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        rows: u32,
        columns: u32,
    ) -> Result<(), AgentError> {
        let request = TtyWinResizeRequest {
            container_id: id.to_string(),
            exec_id: exec.to_string(),
            row: rows,
            column: columns,
            ..Default::default()
        };
        let result = self
            .kata()
            .await?
            .tty_win_resize(within(SHORT), &request)
            .await;
        self.sorted("TtyWinResize", result).await.map(drop)
    }
}

fn exec_id(exec: Option<&ExecId>) -> String {
    exec.map(ToString::to_string).unwrap_or_default()
}
