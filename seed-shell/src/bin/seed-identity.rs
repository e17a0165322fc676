//! `seed-identity KEY`: the IPNS CID of an SSH key, public or private.

#![forbid(unsafe_code)]

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use lexopt::prelude::*;

const USAGE: &str = "\
Usage: seed-identity KEY

Prints the IPNS CID of an Ed25519 key: a file as ssh-keygen writes it, public or private, also of a hardware key.
";

fn main() -> ExitCode {
    seed_shell::run_tool("seed-identity", run())
}

fn run() -> Result<u8> {
    let mut parser = lexopt::Parser::from_env();
    let mut key = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return print(USAGE),
            Long("version") => return print(&seed_protocol::version::line("seed-identity")),
            Value(path) if key.is_none() => key = Some(PathBuf::from(path)),
            other => return Err(other.unexpected().into()),
        }
    }
    let Some(key) = key else {
        bail!("which key?\n{USAGE}");
    };
    print(&format!("{}\n", seed_shell::tools::identity(&key)?))
}

fn print(text: &str) -> Result<u8> {
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(0)
}
