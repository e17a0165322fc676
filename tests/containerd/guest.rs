//! A guest that boots in a pod, under the newest containerd: its network, the host's files in it and their
//! changes, exec, and its end.

use std::{
    env, fs,
    io::Read,
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Containerd, Cri, Runner, Version,
    containerd::{Options, Programs, image::Image},
    cri::api::Mount,
    lab::{ACCEL_VARIABLE, GUEST_VARIABLE},
    limit,
};

use crate::{
    bench::{self, INIT, STUB},
    pod,
};

const NAME: &str = "pods_a_guest_boots_in_a_pod";

/// Runs the case, or says why not.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    let Some(guest) = env::var_os(GUEST_VARIABLE).map(PathBuf::from) else {
        return runner.skip(NAME, &format!("{GUEST_VARIABLE} names no guest's root"));
    };
    runner.case(NAME, || {
        let options = Options {
            network: true,
            ..Options::default()
        };
        let mut containerd = Containerd::make(programs, version, &options)?;
        let accel = env::var(ACCEL_VARIABLE).unwrap_or_else(|_| "auto".to_owned());
        containerd.write_shim_config(&format!("accel = {accel:?}"))?;
        containerd.run()?;
        containerd.import_busybox()?;
        containerd.import(&Image {
            name: STUB,
            root: &guest,
            entrypoint: &[INIT],
        })?;
        let result = in_a_pod(&containerd);
        if result.is_err() {
            println_tail(&containerd);
        }
        result
    });
}

fn println_tail(containerd: &Containerd) {
    let lines = containerd.log();
    let own: Vec<_> = lines
        .lines()
        .filter(|line| !line.starts_with("time="))
        .collect();
    eprintln!("{}", bench::tail(&own.join("\n")));
}

fn in_a_pod(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let config = pod::sandbox(containerd, "guest")?;
    let pod = cri.run_pod(&config, "seed")?;
    let (config_map, claim) = volumes(containerd)?;
    let mut container = pod::container("app");
    container.mounts = vec![
        mount("/etc/seed-map", &config_map, true),
        mount("/srv/claim", &claim, false),
    ];
    let id = cri.create(&pod, &container, &config)?;
    cri.start(&id)?;
    let sh = |line: &str| -> Result<String> {
        let result = cri.exec_sync(&id, &["/bin/bash", "-c", line])?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(
            result.exit_code == 0,
            "{line}: {} {}",
            result.exit_code,
            text(&result.stderr)
        );
        Ok(text(&result.stdout))
    };
    limit::until("an exec in the guest", limit::BOOT, || Ok(sh("true").ok()))?;

    // The host's files, and their change as Kubernetes makes it: a link that is replaced.
    ensure!(sh("cat /etc/seed-map/key")? == "one", "the ConfigMap");
    turn(&config_map, "two")?;
    limit::until("the change of a ConfigMap", limit::COMMAND, || {
        Ok((sh("cat /etc/seed-map/key")? == "two").then_some(()))
    })?;
    let written = cri.exec_sync(&id, &["/bin/bash", "-c", "echo x > /etc/seed-map/key"])?;
    ensure!(written.exit_code != 0, "a ConfigMap was written to");
    sh("echo from the guest > /srv/claim/file && sync")?;
    ensure!(
        fs::read_to_string(claim.join("file"))? == "from the guest\n",
        "the claim"
    );
    ensure!(sh("cat /etc/hosts")?.contains("localhost"), "/etc/hosts");
    ensure!(
        sh("cat /proc/sys/kernel/hostname")? == "guest",
        "the host name"
    );

    // The pod's address is the guest's, and TCP goes both ways over the wire.
    let address = cri.pod_status(&pod)?.network.ip.clone();
    let links = sh("ip -o addr show dev eth0")?;
    ensure!(links.contains(&format!("inet {address}/24")), "{links}");
    ensure!(links.contains("fd5e:"), "no IPv6: {links}");
    ensure!(sh("cat /sys/class/net/eth0/mtu")? == "1450", "the MTU");
    let gateway = address.rsplit_once('.').context("no IPv4")?.0.to_owned() + ".1";
    let listener = TcpListener::bind((gateway.as_str(), 0))?;
    let port = listener.local_addr()?.port();
    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        let (mut stream, peer) = listener.accept()?;
        stream.read_to_string(&mut text)?;
        std::io::Result::Ok((text, peer.ip().to_string()))
    });
    sh(&format!("echo over the wire > /dev/tcp/{gateway}/{port}"))?;
    let (text, peer) = heard.join().ok().context("the listener failed")??;
    ensure!(
        text == "over the wire\n" && peer == address,
        "{text:?} from {peer}"
    );

    let stats = cri.stats(&id)?;
    ensure!(
        stats.memory.working_set_bytes.value > 0 && stats.cpu.usage_core_nano_seconds.value > 0,
        "{stats:?}"
    );
    cri.stop(&id, 90)?;
    let status = cri.status(&id)?;
    ensure!(status.exit_code == 0, "{status:?}");
    ensure!(claim.join("file").exists(), "the claim's file is gone");
    ensure!(config_map.join("..data").exists(), "the ConfigMap is gone");
    pod::end(containerd, &cri, &pod)
}

fn mount(to: &str, from: &Path, readonly: bool) -> Mount {
    Mount {
        container_path: to.to_owned(),
        host_path: from.to_string_lossy().into_owned(),
        readonly,
        ..Default::default()
    }
}

/// A ConfigMap's folder as kubelet makes it, and a folder to write to.
fn volumes(containerd: &Containerd) -> Result<(PathBuf, PathBuf)> {
    let (config_map, claim) = (containerd.dir().join("map"), containerd.dir().join("claim"));
    fs::create_dir(&claim)?;
    fs::create_dir(&config_map)?;
    turn(&config_map, "one")?;
    symlink("..data/key", config_map.join("key"))?;
    Ok((config_map, claim))
}

/// Makes `..data` another folder, in one step.
fn turn(config_map: &Path, value: &str) -> Result<()> {
    let folder = format!("..{value}");
    fs::create_dir(config_map.join(&folder))?;
    fs::write(config_map.join(&folder).join("key"), value)?;
    symlink(&folder, config_map.join("..data_tmp"))?;
    fs::rename(config_map.join("..data_tmp"), config_map.join("..data"))?;
    Ok(())
}
