//! A virtual machine without a machine, as programs: started under the names of QEMU and its daemons it takes
//! their command lines, makes their sockets, and in place of QEMU answers QMP and is a guest with a fake agent.
//! So a shim under a real containerd has an instance in a tenth of a second.
//!
//! What it cannot show: that the real programs take these command lines. The cases that boot a guest do.
//!
//! Variables make it misbehave: `STUB_DIE` names the program that ends at once, `STUB_HOLD` the step that never
//! comes (`hello`, `orders`, `poweroff`). With `STUB_RECORD` it writes what the agent was told into that folder, as
//! `<container>.txt`, and the file `hold` in it names such a step as well, as long as it is there.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a stub ends at the first surprise")]
#![allow(
    clippy::print_stdout,
    reason = "standard output is the guest's console"
)]

#[path = "../../host-shim/tests/stub/agent.rs"]
#[allow(dead_code, reason = "the shim's own tests use more of it")]
mod agent;

use std::{env, fs, path::PathBuf, process::ExitCode, sync::atomic::Ordering, time::Duration};

use agent::FakeAgent;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use seed_protocol::{
    beacon,
    seed::v1::{Beacon, Stage},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    time::sleep,
};

/// What the guest's journal says.
const LINES: [&str; 2] = ["stub guest is up", "stub guest has nothing to do"];

fn main() -> ExitCode {
    let mut args = env::args();
    let program = args.next().unwrap_or_default();
    let args: Vec<String> = args.collect();
    if env::var("STUB_DIE").is_ok_and(|name| program.ends_with(&name)) {
        eprintln!("stub was told to die");
        return ExitCode::from(3);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if program.contains("qemu") {
            qemu(&args).await;
        } else {
            daemon(&args).await;
        }
    });
    ExitCode::SUCCESS
}

/// Values of `key=` in comma-separated words, as paths.
fn paths(args: &[String], key: &str) -> Vec<PathBuf> {
    args.iter()
        .flat_map(|arg| arg.split(','))
        .filter_map(|part| {
            let (name, value) = part.rsplit_once('=')?;
            (name.trim_start_matches('-') == key).then(|| PathBuf::from(value))
        })
        .collect()
}

/// A socket that was open under this number when the program started.
fn inherited(number: &str) -> UnixStream {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let number = number.parse().unwrap();
    let socket = pidfd_getfd(own, number, PidfdGetfdFlags::empty()).unwrap();
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).unwrap();
    UnixStream::from_std(socket).unwrap()
}

/// Listens where it is told to, or answers where it is connected, and ends with its first client, as the real ones do.
async fn daemon(args: &[String]) {
    let mut stream = if let Some(number) = paths(args, "clientfd").first() {
        // A TPM that has run has state: without any the shim takes the folder away.
        let state = paths(args, "dir").remove(0);
        fs::write(state.join("tpm2-00.permall"), "state").unwrap();
        let mut stream = inherited(number.to_str().unwrap());
        stream.read_exact(&mut [0; 4]).await.unwrap();
        stream.write_all(&[0; 8]).await.unwrap();
        stream
    } else {
        // The vsock device names none: it has a place for it.
        let named = paths(args, "socket-path").into_iter().next();
        let socket = named.unwrap_or_else(|| "vhost".into());
        let listener = UnixListener::bind(socket).unwrap();
        listener.accept().await.unwrap().0
    };
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn qemu(args: &[String]) {
    println!("Linux version 6.12.0-stub");
    let monitor = args
        .iter()
        .find_map(|arg| arg.strip_prefix("socket,id=monitor,fd="))
        .expect("a monitor on the command line");
    let folder = env::current_dir().unwrap().join("vsock");
    let agent = FakeAgent::serve_with(&folder.join("sock"), &LINES);
    agent.talks.store(true, Ordering::Relaxed);
    agent.hold_orders.store(held("orders"), Ordering::Relaxed);
    let (read, mut write) = inherited(monitor).into_split();
    write.write_all(b"{\"QMP\": {}}\n").await.unwrap();
    let mut lines = BufReader::new(read).lines();
    let mut hello = tokio::time::interval(Duration::from_millis(20));
    let mut said = false;
    let mut machine = Machine::of(args);
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Ok(Some(line)) = line else { return };
                write.write_all(machine.answer(&line).as_bytes()).await.unwrap();
                if line.contains("\"quit\"") {
                    return;
                }
            }
            () = agent.poweroff.notified(), if !held("poweroff") => {
                let event = r#"{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}"#;
                write.write_all(format!("{event}\n").as_bytes()).await.unwrap();
                return;
            }
            _ = hello.tick() => if !said && !held("hello") {
                say_hello(&folder).await;
                said = record(&agent);
            },
        }
    }
}

