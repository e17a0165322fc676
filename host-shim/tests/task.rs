//! The Task API from containerd's side of the socket, over a stub VM and a fake agent. See [`stub`] for what
//! that cannot show.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod stub;

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use containerd_shim_protos::{
    api::{
        CheckpointTaskRequest, CloseIORequest, Empty, ExecProcessRequest, ForwardRequest,
        PauseRequest, PidsRequest, ResizePtyRequest, ResumeRequest, ShutdownRequest, StartRequest,
        Status,
    },
    events::task::TaskExit,
    protobuf::Message,
    shim_async::{Events, TaskClient, create_events},
};
use seed_protocol::seed::management::State;
use seed_shim::{management, shim::logging};
use serde_json::json;
use stub::{
    Bench, Guest, LIMIT,
    calls::{code, exec, exec_of, soon},
    fifo, until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::Notify,
    time::{sleep, timeout},
};
use ttrpc::{
    Code,
    r#async::{Client, Server, TtrpcContext},
};

#[tokio::test]
async fn an_instance_lives_from_create_to_delete_and_leaves_nothing() {
    let bench = Bench::new(Guest::Good).await;
    bench.bundle("demo");
    assert_ne!(bench.create("demo").await.unwrap(), 0);
    assert_eq!(bench.state("demo").await, Status::CREATED);
    bench.start("demo", "").await.unwrap();
    assert_eq!(bench.state("demo").await, Status::RUNNING);

    let told = bench
        .vmm
        .agent
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .told
        .clone();
    {
        let told = told.lock().unwrap();
        let container = told.container.as_ref().unwrap();
        let env = &container.OCI.Process.Env;
        assert_eq!(env[0], "GREETING=hello 'you'");
        assert!(env.contains(&"SEED_INSTANCE=demo".to_owned()), "{env:?}");
        assert_eq!(
            container.storages[0].driver_options,
            ["serial=data", "name=data", "user=app"]
        );
        assert_eq!(told.sandbox.as_ref().unwrap().hostname, "demo");
        assert!(told.started);
    }
    let pids = PidsRequest {
        id: "demo".into(),
        ..Default::default()
    };
    assert_eq!(
        bench
            .client
            .pids(soon(), &pids)
            .await
            .unwrap()
            .processes
            .len(),
        1
    );

    bench.kill("demo", "", 15).await.unwrap();
    assert_eq!(bench.wait("demo", "").await.unwrap().exit_status, 0);
    assert_eq!(bench.state("demo").await, Status::STOPPED);
    assert_eq!(bench.reason("demo").await, "the guest powered off");
    assert_eq!(bench.delete("demo", "").await.unwrap(), 0);
    bench.assert_nothing_left("demo");
    assert_eq!(code(bench.delete("demo", "").await).0, Code::NOT_FOUND);

    let shutdown = ShutdownRequest {
        id: "demo".into(),
        ..Default::default()
    };
    bench.client.shutdown(soon(), &shutdown).await.unwrap();
    timeout(LIMIT, bench.shutdown.notified()).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn stages_and_state_are_seen_on_the_management_socket() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let socket = bench.paths("demo").management_socket();
    let client = management::Client::connect(&socket).await.unwrap();
    let mut seen = client.status(0, Duration::ZERO).await.unwrap();
    while seen.stages.len() < 5 {
        seen = client
            .status(seen.revision, Duration::from_secs(5))
            .await
            .unwrap();
    }
    let times: Vec<u64> = seen
        .stages
        .iter()
        .map(|stage| stage.since_create_ms)
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(seen.state.enum_value(), Ok(State::STATE_RUNNING));
    assert_eq!(seen.system_state, "running");
    assert_eq!(
        (seen.vcpus, seen.memory_mib, seen.accel.as_str()),
        (1, 512, "tcg")
    );
    assert_eq!(client.keys().await.unwrap().recipient, "age1tpm1qfake");
    bench.stop().await;
}

