//! The stand-ins: this test's own binary, started under the name of Cloud Hypervisor or of a daemon.
//!
//! What it cannot show is that the real program takes the command line, and that a guest boots in it.

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    process::exit,
};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
};

/// Options that take a value, and those that stand alone. clap refuses all others.
const VALUES: [&str; 14] = [
    "--api-socket",
    "--event-monitor",
    "--cpus",
    "--memory",
    "--kernel",
    "--cmdline",
    "--serial",
    "--console",
    "--rng",
    "--fs",
    "--vsock",
    "--tpm",
    "--disk",
    "--net",
];
const FLAGS: [&str; 2] = ["--pvpanic", "--no-shutdown"];

/// A program for the other tests; by itself, a test of how it reads its command line.
#[test]
fn program() {
    let Ok(name) = env::var("STAND_IN") else {
        let args = [
            "path=/a,image_type=raw".to_owned(),
            "tag=b,socket=\"/c\"".to_owned(),
        ];
        assert_eq!(value(&args, "path"), Some("/a".into()));
        assert_eq!(value(&args, "socket"), Some("/c".into()));
        assert_eq!(value(&args, "fd"), None);
        return;
    };
    let args: Vec<String> = env::var("STAND_IN_ARGS")
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        if name == "cloud-hypervisor" {
            Monitor::new(&args).run().await;
        } else {
            daemon(&args).await;
        }
    });
    exit(0);
}

/// The value of `key=` in any argument, where commas separate.
fn value(args: &[String], key: &str) -> Option<PathBuf> {
    args.iter().flat_map(|arg| arg.split(',')).find_map(|part| {
        let (name, value) = part.rsplit_once('=')?;
        (name.trim_start_matches('-') == key).then(|| value.trim_matches('"').into())
    })
}

/// A card is known by what it sends: its own address.
fn says_its_address(card: &[String]) {
    let number = value(card, "fd").unwrap();
    let number = number.to_str().unwrap().trim_matches(['[', ']']).parse();
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let tap = pidfd_getfd(own, number.unwrap(), PidfdGetfdFlags::empty()).unwrap();
    let mac = value(card, "mac").unwrap();
    File::from(tap)
        .write_all(mac.to_str().unwrap().as_bytes())
        .unwrap();
}

