//! A fake agent: the Kata dialect and `seed.v1` behind a vsock socket, over memory. An exec of `cat` gives its
//! input back, `false` ends with 3, `sleep` runs until it is signalled, `hog` is killed for lack of memory, `flood` has so
//! many lines come into the journal, `say` one, `mute` is started and nobody is told, `late` likewise and only after a while,
//! anything else does not exist. On each of its ports but 9 somebody says which one it is, and
//! then gives back what comes.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures_util::stream;
use protobuf::well_known_types::empty::Empty;
use rustix::net::{Shutdown, shutdown};
use seed_protocol::{
    journal::{BatchEncoder, Commit, EntryHead},
    kata::{
        agent::{
            CloseStdinRequest, CreateContainerRequest, CreateSandboxRequest, ExecProcessRequest,
            GetOOMEventRequest, NetworkStats, OOMEvent, OnlineCPUMemRequest, ReadStreamRequest,
            ReadStreamResponse, Routes, SignalProcessRequest, StartContainerRequest,
            StatsContainerRequest, StatsContainerResponse, TtyWinResizeRequest,
            UpdateInterfaceRequest, UpdateRoutesRequest, WaitProcessRequest, WaitProcessResponse,
            WriteStreamRequest, WriteStreamResponse,
        },
        agent_service,
        agent_ttrpc::AgentService,
        types,
    },
    seed::{
        v1::{
            ClosePortRequest, ClosePortResponse, GetIdentityRequest, GetStatusRequest, GuestStatus,
            Identity, JournalBatch, OpenPortRequest, OpenPortResponse, ReadJournalRequest,
            ReadPortRequest, ReadPortResponse, Stage, StageTime, WritePortRequest,
            WritePortResponse,
        },
        v1_ttrpc::{Guest, create_guest},
    },
    status,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use ttrpc::r#async::{Server, TtrpcContext, transport::Listener};

/// Lines of a flood, in the journal behind those that are there, and how many come in a second.
const FLOOD: u64 = 200_000;
const FLOOD_RATE: u64 = 20_000;

/// What comes into the journal when somebody says something.
const SAID: &str = "somebody says something";

/// Entries of one batch.
const BATCH: u64 = 1000;

/// How often a journal with nothing new is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How long the start of a process `late` takes.
const LATE: Duration = Duration::from_millis(300);

/// The port that nobody listens on.
const DISCARD: u32 = 9;

/// How often it says what it uses, before it says nothing more, unless it is told to go on.
const ANSWERED_STATS: u32 = 1;

/// What the agent was told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) sandbox: Option<CreateSandboxRequest>,
    pub(crate) container: Option<CreateContainerRequest>,
    pub(crate) interfaces: Vec<types::Interface>,
    pub(crate) routes: Vec<types::Route>,
    pub(crate) started: bool,
    pub(crate) resized: Option<(u32, u32)>,
    /// Rows and columns that the last terminal began with.
    pub(crate) terminal: Option<(u32, u32)>,
    /// How many connections to its ports were opened, and how many of them closed.
    pub(crate) ports: (u64, u64),
    /// Signals to its processes.
    pub(crate) signals: Vec<u32>,
    /// How many processors it was asked to bring online: memory that was added is there from then on.
    pub(crate) online: Option<u32>,
    /// It does the next of that, and its answer is an error.
    pub(crate) trips: bool,
    /// How often it was asked what it uses.
    pub(crate) stats: u32,
    /// How many starts it leaves without an answer.
    pub(crate) unanswered: usize,
    /// How many execs are starting now, and how many ever were at a time.
    pub(crate) starting: usize,
    pub(crate) most_starting: usize,
}

#[derive(Debug, Default)]
struct Process {
    command: String,
    terminal: bool,
    input: Vec<u8>,
    closed: bool,
    signal: Option<u32>,
}

