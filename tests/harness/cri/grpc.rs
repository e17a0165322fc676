//! Unary gRPC over a Unix socket (grpc/grpc, doc/PROTOCOL-HTTP2.md): one request, one answer, a status in the
//! trailers. No more than clients of CRI and of containerd's own services need.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use protobuf::Message;
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

/// Before each message: a byte that says "not compressed", and the length.
const PREFIX_BYTES: usize = 5;

/// A connection. Calls block.
#[derive(Debug)]
pub struct Channel {
    runtime: Runtime,
    sender: SendRequest<Bytes>,
    namespace: Option<&'static str>,
}

impl Channel {
    /// Connects.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(socket)
                .await
                .with_context(|| format!("connect to {}", socket.display()))?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            // Ends with the connection.
            tokio::spawn(connection);
            anyhow::Ok(sender)
        })?;
        Ok(Self {
            runtime,
            sender,
            namespace: None,
        })
    }

    /// Every call names this namespace of containerd.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &'static str) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Calls `/service/method`.
    pub fn call<A: Message>(
        &self,
        path: &str,
        request: &impl Message,
        limit: Duration,
    ) -> Result<A> {
        self.runtime.block_on(async {
            let called = timeout(limit, self.unary(path, request)).await;
            called.with_context(|| format!("{path}: no answer within {} s", limit.as_secs()))?
        })
    }

    async fn unary<A: Message>(&self, path: &str, request: &impl Message) -> Result<A> {
        let mut head = http::Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(namespace) = self.namespace {
            head = head.header("containerd-namespace", namespace);
        }
        let head = head.body(())?;
        let body = request.write_to_bytes()?;
        let mut message = BytesMut::with_capacity(PREFIX_BYTES + body.len());
        message.extend_from_slice(&[0]);
        message.extend_from_slice(&u32::try_from(body.len())?.to_be_bytes());
        message.extend_from_slice(&body);
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut stream) = sender.send_request(head, false)?;
        stream.send_data(message.freeze(), true)?;
        answer(response).await.with_context(|| path.to_owned())
    }
}

async fn answer<A: Message>(response: ResponseFuture) -> Result<A> {
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    // An error without a message comes with the head alone.
    check(&head.headers)?;
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        bytes.extend_from_slice(&data);
    }
    if let Some(trailers) = body.trailers().await? {
        check(&trailers)?;
    }
    let message = bytes
        .get(PREFIX_BYTES..)
        .context("an answer without a message")?;
    Ok(A::parse_from_bytes(message)?)
}

fn check(headers: &http::HeaderMap) -> Result<()> {
    let text = |name| {
        let value: Option<&http::HeaderValue> = headers.get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status").as_deref() {
        None | Some("0") => Ok(()),
        Some(code) => {
            let message = text("grpc-message").ok_or_else(|| anyhow!("status {code}"))?;
            bail!("{message} (status {code})")
        }
    }
}