/// Listens where it is told to, and ends with its first client, as virtiofsd and swtpm do.
async fn daemon(args: &[String]) {
    let control = value(args, "path").or_else(|| value(args, "socket-path"));
    let listener = UnixListener::bind(control.unwrap()).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// An event, as the program writes it.
fn document(source: &str, event: &str, properties: &Value) -> String {
    let document = json!({
        "timestamp": {"secs": 1, "nanos": 2},
        "source": source, "event": event, "properties": properties,
    });
    format!("{}\n\n", serde_json::to_string_pretty(&document).unwrap())
}

struct Monitor {
    events: File,
    api: UnixListener,
    how: String,
    devices: Vec<PathBuf>,
    state: &'static str,
}

impl Monitor {
    fn new(args: &[String]) -> Self {
        let mut options = args.iter().peekable();
        let mut devices = Vec::new();
        let (mut events, mut api) = (None, None);
        while let Some(option) = options.next() {
            if FLAGS.contains(&option.as_str()) {
                continue;
            }
            if !VALUES.contains(&option.as_str()) {
                eprintln!("error: unexpected argument '{option}' found");
                exit(2);
            }
            // As clap does: an option takes all that follows up to the next.
            while let Some(given) = options.next_if(|next| !next.starts_with("--")) {
                let given = [given.clone()];
                match option.as_str() {
                    "--event-monitor" => events = value(&given, "fd"),
                    "--api-socket" => api = value(&given, "path"),
                    "--fs" | "--tpm" => devices.push(value(&given, "socket").unwrap()),
                    "--net" => says_its_address(&given),
                    "--disk" => assert!(given[0].contains("image_type=raw"), "{given:?}"),
                    _ => {}
                }
            }
        }
        let events = PathBuf::from("/proc/self/fd").join(events.unwrap());
        Self {
            events: OpenOptions::new().write(true).open(events).unwrap(),
            api: UnixListener::bind(api.unwrap()).unwrap(),
            how: env::var("STAND_IN_HOW").unwrap(),
            devices,
            state: "Created",
        }
    }

    fn event(&mut self, source: &str, event: &str, properties: &Value) {
        self.tell(&document(source, event, properties));
    }

    /// In one piece: what belongs together has no pause in it, however busy the machine is.
    fn tell(&mut self, documents: &str) {
        self.events.write_all(documents.as_bytes()).unwrap();
    }

    async fn run(mut self) {
        let mut open = Vec::new();
        for socket in &self.devices {
            open.push(UnixStream::connect(socket).await.unwrap());
        }
        let mut sigterm = signal(SignalKind::terminate()).unwrap();
        self.event("vmm", "starting", &Value::Null);
        match self.how.as_str() {
            "no-boot" => {
                eprintln!("Error booting VM: cannot load the kernel");
                exit(1);
            }
            "silent" => {}
            _ => {
                self.event("vm", "booting", &Value::Null);
                self.event("vm", "booted", &Value::Null);
                self.state = "Running";
            }
        }
        match self.how.as_str() {
            "reboot" => {
                self.event("vm", "rebooting", &Value::Null);
                self.event("vm", "rebooted", &Value::Null);
            }
            "panic" => self.event("guest", "panic", &json!({"event": "panic"})),
            _ => {}
        }
        loop {
            tokio::select! {
                client = self.api.accept() => self.serve(client.unwrap().0).await,
                _ = sigterm.recv() => {
                    let all = [("vm", "shutdown"), ("vm", "deleted"), ("vmm", "shutdown")];
                    let all = all.map(|(source, event)| document(source, event, &Value::Null));
                    self.tell(&all.concat());
                    return;
                }
            }
        }
    }

    async fn serve(&mut self, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let (mut request, mut length) = (String::new(), 0);
        stream.read_line(&mut request).await.unwrap();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = self.answer(request.trim_end(), &body);
        let head = format!(
            "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
        );
        let text = answer.map(|answer| answer.to_string()).unwrap_or_default();
        let rest = match text.len() {
            0 => "\r\n".to_owned(),
            length => {
                format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{text}")
            }
        };
        stream.write_all((head + &rest).as_bytes()).await.unwrap();
    }

    /// Statuses as in its OpenAPI document.
    fn answer(&mut self, request: &str, body: &Value) -> (u16, Option<Value>) {
        let wrong = || (405, Some(json!(["The VM is not in the state for it"])));
        match (request, self.state) {
            ("GET /api/v1/vmm.ping HTTP/1.1", _) => {
                let pong = json!({"build_version": "v52.0", "version": "52.0.0", "pid": 1, "features": []});
                (200, Some(pong))
            }
            ("PUT /api/v1/vm.pause HTTP/1.1", "Running") => {
                self.state = "Paused";
                self.event("vm", "pausing", &Value::Null);
                self.event("vm", "paused", &Value::Null);
                (204, None)
            }
            ("PUT /api/v1/vm.resume HTTP/1.1", "Paused") => {
                self.state = "Running";
                self.event("vm", "resumed", &Value::Null);
                (204, None)
            }
            ("PUT /api/v1/vm.power-button HTTP/1.1", "Running") => {
                self.state = "Created";
                self.event("vm", "shutdown", &Value::Null);
                (204, None)
            }
            ("PUT /api/v1/vm.resize HTTP/1.1", "Running" | "Paused") => {
                assert!(body["desired_ram"].as_u64().is_some(), "{body}");
                match body["desired_vcpus"].as_u64().unwrap() {
                    0..=2 => (204, None),
                    more => {
                        let said = format!("{more} vCPUs are too many");
                        (500, Some(json!(["The VM could not be resized", said])))
                    }
                }
            }
            (
                "PUT /api/v1/vm.pause HTTP/1.1"
                | "PUT /api/v1/vm.resume HTTP/1.1"
                | "PUT /api/v1/vm.power-button HTTP/1.1",
                _,
            ) => wrong(),
            _ => (404, None),
        }
    }
}
