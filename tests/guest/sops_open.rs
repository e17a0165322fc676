//! In the guest, at boot: opens each secret of a sops file with `age` and the identity, as sops-nix does: the data
//! key anew for every secret, the file's entries in their order until one opens.
//!
//! `sops-open FILE IDENTITY OUT` writes `{"milliseconds": .., "secrets": {..}}`, readable by its owner only.

#![forbid(unsafe_code)]

#[path = "../../age-tpm/tests/common/sops.rs"]
mod sops;

use std::{
    env, fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [file, identity, out] = &args[..] else {
        bail!("usage: sops-open FILE IDENTITY OUT");
    };
    let file = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    let tree: Map<String, Value> = serde_json::from_str(&file).context("no sops file")?;
    let names: Vec<&String> = tree.keys().filter(|name| *name != "sops").collect();
    let mut secrets = Map::new();
    let begin = Instant::now();
    for name in names {
        let data_key = data_key(&file, identity)?;
        let read = sops::read(&file, &data_key).context("a value or the MAC is not authentic")?;
        let found = read.into_iter().find(|(key, _)| key == name);
        let (key, value) = found.context("a secret has no value")?;
        secrets.insert(key, value.into());
    }
    let milliseconds = u64::try_from(begin.elapsed().as_millis())?;
    let result = json!({ "milliseconds": milliseconds, "secrets": secrets });
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(out)
        .with_context(|| format!("make {out}"))?;
    out.write_all(result.to_string().as_bytes())?;
    Ok(())
}

/// The data key from the first entry that opens.
fn data_key(file: &str, identity: &str) -> Result<Vec<u8>> {
    for sealed in sops::encrypted_keys(file) {
        let mut age = Command::new("age")
            .args(["--decrypt", "--identity", identity])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start age")?;
        let mut stdin = age.stdin.take().context("age has no stdin")?;
        stdin.write_all(sealed.as_bytes())?;
        drop(stdin);
        let output = age.wait_with_output()?;
        if output.status.success() {
            return Ok(output.stdout);
        }
    }
    bail!("no entry opens with {identity}")
}