#[tokio::test]
async fn a_start_is_traced_stage_by_stage_in_the_log() {
    let bench = Bench::new(Guest::Good).await;
    // Of the whole process: other tests log into it as well.
    logging::start(logging::Log::open(bench.dir.path()).unwrap(), "info");
    bench.running("traced").await;
    let log = bench.dir.path().join("log");
    let said = || fs::read_to_string(&log).unwrap();
    let line = |stage: &str| format!("sandbox_id=traced stage={stage} since_create_ms=");
    until("the last stage", || said().contains(&line("running"))).await;
    let text = said();
    let stages = ["vmm started", "kernel", "hello", "provisioned", "running"];
    let places = stages.map(|stage| text.find(&line(stage)));
    assert!(places.is_sorted() && places[0].is_some(), "{text}");
    for stage in stages {
        assert_eq!(text.matches(&line(stage)).count(), 1, "{stage}: {text}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn a_killed_vm_is_137_and_never_a_success() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    bench.kill("demo", "", 9).await.unwrap();
    assert_eq!(bench.wait("demo", "").await.unwrap().exit_status, 137);
    assert_eq!(bench.delete("demo", "").await.unwrap(), 137);
    bench.assert_nothing_left("demo");

    bench.running("again").await;
    bench.vmm.crash.notify_one();
    assert_eq!(bench.wait("again", "").await.unwrap().exit_status, 137);
    assert_eq!(bench.reason("again").await, "vmm ended (signal 11)");
    assert!(bench.paths("again").failed_console_log().exists());
    bench.stop().await;
}

#[tokio::test]
async fn a_kill_while_a_machine_is_launched_is_not_behind_the_launch() {
    for signal in [15, 9] {
        let bench = Bench::new(Guest::Unlaunched).await;
        bench.bundle("demo");
        bench.create("demo").await.unwrap();
        let killed = async {
            let begun = bench.paths("demo").tpm_dir().join("tpm2-00.permall");
            until("the launch", || begun.exists()).await;
            bench.kill("demo", "", signal).await.unwrap();
        };
        let (started, ()) = tokio::join!(bench.start("demo", ""), killed);
        let (_, message) = code(started);
        assert!(
            message.starts_with("killed while it was started"),
            "{message}"
        );
        assert_eq!(bench.wait("demo", "").await.unwrap().exit_status, 137);
        assert_eq!(bench.delete("demo", "").await.unwrap(), 137);
        bench.assert_nothing_left("demo");
        bench.stop().await;
    }
}

#[tokio::test]
async fn a_guest_that_does_not_power_off_runs_until_it_is_killed() {
    let bench = Bench::new(Guest::Stubborn).await;
    bench.running("demo").await;
    bench.kill("demo", "", 15).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(bench.state("demo").await, Status::RUNNING);
    assert_eq!(
        code(bench.delete("demo", "").await).0,
        Code::FAILED_PRECONDITION
    );
    bench.kill("demo", "", 9).await.unwrap();
    assert_eq!(bench.wait("demo", "").await.unwrap().exit_status, 137);
    bench.stop().await;
}

#[tokio::test]
async fn a_start_that_fails_says_how_far_it_came_and_where_the_console_is() {
    for (guest, said) in [
        (
            Guest::Silent,
            "the guest never said hello within 1 s (last stage: kernel)",
        ),
        (
            Guest::Panics,
            "the VM ended before the guest was ready: the guest's kernel panicked",
        ),
        (
            Guest::Fails,
            "the guest's agent failed: no /dev/vsock (last stage: kernel)",
        ),
    ] {
        let bench = Bench::new(guest).await;
        bench.bundle("demo");
        bench.create("demo").await.unwrap();
        let (_, message) = code(bench.start("demo", "").await);
        let kept = bench.paths("demo").failed_console_log();
        assert!(message.starts_with(said), "{message}");
        assert!(
            message.contains(&format!("console log kept at {}", kept.display())),
            "{message}"
        );
        assert!(
            message.ends_with("(its last lines: Linux version 6.12 | loading)"),
            "{message}"
        );
        assert!(fs::read_to_string(kept).unwrap().contains("Linux version"));
        assert_eq!(bench.state("demo").await, Status::STOPPED);
        assert_eq!(bench.delete("demo", "").await.unwrap(), 1);
        bench.assert_nothing_left("demo");
        bench.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_be_created_is_named_and_leaves_nothing() {
    let bench = Bench::new(Guest::Good).await;
    type Change = fn(&Bench, &Path);
    let cases: [(Change, &str); 8] = [
        (
            |_, b| fs::remove_file(b.join("rootfs/seed-system/boot.json")).unwrap(),
            "boot.json",
        ),
        (
            |_, b| fs::remove_file(b.join("rootfs/seed-system/kernel")).unwrap(),
            "/seed-system/kernel",
        ),
        (
            |_, b| fs::write(b.join("rootfs/seed-system/kernel"), "x").unwrap(),
            "bzImage",
        ),
        (
            |b, _| b.configure("demo", |c| c["process"]["env"] = json!(["1A=secret"])),
            "\"1A\"",
        ),
        (
            |b, _| b.configure("demo", |c| c["process"]["args"] = json!(["sh"])),
            "process.args",
        ),
        (
            |_, b| fs::remove_file(b.join("data.img")).unwrap(),
            "data.img",
        ),
        (
            |b, _| {
                b.configure("demo", |c| {
                    c["annotations"]["seed.loom.farm/x"] = json!("y")
                })
            },
            "farm/x",
        ),
        (
            |_, b| fs::write(b.join("config.json"), "{").unwrap(),
            "config.json",
        ),
    ];
    for (change, said) in cases {
        let bundle = bench.bundle("demo");
        change(&bench, &bundle);
        let (code, message) = code(bench.create("demo").await);
        assert_eq!(code, Code::INVALID_ARGUMENT, "{message}");
        assert!(
            message.contains(said) && !message.contains("secret"),
            "{message}"
        );
        assert!(!bench.paths("demo").run_dir().exists());
        assert!(!bench.paths("demo").tpm_dir().exists());
    }
    bench.running("demo").await;
    bench.stop().await;
}

#[tokio::test]
async fn a_create_that_fails_late_leaves_no_folder() {
    let mut bench = Bench::new(Guest::Good).await;
    bench.config.group = Some("nobody-is-in-this-group".into());
    let other = bench.beside(Guest::Good).await;
    other.bundle("demo");
    let (_, message) = code(other.create("demo").await);
    assert!(message.contains("nobody-is-in-this-group"), "{message}");
    assert!(!other.paths("demo").run_dir().exists());
    other.stop().await;

    // It cannot have its socket: nothing of it stays beside what is in the way.
    bench.config.group = None;
    let other = bench.beside(Guest::Good).await;
    other.bundle("demo");
    other.configure("demo", |config| {
        config["annotations"]["io.kubernetes.cri.sandbox-namespace"] = "shop".into();
        config["annotations"]["io.kubernetes.cri.sandbox-name"] = "web-0".into();
        config["annotations"]["io.kubernetes.cri.container-name"] = "app".into();
    });
    let socket = other.paths("demo").management_socket();
    fs::create_dir_all(socket.join("in-the-way")).unwrap();
    let (_, message) = code(other.create("demo").await);
    assert!(message.contains("management socket"), "{message}");
    assert!(!other.paths("demo").kept_name().exists());
    other.stop().await;
    bench.stop().await;
}

#[tokio::test]
async fn an_instance_that_containerd_gave_up_makes_room_when_it_has_ended() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    bench.bundle("next");
    let bundle = bench.dir.path().join("bundles/demo");
    fs::remove_dir_all(&bundle).unwrap();
    // Its machine runs: it stays.
    let (kind, message) = code(bench.create("next").await);
    assert_eq!(kind, Code::FAILED_PRECONDITION, "{message}");
    bench.vmm.crash.notify_one();
    assert_eq!(bench.wait("demo", "").await.unwrap().exit_status, 137);
    bench.running("next").await;
    assert_eq!(code(bench.delete("demo", "").await).0, Code::NOT_FOUND);
    bench.assert_nothing_left("demo");
    bench.stop().await;
}

#[tokio::test]
async fn one_identity_is_never_in_two_vms() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let (code_, message) = code(bench.create("demo").await);
    assert_eq!(code_, Code::ALREADY_EXISTS, "{message}");

    let other = bench.beside(Guest::Good).await;
    other.bundle("demo");
    let (code_, message) = code(other.create("demo").await);
    assert_eq!(code_, Code::FAILED_PRECONDITION);
    assert!(message.contains("in use by another VM"), "{message}");

    bench.kill("demo", "", 9).await.unwrap();
    bench.wait("demo", "").await.unwrap();
    bench.delete("demo", "").await.unwrap();
    other.create("demo").await.unwrap();
    other.stop().await;
    bench.stop().await;
}

#[tokio::test]
async fn an_exec_gets_its_input_gives_all_its_output_and_its_status() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let path = |name: &str| bench.dir.path().join(name);
    fifo(&path("in"));
    fifo(&path("out"));
    let text = |name| path(name).to_string_lossy().into_owned();
    let mut cat = exec("demo", "one", "cat");
    (cat.stdin, cat.stdout) = (text("in"), text("out"));
    bench.client.exec(soon(), &cat).await.unwrap();
    assert_eq!(
        code(bench.client.exec(soon(), &cat).await).0,
        Code::ALREADY_EXISTS
    );
    let mut out = pipe::OpenOptions::new().open_receiver(path("out")).unwrap();
    bench.start("demo", "one").await.unwrap();
    assert_eq!(
        code(bench.start("demo", "one").await).0,
        Code::FAILED_PRECONDITION
    );

    let resize = ResizePtyRequest {
        id: "demo".into(),
        exec_id: "one".into(),
        width: 80,
        height: 24,
        ..Default::default()
    };
    bench.client.resize_pty(soon(), &resize).await.unwrap();
    let data: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let sent = data.clone();
    let mut input = pipe::OpenOptions::new().open_sender(path("in")).unwrap();
    let writer = tokio::spawn(async move {
        input.write_all(&sent).await.unwrap();
        input
    });
    let mut back = vec![0; data.len()];
    out.read_exact(&mut back).await.unwrap();
    assert!(back == data, "the bytes came back changed");
    let input = writer.await.unwrap();
    let (id, exec_id) = ("demo".into(), "one".into());
    let close = CloseIORequest {
        id,
        exec_id,
        stdin: true,
        ..Default::default()
    };
    bench.client.close_io(soon(), &close).await.unwrap();
    assert_eq!(bench.wait("demo", "one").await.unwrap().exit_status, 0);
    drop(input);
    assert_eq!(bench.delete("demo", "one").await.unwrap(), 0);

    bench
        .client
        .exec(soon(), &exec("demo", "two", "false"))
        .await
        .unwrap();
    bench.start("demo", "two").await.unwrap();
    assert_eq!(bench.wait("demo", "two").await.unwrap().exit_status, 3);

    bench
        .client
        .exec(soon(), &exec("demo", "three", "sleep"))
        .await
        .unwrap();
    bench.start("demo", "three").await.unwrap();
    bench.kill("demo", "three", 9).await.unwrap();
    assert_eq!(bench.wait("demo", "three").await.unwrap().exit_status, 137);

    bench
        .client
        .exec(soon(), &exec("demo", "four", "nonesuch"))
        .await
        .unwrap();
    let (_, message) = code(bench.start("demo", "four").await);
    assert!(
        message.contains("nonesuch") && message.contains("not found"),
        "{message}"
    );

    // Its streams are nowhere: it never starts, and who waits for it is told.
    let mut nowhere = exec("demo", "nowhere", "cat");
    nowhere.stdout = text("no-such-fifo");
    bench.client.exec(soon(), &nowhere).await.unwrap();
    let (_, message) = code(bench.start("demo", "nowhere").await);
    assert!(message.contains("no-such-fifo"), "{message}");
    let ended = bench.wait("demo", "nowhere").await.unwrap();
    assert_eq!(ended.exit_status, 137);
    assert_eq!(bench.delete("demo", "nowhere").await.unwrap(), 137);

    bench
        .client
        .exec(soon(), &exec("demo", "five", "sleep"))
        .await
        .unwrap();
    bench.start("demo", "five").await.unwrap();
    bench.vmm.crash.notify_one();
    assert_eq!(bench.wait("demo", "five").await.unwrap().exit_status, 137);
    bench.stop().await;
}

#[tokio::test]
async fn a_terminal_has_a_size_and_one_output() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let [input, output] = ["in", "out"].map(|name| {
        let path = bench.dir.path().join(name);
        fifo(&path);
        path
    });
    let process = json!({
        "terminal": true, "args": ["cat"], "cwd": "/", "consoleSize": {"height": 24, "width": 80},
    });
    let request = ExecProcessRequest {
        terminal: true,
        stdin: input.to_string_lossy().into_owned(),
        stdout: output.to_string_lossy().into_owned(),
        ..exec_of("demo", "shell", &process)
    };
    bench.client.exec(soon(), &request).await.unwrap();
    let mut shown = pipe::OpenOptions::new().open_receiver(&output).unwrap();
    bench.start("demo", "shell").await.unwrap();
    let mut typed = pipe::OpenOptions::new().open_sender(&input).unwrap();
    typed.write_all(b"\x1b[A\r").await.unwrap();
    let mut back = [0; 4];
    shown.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"\x1b[A\r");
    // Its end comes although no second output ever does.
    drop(typed);
    assert_eq!(bench.wait("demo", "shell").await.unwrap().exit_status, 0);
    let begun = {
        let agent = bench.vmm.agent.lock().unwrap();
        agent.as_ref().unwrap().told.lock().unwrap().terminal
    };
    assert_eq!(begun, Some((24, 80)));
    bench.stop().await;
}

