//! The seed shell's figures: commands end to end beside OpenSSH's server in the same run, two hundred that follow a
//! log, and the dashboard's redraw. Prints JSON, one row a figure; `cargo xtask bench shell` shows them. Needs root
//! (for the other server), `sshd` and `ssh`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measuring program: what cannot go on ends it, and what it prints is its result"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use common::{Host, public, until};
use seed_shell::{
    ssh::channel::Size,
    tui::{
        model::{Instance, Model},
        view::Screen,
    },
};
use serde_json::{Value, json};

/// Who follow one log at once, what each of them must get, and in batches of how many.
const FOLLOWERS: usize = 200;
const LINES: usize = 2000;
const BATCH: usize = 20;

/// Between two batches.
const PAUSE: Duration = Duration::from_millis(20);

/// Drawings of the dashboard.
const DRAWINGS: usize = 300;

fn main() {
    let args: Vec<String> = env::args().collect();
    let runs = args.iter().position(|arg| arg == "--runs");
    let runs = runs
        .and_then(|at| args.get(at + 1)?.parse().ok())
        .unwrap_or(40);
    let mut rows = commands(runs);
    rows.extend(followers());
    rows.extend(redraws());
    println!("{}", Value::Array(rows));
}

fn row(name: &str, unit: &str, ours: f64, peer: Option<f64>, target: f64) -> Value {
    json!({ "name": name, "unit": unit, "ours": ours, "peer": peer, "target": target })
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// `keys` and `logs` in turn with `true` on the other server.
fn commands(runs: usize) -> Vec<Value> {
    let mut host = Host::start();
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["web"]);
    host.run(&repo, "web");
    let mut log = host.log(&repo, "web");
    for batch in 0..50 {
        log.add((0..100).map(|n| format!("request {batch}.{n} took 12 ms, status 200")));
    }
    let other = OpenSsh::start(&host, &key);
    let time = |port: u16, line: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", &format!("Port={port}")])
            .args(host.options(&key))
            .args(["127.0.0.1", line])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let begun = Instant::now();
        let status = ssh.status().unwrap();
        assert!(status.success(), "{line}: {status}");
        milliseconds(begun)
    };
    let (mut keys, mut logs, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..runs + 3 {
        let round = (
            time(host.port, "keys web"),
            time(other.port, "true"),
            time(host.port, "logs web --lines 500"),
        );
        // The first ones warm up.
        if run >= 3 {
            keys.push(round.0);
            theirs.push(round.1);
            logs.push(round.2);
        }
    }
    let theirs = median(theirs);
    vec![
        row("ssh host keys web", "ms", median(keys), Some(theirs), 1.3),
        row(
            "ssh host logs --lines 500",
            "ms",
            median(logs),
            Some(theirs),
            1.5,
        ),
    ]
}

/// OpenSSH's server with the same client key.
struct OpenSsh {
    child: Child,
    port: u16,
}