/// A running fake agent. Dropping it closes its socket.
#[derive(Debug)]
pub(crate) struct FakeAgent {
    pub(crate) told: Arc<Mutex<Told>>,
    /// Notified when it is asked to power off.
    pub(crate) poweroff: Arc<Notify>,
    /// Set: its orders are never done.
    pub(crate) hold_orders: Arc<AtomicBool>,
    /// Set: it says what it uses as often as it is asked.
    pub(crate) talks: Arc<AtomicBool>,
    /// Notified when a process `held` may start.
    pub(crate) go: Arc<Notify>,
    connections: Arc<Mutex<Vec<OwnedFd>>>,
    task: JoinHandle<()>,
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeAgent {
    pub(crate) fn serve(socket: &Path) -> Self {
        Self::serve_with(socket, &[])
    }

    /// With these lines in its journal.
    pub(crate) fn serve_with(socket: &Path, lines: &[&str]) -> Self {
        let told = Arc::default();
        let poweroff = Arc::new(Notify::new());
        let hold_orders = Arc::new(AtomicBool::new(false));
        let talks = Arc::new(AtomicBool::new(false));
        let go = Arc::new(Notify::new());
        let connections = Arc::new(Mutex::new(Vec::new()));
        let agent = Arc::new(Agent {
            told: Arc::clone(&told),
            poweroff: Arc::clone(&poweroff),
            hold_orders: Arc::clone(&hold_orders),
            talks: Arc::clone(&talks),
            go: Arc::clone(&go),
            processes: watch::channel(HashMap::new()).0,
            lines: Mutex::new(lines.iter().map(ToString::to_string).collect()),
            flood: Mutex::default(),
            hogs: Notify::new(),
        });
        let listener = UnixListener::bind(socket).unwrap();
        let open = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let (sender, accepted) = mpsc::channel::<std::io::Result<UnixStream>>(8);
            let incoming = stream::unfold(accepted, |mut accepted| async move {
                accepted.recv().await.map(|stream| (stream, accepted))
            });
            let mut server = Server::new()
                .add_listener(Listener::new(Box::pin(incoming)))
                .register_service(agent_service(agent.clone()))
                .register_service(create_guest(agent));
            server.start().await.unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut line = [0; 13];
                if stream.read_exact(&mut line).await.is_err() || &line != b"CONNECT 1024\n" {
                    continue;
                }
                stream.write_all(b"OK 1073741824\n").await.unwrap();
                let copy = stream.as_fd().try_clone_to_owned().unwrap();
                open.lock().unwrap().push(copy);
                let _ = sender.send(Ok(stream)).await;
            }
        });
        Self {
            told,
            poweroff,
            hold_orders,
            talks,
            go,
            connections,
            task,
        }
    }

    /// Breaks all connections, as the end of an agent does that is started again.
    pub(crate) fn break_off(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            // One that has ended by itself is no error.
            let _ = shutdown(connection, Shutdown::Both);
        }
    }
}

struct Agent {
    told: Arc<Mutex<Told>>,
    poweroff: Arc<Notify>,
    hold_orders: Arc<AtomicBool>,
    talks: Arc<AtomicBool>,
    go: Arc<Notify>,
    processes: watch::Sender<HashMap<String, Process>>,
    /// What the journal begins with, and what was said since.
    lines: Mutex<Vec<String>>,
    /// When the flood began.
    flood: Mutex<Option<Instant>>,
    /// Somebody was killed for lack of memory.
    hogs: Notify,
}

impl Agent {
    /// How many entries the journal has now.
    fn entries(&self) -> u64 {
        let flood = self.flood.lock().unwrap().map_or(0, |begun| {
            let due = u64::try_from(begun.elapsed().as_millis()).unwrap() * FLOOD_RATE / 1000;
            due.min(FLOOD)
        });
        self.lines.lock().unwrap().len() as u64 + flood
    }

    /// The entries after this one, of `tail`.
    fn batch(&self, after: u64, tail: u64) -> JournalBatch {
        let mut block = BatchEncoder::new(1 << 20);
        let lines = self.lines.lock().unwrap();
        for seqnum in (after + 1..=tail).take(usize::try_from(BATCH).unwrap()) {
            let head = EntryHead {
                seqnum,
                realtime_us: 1_700_000_000_000_000 + seqnum,
                ..EntryHead::default()
            };
            let own = lines.get(usize::try_from(seqnum - 1).unwrap());
            let flood = seqnum.saturating_sub(lines.len() as u64);
            let line = own.map_or_else(|| format!("flood {flood}"), Clone::clone);
            let fields = [format!("MESSAGE={line}"), "_COMM=stub".to_owned()];
            let mut entry = block.begin(&head).unwrap();
            for field in &fields {
                entry.inline(field.as_bytes(), u64::try_from(field.len()).unwrap());
            }
            assert_eq!(entry.commit(), Commit::Added);
        }
        let count = block.count();
        JournalBatch {
            seqnum_id: vec![7; 16],
            first_seqnum: if count > 0 { after + 1 } else { 0 },
            last_seqnum: after + u64::from(count),
            tail_seqnum: tail,
            count,
            block: block.finish(),
            ..JournalBatch::default()
        }
    }
}