#[tokio::test]
async fn a_command_whose_reader_is_gone_for_good_is_hung_up_on() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let out = bench.dir.path().join("out");
    fifo(&out);
    let request = ExecProcessRequest {
        stdout: out.to_string_lossy().into_owned(),
        ..exec("demo", "one", "sleep")
    };
    bench.client.exec(soon(), &request).await.unwrap();
    let reader = pipe::OpenOptions::new().open_receiver(&out).unwrap();
    bench.start("demo", "one").await.unwrap();
    {
        let ended = bench.wait("demo", "one");
        tokio::pin!(ended);
        // As long as somebody reads, it runs, however little it says.
        timeout(Duration::from_millis(1500), &mut ended)
            .await
            .unwrap_err();
        drop(reader);
        assert_eq!(ended.await.unwrap().exit_status, 128 + 1);
    }
    // Nobody asked for it: its id is free again.
    bench.client.exec(soon(), &request).await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_crowd_of_execs_is_started_in_turns() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let ids: Vec<String> = (0..64).map(|number| format!("exec-{number}")).collect();
    let lives = ids.iter().map(|exec_id| async {
        let request = exec("demo", exec_id, "false");
        bench.client.exec(soon(), &request).await.unwrap();
        bench.start("demo", exec_id).await.unwrap();
        bench.wait("demo", exec_id).await.unwrap().exit_status
    });
    let ended = futures_util::future::join_all(lives).await;
    assert_eq!(ended, vec![3; 64]);
    let told = bench
        .vmm
        .agent
        .lock()
        .unwrap()
        .as_ref()
        .unwrap()
        .told
        .clone();
    let most = told.lock().unwrap().most_starting;
    assert!((2..=8).contains(&most), "{most} at a time");
}

