//! Serves `seed.management.v1` on one Unix socket. The socket is 0600, or 0660 where the configuration names a
//! group, and the peer's credentials (unix(7), `SO_PEERCRED`) are checked besides: root, the user that the shim
//! runs as, or who has that group as its own (as its first one: a further group of a user does not do). Anyone else is
//! disconnected before a byte is read. Requests are adapted to a [`Backend`] and nothing more.
//!
//! A scraper gets the instance's figures from the same socket by HTTP. The first byte tells them apart: a frame of
//! ttrpc begins with its length, which is at most 4 MiB and so begins with 0; a request of HTTP with a letter.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::stream;
use rustix::{fs::Gid, net::RecvFlags};
use seed_protocol::{
    seed::{
        management::{
            ControlExecRequest, ControlExecResponse, GetKeysRequest, GetStatusRequest,
            GetUsageRequest, InstanceStatus, Keys, ReadExecRequest, ReadExecResponse,
            RestartRequest, RestartResponse, StartExecRequest, StartExecResponse, Usage,
            WaitExecRequest, WaitExecResponse, WriteExecRequest, WriteExecResponse,
        },
        management_ttrpc::{Management, create_management},
        v1::{
            ControlUnitRequest, ControlUnitResponse, ListUnitsRequest, ListUnitsResponse,
            ShowUnitRequest, UnitDetails,
        },
    },
    status,
};
use thiserror::Error;
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};
use ttrpc::r#async::{TtrpcContext, transport::Listener};

use super::{
    Backend, BackendError, MAX_STATUS_WAIT,
    metrics::{self, Told},
    scrape,
};

/// How long the listener rests after an accept that failed, so that a full table of file descriptors
/// does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long the first byte is waited for. Who says nothing until then is taken for a caller of ours.
const FIRST_BYTE_LIMIT: Duration = Duration::from_secs(10);

/// Why the socket cannot be served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("management socket {} cannot be made", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// ttrpc refuses to start.
    #[error("management server does not start")]
    Start(#[source] ttrpc::Error),
}

/// A running management server. Dropping it removes the socket and ends the listening; use
/// [`Server::stop`] to end the connections too.
pub struct Server {
    inner: ttrpc::r#async::Server,
    path: PathBuf,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends every connection and removes the socket.
    pub async fn stop(mut self) {
        if let Err(error) = self.inner.shutdown().await {
            tracing::warn!(%error, "management server did not stop in order");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.path.display(), %error, "management socket stays");
            }
            _ => {}
        }
    }
}

/// Listens on `path` and answers from `backend`. A socket that is there already is replaced: whoever
/// holds the instance's lock owns the path.
pub async fn serve(
    path: &Path,
    group: Option<Gid>,
    backend: Arc<dyn Backend>,
) -> Result<Server, ServeError> {
    let listener = bind(path, group).map_err(|source| ServeError::Bind {
        path: path.into(),
        source,
    })?;
    let listener = admitted(listener, group, Arc::clone(&backend));
    let mut inner = ttrpc::r#async::Server::new()
        .register_service(create_management(Arc::new(Service { backend })))
        .add_listener(listener);
    inner.start().await.map_err(ServeError::Start)?;
    Ok(Server {
        inner,
        path: path.into(),
    })
}

/// The name of the socket until it listens. One who is killed in that time leaves it.
pub(crate) fn hidden(path: &Path) -> PathBuf {
    let mut hidden = path.as_os_str().to_owned();
    hidden.push("~");
    PathBuf::from(hidden)
}

/// Binds under another name first: the socket appears under its own name with its final mode.
fn bind(path: &Path, group: Option<Gid>) -> io::Result<UnixListener> {
    let hidden = hidden(path);
    match fs::remove_file(&hidden) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&hidden)?;
    if let Some(group) = group {
        rustix::fs::chown(&hidden, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))?;
    fs::rename(&hidden, path)?;
    Ok(listener)
}

