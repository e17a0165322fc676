//! The shim's program as containerd calls it: `-v` and `-info`, `start` with what each series gives it, the server that it
//! makes, and `delete` after that one. No instance is made here: the Task API has tests of its own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant, UNIX_EPOCH},
};

use containerd_shim_protos::{
    api::DeleteResponse,
    bootstrap_api::{BootstrapParams, BootstrapResult, Extension},
    protobuf::Message,
    ttrpc::Code,
    types::introspection::RuntimeInfo,
};
use rustix::process::Signal;
use seed_shim::{
    containerd::{shim::Address, task::TaskClient},
    sandbox::{Ended, Exit, ExitRecord},
    shim::options,
    sys,
};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-seed-v2");

/// Far more than anything takes that shall happen, also on a machine that is busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

/// By whom and for whom it is called.
const NAMES: [&str; 8] = [
    "-namespace",
    "default",
    "-address",
    "",
    "-publish-binary",
    "",
    "-id",
    "demo",
];

/// The variables of containerd 1.6, and of all later ones.
const OLD: &[(&str, &str)] = &[];
const NEW: &[(&str, &str)] = &[("MAX_SHIM_VERSION", "2")];

/// What it prints. It must end well, say nothing else, and leave nobody behind who holds its streams.
fn call(dir: &Path, words: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(SHIM);
    command.args(words).current_dir(dir);
    for name in ["MAX_SHIM_VERSION", "TTRPC_ADDRESS", "SEED_CONFIG"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    // Not every command reads it.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}");
    assert_eq!(said, "", "{words:?}");
    output.stdout
}

fn delete(bundle: &Path) -> DeleteResponse {
    let words = ["-bundle", bundle.to_str().unwrap(), "delete"];
    let answer = call(bundle, &[&NAMES[..], &words].concat(), &[], b"");
    DeleteResponse::parse_from_bytes(&answer).unwrap()
}

#[test]
fn version_and_info_need_no_bundle() {
    let said = call(Path::new("/"), &["-v"], &[], b"");
    let said = String::from_utf8(said).unwrap();
    let wanted = "containerd-shim-seed-v2:\n  Version: ";
    assert!(said.starts_with(wanted), "{said}");
    let options = options::with_config_path(Path::new("/etc/seed/shim.toml"));
    let options = options.write_to_bytes().unwrap();
    let answer = call(Path::new("/"), &["-info"], &[], &options);
    let info = RuntimeInfo::parse_from_bytes(&answer).unwrap();
    assert_eq!(info.name, "io.containerd.seed.v2");
    assert!(!info.version.version.is_empty());
}

#[test]
fn a_configuration_is_checked_and_what_is_wrong_is_one_line_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shim.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(SHIM);
        let output = command.arg("-check-config").arg(&file).output().unwrap();
        assert_eq!(output.stdout, b"", "{text}");
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    for good in ["", "accel = \"tcg\"\n[limits]\nhello_seconds = 60\n"] {
        assert_eq!(check(good), (Some(0), String::new()), "{good}");
    }
    let name = file.display();
    for (bad, place, problem) in [
        ("accel = \"tcg\"\nacel = \"kvm\"\n", ", line 2: ", "`acel`"),
        ("[limits]\n\nhello = 3\n", ", line 3: ", "`hello`"),
        (
            "[limits]\nhello_seconds = 0\n",
            ": ",
            "limits.hello_seconds",
        ),
        ("accel = \n", ", line 1: ", ""),
    ] {
        let (code, said) = check(bad);
        let begins = format!("containerd-shim-seed-v2: configuration {name}{place}");
        assert_eq!(code, Some(1), "{bad}: {said}");
        assert!(
            said.starts_with(&begins) && said.contains(problem),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    fs::remove_file(&file).unwrap();
    let mut command = Command::new(SHIM);
    let output = command.arg("-check-config").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("cannot be read: No such file"), "{said}");
}

/// A series of containerd, by how it starts a shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Series {
    /// 1.6.
    First,
    /// 1.7, and 2.0 to 2.2.
    Middle,
    /// 2.3 and later.
    Last,
}

