//! The TPM-held age identity over a restart.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use seed_tests::{Instance, Lab};

use crate::storage;

/// Where the demo closure's unit looks for its secret, and where it puts what it opened.
pub(crate) const SECRET: &str = "/seed/storage/data/secret.age";
pub(crate) const OPENED: &str = "/run/demo-secret";

/// Encrypts on the host with `age` and our plugin; neither needs a TPM.
pub(crate) fn encrypt(lab: &Lab, recipient: &str, plain: &[u8]) -> Result<Vec<u8>> {
    // `age` finds the plugin in the PATH that the lab gives to every program.
    let path = lab.program("seed");
    let mut command = Command::new("age");
    for (name, value) in path.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
        .args(["-a", "-r", recipient])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("start age")?;
    child.stdin.take().context("no stdin")?.write_all(plain)?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "age ended with {}", output.status);
    Ok(output.stdout)
}

/// The whole way: recipient, secret, restart, opened in a unit that is ordered after the agent only.
pub(crate) fn a_secret_is_opened_at_boot(instance: &Instance<'_>) -> Result<()> {
    let recipient = instance.recipient()?;
    ensure!(
        recipient.starts_with("age1tpm1q"),
        "recipient: {recipient:?}"
    );
    let mode = instance.sh("stat -c '%a %U' /seed/tpm/age-identity")?;
    ensure!(mode == "600 root", "the identity file is {mode}");
    let before = instance.sh("cat /proc/sys/kernel/random/boot_id")?;

    let secret = "correct horse battery staple";
    let armored = encrypt(instance.lab(), &recipient, secret.as_bytes())?;
    let armored = String::from_utf8(armored)?;
    instance.sh(&format!("cat > {SECRET} <<'END'\n{armored}END\nsync"))?;
    instance.restart()?;

    let after = instance.sh("cat /proc/sys/kernel/random/boot_id")?;
    ensure!(before != after, "the restart did not boot anew");
    let opened = instance.sh(&format!("cat {OPENED}"))?;
    ensure!(opened == secret, "the guest opened {opened:?}");
    let again = instance.recipient()?;
    ensure!(
        again == recipient,
        "the recipient was {recipient}, is {again}"
    );
    storage::still_there(instance)
}
