//! The server over a Unix socket, driven by a client as the shim is one. No VM, no systemd: what needs
//! them has VM cases. Nothing here ever asks for a power-off, for it would be the test machine's.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt, time::Duration};

use common::{Agent, LIMIT, container, in_namespaces, limit, refusal};
use seed_agent::{
    config::{BakedVolume, Instance},
    storage::{MountPoint, VolumeName, owner::OwnerNames},
};
use seed_protocol::{
    kata::{
        agent::*, health::CheckRequest, health::health_check_response::ServingStatus,
        health_ttrpc::HealthClient, oci,
    },
    seed::v1::{
        ClosePortRequest, GetStatusRequest, OpenPortRequest, ReadPortRequest, ShowUnitRequest,
        Stage, WritePortRequest,
    },
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use ttrpc::{Code, context::with_duration};

#[tokio::test]
async fn the_shims_calls_write_the_environment_and_let_the_boot_go_on() {
    let agent = Agent::start().await;
    let sandbox = CreateSandboxRequest {
        dns: vec!["nameserver 192.0.2.1".into()],
        sandbox_id: "demo".into(),
        ..Default::default()
    };
    agent
        .kata()
        .create_sandbox(limit(), &sandbox)
        .await
        .unwrap();
    let resolver = fs::read_to_string(agent.directory.path().join("resolv.conf")).unwrap();
    assert_eq!(resolver, "nameserver 192.0.2.1\n");
    agent
        .create("demo", &["A=it's \"$5\"", "PATH=/bin"])
        .await
        .unwrap();
    let env = fs::read_to_string(agent.directory.path().join("env")).unwrap();
    assert_eq!(env, "A=\"it's \\\"\\$5\\\"\"\nSEED_INSTANCE=\"demo\"\n");
    let released = tokio::time::timeout(Duration::from_millis(50), agent.ctx.sandbox.released());
    assert!(released.await.is_err(), "the boot waits for StartContainer");
    agent.start_container("demo").await.unwrap();
    agent.ctx.sandbox.released().await;
    let request = GetStatusRequest::default();
    let status = agent.seed().get_status(limit(), &request).await.unwrap();
    let stages: Vec<_> = status
        .stages
        .iter()
        .map(|s| s.stage.enum_value().unwrap())
        .collect();
    assert_eq!(stages, [Stage::STAGE_HELLO, Stage::STAGE_PROVISIONED]);
    // There is no TPM for this agent: the boot goes on and the status says so.
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.subject == "identity")
    );
}

#[tokio::test]
async fn the_closure_names_the_instance_and_who_may_read_its_environment() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("etc")).unwrap();
    let ours = fs::metadata(directory.path()).unwrap().gid();
    fs::write(
        directory.path().join("etc/group"),
        format!("app:x:{ours}:\n"),
    )
    .unwrap();
    let instance = |group: &str| Instance {
        name: "web".into(),
        env_group: Some(group.into()),
        ..Instance::default()
    };
    let agent = Agent::start_in(directory, instance("app")).await;
    agent.create("4711", &[]).await.unwrap();
    let file = agent.at("env");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "SEED_INSTANCE=\"web\"\n"
    );
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.gid()), (0o640, ours));
    // A group that is not there is told, and the file is root's alone.
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("etc")).unwrap();
    fs::write(directory.path().join("etc/group"), "").unwrap();
    let agent = Agent::start_in(directory, instance("nobody-here")).await;
    agent.create("4711", &["SEED_INSTANCE=mine"]).await.unwrap();
    let file = agent.at("env");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "SEED_INSTANCE=\"mine\"\n"
    );
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let problems = agent.ctx.status.now().problems;
    let told = problems
        .iter()
        .any(|p| p.message.contains("group nobody-here does not exist"));
    assert!(told, "{problems:?}");
}