/// The connections of those who may ask, but for scrapers, who are answered. Nobody waits for anybody else.
fn admitted(listener: UnixListener, group: Option<Gid>, backend: Arc<dyn Backend>) -> Listener {
    let begin = (listener, backend, JoinSet::<Option<UnixStream>>::new());
    Listener::new(stream::unfold(
        begin,
        move |(listener, backend, mut arriving)| async move {
            loop {
                tokio::select! {
                    Some(arrived) = arriving.join_next() => {
                        if let Ok(Some(connection)) = arrived {
                            let rest = (listener, backend, arriving);
                            return Some((Ok::<_, io::Error>(connection), rest));
                        }
                    }
                    accepted = listener.accept() => match accepted {
                        Ok((connection, _)) if may_ask(&connection, group) => {
                            arriving.spawn(sorted(connection, Arc::clone(&backend)));
                        }
                        Ok(_) => {}
                        Err(error) => {
                            tracing::warn!(%error, "management connection not accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                }
            }
        },
    ))
}

/// The connection, unless it is a scraper's: that one is answered and gone.
async fn sorted(connection: UnixStream, backend: Arc<dyn Backend>) -> Option<UnixStream> {
    let first = first_byte(&connection).await;
    if !first.is_some_and(|byte| byte.is_ascii_alphabetic()) {
        return Some(connection);
    }
    if let Err(error) = scrape::answer(connection, page(backend.as_ref())).await {
        tracing::debug!(%error, "scraper was not answered");
    }
    None
}

/// The first byte of what is said, which stays to be read. None for the end, and for silence.
async fn first_byte(connection: &UnixStream) -> Option<u8> {
    let mut byte = [0_u8];
    let look = connection.async_io(Interest::READABLE, || {
        let (_, count) = rustix::net::recv(connection, &mut byte, RecvFlags::PEEK)?;
        Ok(count)
    });
    let count = timeout(FIRST_BYTE_LIMIT, look).await;
    matches!(count, Ok(Ok(1))).then_some(byte[0])
}

/// The figures of this instance.
async fn page(backend: &dyn Backend) -> String {
    let status = backend.status(0, Duration::ZERO).await;
    let usage = backend.usage().await;
    metrics::text(&[Told {
        namespace: status.namespace.clone(),
        id: status.id.clone(),
        answer: Some((status, usage)),
    }])
}

fn may_ask(connection: &UnixStream, group: Option<Gid>) -> bool {
    match connection.peer_cred() {
        Ok(peer) => {
            let own = rustix::process::geteuid().as_raw();
            let own_group = group.is_some_and(|group| group.as_raw() == peer.gid());
            let admitted = own_group || uid_may_ask(peer.uid(), own);
            if !admitted {
                tracing::warn!(uid = peer.uid(), "management connection refused");
            }
            admitted
        }
        Err(error) => {
            tracing::warn!(%error, "management connection without credentials refused");
            false
        }
    }
}

fn uid_may_ask(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

struct Service {
    backend: Arc<dyn Backend>,
}

#[async_trait]
impl Management for Service {
    async fn get_status(
        &self,
        _: &TtrpcContext,
        request: GetStatusRequest,
    ) -> ttrpc::Result<InstanceStatus> {
        let wait = Duration::from_millis(request.wait_ms.into()).min(MAX_STATUS_WAIT);
        Ok(self.backend.status(request.after_revision, wait).await)
    }

    async fn get_usage(&self, _: &TtrpcContext, _: GetUsageRequest) -> ttrpc::Result<Usage> {
        Ok(self.backend.usage().await)
    }

    async fn get_keys(&self, _: &TtrpcContext, _: GetKeysRequest) -> ttrpc::Result<Keys> {
        Ok(self.backend.keys().await?)
    }

    async fn restart(&self, _: &TtrpcContext, _: RestartRequest) -> ttrpc::Result<RestartResponse> {
        Ok(RestartResponse {
            message: self.backend.restart().await?,
            ..Default::default()
        })
    }

    async fn list_units(
        &self,
        _: &TtrpcContext,
        request: ListUnitsRequest,
    ) -> ttrpc::Result<ListUnitsResponse> {
        Ok(self.backend.list_units(request).await?)
    }

    async fn show_unit(
        &self,
        _: &TtrpcContext,
        request: ShowUnitRequest,
    ) -> ttrpc::Result<UnitDetails> {
        Ok(self.backend.show_unit(request).await?)
    }

    async fn control_unit(
        &self,
        _: &TtrpcContext,
        request: ControlUnitRequest,
    ) -> ttrpc::Result<ControlUnitResponse> {
        Ok(self.backend.control_unit(request).await?)
    }

    async fn start_exec(
        &self,
        _: &TtrpcContext,
        request: StartExecRequest,
    ) -> ttrpc::Result<StartExecResponse> {
        Ok(StartExecResponse {
            exec_id: self.backend.start_exec(request).await?,
            ..Default::default()
        })
    }

    async fn read_exec(
        &self,
        _: &TtrpcContext,
        request: ReadExecRequest,
    ) -> ttrpc::Result<ReadExecResponse> {
        Ok(ReadExecResponse {
            data: self.backend.read_exec(request).await?,
            ..Default::default()
        })
    }

    async fn write_exec(
        &self,
        _: &TtrpcContext,
        request: WriteExecRequest,
    ) -> ttrpc::Result<WriteExecResponse> {
        Ok(WriteExecResponse {
            taken: self.backend.write_exec(request).await?,
            ..Default::default()
        })
    }

    async fn control_exec(
        &self,
        _: &TtrpcContext,
        request: ControlExecRequest,
    ) -> ttrpc::Result<ControlExecResponse> {
        self.backend.control_exec(request).await?;
        Ok(ControlExecResponse::default())
    }

    async fn wait_exec(
        &self,
        _: &TtrpcContext,
        request: WaitExecRequest,
    ) -> ttrpc::Result<WaitExecResponse> {
        Ok(WaitExecResponse {
            status: self.backend.wait_exec(request.exec_id).await?,
            ..Default::default()
        })
    }
}

impl From<BackendError> for ttrpc::Error {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Invalid(text) => status::invalid(text),
            BackendError::NotFound(text) => status::not_found(text),
            BackendError::NotReady(text) => status::failed_precondition(text),
            BackendError::Unavailable(text) => status::unavailable(text),
            BackendError::Internal(text) => status::internal(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::management::{Client, ClientError};

    struct Fixed;

    #[async_trait]
    impl Backend for Fixed {
        async fn status(&self, after_revision: u64, wait: Duration) -> InstanceStatus {
            let ms = u64::try_from(wait.as_millis()).unwrap();
            InstanceStatus {
                revision: after_revision + 1,
                namespace: "default".into(),
                id: "a".into(),
                log_lag: ms,
                ..Default::default()
            }
        }
        async fn usage(&self) -> Usage {
            Usage::default()
        }
        async fn keys(&self) -> Result<Keys, BackendError> {
            Err(BackendError::NotReady(
                "the guest has not said hello yet".into(),
            ))
        }
        async fn restart(&self) -> Result<String, BackendError> {
            Err(BackendError::NotReady("not now".into()))
        }
        async fn list_units(
            &self,
            request: ListUnitsRequest,
        ) -> Result<ListUnitsResponse, BackendError> {
            Err(BackendError::Invalid(request.patterns.join(",")))
        }
        async fn show_unit(&self, request: ShowUnitRequest) -> Result<UnitDetails, BackendError> {
            Err(BackendError::NotFound(request.name))
        }
        async fn control_unit(
            &self,
            request: ControlUnitRequest,
        ) -> Result<ControlUnitResponse, BackendError> {
            Ok(ControlUnitResponse {
                result: request.name,
                ..Default::default()
            })
        }
    }

    #[tokio::test]
    async fn answers_and_refusals_arrive_as_the_backend_gave_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("management.sock");
        let server = serve(&path, None, Arc::new(Fixed)).await.unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );

        let client = Client::connect(&path).await.unwrap();
        let status = client.status(6, Duration::from_secs(3600)).await.unwrap();
        assert_eq!(status.revision, 7);
        assert_eq!(status.log_lag, 30_000, "the wait is cut");
        match client.keys().await {
            Err(ClientError::Refused { message, .. }) => {
                assert_eq!(message, "the guest has not said hello yet");
            }
            other => panic!("{other:?}"),
        }
        server.stop().await;
        assert!(!path.exists(), "the socket goes with the server");
        assert!(matches!(
            Client::connect(&path).await,
            Err(ClientError::Absent { .. })
        ));
    }

    #[tokio::test]
    async fn an_older_shim_says_nothing_of_usage_and_answers_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("management.sock");
        let mut services = create_management(Arc::new(Service {
            backend: Arc::new(Fixed),
        }));
        for service in services.values_mut() {
            assert!(service.methods.remove("GetUsage").is_some());
        }
        let mut server = ttrpc::r#async::Server::new()
            .register_service(services)
            .add_listener(admitted(
                UnixListener::bind(&path).unwrap(),
                None,
                Arc::new(Fixed),
            ));
        server.start().await.unwrap();
        let client = Client::connect(&path).await.unwrap();
        assert_eq!(client.usage().await.unwrap(), Usage::default());
        assert_eq!(client.status(6, Duration::ZERO).await.unwrap().revision, 7);
        server.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_scraper_shares_the_socket_and_a_silent_caller_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("management.sock");
        let server = serve(&path, None, Arc::new(Fixed)).await.unwrap();
        let _silent = UnixStream::connect(&path).await.unwrap();
        for (target, status) in [("/metrics", "200 OK"), ("/", "404 Not Found")] {
            let mut scraper = UnixStream::connect(&path).await.unwrap();
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            scraper.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            scraper.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{answer}"
            );
            let line = "\nseed_up{namespace=\"default\",instance=\"a\"} 1\n";
            assert_eq!(answer.contains(line), target == "/metrics", "{answer}");
        }
        let client = Client::connect(&path).await.unwrap();
        assert_eq!(client.status(6, Duration::ZERO).await.unwrap().revision, 7);
        server.stop().await;
    }

    #[tokio::test]
    async fn a_socket_left_by_a_crash_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("management.sock");
        let left = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // A child that another test is just starting may have a copy of it.
        rustix::net::shutdown(&left, rustix::net::Shutdown::Both).unwrap();
        drop(left);
        assert!(matches!(
            Client::connect(&path).await,
            Err(ClientError::Absent { .. })
        ));
        let server = serve(&path, None, Arc::new(Fixed)).await.unwrap();
        Client::connect(&path)
            .await
            .unwrap()
            .status(0, Duration::ZERO)
            .await
            .unwrap();
        server.stop().await;
    }

    #[tokio::test]
    async fn a_group_gets_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("management.sock");
        let group = rustix::process::getegid();
        let server = serve(&path, Some(group), Arc::new(Fixed)).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let client = Client::connect(&path).await.unwrap();
        assert!(matches!(
            client.restart().await,
            Err(ClientError::Refused { message, .. }) if message == "not now"
        ));
        server.stop().await;
    }

    #[test]
    fn only_root_and_the_own_user_may_ask() {
        assert!(uid_may_ask(0, 1000) && uid_may_ask(1000, 1000) && uid_may_ask(0, 0));
        assert!(!uid_may_ask(1000, 0) && !uid_may_ask(1001, 1000));
    }
}
