//! A host that means no good, or has lost its mind: whatever it asks, the answer is one sentence and the right code, and
//! the agent goes on serving. The host is trusted; this is about a mistake of its not being ours too.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use common::{Agent, LIMIT, container, limit, refusal};
use protobuf::Message;
use seed_kata_client::Kata;
use seed_protocol::kata::{
    agent::*,
    oci,
    types::{ARPNeighbor, IPAddress, Interface, Route},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use ttrpc::{Code, proto::Request};

const SERVICE: &str = "grpc.AgentService";

/// What a refusal may have, whatever the request was.
const MAX_MESSAGE_BYTES: usize = 4 * 1024;

/// The agent of a guest whose boot goes on already.
async fn started() -> (Agent, Kata) {
    let agent = Agent::start().await;
    let kata = Kata::new(agent.client.clone());
    kata.create("demo", &["A=1"], Vec::new()).await.unwrap();
    kata.start("demo").await.unwrap();
    (agent, kata)
}

/// Sends these bytes as a request.
async fn send(kata: &Kata, method: &str, payload: Vec<u8>) -> ttrpc::Result<()> {
    let request = Request {
        service: SERVICE.into(),
        method: method.into(),
        timeout_nano: LIMIT.as_nanos().try_into().unwrap(),
        payload,
        ..Default::default()
    };
    kata.client.request(request).await.map(drop)
}

/// The request is refused, in one sentence, as the caller's mistake; and the agent serves.
async fn is_refused(kata: &Kata, method: &str, request: &impl Message, about: &str) {
    let sent = send(kata, method, request.write_to_bytes().unwrap()).await;
    let (code, message) = refusal(sent);
    assert!(
        [
            Code::INVALID_ARGUMENT,
            Code::NOT_FOUND,
            Code::FAILED_PRECONDITION,
            Code::UNIMPLEMENTED,
            Code::UNAVAILABLE,
        ]
        .contains(&code),
        "{method} ({about}): {code:?}: {message}"
    );
    assert!(
        !message.is_empty() && message.len() < MAX_MESSAGE_BYTES && !message.contains('\n'),
        "{method} ({about}): {message}"
    );
    assert!(kata.check().await.unwrap(), "{method} ({about})");
}

#[tokio::test]
async fn no_path_of_a_copy_gets_out() {
    let (agent, kata) = started().await;
    let root = agent.at("shared/shared/containers");
    let root = root.to_str().unwrap();
    let good = CopyFileRequest {
        path: format!("{root}/x"),
        file_size: 1,
        file_mode: 0o100_644,
        data: b"x".to_vec(),
        ..Default::default()
    };
    for path in [
        "/etc/shadow".to_owned(),
        "relative".to_owned(),
        String::new(),
        root.to_owned(),
        format!("{root}/../x"),
        format!("{root}/a/../../../x"),
        format!("{root}/./x"),
        format!("{root}x/y"),
        format!("{root}/a\0b"),
        format!("{root}/{}", "x/".repeat(4000)),
        format!("{root}/{}", "x".repeat(300)),
    ] {
        let request = CopyFileRequest {
            path,
            ..good.clone()
        };
        is_refused(&kata, "CopyFile", &request, &request.path).await;
    }
    for (about, change) in [
        ("size", (|r| r.file_size = -1) as fn(&mut CopyFileRequest)),
        ("least size", |r| r.file_size = i64::MIN),
        ("offset", |r| r.offset = -1),
        ("far offset", |r| {
            (r.offset, r.file_size) = (i64::MAX, i64::MAX)
        }),
        ("device", |r| r.file_mode = 0o060_600),
        ("every bit", |r| r.file_mode = u32::MAX),
        ("link to the root", |r| {
            (r.file_mode, r.data) = (0o120_777, b"/".to_vec())
        }),
        ("link up", |r| {
            (r.file_mode, r.data) = (0o120_777, b"../../..".to_vec())
        }),
        ("link to nothing", |r| {
            (r.file_mode, r.data) = (0o120_777, Vec::new())
        }),
    ] {
        let mut request = good.clone();
        change(&mut request);
        is_refused(&kata, "CopyFile", &request, about).await;
    }
}

#[tokio::test]
async fn an_environment_without_bounds_is_refused() {
    let agent = Agent::start().await;
    let kata = Kata::new(agent.client.clone());
    let name = |n: usize| format!("{n:x>60}=");
    let names: Vec<_> = (0..60_000).map(name).collect();
    let empty = vec![String::new(); 1_000_000];
    for (about, env) in [
        ("4 MiB of names", names),
        ("a million of nothing", empty),
        (
            "a name of 1 MiB",
            vec![format!("{}=x", "A".repeat(1 << 20))],
        ),
        ("a sign alone", vec!["=".to_owned()]),
        ("NUL", vec!["A=\0".to_owned()]),
        ("a line in a name", vec!["A\nB=x".to_owned()]),
    ] {
        let env: Vec<_> = env.iter().map(String::as_str).collect();
        let request = container("demo", &env, Vec::new());
        is_refused(&kata, "CreateContainer", &request, about).await;
    }
    assert!(!agent.at("env").exists());
}

#[tokio::test]
async fn no_mount_covers_the_system_and_none_is_one_too_many() {
    let agent = Agent::start().await;
    let kata = Kata::new(agent.client.clone());
    let disk = |place: &str| Storage {
        driver: "blk".into(),
        driver_options: vec!["serial=x".into()],
        mount_point: place.into(),
        ..Default::default()
    };
    for place in [
        "/",
        "//",
        "/proc",
        "/proc/sys/kernel",
        "/sys",
        "/dev/shm",
        "/etc",
        "/usr/bin",
        "/nix/store",
        "/run/systemd",
        "/run/kata-containers",
        "/seed",
        "/seed/tpm",
        "/boot/x",
        "/srv/../proc",
        "srv",
        "/a\0b",
        "/a\n",
    ] {
        let request = container("demo", &[], vec![disk(place)]);
        is_refused(&kata, "CreateContainer", &request, place).await;
        let memory = Storage {
            driver: "ephemeral".into(),
            ..disk(place)
        };
        let request = CreateSandboxRequest {
            storages: vec![memory],
            ..Default::default()
        };
        is_refused(&kata, "CreateSandbox", &request, place).await;
    }
    let long = format!("/srv/{}", "x/".repeat(100_000));
    is_refused(
        &kata,
        "CreateContainer",
        &container("demo", &[], vec![disk(&long)]),
        "long",
    )
    .await;
    let many: Vec<_> = (0..40_000).map(|n| disk(&format!("/srv/{n}"))).collect();
    is_refused(
        &kata,
        "CreateContainer",
        &container("demo", &[], many),
        "40,000 disks",
    )
    .await;
    let mut request = container("demo", &[], Vec::new());
    let mount = oci::Mount {
        destination: "/srv/x".into(),
        source: "/run/kata-containers/shared/containers/x".into(),
        type_: "bind".into(),
        ..Default::default()
    };
    request.OCI.mut_or_insert_default().Mounts = vec![mount; 40_000];
    is_refused(&kata, "CreateContainer", &request, "40,000 mounts").await;
    assert!(!agent.at("env").exists());
}

#[tokio::test]
async fn words_for_the_network_are_checked_before_the_kernel_sees_them() {
    let (_agent, kata) = started().await;
    let address = |text: &str, mask: &str| IPAddress {
        address: text.into(),
        mask: mask.into(),
        ..Default::default()
    };
    let good = Interface {
        name: "eth0".into(),
        IPAddresses: vec![address("192.0.2.7", "24")],
        ..Default::default()
    };
    for (about, change) in [
        (
            "name",
            (|i| i.name = "../eth0".into()) as fn(&mut Interface),
        ),
        ("long name", |i| i.name = "x".repeat(1 << 20)),
        ("no name", |i| i.name.clear()),
        ("MTU", |i| i.mtu = u64::MAX),
        ("hardware", |i| i.hwAddr = "02:00".into()),
        ("PCI path", |i| i.devicePath = "../../etc".into()),
        ("mask", |i| i.IPAddresses[0].mask = "-1".into()),
        ("address", |i| i.IPAddresses[0].address = "::g\0".into()),
        ("many", |i| {
            i.IPAddresses = vec![i.IPAddresses[0].clone(); 50_000]
        }),
    ] {
        let mut interface = good.clone();
        change(&mut interface);
        let request = UpdateInterfaceRequest {
            interface: Some(interface).into(),
            ..Default::default()
        };
        is_refused(&kata, "UpdateInterface", &request, about).await;
    }
    is_refused(
        &kata,
        "UpdateInterface",
        &UpdateInterfaceRequest::new(),
        "none",
    )
    .await;
    let route = |route: Route, count: usize| UpdateRoutesRequest {
        routes: Some(Routes {
            Routes: vec![route; count],
            ..Default::default()
        })
        .into(),
        ..Default::default()
    };
    let eth0 = Route {
        device: "eth0".into(),
        ..Default::default()
    };
    let scope = Route {
        scope: u32::MAX,
        ..eth0.clone()
    };
    is_refused(&kata, "UpdateRoutes", &route(eth0, 100_000), "many").await;
    is_refused(&kata, "UpdateRoutes", &route(scope, 1), "scope").await;
    for (state, flags) in [(-1, 0), (i32::MAX, 0), (0, -1), (0, 256)] {
        let neighbour = ARPNeighbor {
            toIPAddress: Some(address("192.0.2.1", "")).into(),
            device: "eth0".into(),
            state,
            flags,
            ..Default::default()
        };
        let request = AddARPNeighborsRequest {
            neighbors: Some(ARPNeighbors {
                ARPNeighbors: vec![neighbour],
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        is_refused(&kata, "AddARPNeighbors", &request, "a number").await;
    }
}

#[tokio::test]
async fn processes_and_devices_that_cannot_be_meant_are_refused() {
    let (_agent, kata) = started().await;
    let good = oci::Process {
        Args: vec!["/bin/true".into()],
        Cwd: "/".into(),
        ..Default::default()
    };
    for (about, change) in [
        ("nothing", (|p| p.Args.clear()) as fn(&mut oci::Process)),
        ("NUL", |p| p.Args.push("a\0b".into())),
        ("2 MiB of arguments", |p| p.Args = vec!["x".repeat(2 << 20)]),
        ("2 MiB of environment", |p| {
            p.Env = vec!["A=b".repeat(1 << 20)]
        }),
        ("no sign", |p| p.Env.push("A".into())),
        ("a value that is no text", |p| {
            p.Env.push("A=\u{ffff}".into())
        }),
        ("an argument that is no text", |p| {
            p.Args.push("\u{fdd0}".into())
        }),
        ("a user that is no text", |p| {
            p.User.mut_or_insert_default().Username = "\u{fffe}".into();
        }),
        ("a folder that goes up", |p| p.Cwd = "../..".into()),
        ("a terminal of 70,000 rows", |p| {
            p.Terminal = true;
            p.ConsoleSize.mut_or_insert_default().Height = 70_000;
        }),
    ] {
        let mut process = good.clone();
        change(&mut process);
        let request = ExecProcessRequest {
            container_id: "demo".into(),
            exec_id: "e".into(),
            process: Some(process).into(),
            ..Default::default()
        };
        is_refused(&kata, "ExecProcess", &request, about).await;
    }
    for exec_id in ["x".repeat(1 << 20), "a\nb".to_owned()] {
        let request = ExecProcessRequest {
            container_id: "demo".into(),
            exec_id,
            process: Some(good.clone()).into(),
            ..Default::default()
        };
        is_refused(&kata, "ExecProcess", &request, "its id").await;
    }
    for id in [
        "x".repeat(1 << 20),
        "../demo".into(),
        "a\0b".into(),
        String::new(),
    ] {
        let request = StatsContainerRequest {
            container_id: id.clone(),
            ..Default::default()
        };
        is_refused(&kata, "StatsContainer", &request, "an id").await;
    }
    let signal = SignalProcessRequest {
        container_id: "demo".into(),
        signal: u32::MAX,
        ..Default::default()
    };
    is_refused(&kata, "SignalProcess", &signal, "no signal").await;
    for path in ["/dev/../etc/shadow", "relative", "", "/etc/passwd"] {
        let request = AddSwapPathRequest {
            path: path.into(),
            ..Default::default()
        };
        is_refused(&kata, "AddSwapPath", &request, path).await;
    }
    for parts in [vec![u32::MAX; 2], vec![0; 100_000], vec![]] {
        let request = AddSwapRequest {
            PCIPath: parts,
            ..Default::default()
        };
        is_refused(&kata, "AddSwap", &request, "a PCI path").await;
    }
    for path in ["../..", "", "/proc", "/nonexistent"] {
        let request = ResizeVolumeRequest {
            volume_guest_path: path.into(),
            size: u64::MAX,
            ..Default::default()
        };
        is_refused(&kata, "ResizeVolume", &request, path).await;
    }
    for (seconds, microseconds) in [(i64::MIN, 0), (-1, 0), (0, -1), (i64::MAX, i64::MAX)] {
        let request = SetGuestDateTimeRequest {
            Sec: seconds,
            Usec: microseconds,
            ..Default::default()
        };
        is_refused(&kata, "SetGuestDateTime", &request, "a time").await;
    }
    is_refused(
        &kata,
        "ReseedRandomDev",
        &ReseedRandomDevRequest::new(),
        "no seed",
    )
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_answered_or_end_their_own_connection_only() {
    let (agent, kata) = started().await;
    // Not UTF-8 in a string; a length that is not there; a group that never ends; nothing but ones.
    for payload in [
        vec![0x0a, 2, 0xff, 0xfe],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x07],
        vec![0x0b],
        vec![0xff; 4096],
    ] {
        for method in ["CreateContainer", "CreateSandbox", "CopyFile", "ReadStdout"] {
            assert!(send(&kata, method, payload.clone()).await.is_err());
            assert!(kata.check().await.unwrap(), "{method}");
        }
    }
    assert!(send(&kata, "NoSuchMethod", Vec::new()).await.is_err());
    // A header that announces 4 GiB, one with a flood of odd frames, and no header at all.
    let odd = [0, 0, 0, 0, 0, 0, 0, 0, 9, 0xff].repeat(1000);
    for bytes in [vec![0xff; 10], odd, b"CONNECT 1024\n".to_vec(), vec![0; 9]] {
        let mut stream = UnixStream::connect(agent.at("agent.sock")).await.unwrap();
        // The agent may hang up while this is on its way.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let read = timeout(LIMIT, stream.read_to_end(&mut rest)).await;
        assert!(
            read.is_ok(),
            "the agent holds on to a connection that has ended"
        );
        assert!(kata.check().await.unwrap());
    }
    // Those who connect and say nothing take nothing from the others.
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(UnixStream::connect(agent.at("agent.sock")).await.unwrap());
    }
    assert!(kata.check().await.unwrap());
    let request = StatsContainerRequest {
        container_id: "demo".into(),
        ..Default::default()
    };
    assert!(kata.agent.stats_container(limit(), &request).await.is_ok());
}