#[tokio::test]
async fn execs_that_nobody_deletes_are_not_in_the_way_for_good() {
    /// As many as a task has at once.
    const MOST: usize = 512;
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let numbered = |number: usize, command: &str| exec("demo", &format!("exec-{number}"), command);
    for number in 0..MOST - 1 {
        let request = numbered(number, "false");
        bench.client.exec(soon(), &request).await.unwrap();
    }
    let last = numbered(MOST - 1, "sleep");
    bench.client.exec(soon(), &last).await.unwrap();
    bench.start("demo", &last.exec_id).await.unwrap();
    // None of them has ended.
    let more = numbered(MOST, "false");
    let (code_, message) = code(bench.client.exec(soon(), &more).await);
    assert_eq!(code_, Code::FAILED_PRECONDITION, "{message}");
    bench.start("demo", "exec-0").await.unwrap();
    let ended = bench.wait("demo", "exec-0").await.unwrap();
    assert_eq!(ended.exit_status, 3);
    bench.client.exec(soon(), &more).await.unwrap();
    // What runs and what waits for its start is still there.
    bench.kill("demo", &last.exec_id, 9).await.unwrap();
    bench.start("demo", "exec-1").await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_task_that_has_ended_says_so_when_it_is_started() {
    let bench = Bench::new(Guest::Good).await;
    bench.bundle("demo");
    bench.create("demo").await.unwrap();
    bench.kill("demo", "", 9).await.unwrap();
    bench.wait("demo", "").await.unwrap();
    let (_, message) = code(bench.start("demo", "").await);
    assert!(message.contains("instance demo has ended"), "{message}");
    bench.delete("demo", "").await.unwrap();
    bench.stop().await;
}

#[tokio::test]
async fn a_part_of_an_output_is_no_success() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let request = exec("demo", "one", "torn");
    bench.client.exec(soon(), &request).await.unwrap();
    bench.start("demo", "one").await.unwrap();
    let ended = bench.wait("demo", "one").await.unwrap();
    assert_eq!(ended.exit_status, 137);
    bench.stop().await;
}

