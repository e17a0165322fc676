//! A source whose server does not answer, as an NFS mount's that is gone: a FUSE file system that nobody serves. Whoever
//! looks at it stands still until it is given up (Documentation/filesystems/fuse.rst).

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod stub;

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    ops::Range,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use seed_shim::{
    names::{ContainerId, Namespace},
    shim::{cli::Target, delete, state_file::StateFile},
    sys,
};
use serde_json::json;
use stub::{Bench, Guest, LIMIT, calls::code};
use tokio::{task::spawn_blocking, time::timeout};
use ttrpc::Code;

/// What a server of files has open (fuse(4)).
const FUSE: &str = "/dev/fuse";

/// Where a request, and its answer, have its number (`linux/fuse.h`).
const NUMBER: Range<usize> = 8..16;

/// Runs `case` in a thread that has mounts of its own, and so have those that it starts.
fn apart<F: Future<Output = ()>>(test: &str, case: impl FnOnce() -> F + Send) {
    let run = || {
        let missing = match (sys::unshare_mounts(), File::open(FUSE)) {
            (Err(error), _) => format!("a private mount namespace needs root: {error}"),
            (_, Err(error)) => format!("there is no FUSE here: {error}"),
            _ => String::new(),
        };
        if !missing.is_empty() {
            let text = format!("SKIPPED {test}: {missing}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(case());
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap();
}

/// A mount whose server hears all and says nothing, until this is dropped.
struct Silent {
    server: File,
    at: PathBuf,
}

impl Silent {
    fn mount(at: &Path) -> Self {
        fs::create_dir(at).unwrap();
        let server = OpenOptions::new()
            .read(true)
            .write(true)
            .open(FUSE)
            .unwrap();
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            server.as_raw_fd()
        );
        let data = CString::new(data).unwrap();
        mount("silent", at, "fuse", MountFlags::NODEV, data.as_c_str()).unwrap();
        Self {
            server,
            at: at.to_owned(),
        }
    }

    /// Waits until the kernel has asked for something, which it does when the mount is made; the number of what it asks.
    async fn is_asked(&self) -> [u8; 8] {
        let mut server = self.server.try_clone().unwrap();
        let read = spawn_blocking(move || {
            let mut request = [0; 1 << 16];
            assert!(server.read(&mut request).unwrap() > NUMBER.end);
            request[NUMBER].try_into().unwrap()
        });
        timeout(LIMIT, read).await.unwrap().unwrap()
    }

    /// Answers what the kernel asks first: whoever waits for anything else can no longer be killed, as its request is the server's.
    async fn greets(&self) {
        let number = self.is_asked().await;
        let mut answer = [0; 80];
        answer[..4].copy_from_slice(&80_u32.to_le_bytes());
        answer[NUMBER].copy_from_slice(&number);
        // The version of the protocol; nothing of what may be chosen is.
        answer[16..24].copy_from_slice(&[7_u32, 31].map(u32::to_le_bytes).concat());
        assert_eq!((&self.server).write(&answer).unwrap(), answer.len());
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // By force: whoever waits is answered, also if a child that was forked meanwhile still has the server open.
        unmount(&self.at, UnmountFlags::FORCE | UnmountFlags::DETACH).unwrap();
    }
}

fn bind(bench: &Bench, source: &Path) {
    bench.configure("demo", |config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({
            "destination": "/srv/claim", "type": "bind", "source": source, "options": ["rbind"],
        }));
    });
}

/// Ends the instance: neither a file nor a mount is left of it.
async fn end(bench: &Bench) {
    bench.kill("demo", "", 9).await.unwrap();
    bench.wait("demo", "").await.unwrap();
    bench.delete("demo", "").await.unwrap();
    bench.assert_nothing_left("demo");
    let table = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let run_dir = bench.config.run_dir.display().to_string();
    assert!(!table.contains(&run_dir), "{table}");
}

