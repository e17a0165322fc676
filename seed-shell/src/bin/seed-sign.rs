//! `seed-sign CODE KEY`: an invite code, signed with an identity's key.

#![forbid(unsafe_code)]

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use lexopt::prelude::*;

const USAGE: &str = "\
Usage: seed-sign CODE KEY

Prints the signature over an invite code, one line for `ssh HOST plant URI CODE SIGNATURE`. A key in hardware, or one with
a passphrase, signs through the SSH agent (SSH_AUTH_SOCK).
";

fn main() -> ExitCode {
    seed_shell::run_tool("seed-sign", run())
}

fn run() -> Result<u8> {
    let mut parser = lexopt::Parser::from_env();
    let mut words = Vec::new();
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
            Value(word) => words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    let [code, key] = words.as_slice() else {
        bail!("a code and a key are needed\n{USAGE}");
    };
    let (code, key) = (code.to_string_lossy(), PathBuf::from(key));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let signature = runtime.block_on(seed_shell::tools::sign(&code, &key))?;
    std::io::stdout().write_all(format!("{signature}\n").as_bytes())?;
    Ok(0)
}