impl Series {
    fn start(self, bundle: &Path, config: &Path) -> Vec<u8> {
        let options = options::with_config_path(config);
        let (variables, input) = match self {
            Self::First => (OLD, options.write_to_bytes()),
            Self::Middle => (NEW, options.write_to_bytes()),
            Self::Last => {
                let params = BootstrapParams {
                    instance_id: "demo".into(),
                    namespace: "default".into(),
                    containerd_version: "2.3.0".into(),
                    extensions: vec![Extension {
                        value: Some(options).into(),
                        ..Extension::default()
                    }],
                    ..BootstrapParams::default()
                };
                (NEW, params.write_to_bytes())
            }
        };
        let words = [&NAMES[..], &["start"]].concat();
        call(bundle, &words, variables, &input.unwrap())
    }

    /// The address in the answer, in the form that this series reads.
    fn address(self, answer: &[u8]) -> String {
        match self {
            Self::First => String::from_utf8(answer.to_vec()).unwrap(),
            Self::Middle => {
                let answer: serde_json::Value = serde_json::from_slice(answer).unwrap();
                assert_eq!(answer["version"], 2);
                assert_eq!(answer["protocol"], "ttrpc");
                answer["address"].as_str().unwrap().to_owned()
            }
            Self::Last => {
                let answer = BootstrapResult::parse_from_bytes(answer).unwrap();
                assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
                answer.address
            }
        }
    }
}

/// Says so where a test cannot have a shim.
fn has_shims(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let text = format!("SKIPPED {test}: a shim with mounts of its own needs root\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    root
}

/// A bundle and a configuration in this folder.
fn bundle(dir: &Path) -> (PathBuf, PathBuf) {
    let (bundle, config) = (dir.join("bundle"), dir.join("shim.toml"));
    let (run, state) = (dir.join("r"), dir.join("s"));
    fs::create_dir(&bundle).unwrap();
    let text = format!("run_dir = {run:?}\nstate_dir = {state:?}\n");
    fs::write(&config, text).unwrap();
    (bundle, config)
}

fn wait_until_gone(pid: u32) {
    let begun = Instant::now();
    while sys::start_time(pid).is_some() {
        assert!(begun.elapsed() < LIMIT, "{pid} does not end");
        sleep(Duration::from_millis(5));
    }
}

/// A shim that does not outlive its test: its pid and its start.
struct Shim(u32, Option<u64>);

impl Shim {
    fn signal(&self, signal: Signal) {
        if let Some(pid) = sys::pid(self.0).filter(|_| sys::start_time(self.0) == self.1) {
            // It may be gone.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

#[tokio::test]
async fn delete_ends_a_shim_that_stands_still_and_no_other() {
    if !has_shims("delete_ends_a_shim_that_stands_still") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bundle, config) = bundle(dir.path());
    let address = Series::Last.address(&Series::Last.start(&bundle, &config));
    let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
    let address = Address {
        socket: socket.clone(),
        version: 3,
    };
    let connected = async || {
        let shim = TaskClient::connect(&address).await.unwrap();
        shim.connect_task("demo").await.unwrap().shim_pid
    };
    let pid = connected().await;
    assert_eq!(delete(&bundle).exit_status, 137);
    assert_eq!(connected().await, pid, "a shim that lives was ended");

    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let traced = !status.contains("TracerPid:\t0\n");
    let shim = Shim(pid, sys::start_time(pid));
    if traced {
        // A process that is traced stands still for its tracer, which the kernel tells apart (proc_pid_stat(5)).
        let text = "SKIPPED delete_ends_a_shim_that_stands_still: the shim is traced\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return;
    }
    shim.signal(Signal::STOP);
    let begun = Instant::now();
    while !sys::is_stopped(pid) {
        assert!(begun.elapsed() < LIMIT, "it does not stop");
        sleep(Duration::from_millis(5));
    }
    assert_eq!(delete(&bundle).exit_status, 137);
    wait_until_gone(pid);
    assert!(!socket.exists());
}

#[tokio::test]
async fn each_containerd_gets_a_shim_and_hears_how_it_ended() {
    if !has_shims("each_containerd_gets_a_shim") {
        return;
    }
    for series in [Series::First, Series::Middle, Series::Last] {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, config) = bundle(dir.path());

        let answer = series.start(&bundle, &config);
        let address = series.address(&answer);
        let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
        // Its options were read.
        assert!(socket.starts_with(dir.path()), "{series:?}: {address}");
        // What 1.6 finds it by after a restart.
        let written = fs::read_to_string(bundle.join("address")).unwrap();
        assert_eq!(written, address, "{series:?}");
        // The one that is there is found, and there is no second.
        assert_eq!(series.start(&bundle, &config), answer, "{series:?}");

        let mut pids = Vec::new();
        for version in [2, 3] {
            let socket = socket.clone();
            let shim = TaskClient::connect(&Address { socket, version }).await;
            let shim = shim.unwrap();
            pids.push(shim.connect_task("demo").await.unwrap().shim_pid);
            let error = shim.state("demo").await.unwrap_err();
            assert_eq!(error.code(), Some(Code::NOT_FOUND), "{series:?}: {error}");
            if version == 3 {
                shim.shutdown("demo").await.unwrap();
            }
        }
        assert_eq!(pids[0], pids[1]);
        wait_until_gone(pids[0]);
        assert!(!socket.exists(), "{series:?}");

        // Without a word of its end it was killed.
        assert_eq!(delete(&bundle).exit_status, 137);
        let ended = Ended {
            exit: Exit {
                status: 3,
                reason: "of its own accord".into(),
            },
            at: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        ExitRecord::new(42, &ended).write(&bundle).unwrap();
        for _ in 0..2 {
            let told = delete(&bundle);
            let at = told.exited_at.seconds;
            assert_eq!((told.pid, told.exit_status, at), (42, 3, 1_700_000_000));
        }
    }
}

/// The shims that work in this folder.
fn shims_in(bundle: &Path) -> Vec<u32> {
    let bundle = bundle.canonicalize().unwrap();
    let all = fs::read_dir("/proc").unwrap().flatten();
    let here =
        all.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == bundle));
    let pids = here.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| sys::start_time(*pid).is_some()).collect()
}

