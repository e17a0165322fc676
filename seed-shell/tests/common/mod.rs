//! A host with the real server, instances that are played (a management server, a log on disk), and the real
//! OpenSSH client. Everything lives in one temporary folder.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test program uses a part, and a test that cannot go on fails"
)]

mod commands;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use seed_protocol::{
    journal::{BatchEncoder, EntryHead},
    seed::{
        management::{
            ControlExecRequest, InstanceStatus, Keys, ReadExecRequest, StageTime, StartExecRequest,
            State, Usage, WriteExecRequest,
        },
        v1::{
            ControlUnitRequest, ControlUnitResponse, ListUnitsRequest, ListUnitsResponse,
            ShowUnitRequest, Stage, UnitDetails,
        },
    },
};
use seed_shell::{
    identity::Cid,
    registry::{Planting, Registry, Repo},
    source::Source,
};
use seed_shim::{
    logs::{
        segment::{Frame, Mark},
        store::{Limits, Store},
    },
    management::{self, Backend, BackendError},
};
use tokio::runtime::Runtime;

/// How long anything may take here before the test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// The played recipient.
pub(crate) const RECIPIENT: &str = "age1tpm1qexample";

/// A host.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    server: Child,
    /// What the server has written to its log.
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    runtime: Runtime,
    servers: Vec<Box<dyn std::any::Any>>,
}

impl Host {
    /// With the default limits, but as many connections a minute as a test makes.
    pub(crate) fn start() -> Self {
        Self::with("[limits]\nnew_per_minute = 100000\nconnections_per_address = 1000\n")
    }

    /// With more lines of configuration.
    pub(crate) fn with(extra: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("ss")
            .tempdir_in("/tmp")
            .unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("state")).unwrap();
        let shim = format!("run_dir = {:?}\nstate_dir = {:?}\n", path("r"), path("s"));
        fs::write(path("shim.toml"), shim).unwrap();
        let config = format!(
            "listen = ['127.0.0.1:0']\nstate_dir = {:?}\nshim_config = {:?}\n{extra}",
            path("state"),
            path("shim.toml"),
        );
        fs::write(path("shell.toml"), config).unwrap();
        let (server, port, said) = serve(dir.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            dir,
            port,
            server,
            said,
            runtime,
            servers: Vec::new(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// SIGKILL to the server; another one on the same folders.
    pub(crate) fn crash(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        (self.server, self.port, self.said) = serve(self.dir.path());
    }

    /// The server's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.server.id()
    }

    pub(crate) fn registry(&self) -> Registry {
        Registry::open(&self.path("state/registry.db")).unwrap()
    }

    /// `seed-shell` on the host itself.
    pub(crate) fn admin(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_seed-shell"))
            .arg("--config")
            .arg(self.path("shell.toml"))
            .args(args)
            .output()
            .unwrap()
    }

    pub(crate) fn invite(&self) -> String {
        let output = self.admin(&["invite"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A new key of this kind and name; ssh-keygen's words after `-t`.
    pub(crate) fn key(&self, name: &str, kind: &[&str]) -> PathBuf {
        let path = self.path(name);
        let output = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", name, "-f"])
            .arg(&path)
            .arg("-t")
            .args(kind)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        path
    }

    /// Plants `silo:<name>` for whom the text lists.
    pub(crate) fn plant(&self, name: &str, keys: &str, instances: &[&str]) -> Repo {
        let registry = self.registry();
        let code = registry.invite("", LIMIT).unwrap().to_string();
        let mut identity = [0; 32];
        let taken = registry.repos().unwrap().len();
        identity[0] = u8::try_from(taken + 1).unwrap();
        let source = Source::try_from(format!("silo:{name}").as_str()).unwrap();
        let instances: Vec<_> = instances.iter().map(|name| name.parse().unwrap()).collect();
        registry
            .plant(&Planting {
                code: &code,
                cid: &Cid::of_bytes(identity),
                source: &source,
                instances: &instances,
                keys,
            })
            .unwrap()
    }

    /// A running instance.
    pub(crate) fn run(&mut self, repo: &Repo, name: &str) -> Arc<Played> {
        let dir = self.path("r").join(repo.namespace.as_str()).join(name);
        fs::create_dir_all(&dir).unwrap();
        let played = Arc::new(Played::new(repo.namespace.as_str(), name));
        let socket = dir.join("management.sock");
        let backend = Arc::new(Shown(Arc::clone(&played)));
        let server = self
            .runtime
            .block_on(management::serve(&socket, None, backend))
            .unwrap();
        self.servers.push(Box::new(server));
        played
    }

    /// The log of an instance.
    pub(crate) fn log(&self, repo: &Repo, name: &str) -> Log {
        let dir = self.path("s/logs").join(repo.namespace.as_str()).join(name);
        Log {
            store: Store::open(&dir, Limits::default()).unwrap(),
            last: 0,
        }
    }

    /// `ssh` with this key, ready for options and a command.
    pub(crate) fn client(&self, key: &Path) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options(key)).stdin(Stdio::null());
        ssh.stdout(Stdio::piped()).stderr(Stdio::piped());
        ssh
    }

    /// Options of the client, without the host.
    pub(crate) fn options(&self, key: &Path) -> Vec<String> {
        let option = |text: String| ["-o".to_owned(), text];
        let known = self.path("known_hosts");
        [
            "BatchMode=yes".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "IdentityAgent=none".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            "LogLevel=ERROR".to_owned(),
            format!("UserKnownHostsFile={}", known.display()),
            format!("IdentityFile={}", key.display()),
            format!("Port={}", self.port),
        ]
        .into_iter()
        .flat_map(option)
        .chain(["-F".to_owned(), "none".to_owned()])
        .collect()
    }

    /// `ssh host LINE`.
    pub(crate) fn ssh(&self, key: &Path, line: &str) -> Answer {
        let mut ssh = self.client(key);
        ssh.arg("127.0.0.1").arg(line);
        Answer::of(finish(ssh.spawn().unwrap()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _enter = self.runtime.enter();
        self.servers.clear();
    }
}

/// Starts the server of this folder; its port, and what it says.
fn serve(dir: &Path) -> (Child, u16, Arc<Mutex<Vec<String>>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_seed-shell"))
        .arg("--config")
        .arg(dir.join("shell.toml"))
        .arg("serve")
        .env("TZ", "UTC")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let port = line.rsplit(':').next().and_then(|port| port.parse().ok());
    let port = port.unwrap_or_else(|| panic!("the server said {line:?}"));
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&said);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            heard.lock().unwrap().push(line);
        }
    });
    (child, port, said)
}

