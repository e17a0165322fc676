//! Two instances that are given one network namespace by path, through `ctr`: the second is refused while the first one's
//! machine is there, and has the network once that one's shim was killed.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use seed_tests::{Containerd, limit, parts::signal};

use crate::{
    bench::{INIT, RUNTIME, STUB, nothing_left, status, wait_status},
    ctr,
};

/// A namespace with a link, gone when this is dropped.
struct Network(String);

impl Network {
    fn make() -> Result<Self> {
        let network = Self(format!("seed-case-{}", std::process::id()));
        let name = &network.0;
        ip(&format!("netns add {name}"))?;
        ip(&format!("-n {name} link add eth0 type veth peer name far"))?;
        ip(&format!("-n {name} link set eth0 up"))?;
        Ok(network)
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Where the frames of its link go.
    fn wire(&self) -> Result<String> {
        let shown = Command::new("tc")
            .args(["-n", &self.0])
            .args(["filter", "show", "dev", "eth0", "ingress"])
            .output()?;
        Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.0));
    }
}

fn ip(line: &str) -> Result<()> {
    let done = Command::new("ip").args(line.split(' ')).output()?;
    ensure!(done.status.success(), "ip {line}: {done:?}");
    Ok(())
}

pub(crate) fn shared(containerd: &mut Containerd) -> Result<()> {
    let network = Network::make()?;
    let by_path = format!("network:{}", network.path());
    let run = |id| {
        let words = ["run", "--detach", "--runtime", RUNTIME, "--with-ns"];
        containerd.ctr_output(&[&words[..], &[&by_path, STUB, id, INIT]].concat())
    };
    let first = run("first")?;
    ensure!(first.status.success(), "the first one: {first:?}");
    wait_status(containerd, "first", "RUNNING")?;
    let wire = network.wire()?;
    ensure!(wire.contains("mirred"), "no wire: {wire}");
    let shims = containerd.shims()?;

    let second = run("second")?;
    let said = String::from_utf8_lossy(&second.stderr);
    let whose = format!(
        "network namespace {} is wired to the machine of default/first, process {}, ",
        network.path(),
        shims[0]
    );
    ensure!(!second.status.success() && said.contains(&whose), "{said}");
    ensure!(network.wire()? == wire, "the first one's wire is another");
    ctr::echo(containerd, "first")?;
    containerd.ctr_ok(&["containers", "rm", "second"])?;

    signal(shims[0], "KILL")?;
    limit::until("the end of the first one", limit::COMMAND, || {
        let status = status(containerd, "first")?;
        let is_over = status.is_none_or(|status| status == "STOPPED");
        Ok(is_over.then_some(()))
    })?;
    let _ = containerd.ctr_output(&["tasks", "rm", "--force", "first"]);
    containerd.ctr_ok(&["containers", "rm", "first"])?;
    let second = run("second")?;
    ensure!(second.status.success(), "the second one: {second:?}");
    wait_status(containerd, "second", "RUNNING")?;
    ensure!(network.wire()?.contains("mirred"), "no wire");
    ctr::end(containerd, "second")?;
    ensure!(network.wire()?.is_empty(), "a wire is left");
    ensure!(fs::exists(network.path())?, "the network is not ours");
    nothing_left(containerd)
}
