//! The files that a containerd of ours reads: its own configuration in the form of its series, and a bridge network
//! for pods.

use std::{fs, process::Command};

use anyhow::Result;
use seed_container::CONTAINERD_LIMITS;
use serde_json::json;

use super::{Containerd, Version, image};

/// The first series whose images and runtimes are plugins of their own, and whose file has version 3.
const SECOND: Version = Version::new(2, 0);

/// The first series with NRI.
const WITH_NRI: Version = Version::new(1, 7);

/// The first series that takes a runtime's options for the runtime's where there is a sandboxer.
const SANDBOXERS_OPTIONS: Version = Version::new(2, 3);

/// CRI, one plugin in the first series; the server for streams is still its.
const CRI: &str = "io.containerd.grpc.v1.cri";

/// Any free port of the loopback.
const STREAM_SERVER: &str = "stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"";

/// Writes all of them, with the shim's configuration in or beside them.
pub(super) fn write(containerd: &Containerd, shim: &str) -> Result<()> {
    let dir = containerd.dir();
    fs::write(dir.join("containerd.toml"), toml(containerd, shim))?;
    let cni = dir.join("cni");
    fs::create_dir_all(&cni)?;
    if containerd.options.network {
        fs::write(cni.join("10-seed.conflist"), network(containerd))?;
    }
    Ok(())
}

fn toml(containerd: &Containerd, shim: &str) -> String {
    let dir = containerd.dir().display();
    let (version, runtime, images) = if containerd.version() >= SECOND {
        let images = "io.containerd.cri.v1.images";
        (3, "io.containerd.cri.v1.runtime", Some(images))
    } else {
        (2, CRI, None)
    };
    let pause = image::PAUSE;
    // containerd 2 keeps images in a plugin of their own.
    let (own_image, image_plugin) = match images {
        None => (format!("sandbox_image = {pause:?}"), String::new()),
        Some(plugin) => (
            String::new(),
            format!("[plugins.{plugin:?}.pinned_images]\nsandbox = {pause:?}\n"),
        ),
    };
    let nri = if containerd.version() >= WITH_NRI {
        "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n"
    } else {
        ""
    };
    let (old_streaming, streaming) = match images {
        Some(_) => (format!("[plugins.{CRI:?}]\n{STREAM_SERVER}\n"), ""),
        None => (String::new(), STREAM_SERVER),
    };
    let own = of_runtime(containerd, runtime, shim);
    let sandboxer = if containerd.version() >= SECOND {
        sandboxer(runtime)
    } else {
        String::new()
    };
    let cni = containerd.programs.cni();
    let limits = if containerd.options.own_limits {
        ""
    } else {
        CONTAINERD_LIMITS
    };
    // 2.1 takes a list of folders as well; one is understood by all.
    format!(
        r#"version = {version}
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[debug]
level = "debug"
[grpc]
address = "{dir}/c.sock"
[ttrpc]
address = "{dir}/t.sock"
{limits}[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
{nri}{old_streaming}{image_plugin}[plugins."{runtime}"]
{own_image}
{streaming}
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."{runtime}".cni]
bin_dir = {cni:?}
conf_dir = "{dir}/cni"
[plugins."{runtime}".containerd]
default_runtime_name = "runc"
[plugins."{runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{runtime}".containerd.runtimes.seed]
runtime_type = "io.containerd.seed.v2"
pod_annotations = ["seed.loom.farm/*", "io.katacontainers.*"]
container_annotations = ["seed.loom.farm/*", "io.katacontainers.*"]
{own}
{sandboxer}"#
    )
}

/// A second runtime with the same shim, which is asked for its sandboxes: the first leaves them to containerd.
fn sandboxer(plugin: &str) -> String {
    let table = format!(
        "plugins.{plugin:?}.containerd.runtimes.{}",
        Containerd::SANDBOXER
    );
    format!("[{table}]\nruntime_type = \"io.containerd.seed.v2\"\nsandboxer = \"shim\"\n")
}

/// What is said of the runtime `seed` alone: who makes its sandboxes, and its options.
fn of_runtime(containerd: &Containerd, plugin: &str, shim: &str) -> String {
    let table = format!("plugins.{plugin:?}.containerd.runtimes.seed.options");
    let sandboxer = containerd.options.sandboxer;
    let mut own = String::new();
    if sandboxer {
        own.push_str("sandboxer = \"shim\"\n");
    }
    // With a sandboxer the series before take every runtime's options for runc's and start no container: the shim has its
    // configuration's path from the environment then.
    if sandboxer && containerd.version() < SANDBOXERS_OPTIONS {
        return own;
    }
    own.push_str(&format!("[{table}]\n"));
    if containerd.options.inline {
        own.push_str(&shim.replace("\n[", &format!("\n[{table}.")));
    } else {
        own.push_str(&format!("ConfigPath = {:?}", containerd.shim_config()));
    }
    own
}

/// The bridge's name: at most 15 bytes.
fn bridge(containerd: &Containerd) -> String {
    format!("sdbr{:x}", containerd.number)
}

fn network(containerd: &Containerd) -> String {
    let (high, low) = (64 + (containerd.number >> 8) % 64, containerd.number % 256);
    let six = format!(
        "fd5e:{:x}:{:x}::/64",
        containerd.number >> 16,
        containerd.number & 0xffff
    );
    json!({
        "cniVersion": "0.4.0",
        "name": "seed",
        "plugins": [{
            "type": "bridge",
            "bridge": bridge(containerd),
            "isGateway": true,
            "ipMasq": false,
            "mtu": 1450,
            "ipam": {
                "type": "host-local",
                "dataDir": containerd.dir().join("ipam"),
                "ranges": [[{"subnet": format!("10.{high}.{low}.0/24")}], [{"subnet": six}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        }],
    })
    .to_string()
}

/// Takes the bridge away, if there is one.
pub(super) fn remove_network(containerd: &Containerd) {
    let bridge = bridge(containerd);
    if fs::exists(format!("/sys/class/net/{bridge}")).unwrap_or(false) {
        let _ = Command::new("ip")
            .args(["link", "delete", &bridge])
            .status();
    }
}