#[tokio::test]
async fn a_bad_environment_name_is_refused_by_name_and_may_be_mended() {
    let agent = Agent::start().await;
    let (code, message) = refusal(agent.create("demo", &["GOOD=1", "2BAD=s3cret"]).await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert!(
        message.contains("\"2BAD\"") && !message.contains("s3cret"),
        "{message}"
    );
    assert!(!agent.directory.path().join("env").exists());
    agent.create("demo", &["GOOD=1"]).await.unwrap();
}

#[tokio::test]
async fn requests_that_do_not_fit_are_told_apart() {
    let agent = Agent::start().await;
    assert_eq!(
        refusal(agent.start_container("demo").await).0,
        Code::INVALID_ARGUMENT
    );
    assert_eq!(
        refusal(agent.create("../demo", &[]).await).0,
        Code::INVALID_ARGUMENT
    );
    agent.create("demo", &[]).await.unwrap();
    assert_eq!(
        refusal(agent.create("demo", &[]).await).0,
        Code::ALREADY_EXISTS
    );
    let (code, message) = refusal(agent.create("other", &[]).await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("needs a guest of its own"), "{message}");
    assert_eq!(
        refusal(agent.start_container("other").await).0,
        Code::INVALID_ARGUMENT
    );
    agent.start_container("demo").await.unwrap();
    agent.start_container("demo").await.unwrap();
    let remove = RemoveContainerRequest {
        container_id: "demo".into(),
        ..Default::default()
    };
    agent
        .kata()
        .remove_container(limit(), &remove)
        .await
        .unwrap();
    let signal = |container_id: &str, signal| SignalProcessRequest {
        container_id: container_id.into(),
        signal,
        ..Default::default()
    };
    let (code, message) = refusal(
        agent
            .kata()
            .signal_process(limit(), &signal("demo", 10))
            .await,
    );
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert!(message.contains("signal 10"), "{message}");
    agent
        .kata()
        .signal_process(limit(), &signal("demo", 0))
        .await
        .unwrap();
    let other = agent
        .kata()
        .signal_process(limit(), &signal("other", 15))
        .await;
    assert_eq!(refusal(other).0, Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn hostile_storages_are_refused_before_anything_is_done() {
    let agent = Agent::start().await;
    for (driver, mount_point, expected) in [
        ("blk", "/proc", Code::INVALID_ARGUMENT),
        ("blk", "/seed/storage/../../etc", Code::INVALID_ARGUMENT),
        ("9p", "/srv/a", Code::UNIMPLEMENTED),
    ] {
        let storage = Storage {
            driver: driver.into(),
            driver_options: vec!["serial=x".into()],
            mount_point: mount_point.into(),
            ..Default::default()
        };
        let request = container("demo", &["A=1"], vec![storage]);
        let result = agent.kata().create_container(limit(), &request).await;
        assert_eq!(refusal(result).0, expected, "{driver} {mount_point}");
    }
    for (place, kind, expected) in [
        ("/proc", "bind", Code::INVALID_ARGUMENT),
        ("/nix/store/x", "bind", Code::INVALID_ARGUMENT),
        ("/srv/a", "nfs", Code::UNIMPLEMENTED),
    ] {
        let mut request = container("demo", &["A=1"], vec![]);
        request.OCI.mut_or_insert_default().Mounts = vec![oci::Mount {
            destination: place.into(),
            source: "/run/kata-containers/shared/containers/x".into(),
            type_: kind.into(),
            ..Default::default()
        }];
        let result = agent.kata().create_container(limit(), &request).await;
        let (code, message) = refusal(result);
        assert_eq!(code, expected, "{place}");
        assert!(message.contains(place), "{message}");
    }
    assert!(!agent.directory.path().join("env").exists());
    let large = vec![format!("A={}", "x".repeat(100 * 1024)); 12];
    let large: Vec<_> = large.iter().map(String::as_str).collect();
    assert_eq!(
        refusal(agent.create("demo", &large).await).0,
        Code::INVALID_ARGUMENT
    );
}

#[tokio::test]
async fn a_declared_volume_without_a_device_is_a_problem_and_no_obstacle() {
    if !in_namespaces("a_declared_volume_without_a_device_is_a_problem_and_no_obstacle") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data");
    let volume = BakedVolume {
        mount_point: MountPoint::try_from(place.to_str().unwrap()).unwrap(),
        owner: OwnerNames::default(),
        mode: None,
    };
    let volumes = BTreeMap::from([(VolumeName::try_from("data").unwrap(), volume)]);
    let instance = Instance {
        name: "demo".into(),
        volumes,
        ..Instance::default()
    };
    let agent = Agent::start_in(directory, instance).await;
    agent.create("demo", &[]).await.unwrap();
    // Nobody's data goes to the root in its stead.
    assert!(std::fs::write(place.join("file"), "lost").is_err());
    common::run(&format!("umount {}", place.display()));
    let status = agent.ctx.status.now();
    assert_eq!(status.volumes.len(), 1);
    assert_eq!(
        status.volumes[0].problem,
        "the host attached no device for it"
    );
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.subject == "volume data")
    );
}

#[tokio::test]
async fn calls_that_wait_for_ever_hold_nobody_up() {
    let agent = Agent::start().await;
    agent.create("demo", &[]).await.unwrap();
    let (kata, wait) = (agent.kata(), agent.kata());
    let oom = tokio::spawn(async move {
        kata.get_oom_event(with_duration(Duration::ZERO), &GetOOMEventRequest::new())
            .await
    });
    let init = tokio::spawn(async move {
        let request = WaitProcessRequest {
            container_id: "demo".into(),
            ..Default::default()
        };
        wait.wait_process(with_duration(Duration::ZERO), &request)
            .await
    });
    let health = HealthClient::new(agent.client.clone());
    for _ in 0..100 {
        let answer = health.check(limit(), &CheckRequest::new()).await.unwrap();
        assert_eq!(answer.status, ServingStatus::SERVING.into());
    }
    assert!(!oom.is_finished() && !init.is_finished());
    oom.abort();
    init.abort();
}

#[tokio::test]
async fn a_status_is_told_when_it_changes() {
    let agent = Agent::start().await;
    let seed = agent.seed();
    let now = seed
        .get_status(limit(), &GetStatusRequest::default())
        .await
        .unwrap();
    let waiter = tokio::spawn(async move {
        let after_revision = now.revision;
        let request = GetStatusRequest {
            after_revision,
            wait_ms: 9000,
            ..Default::default()
        };
        seed.get_status(limit(), &request).await
    });
    agent
        .ctx
        .status
        .problem("volume data", "user app does not exist");
    let changed = waiter.await.unwrap().unwrap();
    assert_eq!(changed.problems.len(), 1);
    assert!(changed.revision > now.revision);
}

#[tokio::test]
async fn what_is_not_done_is_refused_by_name() {
    let agent = Agent::start().await;
    let (code, message) = refusal(
        agent
            .kata()
            .set_policy(limit(), &SetPolicyRequest::new())
            .await,
    );
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(message.contains("SetPolicy"), "{message}");
    let details = agent
        .kata()
        .get_guest_details(limit(), &GuestDetailsRequest::new())
        .await;
    assert!(!details.unwrap().agent_details.supports_seccomp);
}

#[tokio::test]
async fn a_unit_is_shown_by_a_name_that_one_can_have() {
    let agent = Agent::start().await;
    let seed = agent.seed();
    let show = async |name: &str| {
        let request = ShowUnitRequest {
            name: name.into(),
            ..Default::default()
        };
        refusal(seed.show_unit(limit(), &request).await)
    };
    for name in ["", "no name", "../x", &"x".repeat(256)] {
        let (code, message) = show(name).await;
        assert_eq!(code, Code::INVALID_ARGUMENT, "{message}");
        assert!(message.contains("is no unit name"), "{message}");
    }
    // Without a bus it is "not yet", and with this machine's own there is no such unit.
    let (code, message) = show("seed-test-of-no-unit").await;
    let expected = [Code::UNAVAILABLE, Code::NOT_FOUND];
    assert!(expected.contains(&code), "{code:?}: {message}");
}

#[tokio::test]
async fn a_module_that_cannot_be_meant_or_had_is_refused_and_one_that_is_there_is_not() {
    let agent = Agent::start().await;
    fs::create_dir_all(agent.at("sysfs/module/virtio_net")).unwrap();
    let load = |name: &str| CreateSandboxRequest {
        kernel_modules: vec![KernelModule {
            name: name.into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let kata = agent.kata();
    let refused = kata.create_sandbox(limit(), &load("../x")).await;
    assert_eq!(refusal(refused).0, Code::INVALID_ARGUMENT);
    let refused = kata.create_sandbox(limit(), &load("seed-no-such")).await;
    let (code, message) = refusal(refused);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("kernel module seed-no-such"), "{message}");
    kata.create_sandbox(limit(), &load("virtio-net"))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_agent_that_starts_again_goes_on_where_it_was() {
    let agent = Agent::start().await;
    agent.create("demo", &["A=1"]).await.unwrap();
    agent.start_container("demo").await.unwrap();
    let Agent { directory, .. } = agent;
    let again = Agent::start_in(directory, Instance::default()).await;
    again.ctx.sandbox.released().await;
    assert_eq!(
        refusal(again.create("demo", &[]).await).0,
        Code::ALREADY_EXISTS
    );
    again.start_container("demo").await.unwrap();
}

#[tokio::test]
async fn what_is_asked_of_the_machine_is_answered_with_exact_codes() {
    let agent = Agent::start_with(
        tempfile::tempdir().unwrap(),
        Instance::default(),
        |config| {
            config.hotplug_limit = Duration::from_millis(50);
        },
    )
    .await;
    let kata = agent.kata();
    // Neither the epoch nor a broken fraction is a time that anybody means; no clock is set here.
    for (sec, usec) in [(0, 0), (-1, 0), (1, -1), (1, 1_000_000)] {
        let request = SetGuestDateTimeRequest {
            Sec: sec,
            Usec: usec,
            ..Default::default()
        };
        let refused = kata.set_guest_date_time(limit(), &request).await;
        assert_eq!(refusal(refused).0, Code::INVALID_ARGUMENT);
    }
    let nothing = ReseedRandomDevRequest::new();
    let refused = kata.reseed_random_dev(limit(), &nothing).await;
    assert_eq!(refusal(refused).0, Code::INVALID_ARGUMENT);
    let cpus = OnlineCPUMemRequest {
        wait: true,
        nb_cpus: 3,
        ..Default::default()
    };
    let (code, message) = refusal(kata.online_cpu_mem(limit(), &cpus).await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(
        message.contains("not the 3 that are asked for"),
        "{message}"
    );
    let probe = MemHotplugByProbeRequest::new();
    let refused = kata.mem_hotplug_by_probe(limit(), &probe).await;
    assert_eq!(refusal(refused).0, Code::FAILED_PRECONDITION);

    let volume = |path: &str| VolumeStatsRequest {
        volume_guest_path: path.into(),
        ..Default::default()
    };
    let root = kata.get_volume_stats(limit(), &volume("/")).await.unwrap();
    assert!(root.usage.len() == 2 && root.usage[0].total > root.usage[0].used);
    for (path, code) in [
        ("data", Code::INVALID_ARGUMENT),
        ("/srv/../etc", Code::INVALID_ARGUMENT),
        ("/no/volume", Code::NOT_FOUND),
    ] {
        let refused = kata.get_volume_stats(limit(), &volume(path)).await;
        assert_eq!(refusal(refused).0, code, "{path}");
    }
    let resize = ResizeVolumeRequest {
        volume_guest_path: "/proc".into(),
        size: 1,
        ..Default::default()
    };
    let refused = kata.resize_volume(limit(), &resize).await;
    assert_eq!(refusal(refused).0, Code::FAILED_PRECONDITION);
    let swap = AddSwapRequest {
        PCIPath: vec![2, 3],
        ..Default::default()
    };
    assert_eq!(
        refusal(kata.add_swap(limit(), &swap).await).0,
        Code::NOT_FOUND
    );
    let path = AddSwapPathRequest {
        path: "/etc/passwd".into(),
        ..Default::default()
    };
    let refused = kata.add_swap_path(limit(), &path).await;
    assert_eq!(refusal(refused).0, Code::INVALID_ARGUMENT);
    let nobody = StatsContainerRequest {
        container_id: "nobody".into(),
        ..Default::default()
    };
    let refused = kata.stats_container(limit(), &nobody).await;
    assert_eq!(refusal(refused).0, Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn a_pause_freezes_the_instances_units_and_a_kill_for_memory_is_told() {
    let agent = Agent::start().await;
    for group in ["user.slice", "system.slice/app.service"] {
        let group = agent.at("cgroup").join(group);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.freeze"), "0").unwrap();
    }
    agent.create("demo", &[]).await.unwrap();
    let app = agent.at("cgroup/system.slice/app.service/cgroup.freeze");
    let pause = PauseContainerRequest {
        container_id: "demo".into(),
        ..Default::default()
    };
    agent.kata().pause_container(limit(), &pause).await.unwrap();
    assert_eq!(fs::read_to_string(&app).unwrap(), "1");
    let resume = ResumeContainerRequest {
        container_id: "demo".into(),
        ..Default::default()
    };
    agent
        .kata()
        .resume_container(limit(), &resume)
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(&app).unwrap(), "0");

    let kata = agent.kata();
    let oom = tokio::spawn(async move {
        kata.get_oom_event(common::unlimited(), &GetOOMEventRequest::new())
            .await
    });
    let events = agent.at("cgroup/system.slice/memory.events");
    fs::write(events, "oom 1\noom_kill 1\n").unwrap();
    let told = tokio::time::timeout(LIMIT, oom).await;
    assert_eq!(told.unwrap().unwrap().unwrap().container_id, "demo");
}

#[tokio::test]
async fn a_port_of_the_loopback_is_reached_by_calls() {
    let agent = Agent::start().await;
    let seed = agent.seed();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let open = |port| OpenPortRequest {
        port,
        ..Default::default()
    };
    let id = seed.open_port(limit(), &open(port)).await.unwrap().id;
    let (mut service, _) = listener.accept().await.unwrap();
    let write = WritePortRequest {
        id,
        data: b"ping".to_vec(),
        end: true,
        wait_ms: 5000,
        ..Default::default()
    };
    assert_eq!(seed.write_port(limit(), &write).await.unwrap().written, 4);
    let mut asked = Vec::new();
    service.read_to_end(&mut asked).await.unwrap();
    assert_eq!(asked, b"ping");
    service.write_all(b"pong").await.unwrap();
    drop(service);
    let read = ReadPortRequest {
        id,
        max_bytes: 100,
        wait_ms: 5000,
        ..Default::default()
    };
    let answer = seed.read_port(limit(), &read).await.unwrap();
    assert_eq!((&answer.data[..], answer.end), (&b"pong"[..], false));
    let last = seed.read_port(limit(), &read).await.unwrap();
    assert!(last.data.is_empty() && last.end);
    let close = ClosePortRequest {
        id,
        ..Default::default()
    };
    for _ in 0..2 {
        seed.close_port(limit(), &close).await.unwrap();
    }

    let (code, message) = refusal(seed.read_port(limit(), &read).await);
    assert_eq!(code, Code::NOT_FOUND, "{message}");
    let (code, message) = refusal(seed.open_port(limit(), &open(70_000)).await);
    assert_eq!(code, Code::INVALID_ARGUMENT, "{message}");
    // Taken, so that it is nobody else's, and not listened on.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = u32::from(silent.local_addr().unwrap().port());
    let (code, message) = refusal(seed.open_port(limit(), &open(port)).await);
    assert_eq!(code, Code::FAILED_PRECONDITION, "{message}");
    assert!(message.contains(&port.to_string()), "{message}");
}