/// An exec whose start the guest holds up, and what that guest was told and is let go by.
async fn held(bench: &Bench) -> (Arc<Mutex<stub::agent::Told>>, Arc<Notify>) {
    bench.running("demo").await;
    let request = exec("demo", "one", "held");
    bench.client.exec(soon(), &request).await.unwrap();
    let agent = bench.vmm.agent.lock().unwrap();
    let agent = agent.as_ref().unwrap();
    (Arc::clone(&agent.told), Arc::clone(&agent.go))
}

#[tokio::test]
async fn an_exec_whose_caller_goes_while_it_is_started_has_an_owner() {
    let bench = Bench::new(Guest::Good).await;
    let (told, go) = held(&bench).await;
    let address = format!("unix://{}", bench.dir.path().join("task.sock").display());
    let other = TaskClient::new(Client::connect(&address).await.unwrap());
    let start = StartRequest {
        id: "demo".into(),
        exec_id: "one".into(),
        ..Default::default()
    };
    tokio::select! {
        _ = other.start(soon(), &start) => unreachable!("nobody has let it go"),
        () = until("the start", || told.lock().unwrap().starting == 1) => {}
    }
    // The call ends with its connection, as with containerd's end.
    drop(other);
    sleep(Duration::from_millis(200)).await;
    go.notify_one();
    let ended = async {
        while bench.kill("demo", "one", 9).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
        bench.wait("demo", "one").await.unwrap().exit_status
    };
    assert_eq!(timeout(LIMIT, ended).await.expect("it runs"), 128 + 9);
    assert_eq!(bench.delete("demo", "one").await.unwrap(), 128 + 9);
    bench.stop().await;
}

