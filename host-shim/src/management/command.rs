//! A command in the guest, by way of the management socket: what the seed shell links for its `exec`.
//!
//! It lives as long as the connection on which [`Command::wait`] was called, so each command has a connection of its
//! own, and ends with it when whoever asked for it goes.

use std::{path::Path, time::Duration};

use seed_protocol::seed::management::{
    ControlExecRequest, Output, ReadExecRequest, StartExecRequest, WaitExecRequest,
    WriteExecRequest,
    control_exec_request::{Size, What},
};
use tokio::time::sleep;
use ttrpc::context::{self, Context};

use super::client::{Client, ClientError, GUEST_ANSWER, refusal};

/// The pause before input is offered again that the guest did not take.
const NOTHING_TAKEN: Duration = Duration::from_millis(20);

/// A command that was started. Dropping the last clone ends it.
#[derive(Debug, Clone)]
pub struct Command {
    client: Client,
    id: String,
}

impl Command {
    /// Starts it, on a connection of its own to this management socket. To be waited for at once.
    pub async fn start(socket: &Path, request: &StartExecRequest) -> Result<Self, ClientError> {
        let client = Client::connect(socket).await?;
        let limit = context::with_duration(GUEST_ANSWER);
        let started = client.inner.start_exec(limit, request).await;
        Ok(Self {
            id: started.map_err(refusal)?.exec_id,
            client,
        })
    }

    /// The next bytes of an output, of which `position` came already; none at its end. As long as it takes: the shim
    /// answers when the command or the instance ends.
    pub async fn read(&self, output: Output, position: u64) -> Result<Vec<u8>, ClientError> {
        let request = ReadExecRequest {
            exec_id: self.id.clone(),
            output: output.into(),
            position,
            ..Default::default()
        };
        let read = self.client.inner.read_exec(Context::default(), &request);
        Ok(read.await.map_err(refusal)?.data)
    }

    /// Gives it input, of which `position` bytes were taken already, until it has taken all of it.
    pub async fn write(&self, mut position: u64, data: &[u8]) -> Result<(), ClientError> {
        let mut rest = data;
        while !rest.is_empty() {
            let request = WriteExecRequest {
                exec_id: self.id.clone(),
                position,
                data: rest.to_vec(),
                ..Default::default()
            };
            let written = self.client.inner.write_exec(Context::default(), &request);
            let taken = written.await.map_err(refusal)?.taken;
            if taken == 0 {
                sleep(NOTHING_TAKEN).await;
            }
            position += u64::from(taken);
            rest = rest
                .get(usize::try_from(taken).unwrap_or(usize::MAX)..)
                .unwrap_or_default();
        }
        Ok(())
    }

    /// No more input comes.
    pub async fn close_input(&self) -> Result<(), ClientError> {
        self.control(What::CloseInput(true)).await
    }

    /// Sends it a signal, by Linux's number.
    pub async fn signal(&self, number: u32) -> Result<(), ClientError> {
        self.control(What::Signal(number)).await
    }

    /// Its terminal has this size now.
    pub async fn resize(&self, columns: u16, rows: u16) -> Result<(), ClientError> {
        let size = Size {
            rows: rows.into(),
            columns: columns.into(),
            ..Default::default()
        };
        self.control(What::Size(size)).await
    }

    async fn control(&self, what: What) -> Result<(), ClientError> {
        let request = ControlExecRequest {
            exec_id: self.id.clone(),
            what: Some(what),
            ..Default::default()
        };
        let limit = context::with_duration(GUEST_ANSWER);
        let done = self.client.inner.control_exec(limit, &request).await;
        done.map(drop).map_err(refusal)
    }

    /// Its exit status, when both outputs have been read to their end.
    pub async fn wait(&self) -> Result<u32, ClientError> {
        let request = WaitExecRequest {
            exec_id: self.id.clone(),
            ..Default::default()
        };
        let ended = self.client.inner.wait_exec(Context::default(), &request);
        Ok(ended.await.map_err(refusal)?.status)
    }
}
