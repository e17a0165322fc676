//! What an operator does about kubelet: an identity taken from one node to another, and limits of a start that are shorter than
//! kubelet waits, so that its reason is what kubelet hears.

use std::fs;

use anyhow::{Context, Result, ensure};
use seed_tests::{Containerd, Cri, cri::api::ContainerState};

use crate::{
    bench::{Hold, in_order},
    pod::{container, end, sandbox, seed, started, state},
};

/// The pod goes with its node, and is made again on another one, where there is nothing of it but the archive.
pub(crate) fn identity_moves(containerd: &mut Containerd, cri: &Cri) -> Result<()> {
    const NAME: &str = "test_moves_app";
    let archive = containerd.dir().join("identity.tar");
    let file = archive.to_string_lossy();
    let (backup, restore) = (
        ["tpm", "backup", NAME, &file],
        ["tpm", "restore", NAME, &file],
    );
    let kept = containerd.state_dir().join("tpm/k8s.io").join(NAME);
    let machine_id = || fs::read_to_string(kept.join("machine-id"));

    let (_, pod, _) = started(containerd, cri, "moves")?;
    let before = machine_id()?;
    let said = seed(containerd, &backup).err().context("it runs")?;
    in_order(
        &format!("{said:#}"),
        &["is in use by another VM", "kubectl scale"],
    )?;
    end(containerd, cri, &pod)?;
    seed(containerd, &backup)?;
    seed(containerd, &["rm", NAME, "--yes"])?;
    ensure!(!kept.exists(), "{} is left", kept.display());

    seed(containerd, &restore)?;
    let said = seed(containerd, &restore).err().context("restored twice")?;
    ensure!(format!("{said:#}").contains("not overwritten"), "{said:#}");
    let (_, pod, _) = started(containerd, cri, "moves")?;
    ensure!(machine_id()? == before, "it is another instance");
    end(containerd, cri, &pod)?;

    // Without the archive it is another one.
    seed(containerd, &["rm", NAME, "--yes"])?;
    let (_, pod, _) = started(containerd, cri, "moves")?;
    ensure!(
        machine_id()? != before,
        "the id does not come from the archive"
    );
    end(containerd, cri, &pod)?;
    seed(containerd, &["rm", NAME, "--yes"])?;
    fs::remove_file(&archive).context("remove the archive")
}

/// A guest that says nothing, and one that takes its orders and never answers.
pub(crate) fn start_says_why(containerd: &Containerd) -> Result<()> {
    let cri = Cri::connect(containerd)?;
    let file = containerd.shim_config();
    let config = fs::read_to_string(&file)?;
    let tried = [
        (
            "hello",
            "hello_seconds = 2",
            "the guest never said hello within 2 s (last stage: ",
        ),
        (
            "orders",
            "provision_seconds = 2",
            "the guest could not be provisioned: ",
        ),
    ]
    .into_iter()
    .try_for_each(|(step, limits, reason)| {
        fs::write(&file, format!("{config}\n[limits]\n{limits}\n"))?;
        let hold = Hold::on(containerd, step)?;
        let failed = fails_to_start(containerd, &cri, step, reason).context(step);
        drop(hold);
        failed
    });
    fs::write(&file, &config)?;
    tried
}

fn fails_to_start(containerd: &Containerd, cri: &Cri, name: &str, reason: &str) -> Result<()> {
    let config = sandbox(containerd, &format!("late-{name}"))?;
    let pod = cri.run_pod(&config, "seed")?;
    let id = cri.create(&pod, &container("app"), &config)?;
    let said = cri.start(&id).err().context("it has started")?;
    let said = format!("{said:#}");
    ensure!(said.contains(reason), "{said}");
    // What `kubectl describe` shows of the container.
    ensure!(state(cri, &id)? == ContainerState::EXITED, "it runs");
    let status = cri.status(&id)?;
    ensure!(status.message.contains(reason), "{status:?}");
    end(containerd, cri, &pod)
}
