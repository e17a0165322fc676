//! Golden runs of the `seed` command line: each file in `tests/cli/` is a session as a terminal would show
//! it, `$ seed ...` and below what it printed (stderr after stdout) and `? STATUS`. Every error text has one.
//! `UPDATE_SNAPSHOTS=1` writes what is printed now.
//!
//! What runs behind the command line is played here where a session needs it: a Task server, a management
//! server, a log on disk. No VM starts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{StateRequest, StateResponse, Status},
    shim_async::{Task, create_task},
    ttrpc::{self, asynchronous::TtrpcContext},
};
use seed_protocol::{
    journal::{BatchEncoder, EntryHead},
    seed::{
        management::{GuestUsage, InstanceStatus, Keys, ProcessUsage, StageTime, State, Usage},
        v1::{
            ControlUnitRequest, ControlUnitResponse, ListUnitsRequest, ListUnitsResponse, Problem,
            ShowUnitRequest, Stage, Unit, UnitDetails, Volume, control_unit_request::Action,
        },
    },
};
use seed_shim::{
    logs::{
        segment::{Frame, Gap, GapReason, Mark},
        store::{Limits, Store},
    },
    management::{self, Backend, BackendError},
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};

/// A run and a state folder, and a configuration that names them.
struct Lab {
    dir: tempfile::TempDir,
    servers: Vec<Box<dyn std::any::Any>>,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("sc")
            .tempdir_in("/tmp")
            .unwrap();
        let lab = Self {
            dir,
            servers: Vec::new(),
        };
        let config = "run_dir = '[LAB]/r'\nstate_dir = '[LAB]/s'\n[programs]\n\
            qemu = '[LAB]/bin/qemu'\nvirtiofsd = '[LAB]/bin/virtiofsd'\nswtpm = '[LAB]/bin/swtpm'\n\
            vsock = '[LAB]/bin/vsock'\n";
        fs::write(lab.path("shim.toml"), lab.fill(config)).unwrap();
        lab
    }

    /// Makes stand-ins for the programs that instances need.
    fn programs(&self, names: &[&str]) {
        fs::create_dir_all(self.path("bin")).unwrap();
        for name in names {
            seed_script::write(&self.path("bin").join(name), "#!/bin/sh\n");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fill(&self, text: &str) -> String {
        text.replace("[LAB]", &self.dir.path().display().to_string())
    }

    fn instance(&self, name: &str) -> PathBuf {
        let dir = self.path("r/default").join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// The record of an instance whose shim listens, or does not, on `socket`.
    fn record(&self, name: &str, socket: &Path) {
        let record = serde_json::json!({
            "version": 1, "root": "/guest", "toplevel": "/seed-system", "size": null, "accel": null,
            "network": null, "kernel_params": [], "env": ["A=1"], "volumes": [], "config": null,
            "shim": "/nonexistent/containerd-shim-seed-v2",
            "address": { "socket": socket, "version": 2 },
        });
        fs::write(
            self.instance(name).join("instance.json"),
            record.to_string(),
        )
        .unwrap();
    }

    /// An instance whose Task server says this.
    async fn task(&mut self, name: &str, status: Status) {
        let socket = self.path(&format!("{name}.sock"));
        let v3 = create_task(Arc::new(FakeTask(status)));
        // The command line speaks v2, as it was told; the generated service is named v3.
        let v2 = v3
            .into_values()
            .map(|service| ("containerd.task.v2.Task".to_owned(), service));
        let mut server = ttrpc::asynchronous::Server::new()
            .bind(&format!("unix://{}", socket.display()))
            .unwrap()
            .register_service(v2.collect());
        server.start().await.unwrap();
        self.servers.push(Box::new(server));
        self.record(name, &socket);
    }

    async fn management(&mut self, name: &str, status: InstanceStatus) {
        let socket = self.instance(name).join("management.sock");
        let server = management::serve(&socket, None, Arc::new(Fake(status)))
            .await
            .unwrap();
        self.servers.push(Box::new(server));
    }

    /// Replays the session in `tests/cli/<name>.txt` and compares.
    async fn check(&self, name: &str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/cli/{name}.txt"));
        let golden = fs::read_to_string(&file).unwrap();
        let mut printed = String::new();
        for line in golden.lines().filter(|line| line.starts_with("$ seed")) {
            let words = self.fill(line.trim_start_matches("$ seed"));
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            let (config, path) = (self.path("shim.toml"), self.path("bin"));
            // The servers live in this runtime, so the wait must not block it.
            let output = tokio::task::spawn_blocking(move || {
                Command::new(env!("CARGO_BIN_EXE_seed"))
                    .args(words)
                    .env("SEED_CONFIG", config)
                    .env("PATH", path)
                    .env("TZ", "UTC")
                    .stdin(Stdio::null())
                    .output()
                    .unwrap()
            });
            let output = output.await.unwrap();
            printed += &format!("{line}\n");
            for stream in [&output.stdout, &output.stderr] {
                printed += &String::from_utf8_lossy(stream);
            }
            printed += &format!("? {}\n", output.status.code().unwrap());
        }
        let printed = printed.replace(&self.dir.path().display().to_string(), "[LAB]");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            fs::write(&file, &printed).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap();
        assert!(
            printed == golden,
            "tests/cli/{name}.txt differs; now it is:\n{printed}"
        );
    }
}

struct FakeTask(Status);

#[async_trait]
impl Task for FakeTask {
    async fn state(&self, _: &TtrpcContext, _: StateRequest) -> ttrpc::Result<StateResponse> {
        Ok(StateResponse {
            status: self.0.into(),
            ..Default::default()
        })
    }
}

struct Fake(InstanceStatus);

#[async_trait]
impl Backend for Fake {
    async fn status(&self, _: u64, _: Duration) -> InstanceStatus {
        self.0.clone()
    }
    async fn usage(&self) -> Usage {
        Usage {
            guest: Some(GuestUsage {
                cpu_ns: 12_340_000_000,
                memory_bytes: 100 << 20,
                inactive_file_bytes: 30 << 20,
                memory_total_bytes: 480 << 20,
                tasks: 60,
                ..Default::default()
            })
            .into(),
            processes: vec![ProcessUsage {
                name: "qemu".into(),
                pid: 17,
                cpu_ns: 20_000_000_000,
                memory_bytes: 300 << 20,
                guest_memory_bytes: 140 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }
    }
    async fn keys(&self) -> Result<Keys, BackendError> {
        match self.0.state.enum_value_or_default() {
            State::STATE_RUNNING => Ok(Keys {
                recipient: "age1tpm1qexample".into(),
                tag_recipient: "age1tag1qexample".into(),
                ..Default::default()
            }),
            _ => Err(BackendError::NotReady(
                "the guest has not said hello yet".into(),
            )),
        }
    }
    async fn restart(&self) -> Result<String, BackendError> {
        Err(BackendError::NotReady("no".into()))
    }
    async fn list_units(
        &self,
        wanted: ListUnitsRequest,
    ) -> Result<ListUnitsResponse, BackendError> {
        let mut units = vec![unit("app.service", "failed"), unit("odd.mount", "active")];
        units.retain(|unit| wanted.patterns.is_empty() || wanted.patterns.contains(&unit.name));
        Ok(ListUnitsResponse {
            units,
            ..Default::default()
        })
    }
    async fn show_unit(&self, request: ShowUnitRequest) -> Result<UnitDetails, BackendError> {
        match request.name.as_str() {
            "app" => Ok(UnitDetails {
                unit: Some(unit("app.service", "failed")).into(),
                fragment_path: "/etc/systemd/system/app.service".into(),
                file_state: "enabled".into(),
                since_realtime_us: 1_763_766_062_000_000,
                result: "exit-code".into(),
                main_pid: 17,
                exec_main_code: 1,
                exec_main_status: 7,
                restarts: 3,
                memory_bytes: Some(3 << 20),
                cpu_ns: Some(1_230_000_000),
                ..Default::default()
            }),
            "odd.mount" => Ok(UnitDetails {
                unit: Some(unit("odd.mount", "active")).into(),
                ..Default::default()
            }),
            name => Err(BackendError::NotFound(format!(
                "unit {name}.service is not known to systemd"
            ))),
        }
    }
    async fn control_unit(
        &self,
        request: ControlUnitRequest,
    ) -> Result<ControlUnitResponse, BackendError> {
        let result = match (
            request.name.as_str(),
            request.action.enum_value_or_default(),
        ) {
            ("app", Action::ACTION_START) => "failed",
            ("app", Action::ACTION_RESET_FAILED) => "done",
            _ => "skipped",
        };
        Ok(ControlUnitResponse {
            result: result.into(),
            ..Default::default()
        })
    }
}

fn unit(name: &str, active_state: &str) -> Unit {
    Unit {
        name: name.into(),
        description: "What \u{1b}[31mit is".into(),
        load_state: "loaded".into(),
        active_state: active_state.into(),
        sub_state: active_state.into(),
        ..Default::default()
    }
}

fn status(name: &str, state: State) -> InstanceStatus {
    let stage = |stage: Stage, since_create_ms| StageTime {
        stage: stage.into(),
        since_create_ms,
        ..Default::default()
    };
    InstanceStatus {
        revision: 1,
        namespace: "default".into(),
        id: name.into(),
        state: state.into(),
        stage: Stage::STAGE_RUNNING.into(),
        stages: vec![
            stage(Stage::STAGE_VMM_STARTED, 310),
            stage(Stage::STAGE_RUNNING, 14_400),
        ],
        system_state: "running".into(),
        volumes: vec![Volume {
            name: "data".into(),
            mount_point: "/seed/storage/data".into(),
            filesystem: "ext4".into(),
            created: true,
            size_bytes: 64 << 20,
            ..Default::default()
        }],
        problems: vec![Problem {
            subject: "volume more".into(),
            message: "user \u{1b}[31mapp does not exist".into(),
            ..Default::default()
        }],
        accel: "tcg".into(),
        vcpus: 1,
        memory_mib: 512,
        log_entries: 12,
        ..Default::default()
    }
}

#[tokio::test]
async fn words_that_are_not_understood() {
    Lab::new().check("usage").await;
}

#[tokio::test]
async fn help_texts() {
    Lab::new().check("help").await;
}

#[tokio::test]
async fn instances_that_are_not_there() {
    Lab::new().check("absent").await;
}

#[tokio::test]
async fn input_that_is_refused_before_anything_is_made() {
    let lab = Lab::new();
    for root in ["empty", "broken", "good"] {
        fs::create_dir_all(lab.path(root).join("seed-system")).unwrap();
    }
    fs::write(lab.path("broken/seed-system/boot.json"), "{").unwrap();
    let boot = r#"{"org.nixos.bootspec.v1": {"system": "x86_64-linux", "label": "demo",
        "toplevel": "/seed-system", "init": "/seed-system/init", "kernel": "/seed-system/kernel",
        "kernelParams": [], "initrd": "/seed-system/initrd"}}"#;
    fs::write(lab.path("good/seed-system/boot.json"), boot).unwrap();
    fs::write(lab.path("file"), "").unwrap();
    lab.programs(&["qemu", "virtiofsd", "vsock"]);
    lab.check("refused").await;
    assert!(
        !lab.path("r").exists() && !lab.path("s").exists(),
        "something was left"
    );
}

#[tokio::test]
async fn names_that_are_taken() {
    if !rustix::process::geteuid().is_root() {
        let text =
            "SKIPPED names_that_are_taken: 'seed run' needs root, or it is refused for that\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    let mut lab = Lab::new();
    let boot = r#"{"org.nixos.bootspec.v1": {"system": "x86_64-linux", "label": "demo",
        "toplevel": "/seed-system", "init": "/seed-system/init", "kernel": "/seed-system/kernel",
        "kernelParams": [], "initrd": "/seed-system/initrd"}}"#;
    fs::create_dir_all(lab.path("root/seed-system")).unwrap();
    fs::write(lab.path("root/seed-system/boot.json"), boot).unwrap();
    lab.programs(&["qemu", "virtiofsd", "swtpm", "vsock"]);
    lab.task("up", Status::RUNNING).await;
    lab.task("over", Status::STOPPED).await;
    lab.record("left", Path::new("/nonexistent/socket"));
    lab.management("foreign", status("foreign", State::STATE_RUNNING))
        .await;
    lab.check("taken").await;
}

#[tokio::test]
async fn a_scraper_gets_the_figures_and_nothing_else() {
    let mut lab = Lab::new();
    lab.management("demo", status("demo", State::STATE_RUNNING))
        .await;
    let mut seed = tokio::process::Command::new(env!("CARGO_BIN_EXE_seed"))
        .args(["metrics", "--listen", "127.0.0.1:0"])
        .env("SEED_CONFIG", lab.path("shim.toml"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = seed.stdout.take().unwrap();
    tokio::io::BufReader::new(stdout)
        .read_line(&mut line)
        .await
        .unwrap();
    let address = line.trim().trim_start_matches("http://");
    let address = address.trim_end_matches("/metrics").to_owned();
    let ask = async |request: &str| {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    assert!(body.contains("seed_up{namespace=\"default\",instance=\"demo\"} 1\n"));
    assert!(body.contains("seed_process_cpu_seconds_total{namespace=\"default\",instance=\"demo\",process=\"qemu\"} 20.000\n"));
    let answer = ask("GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let answer = ask("DELETE /metrics HTTP/1.1\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn what_a_running_instance_tells() {
    let mut lab = Lab::new();
    lab.management("demo", status("demo", State::STATE_RUNNING))
        .await;
    lab.record("demo", Path::new("/nonexistent/socket"));
    lab.check("running").await;
    lab.check("units").await;
    lab.management("early", status("early", State::STATE_STARTING))
        .await;
    lab.record("early", Path::new("/nonexistent/socket"));
    lab.record("left", Path::new("/nonexistent/socket"));
    lab.check("several").await;
}

#[tokio::test]
async fn a_log_outlives_its_instance() {
    let lab = Lab::new();
    let dir = lab.path("s/logs/default/demo");
    let mut store = Store::open(&dir, Limits::default()).unwrap();
    let mut encoder = BatchEncoder::new(1 << 20);
    for (seqnum, unit, priority, message) in [
        (4, "app.service", "6", "started"),
        (5, "db.service", "3", "disk\x1b[2J full\nsecond line"),
        (9, "app.service", "6", "going on"),
    ] {
        let head = EntryHead {
            seqnum,
            realtime_us: 1_763_766_062_000_000 + seqnum,
            monotonic_us: seqnum,
            boot_id: [1; 16],
            xor_hash: seqnum,
        };
        let fields = BTreeMap::from([
            ("_SYSTEMD_UNIT", unit),
            ("SYSLOG_IDENTIFIER", &unit[..unit.len() - 8]),
            ("_PID", "17"),
            ("_HOSTNAME", "demo"),
            ("PRIORITY", priority),
            ("MESSAGE", message),
        ]);
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        encoder
            .push(&head, fields.iter().map(|field| (None, field.as_bytes())))
            .unwrap();
    }
    let gap = Gap {
        first: 1,
        last: 3,
        reason: GapReason::Vacuumed,
    };
    let frame = Frame {
        seqnum_id: [2; 16],
        first: 4,
        last: 9,
        count: 3,
        reset: false,
        gap: Some(gap),
        received_unix_us: 0,
        mark: Mark::default(),
        block: encoder.finish(),
    };
    store.append(&frame).unwrap();
    let web = dir.join("namespaces/web");
    let mut of_web = Store::open(&web, Limits::default()).unwrap();
    of_web.append(&line(1, 1, "in a namespace")).unwrap();
    drop(of_web);
    lab.check("logs").await;
    drop(store);
    lab.check("rm").await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn what_has_ended_is_listed_and_pruned_by_its_age() {
    let lab = Lab::new();
    let now = std::time::SystemTime::now();
    for (name, days) in [("test_new_app", 3), ("test_old_app", 40)] {
        let id = format!("{}\n", "0".repeat(32));
        for (kind, file, text) in [
            ("tpm", "machine-id", id.as_str()),
            ("tpm", "tpm2-00.permall", &"-".repeat(2000)),
            ("logs", "00000001.seg", &"-".repeat(2000)),
        ] {
            let path = lab
                .path("s")
                .join(kind)
                .join("k8s.io")
                .join(name)
                .join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let file = fs::File::options().write(true).open(path).unwrap();
            let then = now - Duration::from_secs(days * 24 * 3600);
            file.set_modified(then).unwrap();
        }
    }
    // Nobody has made this, and it is no folder.
    let odd = lab.path("s/logs/k8s.io/test_bad_app");
    fs::write(&odd, "").unwrap();
    let file = fs::File::options().write(true).open(odd).unwrap();
    file.set_modified(now - Duration::from_secs(100 * 24 * 3600))
        .unwrap();
    lab.check("kept").await;
    for (left, is_there) in [
        ("logs/k8s.io/test_new_app", true),
        ("tpm/k8s.io/test_new_app", true),
        ("logs/k8s.io/test_old_app", false),
        ("tpm/k8s.io/test_old_app", false),
    ] {
        assert_eq!(lab.path("s").join(left).exists(), is_there, "{left}");
    }
}

#[tokio::test]
async fn a_status_is_watched_until_the_instance_is_removed() {
    let mut lab = Lab::new();
    lab.management("demo", status("demo", State::STATE_RUNNING))
        .await;
    let mut seed = Command::new(env!("CARGO_BIN_EXE_seed"))
        .args(["status", "demo", "-w", "0", "--json"])
        .env("SEED_CONFIG", lab.path("shim.toml"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = seed.stdout.take().unwrap();
    let lines = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(output).lines();
        let seen: Vec<String> = lines.by_ref().take(3).map(Result::unwrap).collect();
        (seen, lines)
    });
    let (seen, mut lines) = lines.await.unwrap();
    for line in seen {
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["state"], "running");
    }
    fs::remove_dir_all(lab.instance("demo")).unwrap();
    let ended = tokio::task::spawn_blocking(move || {
        assert!(lines.all(|line| line.is_ok()));
        seed.wait().unwrap()
    });
    assert!(ended.await.unwrap().success());
}

/// One entry of this boot, alone in its frame.
fn line(boot: u8, seqnum: u64, message: &str) -> Frame {
    let mut encoder = BatchEncoder::new(1 << 20);
    let head = EntryHead {
        seqnum,
        realtime_us: 1_763_766_062_000_000 + seqnum,
        monotonic_us: seqnum,
        boot_id: [boot; 16],
        xor_hash: seqnum,
    };
    let message = format!("MESSAGE={message}");
    let fields = [message.as_str(), "_COMM=app", "_HOSTNAME=demo"];
    encoder
        .push(&head, fields.map(|field| (None, field.as_bytes())))
        .unwrap();
    Frame {
        seqnum_id: [2; 16],
        first: seqnum,
        last: seqnum,
        count: 1,
        reset: false,
        gap: None,
        received_unix_us: 0,
        mark: Mark::from(&head),
        block: encoder.finish(),
    }
}

#[test]
fn a_log_is_followed_through_a_restart_and_through_a_removal() {
    let lab = Lab::new();
    let dir = lab.path("s/logs/default/demo");
    let mut store = Store::open(&dir, Limits::default()).unwrap();
    store.append(&line(1, 1, "one")).unwrap();
    let mut seed = Command::new(env!("CARGO_BIN_EXE_seed"))
        .args(["logs", "demo", "-f"])
        .env("SEED_CONFIG", lab.path("shim.toml"))
        .env("TZ", "UTC")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(seed.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let at = "Nov 21 23:01:02 demo app: ";
    assert_eq!(next(), format!("{at}one"));
    // What comes now is of another boot: the instance was started again.
    store.append(&line(2, 2, "two")).unwrap();
    let boot = "02".repeat(16);
    assert_eq!(next(), format!("-- demo was started again: boot {boot} --"));
    assert_eq!(next(), format!("{at}two"));
    // `seed rm` and `seed run` of the same name.
    drop(store);
    fs::remove_dir_all(&dir).unwrap();
    let mut store = Store::open(&dir, Limits::default()).unwrap();
    store.append(&line(3, 1, "three")).unwrap();
    assert_eq!(next(), "-- older entries were deleted on the host --");
    let boot = "03".repeat(16);
    assert_eq!(next(), format!("-- demo was started again: boot {boot} --"));
    assert_eq!(next(), format!("{at}three"));
    seed.kill().unwrap();
    seed.wait().unwrap();
}