impl Agent {
    /// Waits until `get` finds something in the process.
    async fn when<T>(
        &self,
        id: &str,
        mut get: impl FnMut(&mut Process) -> Option<T>,
    ) -> ttrpc::Result<T> {
        let mut changes = self.processes.subscribe();
        loop {
            let mut found = None;
            let mut known = false;
            self.processes.send_if_modified(|all| {
                if let Some(process) = all.get_mut(id) {
                    known = true;
                    found = get(process);
                }
                found.is_some()
            });
            match found {
                Some(found) => return Ok(found),
                None if !known => return Err(status::not_found(format!("process {id}"))),
                None => changes.changed().await.unwrap(),
            }
        }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Process)) -> ttrpc::Result<()> {
        let mut known = false;
        self.processes.send_modify(|all| {
            if let Some(process) = all.get_mut(id) {
                known = true;
                change(process);
            }
        });
        if known {
            Ok(())
        } else {
            Err(status::not_found(format!("process {id}")))
        }
    }
}

fn over(process: &Process) -> bool {
    match process.command.as_str() {
        "sleep" | "held" | "mute" | "late" => process.signal.is_some(),
        "cat" | "size" => process.closed || process.signal.is_some(),
        _ => true,
    }
}

#[async_trait]
impl AgentService for Agent {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: CreateSandboxRequest,
    ) -> ttrpc::Result<Empty> {
        self.told.lock().unwrap().sandbox = Some(request);
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.told.lock().unwrap().container = Some(request);
        if self.hold_orders.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(Empty::new())
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        _: StartContainerRequest,
    ) -> ttrpc::Result<Empty> {
        self.told.lock().unwrap().started = true;
        Ok(Empty::new())
    }

    async fn update_interface(
        &self,
        _: &TtrpcContext,
        request: UpdateInterfaceRequest,
    ) -> ttrpc::Result<types::Interface> {
        let interface = request.interface.unwrap_or_default();
        let mut told = self.told.lock().unwrap();
        told.interfaces.push(interface.clone());
        Ok(interface)
    }

    async fn update_routes(
        &self,
        _: &TtrpcContext,
        request: UpdateRoutesRequest,
    ) -> ttrpc::Result<Routes> {
        let routes = request.routes.unwrap_or_default();
        self.told.lock().unwrap().routes = routes.Routes.clone();
        Ok(routes)
    }

    async fn exec_process(
        &self,
        _: &TtrpcContext,
        request: ExecProcessRequest,
    ) -> ttrpc::Result<Empty> {
        let command = request.process.Args[0].clone();
        if command == "flood" {
            self.flood.lock().unwrap().get_or_insert(Instant::now());
        }
        if command == "say" {
            self.lines.lock().unwrap().push(SAID.to_owned());
        }
        let known = [
            "cat", "sleep", "held", "torn", "size", "false", "hog", "flood", "say", "mute", "late",
        ];
        if !known.contains(&command.as_str()) {
            return Err(status::invalid(format!(
                "exec: {command:?}: executable file not found"
            )));
        }
        {
            let mut told = self.told.lock().unwrap();
            told.starting += 1;
            told.most_starting = told.most_starting.max(told.starting);
        }
        if command == "held" {
            self.go.notified().await;
        }
        sleep(Duration::from_millis(5)).await;
        self.told.lock().unwrap().starting -= 1;
        if command == "hog" {
            self.hogs.notify_one();
        }
        let terminal = request.process.Terminal;
        if terminal {
            let size = &request.process.ConsoleSize;
            self.told.lock().unwrap().terminal = Some((size.Height, size.Width));
        }
        let process = Process {
            command: command.clone(),
            terminal,
            ..Process::default()
        };
        let processes = self.processes.clone();
        let run = move || {
            processes.send_modify(|all| {
                all.insert(request.exec_id, process);
            });
        };
        match command.as_str() {
            // Whoever called may be gone by then.
            "late" => drop(tokio::spawn(async move {
                sleep(LATE).await;
                run();
            })),
            _ => run(),
        }
        if ["mute", "late"].contains(&command.as_str()) {
            self.told.lock().unwrap().unanswered += 1;
            std::future::pending::<()>().await;
        }
        Ok(Empty::new())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: SignalProcessRequest,
    ) -> ttrpc::Result<Empty> {
        if request.exec_id.is_empty() {
            self.poweroff.notify_one();
        } else {
            self.change(&request.exec_id, |process| {
                process.signal = Some(request.signal)
            })?;
            self.told.lock().unwrap().signals.push(request.signal);
        }
        Ok(Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: WaitProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let status = self
            .when(&request.exec_id, |process| {
                over(process).then(|| match (process.signal, process.command.as_str()) {
                    (Some(signal), _) => 128 + i32::try_from(signal).unwrap(),
                    (None, "false") => 3,
                    (None, "hog") => 137,
                    (None, _) => 0,
                })
            })
            .await?;
        Ok(WaitProcessResponse {
            status,
            ..Default::default()
        })
    }

    async fn write_stdin(
        &self,
        _: &TtrpcContext,
        request: WriteStreamRequest,
    ) -> ttrpc::Result<WriteStreamResponse> {
        // A small pipe: never all at once.
        let part = &request.data[..request.data.len().min(1000)];
        self.change(&request.exec_id, |process| {
            process.input.extend_from_slice(part)
        })?;
        let len = u32::try_from(part.len()).unwrap();
        Ok(WriteStreamResponse {
            len,
            ..Default::default()
        })
    }

    async fn read_stdout(
        &self,
        _: &TtrpcContext,
        request: ReadStreamRequest,
    ) -> ttrpc::Result<ReadStreamResponse> {
        let most = usize::try_from(request.len).unwrap();
        let is_torn = |process: &mut Process| Some(process.command == "torn");
        if self.when(&request.exec_id, is_torn).await? {
            return Err(status::internal("its pipe broke"));
        }
        let data = self
            .when(&request.exec_id, |process| {
                let count = process.input.len().min(most);
                let data: Vec<u8> = process.input.drain(..count).collect();
                (!data.is_empty() || over(process)).then_some(data)
            })
            .await?;
        Ok(ReadStreamResponse {
            data,
            ..Default::default()
        })
    }

    async fn read_stderr(
        &self,
        _: &TtrpcContext,
        request: ReadStreamRequest,
    ) -> ttrpc::Result<ReadStreamResponse> {
        // A terminal has one output: who asks for another waits for nothing.
        let end = |process: &mut Process| (!process.terminal && over(process)).then_some(());
        self.when(&request.exec_id, end).await?;
        Ok(ReadStreamResponse::default())
    }

    async fn close_stdin(
        &self,
        _: &TtrpcContext,
        request: CloseStdinRequest,
    ) -> ttrpc::Result<Empty> {
        self.change(&request.exec_id, |process| process.closed = true)?;
        Ok(Empty::new())
    }

    async fn get_oom_event(
        &self,
        _: &TtrpcContext,
        _: GetOOMEventRequest,
    ) -> ttrpc::Result<OOMEvent> {
        self.hogs.notified().await;
        Ok(OOMEvent::default())
    }

    async fn online_cpu_mem(
        &self,
        _: &TtrpcContext,
        request: OnlineCPUMemRequest,
    ) -> ttrpc::Result<Empty> {
        let mut told = self.told.lock().unwrap();
        told.online = Some(request.nb_cpus);
        if std::mem::take(&mut told.trips) {
            return Err(seed_protocol::status::internal("tripped over a processor"));
        }
        Ok(Empty::new())
    }

    async fn stats_container(
        &self,
        _: &TtrpcContext,
        _: StatsContainerRequest,
    ) -> ttrpc::Result<StatsContainerResponse> {
        let asked = {
            let mut told = self.told.lock().unwrap();
            told.stats += 1;
            told.stats
        };
        let online = self.told.lock().unwrap().online.is_some();
        if asked > ANSWERED_STATS && !online && !self.talks.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let mut response = StatsContainerResponse::default();
        let cgroup = response.cgroup_stats.mut_or_insert_default();
        let cpu = cgroup.cpu_stats.mut_or_insert_default();
        cpu.cpu_usage.mut_or_insert_default().total_usage = 3_000_000_000;
        let memory = cgroup.memory_stats.mut_or_insert_default();
        memory.usage.mut_or_insert_default().usage = 100 << 20;
        let more = if online { 256 << 20 } else { 0 };
        memory.usage.mut_or_insert_default().limit = (480 << 20) + more;
        memory.stats.insert("inactive_file".into(), 30 << 20);
        response.network_stats.push(NetworkStats {
            name: "eth0".into(),
            rx_bytes: 77,
            ..Default::default()
        });
        Ok(response)
    }

    async fn tty_win_resize(
        &self,
        _: &TtrpcContext,
        request: TtyWinResizeRequest,
    ) -> ttrpc::Result<Empty> {
        self.told.lock().unwrap().resized = Some((request.row, request.column));
        // Who shows the size waits for one, says it and ends. The container itself is no process here.
        let _ = self.change(&request.exec_id, |process| {
            if process.command == "size" {
                process.input = format!("{} {}\n", request.row, request.column).into();
                process.closed = true;
            }
        });
        Ok(Empty::new())
    }
}