#[tokio::test]
async fn starts_of_the_same_time_have_one_shim() {
    if !has_shims("starts_of_the_same_time_have_one_shim") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (bundle, config) = bundle(dir.path());
    for round in 0..8 {
        let start = || Series::Middle.start(&bundle, &config);
        let answers = thread::scope(|scope| {
            [(); 4]
                .map(|()| scope.spawn(start))
                .map(|one| one.join().unwrap())
        });
        let address = Series::Middle.address(&answers[0]);
        let written = fs::read_to_string(bundle.join("address")).unwrap();
        assert_eq!(written, address);
        for answer in answers {
            assert_eq!(Series::Middle.address(&answer), address, "round {round}");
        }
        let socket = PathBuf::from(address.strip_prefix("unix://").unwrap());
        let address = Address {
            socket: socket.clone(),
            version: 2,
        };
        let shim = TaskClient::connect(&address).await.unwrap();
        let pid = shim.connect_task("demo").await.unwrap().shim_pid;
        assert_eq!(shims_in(&bundle), [pid], "round {round}");
        let shim_process = Shim(pid, sys::start_time(pid));
        if round % 2 == 0 {
            shim.shutdown("demo").await.unwrap();
            wait_until_gone(pid);
            assert!(!socket.exists());
        } else {
            // What it leaves is in the way of the next ones.
            drop(shim_process);
            let begun = Instant::now();
            while UnixStream::connect(&socket).is_ok() {
                assert!(begun.elapsed() < LIMIT, "{pid} does not end");
                sleep(Duration::from_millis(5));
            }
            assert!(socket.exists());
        }
    }
}