#[test]
fn calls_are_answered_while_a_create_waits_and_it_goes_on_when_the_server_is_back() {
    apart("calls_are_answered_while_a_create_waits", async || {
        let bench = Bench::new(Guest::Good).await;
        bench.bundle("demo");
        let silent = Silent::mount(&bench.dir.path().join("gone"));
        silent.is_asked().await;
        bind(&bench, &silent.at);
        let meanwhile = async {
            for _ in 0..3 {
                let (code, _) = code(bench.try_state("demo").await);
                assert_eq!(code, Code::NOT_FOUND);
                let (code, _) = self::code(bench.kill("demo", "", 9).await);
                assert_eq!(code, Code::NOT_FOUND);
            }
            drop(silent);
        };
        let (created, ()) = tokio::join!(bench.create("demo"), meanwhile);
        created.unwrap();
        bench.start("demo", "").await.unwrap();
        end(&bench).await;
        bench.stop().await;
    });
}

#[test]
fn a_create_that_waits_too_long_names_the_source_and_leaves_nothing() {
    apart(
        "a_create_that_waits_too_long_names_the_source",
        async || {
            let mut bench = Bench::new(Guest::Good).await;
            bench.config.limits.create_seconds = 1;
            let other = bench.beside(Guest::Good).await;
            other.bundle("demo");
            let silent = Silent::mount(&other.dir.path().join("gone"));
            bind(&other, &silent.at);
            let (code, message) = code(other.create("demo").await);
            assert_eq!(code, Code::DEADLINE_EXCEEDED);
            let begins = format!(
                "{} for /srv/claim did not answer within 1 s",
                silent.at.display()
            );
            assert!(message.starts_with(&begins), "{message}");
            // As a disk as well.
            other.configure("demo", |config| {
                config["mounts"][1]["source"] = json!(silent.at.join("disk"))
            });
            let (_, message) = self::code(other.create("demo").await);
            assert!(
                message.contains("gone/disk for /seed/storage/data did not answer"),
                "{message}"
            );

            // Its thread still stands there, and nothing else is held by it.
            assert!(!other.paths("demo").run_dir().exists());
            other.configure("demo", |_| {});
            other.running("demo").await;
            drop(silent);
            end(&other).await;
            other.stop().await;
            bench.stop().await;
        },
    );
}

#[test]
fn delete_goes_on_without_a_process_that_takes_for_ever_to_die() {
    apart(
        "delete_goes_on_without_a_process_that_takes_for_ever",
        async || {
            let bench = Bench::new(Guest::Good).await;
            let dir = bench.dir.path();
            let silent = Silent::mount(&dir.join("gone"));
            silent.greets().await;
            let mut stat = Command::new("stat");
            stat.arg(silent.at.join("file")).stdout(Stdio::null());
            let mut stuck = stat.stderr(Stdio::null()).spawn().unwrap();
            silent.is_asked().await;

            let paths = bench.paths("demo");
            fs::create_dir_all(paths.vm_dir()).unwrap();
            let (pid, start) = (stuck.id(), sys::start_time(stuck.id()));
            let pids = json!([{"name": "qemu", "pid": pid, "start": start}]);
            fs::write(paths.pids(), pids.to_string()).unwrap();
            let state = StateFile {
                config: bench.config.clone(),
                socket: dir.join("nobody.sock"),
                member: None,
            };
            state.write(dir).unwrap();
            let target = Target {
                namespace: Namespace::try_from("default").unwrap(),
                id: ContainerId::try_from("demo").unwrap(),
                address: String::new(),
                bundle: Some(dir.to_owned()),
                debug: false,
            };
            let begun = Instant::now();
            spawn_blocking(move || delete::run(&target).unwrap())
                .await
                .unwrap();
            assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
            assert!(!paths.vm_dir().exists());
            drop(silent);
            assert!(!stuck.wait().unwrap().success());
            bench.stop().await;
        },
    );
}