#[async_trait]
impl Guest for Agent {
    async fn get_status(
        &self,
        _: &TtrpcContext,
        request: GetStatusRequest,
    ) -> ttrpc::Result<GuestStatus> {
        if request.after_revision == 1 {
            sleep(Duration::from_millis(request.wait_ms.into())).await;
        }
        let reached = |stage: Stage, boottime_us| StageTime {
            stage: stage.into(),
            boottime_us,
            ..StageTime::default()
        };
        Ok(GuestStatus {
            revision: 1,
            stage: Stage::STAGE_RUNNING.into(),
            stages: vec![
                reached(Stage::STAGE_PROVISIONED, 11_000),
                reached(Stage::STAGE_RUNNING, 12_000),
            ],
            system_state: "running".into(),
            ..GuestStatus::default()
        })
    }

    async fn get_identity(
        &self,
        _: &TtrpcContext,
        _: GetIdentityRequest,
    ) -> ttrpc::Result<Identity> {
        Ok(Identity {
            recipient: "age1tpm1qfake".into(),
            ..Identity::default()
        })
    }

    async fn read_journal(
        &self,
        _: &TtrpcContext,
        request: ReadJournalRequest,
    ) -> ttrpc::Result<JournalBatch> {
        let until = Instant::now() + Duration::from_millis(request.wait_ms.into());
        loop {
            let tail = self.entries();
            if request.after.seqnum < tail {
                return Ok(self.batch(request.after.seqnum, tail));
            }
            if Instant::now() >= until {
                return Ok(match tail {
                    0 => JournalBatch::default(),
                    _ => self.batch(tail, tail),
                });
            }
            sleep(LOOK).await;
        }
    }