#[tokio::test]
async fn an_exec_that_is_deleted_while_it_is_started_is_killed() {
    let bench = Bench::new(Guest::Good).await;
    let (told, go) = held(&bench).await;
    let deleted = async {
        until("the start", || told.lock().unwrap().starting == 1).await;
        bench.delete("demo", "one").await.unwrap();
        go.notify_one();
    };
    let (started, ()) = tokio::join!(bench.start("demo", "one"), deleted);
    let (code_, message) = code(started);
    assert_eq!(code_, Code::FAILED_PRECONDITION, "{message}");
    until("its end", || told.lock().unwrap().signals == [9]).await;
    bench.stop().await;
}

#[tokio::test]
async fn pause_and_resume_are_the_machines() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let id = "demo".to_owned();
    bench
        .client
        .pause(
            soon(),
            &PauseRequest {
                id: id.clone(),
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(bench.state("demo").await, Status::PAUSED);
    bench
        .client
        .resume(
            soon(),
            &ResumeRequest {
                id,
                ..Default::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(bench.state("demo").await, Status::RUNNING);
    bench.stop().await;
}

#[tokio::test]
async fn stats_are_the_guests_and_stay_when_it_gives_none() {
    let bench = Bench::new(Guest::Good).await;
    bench.bundle("a");
    bench.create("a").await.unwrap();
    // Before there is a guest, they are those of the processes on the host.
    let host = bench.stats("a").await.unwrap();
    assert!(host.memory.usage > 0 && host.network.is_empty());
    bench.start("a", "").await.unwrap();
    let first = bench.stats("a").await.unwrap();
    assert_eq!(first.cpu.usage_usec, 3_000_000);
    assert_eq!(first.memory.usage - first.memory.inactive_file, 70 << 20);
    assert_eq!(first.memory.usage_limit, 480 << 20);
    assert_eq!(first.network[0].rx_bytes, 77);
    // The stub's guest says nothing more: what it said still stands.
    assert_eq!(bench.stats("a").await.unwrap(), first);
    assert_eq!(code(bench.stats("b").await).0, Code::NOT_FOUND);
    bench.kill("a", "", 9).await.unwrap();
    bench.wait("a", "").await.unwrap();
    assert_eq!(code(bench.stats("a").await).0, Code::NOT_FOUND);
    bench.stop().await;
}

#[tokio::test]
async fn a_growth_that_failed_half_way_can_be_asked_for_again() {
    let bench = Bench::new(Guest::Good).await;
    bench.bundle("a");
    bench.configure("a", |config| {
        config["annotations"]["seed.loom.farm/max_memory_mib"] = "1024".into();
    });
    bench.create("a").await.unwrap();
    bench.start("a", "").await.unwrap();
    let told = {
        let agent = bench.vmm.agent.lock().unwrap();
        Arc::clone(&agent.as_ref().unwrap().told)
    };
    told.lock().unwrap().trips = true;
    let more = || json!({"memory": {"limit": 768 << 20}});
    let (_, message) = code(bench.update("a", more()).await);
    assert!(message.contains("tripped over a processor"), "{message}");
    // Its guest has the memory already: nothing more will appear.
    bench.update("a", more()).await.unwrap();
    let socket = bench.paths("a").management_socket();
    let client = management::Client::connect(&socket).await.unwrap();
    let status = client.status(0, Duration::ZERO).await.unwrap();
    assert_eq!((status.vcpus, status.memory_mib), (1, 768));
    bench.stop().await;
}

#[tokio::test]
async fn update_gives_more_and_refuses_the_rest_with_the_way_out() {
    let bench = Bench::new(Guest::Good).await;
    bench.bundle("a");
    bench.configure("a", |config| {
        config["annotations"]["seed.loom.farm/max_vcpus"] = "4".into();
        config["annotations"]["seed.loom.farm/max_memory_mib"] = "1024".into();
    });
    bench.create("a").await.unwrap();
    let memory = |mib: u64| json!({"memory": {"limit": mib << 20}, "cpu": {"shares": 2}});
    let (early, message) = code(bench.update("a", memory(768)).await);
    assert_eq!(
        (early, message.as_str()),
        (Code::FAILED_PRECONDITION, "container a does not run")
    );
    bench.start("a", "").await.unwrap();
    let more = json!({"memory": {"limit": 700 << 20}, "cpu": {"quota": 250_000}});
    bench.update("a", more).await.unwrap();
    let size = bench.vmm.grown.lock().unwrap().unwrap();
    assert_eq!((size.vcpus, size.memory_mib), (3, 768));
    let told = bench
        .vmm
        .agent
        .lock()
        .unwrap()
        .as_ref()
        .map(|agent| agent.told.clone());
    assert_eq!(told.unwrap().lock().unwrap().online, Some(3));
    let socket = bench.paths("a").management_socket();
    let client = management::Client::connect(&socket).await.unwrap();
    let status = client.status(0, Duration::ZERO).await.unwrap();
    assert_eq!((status.vcpus, status.memory_mib), (3, 768));
    for (resources, kind, said) in [
        (
            memory(2048),
            Code::FAILED_PRECONDITION,
            "seed.loom.farm/max_memory_mib",
        ),
        (
            memory(512),
            Code::FAILED_PRECONDITION,
            "does not shrink to 512",
        ),
        (
            json!({"cpu": {"quota": 500_000}}),
            Code::FAILED_PRECONDITION,
            "growth.max_vcpus",
        ),
        (memory(1), Code::INVALID_ARGUMENT, "1 MiB of memory"),
        (json!("more"), Code::INVALID_ARGUMENT, "resources"),
    ] {
        let (code, message) = code(bench.update("a", resources).await);
        assert_eq!(code, kind, "{message}");
        assert!(message.contains(said), "{message}");
    }
    bench.stop().await;
}

/// A containerd that notes the topics of what it is told, and of an exit whose.
#[derive(Default)]
struct Containerd(Arc<Mutex<Vec<String>>>);

impl Containerd {
    /// Serves at `address` until the server is dropped. Returns what it will have heard.
    async fn listen(address: &str) -> (Arc<Mutex<Vec<String>>>, Server) {
        let containerd = Self::default();
        let heard = Arc::clone(&containerd.0);
        let mut server = Server::new()
            .bind(address)
            .unwrap()
            .register_service(create_events(Arc::new(containerd)));
        server.start().await.unwrap();
        (heard, server)
    }
}

#[async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope;
        let mut heard = envelope.topic.clone();
        if heard == "/tasks/exit" {
            let exit = TaskExit::parse_from_bytes(&envelope.event.value).unwrap();
            heard = format!("{heard} {} {}", exit.id, exit.exit_status);
        }
        self.0.lock().unwrap().push(heard);
        Ok(Empty::new())
    }
}

#[tokio::test]
async fn events_come_in_the_order_of_the_life_also_when_containerd_was_away() {
    let dir = tempfile::tempdir().unwrap();
    let events = format!("unix://{}", dir.path().join("events.sock").display());
    let bench = Bench::publishing(Guest::Good, &events).await;
    bench.bundle("demo");
    bench.create("demo").await.unwrap();
    // It was not there for the first one.
    let (heard, _server) = Containerd::listen(&events).await;
    bench.start("demo", "").await.unwrap();
    let request = exec("demo", "one", "false");
    bench.client.exec(soon(), &request).await.unwrap();
    bench.start("demo", "one").await.unwrap();
    bench.wait("demo", "one").await.unwrap();
    let hog = exec("demo", "two", "hog");
    bench.client.exec(soon(), &hog).await.unwrap();
    bench.start("demo", "two").await.unwrap();
    bench.wait("demo", "two").await.unwrap();
    // It comes by another way than the exec's events, before or after them.
    let is_oom = |topic: &String| topic == "/tasks/oom";
    until("the kill for memory", || {
        heard.lock().unwrap().iter().any(is_oom)
    })
    .await;
    bench.kill("demo", "", 15).await.unwrap();
    bench.wait("demo", "").await.unwrap();
    bench.delete("demo", "").await.unwrap();
    until("all events", || heard.lock().unwrap().len() == 11).await;
    heard.lock().unwrap().retain(|topic| !is_oom(topic));
    assert_eq!(
        *heard.lock().unwrap(),
        [
            "/tasks/create",
            "/tasks/start",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit one 3",
            "/tasks/exec-added",
            "/tasks/exec-started",
            "/tasks/exit two 137",
            "/tasks/exit demo 0",
            "/tasks/delete",
        ]
    );
    bench.stop().await;
}

#[tokio::test]
async fn whatever_runs_when_the_shim_goes_ends_with_it_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let events = format!("unix://{}", dir.path().join("events.sock").display());
    let (heard, _server) = Containerd::listen(&events).await;
    let bench = Bench::publishing(Guest::Stubborn, &events).await;
    bench.running("demo").await;
    let now = ShutdownRequest {
        id: "demo".into(),
        now: true,
        ..Default::default()
    };
    bench.client.shutdown(soon(), &now).await.unwrap();
    timeout(LIMIT, bench.shutdown.notified())
        .await
        .expect("now means now");
    // What `serve` does then.
    bench.pod.end(Duration::ZERO).await;
    bench.publisher.flush(LIMIT).await;
    assert_eq!(
        *heard.lock().unwrap(),
        ["/tasks/create", "/tasks/start", "/tasks/exit demo 137"]
    );
    bench.assert_nothing_left("demo");
    bench.stop().await;
}

