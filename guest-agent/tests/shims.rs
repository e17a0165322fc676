//! Both Kata shims' full orders of calls (`seed_kata_client::order`), in namespaces of their own: the Go shim's with a
//! pod of a pause container and one more, and the Rust shim's with a single container.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails here fails the test"
)]

mod common;

use std::{fs, path::Path};

use common::{Agent, LIMIT, in_namespaces, refusal, run};
use seed_kata_client::{
    Kata,
    order::{Pod, storage},
};
use tokio::time::timeout;
use ttrpc::Code;

const HARDWARE: &str = "02:5e:ed:00:00:01";
const POD: &str = "1d0c5bf4a0ee";
const WORK: &str = "7f3ac2de9b11";

/// An agent in a guest that has what a shim expects, and a pod for it.
struct Lab {
    agent: Agent,
    kata: Kata,
    pod: Pod,
}

impl Lab {
    async fn make() -> Self {
        run("ip link add veth-a type veth peer name veth-b");
        run(&format!("ip link set veth-a address {HARDWARE}"));
        let agent = Agent::start().await;
        // The folder that the host shares is a mount of its own in a guest.
        let shared = agent.at("shared");
        fs::create_dir_all(&shared).unwrap();
        run(&format!("mount -t tmpfs none {}", shared.display()));
        for (name, text) in [
            ("devices/system/cpu/cpu1/online", "0"),
            ("devices/system/memory/memory1/state", "offline"),
            ("devices/system/memory/block_size_bytes", "8000000\n"),
        ] {
            let path = agent.at("sysfs").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::write(agent.at("termination-log"), "bye").unwrap();
        let at = |name: &str| shared.join(name).display().to_string();
        let shm = ["noexec", "mode=1777", "size=1048576"];
        let local = ["mode=0770", "fsgid=4711"];
        let pod = Pod {
            id: POD.into(),
            container: WORK.into(),
            hardware: HARDWARE.into(),
            address: "192.0.2.7/24".into(),
            gateway: "192.0.2.1".into(),
            dns: "nameserver 192.0.2.53".into(),
            pod_storages: vec![storage(
                "ephemeral",
                "shm",
                "tmpfs",
                &at("sandbox/shm"),
                &shm,
            )],
            storages: vec![storage(
                "local",
                "local",
                "",
                &at("sandbox/local/cache"),
                &local,
            )],
            mounts: Vec::new(),
            env: vec!["A=1".into()],
            copies: at("shared/containers"),
            cpus: 2,
        };
        let kata = Kata::new(agent.client.clone());
        Self { agent, kata, pod }
    }

    /// What the calls have left in the guest.
    fn check_guest(&self) {
        let shm = &self.pod.pod_storages[0].mount_point;
        let shown = run(&format!("findmnt -n -o FSTYPE,OPTIONS {shm}"));
        for wanted in ["tmpfs", "nosuid", "nodev", "noexec", "size=1024k"] {
            assert!(shown.contains(wanted), "{shown}");
        }
        let local = &self.pod.storages[0].mount_point;
        let shown = run(&format!("stat -c %g:%a {local}"));
        assert_eq!(shown.trim(), "4711:2770");
        let resolver = fs::read_to_string(self.agent.at("resolv.conf")).unwrap();
        assert_eq!(resolver, "nameserver 192.0.2.53\n");
        let state = self.agent.at("sysfs/devices/system/memory/memory1/state");
        assert_eq!(fs::read_to_string(state).unwrap(), "online");
        let env = fs::read_to_string(self.agent.at("env")).unwrap();
        assert!(env.lines().any(|line| line == "A=\"1\""), "{env}");
    }
}

#[tokio::test]
async fn the_go_shims_order_from_dial_to_destroy() {
    if !in_namespaces("the_go_shims_order_from_dial_to_destroy") {
        return;
    }
    let lab = Lab::make().await;
    let running = lab.pod.go_up(&lab.kata).await.unwrap();
    lab.check_guest();
    let hosts = Path::new(&lab.pod.copies).join("hosts");
    assert_eq!(fs::read_to_string(hosts).unwrap(), "127.0.0.1 localhost\n");
    // A frame has up to 4 MiB, of which the call's own words need a few.
    let much = vec![0x5e; (4 << 20) - 1024];
    let place = format!("{}/much", lab.pod.copies);
    lab.kata.copy(&place, &much).await.unwrap();
    assert!(fs::read(place).unwrap() == much);
    let details = lab.kata.details().await.unwrap();
    assert_eq!(details.mem_block_size_bytes, 128 << 20);
    assert!(!details.support_mem_hotplug_probe);
    let escape = format!("{}/../../../etc/x", lab.pod.copies);
    let (code, _) = refusal(lab.kata.copy(&escape, b"x").await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
    // A second container beside the instance is refused with a sentence.
    let (code, message) = refusal(lab.kata.create("second", &[], Vec::new()).await);
    assert_eq!(code, Code::FAILED_PRECONDITION);
    assert!(message.contains("needs a guest of its own"), "{message}");
    assert!(running.is_whole());

    lab.agent.ctx.end.declare();
    let (output, words) = lab.pod.go_down(&lab.kata, running).await.unwrap();
    assert!(output.is_empty());
    assert_eq!(words, "bye");
}

#[tokio::test]
async fn the_rust_shims_order_without_check_and_destroy() {
    if !in_namespaces("the_rust_shims_order_without_check_and_destroy") {
        return;
    }
    let mut lab = Lab::make().await;
    // With its VM elsewhere it names its root by an image, and nothing may be fetched or mounted for that.
    let root = lab.agent.at("shared").join(WORK).join("rootfs");
    let place = root.display().to_string();
    let image = storage(
        "image_guest_pull",
        "localhost/instance:1",
        "overlay",
        &place,
        &[],
    );
    lab.pod.storages.push(image);
    // What it takes back when a container could not be made.
    let (code, _) = refusal(lab.kata.remove(WORK).await);
    assert_eq!(code, Code::INVALID_ARGUMENT);
    let running = lab.pod.rs_up(&lab.kata).await.unwrap();
    assert!(!root.exists());
    lab.check_guest();
    assert!(running.is_whole());
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let kata = lab.kata.clone();
            tokio::spawn(async move { kata.wait(WORK, "").await })
        })
        .collect();

    lab.agent.ctx.end.declare();
    for waiter in waiters {
        let waited = timeout(LIMIT, waiter).await.unwrap();
        assert_eq!(waited.unwrap().unwrap(), 0);
    }
    let output = lab.pod.rs_down(&lab.kata, running).await.unwrap();
    assert!(output.is_empty());
}
