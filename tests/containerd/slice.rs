//! The slices of pods, as kubelet has systemd make them where its cgroup driver is `systemd`.

use anyhow::{Context, Result, ensure};
use seed_tests::{containerd::service::systemctl, cri::api::PodSandboxConfig, lab::output, limit};

/// Those above each pod's.
const ABOVE: [&str; 2] = ["kubepods.slice", "kubepods-besteffort.slice"];

/// Makes a pod's group be below a slice of its own; the slice's path.
pub(crate) fn put(config: &mut PodSandboxConfig, name: &str) -> Result<String> {
    // A hyphen would be a slice more.
    let slice = format!("kubepods-besteffort-pod{}.slice", name.replace('-', "_"));
    for slice in ABOVE.into_iter().chain([slice.as_str()]) {
        make(slice)?;
    }
    let path = format!("/{}/{slice}", ABOVE.join("/"));
    let linux = config.linux.mut_or_insert_default();
    linux.cgroup_parent.clone_from(&path);
    Ok(path)
}

/// Makes a slice with accounts and without limits, as a transient unit.
fn make(slice: &str) -> Result<()> {
    let call = "--quiet call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit";
    let accounts = ["CPU", "IO", "Memory", "Tasks"].map(|what| format!("{what}Accounting b true"));
    let properties = format!("5 DefaultDependencies b false {} 0", accounts.join(" "));
    let mut busctl = std::process::Command::new("busctl");
    busctl.args(call.split(' '));
    busctl.args(["ssa(sv)a(sa(sv))", slice, "replace"]);
    busctl.args(properties.split(' '));
    let made = output(busctl, limit::COMMAND)?;
    let said = String::from_utf8_lossy(&made.stderr);
    // The ones above are there for the second pod.
    ensure!(
        made.status.success() || said.contains("already"),
        "{slice}: {said}"
    );
    limit::until(slice, limit::COMMAND, || {
        Ok(systemctl(&["is-active", slice]).ok())
    })
    .map(drop)
}

/// Sets properties of a slice that is named by its path, as kubelet does.
pub(crate) fn set(path: &str, properties: &[&str]) -> Result<()> {
    let slice = name(path)?;
    systemctl(&[&["set-property", "--runtime", slice], properties].concat()).map(drop)
}

/// The unit of a slice's path.
pub(crate) fn name(path: &str) -> Result<&str> {
    Ok(path.rsplit_once('/').context("no slice")?.1)
}

/// Removes all of them.
pub(crate) fn remove() -> Result<()> {
    systemctl(&["stop", "kubepods.slice"]).map(drop)
}
