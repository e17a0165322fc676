//! `seed-plant URI CODE [KEY]`: makes an identity where there is none, signs, and registers the repository over ssh.

#![forbid(unsafe_code)]

use std::{env, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use lexopt::{ValueExt, prelude::*};
use seed_shell::tools::{self, Plant};

const USAGE: &str = "\
Usage: seed-plant [--host HOST] [--instance NAME]... URI CODE [KEY]

To be run in the checkout of a repository. Makes .seed-identity-key and .seed-identity unless they are there (KEY names
another key), signs what is planted, and registers the repository: ssh HOST plant URI CODE SIGNATURE.

  URI         silo:NAME, github:USER/REPO or git+https://HOST/PATH
  --host      the host; SEED_HOST, else seed.loom.farm
  --instance  an instance of the flake, where nix is not there to say

Commit .seed-identity and .authorized_keys. .seed-identity-key stays out of the repository: it is added to .gitignore.
";

fn main() -> ExitCode {
    seed_shell::run_tool("seed-plant", run())
}

fn run() -> Result<u8> {
    let mut parser = lexopt::Parser::from_env();
    let mut host = env::var(tools::HOST_ENV).unwrap_or_else(|_| tools::DEFAULT_HOST.to_owned());
    let mut instances = Vec::new();
    let mut words = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                std::io::stdout().write_all(USAGE.as_bytes())?;
                return Ok(0);
            }
            Long("version") => {
                let line = seed_protocol::version::line("seed-plant");
                std::io::stdout().write_all(line.as_bytes())?;
                return Ok(0);
            }
            Long("host") => host = parser.value()?.string()?,
            Long("instance") => instances.push(parser.value()?.parse()?),
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let (uri, code, key) = match words.as_slice() {
        [uri, code] => (uri, code, None),
        [uri, code, key] => (uri, code, Some(PathBuf::from(key))),
        _ => bail!("a source and an invite code are needed\n{USAGE}"),
    };
    let plant = Plant {
        uri: uri.clone(),
        code: code.clone(),
        key,
        host,
        instances,
    };
    let dir = env::current_dir().context("find the working directory")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(tools::plant(&dir, &plant))?;
    Ok(status)
}