/// Waits for the end, not for ever.
pub(crate) fn finish(mut child: Child) -> Output {
    let begun = Instant::now();
    let mut streams = (child.stdout.take(), child.stderr.take());
    let out = thread::spawn(move || read(streams.0.take()));
    let err = thread::spawn(move || read(streams.1.take()));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("a client did not end: {:?}", child.wait_with_output());
        }
        thread::sleep(Duration::from_millis(5));
    };
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

fn read(stream: Option<impl std::io::Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).unwrap();
    }
    bytes
}

/// Waits until it is true, not for ever.
pub(crate) fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < LIMIT, "in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// What a client printed, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn of(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// It went well and said nothing on the side.
    pub(crate) fn good(self) -> String {
        assert!(self.status == 0 && self.err.is_empty(), "{self:?}");
        self.out
    }
}

/// The public key's line.
pub(crate) fn public(key: &Path) -> String {
    fs::read_to_string(key.with_extension("pub"))
        .unwrap()
        .trim()
        .to_owned()
}

/// A played instance.
#[derive(Debug)]
pub(crate) struct Played {
    status: InstanceStatus,
    /// How often a restart was asked for.
    pub(crate) restarts: AtomicU64,
    /// What runs in it.
    pub(crate) commands: commands::Commands,
}

impl Played {
    fn new(namespace: &str, name: &str) -> Self {
        let stage = |stage: Stage, since_create_ms| StageTime {
            stage: stage.into(),
            since_create_ms,
            ..Default::default()
        };
        let status = InstanceStatus {
            revision: 1,
            namespace: namespace.into(),
            id: name.into(),
            state: State::STATE_RUNNING.into(),
            stage: Stage::STAGE_RUNNING.into(),
            stages: vec![
                stage(Stage::STAGE_VMM_STARTED, 310),
                stage(Stage::STAGE_HELLO, 6_204),
                stage(Stage::STAGE_RUNNING, 14_400),
            ],
            system_state: "running".into(),
            accel: "tcg".into(),
            vcpus: 1,
            memory_mib: 512,
            memory_used_bytes: 320 << 20,
            cpu_time_ms: 12_000,
            ..Default::default()
        };
        // Runs since three days and two hours, as it is shown for the next half hour.
        let since = SystemTime::now() - Duration::from_secs(74 * 3600 + 30 * 60);
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let status = InstanceStatus {
            created_unix_ns: u64::try_from(since.as_nanos()).unwrap(),
            ..status
        };
        Self {
            status,
            restarts: AtomicU64::new(0),
            commands: commands::Commands::default(),
        }
    }
}

