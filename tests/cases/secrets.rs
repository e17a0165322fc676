//! Twenty secrets in a sops file: sealed on the host, opened in the guest at its next boot by a unit that is ordered
//! after the agent, while the agent lends the key.

#![allow(
    clippy::print_stdout,
    reason = "the time it took is a result, for the terminal"
)]

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use seed_tests::Instance;
use serde_json::{Map, Value};

use crate::identity::encrypt;

#[path = "../../age-tpm/tests/common/sops.rs"]
mod sops;

/// Where the image's `demo-sops.service` looks, and where it puts what it opened.
const PROGRAM: &str = "/seed/storage/data/sops-open";
const FILE: &str = "/seed/storage/data/secrets.json";
const OPENED: &str = "/run/demo-secrets.json";
/// One more file to the instance, and the boot at which all this was put there.
const SINGLE: &str = "/seed/storage/data/single.age";
const SEALED_AT: &str = "/seed/storage/data/sealed-at";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

const COUNT: usize = 20;
const THROUGH_THE_AGENT: &str = "through the agent";

/// Values as owners have them: short, long, quotes, several lines.
fn secrets() -> Vec<(String, String)> {
    (1..=COUNT)
        .map(|i| {
            let value = match i % 4 {
                0 => format!("line {i}\nand \"another\"\n"),
                1 => "x".repeat(i * 50),
                2 => format!("päss$wörd '{i}' \\ `id`"),
                _ => format!("value {i}"),
            };
            (format!("secret-{i:02}"), value)
        })
        .collect()
}

/// Host: one file for the instance and, as there should always be, for somebody else.
pub(crate) fn are_sealed(instance: &Instance<'_>) -> Result<()> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut data_key = [0; 32];
    std::io::Read::read_exact(&mut random, &mut data_key)?;
    let admin = Command::new("age-keygen")
        .output()
        .context("start age-keygen")?;
    let admin = String::from_utf8(admin.stdout)?;
    let admin = admin
        .lines()
        .find_map(|line| line.strip_prefix("# public key: "))
        .context("age-keygen says no public key")?;
    let recipient = instance.recipient()?;
    let entry = |to: &str| -> Result<(String, String)> {
        let sealed = encrypt(instance.lab(), to, &data_key)?;
        Ok((to.to_owned(), String::from_utf8(sealed)?))
    };
    let file = sops::write(&data_key, &secrets(), &[entry(&recipient)?, entry(admin)?]);
    ensure!(!file.contains("value 3"), "the file is not encrypted");
    let single = encrypt(instance.lab(), &recipient, THROUGH_THE_AGENT.as_bytes())?;
    let program = fs::read(env!("CARGO_BIN_EXE_sops-open"))?;
    // In one go, for each command in a guest under emulation takes a second.
    put(
        instance,
        &[
            (FILE, file.as_bytes()),
            (SINGLE, &single),
            (PROGRAM, &program),
        ],
        &format!("chmod 755 {PROGRAM} && cat {BOOT_ID} > {SEALED_AT} && sync"),
    )
}

/// Guest: all are there after the next boot; says how long it took.
pub(crate) fn are_opened_at_boot(instance: &Instance<'_>) -> Result<()> {
    // The case before this one has booted it anew, unless a filter left that out.
    let same =
        format!("[ \"$(cat {BOOT_ID})\" = \"$(cat {SEALED_AT})\" ] && echo same || echo anew");
    if instance.sh(&same)? == "same" {
        instance.restart()?;
    }
    let opened = instance.sh(&format!("cat {OPENED}")).with_context(|| {
        let log = instance.sh("journalctl --unit demo-sops.service --output cat --no-pager");
        format!("demo-sops.service: {log:?}")
    })?;
    let opened: Value = serde_json::from_str(&opened)?;
    let expected: Map<String, Value> = secrets()
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    ensure!(expected.len() == COUNT, "names must differ");
    ensure!(
        opened["secrets"] == Value::Object(expected),
        "the guest opened other secrets than were sealed"
    );
    let took = opened["milliseconds"].as_u64().context("no time")?;
    println!("    {COUNT} secrets opened one by one at boot in {took} ms");

    // The agent lends the key, to root only; without a TPM nobody else can have opened this. Without the program
    // later boots open nothing any more, and are quicker.
    let lent = instance.sh(&format!(
        "stat -c '%a %U %G' /run/seed/tpm.sock && \
         AGE_TPM_SOCKET=/run/seed/tpm.sock AGE_TPM_TCTI=/dev/no-such-tpm \
         age -d -i /seed/tpm/age-identity {SINGLE} && rm {PROGRAM}"
    ))?;
    let (rights, single) = lent.split_once('\n').unwrap_or((&lent, ""));
    ensure!(rights == "600 root root", "the key's socket is {rights}");
    ensure!(single == THROUGH_THE_AGENT, "the guest opened {single:?}");
    Ok(())
}

/// Writes files in the guest, whatever is in them, and then runs a shell line.
fn put(instance: &Instance<'_>, files: &[(&str, &[u8])], then: &str) -> Result<()> {
    let mut line: String = files
        .iter()
        .map(|(path, bytes)| format!("head -c {} > {path} && ", bytes.len()))
        .collect();
    line.push_str(then);
    let mut command = instance.lab().program("seed");
    command.args(["exec", "-i", instance.name(), "--", "/bin/sh", "-c", &line]);
    let mut child = command
        .stdin(Stdio::piped())
        .spawn()
        .context("start seed")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    for (_, bytes) in files {
        stdin.write_all(bytes)?;
    }
    drop(stdin);
    let ended = child.wait()?;
    ensure!(
        ended.success(),
        "writing files in the guest ended with {ended}"
    );
    Ok(())
}