impl OpenSsh {
    fn start(host: &Host, key: &Path) -> Self {
        let server_key = host.key("sshd_key", &["ed25519"]);
        let authorized = host.path("authorized");
        fs::write(&authorized, public(key)).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let config = host.path("sshd_config");
        // SHLVL: bash, when sshd starts it for a command, reads ~/.bashrc at the first level of shells alone. What a
        // machine's owner has in there is no part of the server.
        let text = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nSetEnv SHLVL=5\n\
             PidFile none\nPermitRootLogin prohibit-password\nMaxStartups 100\n",
            server_key.display(),
            authorized.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(&config)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until("sshd listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { child, port }
    }
}

impl Drop for OpenSsh {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two hundred sessions on one log, which grows all the time.
fn followers() -> Vec<Value> {
    let host = Host::start();
    let key = host.key("me", &["ed25519"]);
    let repo = host.plant("app", &public(&key), &["web"]);
    let mut log = host.log(&repo, "web");
    log.add(["first"]);
    host.ssh(&key, "help").good();
    let (told, first) = mpsc::channel();
    let clients: Vec<_> = (0..FOLLOWERS)
        .map(|_| {
            let mut ssh = host.client(&key);
            ssh.args(["127.0.0.1", "logs web -f --lines 1"])
                .stderr(Stdio::null());
            let mut child = ssh.spawn().unwrap();
            let stdout = child.stdout.take().unwrap();
            let told = told.clone();
            let reader = thread::spawn(move || {
                let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
                told.send(lines.next().is_some()).unwrap();
                // In order and without a gap.
                (1..=LINES)
                    .zip(lines)
                    .take_while(|(n, line)| line.ends_with(&format!("line {n}")))
                    .count()
            });
            // As fast as a limit on half-open connections lets them.
            thread::sleep(Duration::from_millis(10));
            (child, reader)
        })
        .collect();
    for _ in 0..FOLLOWERS {
        assert!(
            first.recv_timeout(common::LIMIT).unwrap(),
            "a session did not begin"
        );
    }
    let begun = Instant::now();
    for batch in 0..LINES / BATCH {
        log.add((1..=BATCH).map(|n| format!("line {}", batch * BATCH + n)));
        thread::sleep(PAUSE);
    }
    let mut lost = 0;
    let mut readers = Vec::new();
    let mut children = Vec::new();
    for (child, reader) in clients {
        children.push(child);
        readers.push(reader);
    }
    let late = Instant::now();
    for (reader, child) in readers.into_iter().zip(&mut children) {
        while !reader.is_finished() && late.elapsed() < common::LIMIT {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = child.kill();
        lost += LINES - reader.join().unwrap();
    }
    let took = begun.elapsed().as_secs_f64();
    let memory = memory(host.pid());
    for mut child in children {
        let _ = child.wait();
    }
    vec![
        row(
            "200 sessions follow: memory at most",
            "MiB",
            memory,
            None,
            200.0,
        ),
        row(
            "200 sessions follow: lines lost",
            "count",
            lost as f64,
            None,
            0.0,
        ),
        row(
            "200 sessions follow: 2000 lines to all",
            "s",
            took,
            None,
            f64::INFINITY,
        ),
    ]
}

/// The most that was resident, in MiB.
fn memory(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

/// A line more, and everything anew, on a large screen.
fn redraws() -> Vec<Value> {
    let mut model = Model::default();
    let instance = |n: usize| Instance {
        name: format!("app/instance-{n}"),
        state: "running".into(),
        stage: "running".into(),
        up: "2 h 10 min".into(),
        cpu: "12 %".into(),
        memory: "320 MiB of 512 MiB".into(),
        stages: vec![("vmm".into(), 310), ("running".into(), 14_400)],
        problem: String::new(),
    };
    model.update((0..30).map(instance).collect());
    for n in 0..5000 {
        model.append(&format!(
            "Nov 21 23:01:02 web app[17]: request {n} {}",
            "x".repeat(150)
        ));
    }
    let size = Size {
        columns: 200,
        rows: 50,
    };
    let mut screen = Screen::new(size).unwrap();
    let mut line = Vec::new();
    let mut whole = Vec::new();
    for n in 0..DRAWINGS {
        model.append(&format!(
            "Nov 21 23:01:03 web app[17]: another {n} {}",
            "y".repeat(150)
        ));
        let begun = Instant::now();
        assert!(!screen.draw(&mut model).unwrap().is_empty());
        line.push(milliseconds(begun));
        let begun = Instant::now();
        screen.resize(size).unwrap();
        assert!(screen.draw(&mut model).unwrap().len() > 1000);
        whole.push(milliseconds(begun));
    }
    let worst = whole.iter().copied().fold(0.0, f64::max);
    vec![
        row(
            "dashboard 200x50: a line more",
            "ms",
            median(line),
            None,
            16.0,
        ),
        row("dashboard 200x50: redrawn", "ms", median(whole), None, 16.0),
        row(
            "dashboard 200x50: redrawn, the slowest",
            "ms",
            worst,
            None,
            16.0,
        ),
    ]
}
