//! `seed-sign CODE KEY`: an invite code, signed with an identity's key.

#![forbid(unsafe_code)]

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use lexopt::{ValueExt, prelude::*};
use seed_shell::tools::{self, Signing};

const USAGE: &str = "\
Usage: seed-sign [--uri URI [--authorized-keys FILE] [--instance NAME]...] CODE KEY

Prints a signature, one line for `ssh HOST plant URI CODE SIGNATURE`. With --uri it covers all that is planted and holds for
nothing else: give what is given to plant. Without, it covers the invite code alone, and holds for any source. A key in hardware, or one with
a passphrase, signs through the SSH agent (SSH_AUTH_SOCK).
";

fn main() -> ExitCode {
    seed_shell::run_tool("seed-sign", run())
}

fn run() -> Result<u8> {
    let mut parser = lexopt::Parser::from_env();
    let mut words = Vec::new();
    let mut signing = Signing::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                std::io::stdout().write_all(USAGE.as_bytes())?;
                return Ok(0);
            }
            Long("version") => {
                let line = seed_protocol::version::line("seed-sign");
                std::io::stdout().write_all(line.as_bytes())?;
                return Ok(0);
            }
            Long("uri") => signing.uri = Some(parser.value()?.string()?),
            Long("authorized-keys") => signing.keys = Some(parser.value()?.into()),
            Long("instance") => signing.instances.push(parser.value()?.parse()?),
            Value(word) => words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let [code, key] = words.as_slice() else {
        bail!("a code and a key are needed\n{USAGE}");
    };
    if signing.uri.is_none() && (signing.keys.is_some() || !signing.instances.is_empty()) {
        bail!("--authorized-keys and --instance need --uri\n{USAGE}");
    }
    let (code, key) = (code.to_string_lossy(), PathBuf::from(key));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let signature = runtime.block_on(tools::sign_for(&code, &key, &signing))?;
    std::io::stdout().write_all(format!("{signature}\n").as_bytes())?;
    Ok(0)
}
