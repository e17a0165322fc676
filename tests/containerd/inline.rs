//! A shim's configuration that stands in containerd's, among the runtime's options: it is taken in place of a file, and
//! what is wrong in it is told to whoever wants a pod.

use std::fs;

use anyhow::{Context, Result, ensure};
use seed_tests::{
    Cri, Runner, Version,
    containerd::{Options, Programs},
};

use crate::{
    bench::{self, in_order},
    pod::{end, resources, sandbox, started},
};

/// The first series that passes them on: those before throw them away.
const FIRST: Version = Version::new(1, 7);

/// One containerd of each series that can.
pub(crate) fn run(runner: &mut Runner, programs: &Programs, version: Version) {
    if version >= FIRST {
        let name = format!("inline_options_{version}_are_the_configuration");
        runner.case(&name, || options_are_the_configuration(programs, version));
    }
}

fn options_are_the_configuration(programs: &Programs, version: Version) -> Result<()> {
    let options = Options {
        inline: true,
        network: true,
        ..Options::default()
    };
    let mut containerd = bench::stubs(programs, version, &options)?;
    // Whoever read the file would be told about the key.
    let file = fs::read_to_string(containerd.shim_config())?;
    fs::write(containerd.shim_config(), "acel = 1")?;
    containerd.import_busybox()?;
    let cri = Cri::connect(&containerd)?;
    let (_, pod, id) = started(&containerd, &cri, "inline")?;
    fs::write(containerd.shim_config(), &file)?;
    // Its tables were taken, too: the stubs stand in one, and this in another.
    cri.update(&id, &resources(2, 512))?;
    ensure!(bench::size(&containerd, "k8s.io", &id)?.0 == 2, "no growth");
    end(&containerd, &cri, &pod)?;

    containerd.kill()?;
    containerd.write_shim_config("SystemdCgroup = true")?;
    containerd.run()?;
    let cri = Cri::connect(&containerd)?;
    let refused = cri.run_pod(&sandbox(&containerd, "unknown")?, "seed");
    let said = format!("{:#}", refused.err().context("an unknown key was taken")?);
    in_order(
        &said,
        &["configuration in the runtime's options", "SystemdCgroup"],
    )?;
    bench::nothing_left(&containerd)
}