struct Shown(Arc<Played>);

#[async_trait]
impl Backend for Shown {
    async fn status(&self, _: u64, _: Duration) -> InstanceStatus {
        let mut status = self.0.status.clone();
        // Another creation for each restart.
        let restarts = self.0.restarts.load(Ordering::SeqCst);
        status.created_unix_ns += restarts;
        status
    }
    async fn keys(&self) -> Result<Keys, BackendError> {
        Ok(Keys {
            recipient: RECIPIENT.into(),
            tag_recipient: "age1tag1qexample".into(),
            ..Default::default()
        })
    }
    async fn usage(&self) -> Usage {
        Usage::default()
    }
    async fn restart(&self) -> Result<String, BackendError> {
        self.0.restarts.fetch_add(1, Ordering::SeqCst);
        Ok("being restarted".into())
    }
    async fn start_exec(&self, request: StartExecRequest) -> Result<String, BackendError> {
        self.0.commands.start(request)
    }
    async fn read_exec(&self, request: ReadExecRequest) -> Result<Vec<u8>, BackendError> {
        Ok(self.0.commands.read(request).await)
    }
    async fn write_exec(&self, request: WriteExecRequest) -> Result<u32, BackendError> {
        self.0.commands.write(request).await
    }
    async fn control_exec(&self, request: ControlExecRequest) -> Result<(), BackendError> {
        self.0.commands.control(request).await;
        Ok(())
    }
    async fn wait_exec(&self, id: String) -> Result<u32, BackendError> {
        Ok(self.0.commands.wait(&id).await)
    }
    async fn list_units(&self, _: ListUnitsRequest) -> Result<ListUnitsResponse, BackendError> {
        Err(BackendError::NotReady("no".into()))
    }
    async fn show_unit(&self, _: ShowUnitRequest) -> Result<UnitDetails, BackendError> {
        Err(BackendError::NotReady("no".into()))
    }
    async fn control_unit(
        &self,
        _: ControlUnitRequest,
    ) -> Result<ControlUnitResponse, BackendError> {
        Err(BackendError::NotReady("no".into()))
    }
}

/// A log that is written.
pub(crate) struct Log {
    store: Store,
    last: u64,
}

impl Log {
    /// Appends messages, one batch.
    pub(crate) fn add<T: AsRef<[u8]>>(&mut self, messages: impl IntoIterator<Item = T>) {
        let mut encoder = BatchEncoder::new(1 << 20);
        let first = self.last + 1;
        for message in messages {
            self.last += 1;
            let head = EntryHead {
                seqnum: self.last,
                realtime_us: 1_763_766_062_000_000 + self.last,
                monotonic_us: self.last,
                boot_id: [1; 16],
                xor_hash: self.last,
            };
            let message = [b"MESSAGE=", message.as_ref()].concat();
            let fields: [&[u8]; 3] = [&message, b"_COMM=app", b"_HOSTNAME=web"];
            encoder
                .push(&head, fields.map(|field| (None, field)))
                .unwrap();
        }
        let count = u32::try_from(self.last + 1 - first).unwrap();
        let frame = Frame {
            seqnum_id: [2; 16],
            first,
            last: self.last,
            count,
            reset: false,
            gap: None,
            received_unix_us: 1_763_766_062_000_000,
            mark: Mark {
                boot_id: [1; 16],
                realtime_us: 1_763_766_062_000_000 + self.last,
                monotonic_us: self.last,
                xor_hash: self.last,
            },
            block: encoder.finish(),
        };
        self.store.append(&frame).unwrap();
    }
}
