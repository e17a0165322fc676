//! Ways to an agent: a Unix socket of its own, and hybrid vsock, where one line asks for the guest's port
//! (Firecracker's documentation, "vsock", which Cloud Hypervisor and our vsock device follow).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use ttrpc::r#async::{Client, transport::Socket};

/// The longest answer to the one line.
const MAX_ANSWER_BYTES: usize = 32;

/// Connects to an agent that listens on a Unix socket.
pub async fn unix(socket: &Path) -> Result<Client> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    Ok(Client::new(Socket::new(stream)))
}

/// Connects to `port` of the guest behind a multiplexer's socket. Fails at once while nobody listens there.
pub async fn hybrid_vsock(socket: &Path, port: u32) -> Result<Client> {
    let mut stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("connect to {}", socket.display()))?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await
        .context("ask for a port of the guest")?;
    let mut answer = Vec::new();
    // Byte by byte: what comes after the line is the agent's.
    while answer.last() != Some(&b'\n') {
        ensure!(answer.len() < MAX_ANSWER_BYTES, "no answer but {answer:?}");
        let byte = stream.read_u8().await.context("nobody listens there")?;
        answer.push(byte);
    }
    ensure!(answer.starts_with(b"OK "), "the answer is {answer:?}");
    Ok(Client::new(Socket::new(stream)))
}
