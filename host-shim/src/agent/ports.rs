//! Calls of `seed.v1` about connections to ports of the guest's loopback. The first to name a port makes the connection;
//! it is gone when it is closed, or when the agent hears nothing of it for 90 s.

use std::time::Duration;

use seed_protocol::seed::v1::{
    ClosePortRequest, OpenPortRequest, ReadPortRequest, WritePortRequest,
};

use super::{
    Agent, AgentError,
    client::{SHORT, within},
};

impl Agent {
    /// `OpenPort`: the number of a new connection to this port.
    pub async fn open_port(&self, port: u16) -> Result<u64, AgentError> {
        let request = OpenPortRequest {
            port: port.into(),
            ..Default::default()
        };
        let result = self.seed().await?.open_port(within(SHORT), &request).await;
        self.sorted("OpenPort", result)
            .await
            .map(|answer| answer.id)
    }

    /// `ReadPort`, a long poll of at most `wait`: the next bytes, which may be none, and whether they are the last.
    pub async fn read_port(
        &self,
        id: u64,
        max_bytes: u32,
        wait: Duration,
    ) -> Result<(Vec<u8>, bool), AgentError> {
        let request = ReadPortRequest {
            id,
            max_bytes,
            wait_ms: milliseconds(wait),
            ..Default::default()
        };
        let limit = within(wait + SHORT);
        let result = self.seed().await?.read_port(limit, &request).await;
        let answer = self.sorted("ReadPort", result).await?;
        Ok((answer.data, answer.end))
    }

    /// `WritePort`: how many bytes were taken within `wait`. With `end` nothing comes after them.
    pub async fn write_port(
        &self,
        id: u64,
        data: &[u8],
        end: bool,
        wait: Duration,
    ) -> Result<usize, AgentError> {
        let request = WritePortRequest {
            id,
            data: data.to_vec(),
            end,
            wait_ms: milliseconds(wait),
            ..Default::default()
        };
        let limit = within(wait + SHORT);
        let result = self.seed().await?.write_port(limit, &request).await;
        let answer = self.sorted("WritePort", result).await?;
        // A guest may say anything.
        let written = usize::try_from(answer.written).unwrap_or(usize::MAX);
        Ok(written.min(data.len()))
    }

    /// `ClosePort`.
    pub async fn close_port(&self, id: u64) -> Result<(), AgentError> {
        let request = ClosePortRequest {
            id,
            ..Default::default()
        };
        let result = self.seed().await?.close_port(within(SHORT), &request).await;
        self.sorted("ClosePort", result).await.map(drop)
    }
}

/// As the wire has it.
pub(super) fn milliseconds(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}
