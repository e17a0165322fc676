//! The files that a containerd of ours reads: its own configuration in the form of its series, and a bridge network
//! for pods.

use std::{fs, process::Command};

use anyhow::Result;
use seed_container::CONTAINERD_LIMITS;
use serde_json::json;

use super::{Containerd, Options, Version, image};

/// Writes all of them.
pub(super) fn write(containerd: &Containerd, options: &Options) -> Result<()> {
    let dir = containerd.dir();
    fs::write(dir.join("containerd.toml"), toml(containerd, options))?;
    let cni = dir.join("cni");
    fs::create_dir_all(&cni)?;
    if options.network {
        fs::write(cni.join("10-seed.conflist"), network(containerd))?;
    }
    Ok(())
}

fn toml(containerd: &Containerd, options: &Options) -> String {
    let dir = containerd.dir().display();
    let (version, runtime, images) = match containerd.version() {
        Version::V1_6 | Version::V1_7 => (2, "io.containerd.grpc.v1.cri", None),
        Version::V2_1 => (
            3,
            "io.containerd.cri.v1.runtime",
            Some("io.containerd.cri.v1.images"),
        ),
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
    let (nri, streaming) = match containerd.version() {
        Version::V1_6 => (String::new(), stream_server()),
        Version::V1_7 => (
            "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n".to_owned(),
            stream_server(),
        ),
        Version::V2_1 => (
            format!(
                "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
                 [plugins.\"io.containerd.grpc.v1.cri\"]\n{}\n",
                stream_server()
            ),
            String::new(),
        ),
    };
    let shim_config = containerd.shim_config();
    // With a sandboxer containerd 2 takes every runtime's options for runc's and starts no container: the shim has its
    // configuration's path from the environment then.
    let own = if options.sandboxer {
        "sandboxer = \"shim\"".to_owned()
    } else {
        format!(
            "[plugins.{runtime:?}.containerd.runtimes.seed.options]\nConfigPath = {shim_config:?}"
        )
    };
    let cni = containerd.programs.cni();
    let limits = if options.own_limits {
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
{nri}{image_plugin}[plugins."{runtime}"]
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
"#
    )
}

/// Any free port of the loopback.
fn stream_server() -> String {
    "stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"".to_owned()
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