#[tokio::test]
async fn what_the_shim_does_not_do_is_told_apart() {
    let bench = Bench::new(Guest::Good).await;
    bench.running("demo").await;
    let checkpoint = CheckpointTaskRequest {
        id: "demo".into(),
        ..Default::default()
    };
    let (code_, message) = code(bench.client.checkpoint(soon(), &checkpoint).await);
    assert_eq!(
        (code_, message.as_str()),
        (Code::UNIMPLEMENTED, "Checkpoint is not supported")
    );
    assert_eq!(code(bench.kill("nobody", "", 9).await).0, Code::NOT_FOUND);
    assert_eq!(
        code(bench.kill("demo", "", 99).await).0,
        Code::INVALID_ARGUMENT
    );
    for signal in [1, 28] {
        bench.kill("demo", "", signal).await.unwrap();
    }
    bench.bundle("second");
    let (code_, message) = code(bench.create("second").await);
    assert_eq!(code_, Code::FAILED_PRECONDITION, "{message}");
    bench.stop().await;
}

#[tokio::test]
async fn forty_lives_leak_no_descriptor() {
    let bench = Bench::new(Guest::Good).await;
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for round in 0..40 {
        bench.running("demo").await;
        let signal = if round % 2 == 0 { 15 } else { 9 };
        bench.kill("demo", "", signal).await.unwrap();
        bench.wait("demo", "").await.unwrap();
        bench.delete("demo", "").await.unwrap();
        if round == 4 {
            before = open();
        }
    }
    // Other tests of this process run beside it, each with a few tens of its own.
    until("descriptors are closed", || open() <= before + 30).await;
    bench.assert_nothing_left("demo");
    bench.stop().await;
}
