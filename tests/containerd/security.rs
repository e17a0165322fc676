//! A pod's `securityContext`, as far as it means something for a machine: settings of its kernel, and a root that would be
//! only read.

use std::fs;

use anyhow::{Context, Result, ensure};
use seed_tests::{Containerd, Cri, Version};

use crate::{
    bench,
    pod::{container, end, sandbox},
};

/// What containerd 2 sets in every pod that it makes itself.
const OF_EVERY_POD: &str = "sysctl.net.ipv4.ip_unprivileged_port_start=0";

/// Settings are parameters of the guest's kernel; that the root is not read-only is told where people look.
pub(crate) fn kept_or_told(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    let mut config = sandbox(containerd, "secure")?;
    let sysctls = [("net.ipv4.tcp_rmem", "4096 131072 262144")];
    let linux = config.linux.mut_or_insert_default();
    linux.sysctls = sysctls
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let pod = cri.run_pod(&config, "seed")?;
    let mut app = container("app");
    let context = app
        .linux
        .mut_or_insert_default()
        .security_context
        .mut_or_insert_default();
    context.readonly_rootfs = true;
    let id = cri.create(&pod, &app, &config)?;
    cri.start(&id)?;

    let pids = bench::reach(containerd, "k8s.io", &id, "running")?;
    let qemu = pids.get("qemu").context("no qemu")?;
    let line = fs::read(format!("/proc/{qemu}/cmdline"))?;
    let line = String::from_utf8_lossy(&line);
    let wanted = "sysctl.net.ipv4.tcp_rmem=\"4096 131072 262144\"";
    ensure!(line.contains(wanted), "no {wanted} in {line}");
    let second = containerd.version() >= Version::new(2, 0);
    ensure!(second || !line.contains(OF_EVERY_POD), "{line}");

    let said = "root.readonly is set";
    let told = bench::told(containerd, "k8s.io", &id)?;
    let problem = &told["problems"][0];
    let message = problem["message"].as_str().unwrap_or_default();
    ensure!(
        problem["subject"] == "root" && message.contains(said),
        "{told}"
    );
    ensure!(
        containerd.log().contains(said),
        "the log says nothing of it"
    );
    end(containerd, cri, &pod)
}