/// Whether this step shall not come.
fn held(step: &str) -> bool {
    let by_file =
        || fs::read_to_string(env::var_os("STUB_RECORD")?.to_str()?.to_owned() + "/hold").ok();
    let hold = env::var("STUB_HOLD").ok().or_else(by_file);
    hold.is_some_and(|hold| hold == step)
}

/// What the monitor says of the machine's size.
struct Machine {
    /// Processors: how many there are, and slots for how many.
    processors: (usize, usize),
    memory_bytes: u64,
}

impl Machine {
    /// As the command line has it: `-smp N,sockets=M,...` and `-m NM,...`.
    fn of(args: &[String]) -> Self {
        let after = |flag: &str| {
            let at = args.iter().position(|arg| arg == flag).unwrap();
            args[at + 1].as_str()
        };
        let number = |text: &str| text.trim_end_matches('M').parse::<u64>().unwrap();
        let (smp, memory) = (after("-smp"), after("-m"));
        let there = smp.split(',').next().unwrap().parse().unwrap();
        let room = smp
            .split(',')
            .find_map(|part| part.strip_prefix("sockets="));
        Self {
            processors: (there, room.map_or(there, |room| room.parse().unwrap())),
            memory_bytes: number(memory.split(',').next().unwrap()) << 20,
        }
    }

    fn answer(&mut self, line: &str) -> String {
        let asked: Value = serde_json::from_str(line).unwrap();
        let is_processor = || asked["arguments"]["driver"] == "cpu";
        let (said, event) = match asked["execute"].as_str().unwrap() {
            "stop" => (json!({}), Some("STOP")),
            "cont" => (json!({}), Some("RESUME")),
            "query-hotpluggable-cpus" => (self.slots(), None),
            "query-memory-size-summary" => (json!({"base-memory": self.memory_bytes}), None),
            "query-memory-devices" => (json!([]), None),
            command => {
                self.processors.0 += usize::from(command == "device_add" && is_processor());
                (json!({}), None)
            }
        };
        let mut text = format!("{}\n", json!({"return": said, "id": asked["id"]}));
        if let Some(event) = event {
            text.push_str(&format!("{}\n", json!({"event": event})));
        }
        text
    }

    fn slots(&self) -> Value {
        let (there, room) = self.processors;
        let slot = |number| {
            let mut slot = json!({"type": "cpu", "props": {"socket-id": number}});
            if number < there {
                slot["qom-path"] = json!("/machine");
            }
            slot
        };
        (0..room).map(slot).collect()
    }
}

/// The shim hears it once it waits for it; before and after, it does no harm.
async fn say_hello(folder: &std::path::Path) {
    let hello = Beacon {
        version: 1,
        stage: Stage::STAGE_HELLO.into(),
        boot_id: "0123456789abcdef0123456789abcdef".into(),
        boottime_us: 10_000,
        ..Beacon::default()
    };
    if let Ok(mut stream) = UnixStream::connect(folder.join("sock_1030")).await {
        let _ = stream.write_all(&beacon::encode(&hello).unwrap()).await;
        sleep(Duration::from_millis(1)).await;
    }
}

/// Whether the agent has its orders; they are written down where that is wanted.
fn record(agent: &FakeAgent) -> bool {
    let told = agent.told.lock().unwrap();
    let (true, Some(sandbox), Some(container)) = (told.started, &told.sandbox, &told.container)
    else {
        return false;
    };
    if let Some(folder) = env::var_os("STUB_RECORD").map(PathBuf::from) {
        let mut text = format!("{sandbox}\n{container}\n");
        for interface in &told.interfaces {
            text.push_str(&format!("interface {interface}\n"));
        }
        for route in &told.routes {
            text.push_str(&format!("route {route}\n"));
        }
        let part = folder.join(format!("{}.part", container.container_id));
        fs::write(&part, text).unwrap();
        fs::rename(&part, part.with_extension("txt")).unwrap();
    }
    true
}