    async fn open_port(
        &self,
        _: &TtrpcContext,
        request: OpenPortRequest,
    ) -> ttrpc::Result<OpenPortResponse> {
        if request.port == DISCARD {
            return Err(status::failed_precondition("port 9 cannot be reached"));
        }
        let id = {
            let mut told = self.told.lock().unwrap();
            told.ports.0 += 1;
            told.ports.0
        };
        let service = Process {
            command: "cat".into(),
            input: format!("port {}\n", request.port).into(),
            ..Process::default()
        };
        self.processes.send_modify(|all| {
            all.insert(of_port(id), service);
        });
        Ok(OpenPortResponse {
            id,
            ..Default::default()
        })
    }

    async fn read_port(
        &self,
        _: &TtrpcContext,
        request: ReadPortRequest,
    ) -> ttrpc::Result<ReadPortResponse> {
        let (id, most) = (
            of_port(request.id),
            usize::try_from(request.max_bytes).unwrap(),
        );
        let next = self.when(&id, |service| {
            let count = service.input.len().min(most);
            let data: Vec<u8> = service.input.drain(..count).collect();
            let end = data.is_empty() && most > 0 && over(service);
            (!data.is_empty() || most == 0 || end).then_some((data, end))
        });
        let wait = Duration::from_millis(request.wait_ms.into());
        let (data, end) = match timeout(wait, next).await {
            Ok(next) => next?,
            Err(_) => (Vec::new(), false),
        };
        Ok(ReadPortResponse {
            data,
            end,
            ..Default::default()
        })
    }

    async fn write_port(
        &self,
        _: &TtrpcContext,
        request: WritePortRequest,
    ) -> ttrpc::Result<WritePortResponse> {
        // As much as fits, which is not always all.
        let part = &request.data[..request.data.len().min(5000)];
        self.change(&of_port(request.id), |service| {
            service.input.extend_from_slice(part);
            service.closed |= request.end;
        })?;
        let written = u32::try_from(part.len()).unwrap();
        Ok(WritePortResponse {
            written,
            ..Default::default()
        })
    }

    async fn close_port(
        &self,
        _: &TtrpcContext,
        request: ClosePortRequest,
    ) -> ttrpc::Result<ClosePortResponse> {
        self.processes.send_modify(|all| {
            all.remove(&of_port(request.id));
        });
        self.told.lock().unwrap().ports.1 += 1;
        Ok(ClosePortResponse::default())
    }
}

/// The one behind a connection to a port, among the processes.
fn of_port(id: u64) -> String {
    format!("port-{id}")
}
