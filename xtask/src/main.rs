//! Developer commands: `cargo xtask setup | build | image | demo | test | bench`.
//!
//! Only parses the command line; each command is a module of its own.

#![forbid(unsafe_code)]

mod image;
mod programs;
mod setup;
mod util;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use util::Places;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  setup     install what is missing on this machine (apt, and cargo into the cache)
  build     build our programs into target/lab
  image     build the guest root and print where it is
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            util::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut parser = lexopt::Parser::from_env();
    let command = match parser.next()? {
        Some(Value(command)) => command.string()?,
        Some(Short('h') | Long("help")) => {
            util::print(USAGE)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(other) => return Err(other.unexpected().into()),
        None => bail!("say what to do\n\n{USAGE}"),
    };
    let places = Places::find()?;
    match command.as_str() {
        "assemble-image" => return assemble_image(&mut parser),
        "setup" => {
            no_more(&mut parser)?;
            setup::run(&places)?;
        }
        "build" => {
            no_more(&mut parser)?;
            programs::build(&places)?;
        }
        "image" => {
            no_more(&mut parser)?;
            programs::build(&places)?;
            image::run(&places)?;
        }
        other => bail!("there is no command {other:?}\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn no_more(parser: &mut lexopt::Parser) -> Result<()> {
    match parser.next()? {
        Some(other) => Err(other.unexpected().into()),
        None => Ok(()),
    }
}

/// Internal: the part of `image` that runs as root, told where things are (sudo changes HOME).
fn assemble_image(parser: &mut lexopt::Parser) -> Result<ExitCode> {
    let (mut cache, mut target, mut root) = (None, None, None);
    while let Some(arg) = parser.next()? {
        let place = match arg {
            Long("cache") => &mut cache,
            Long("target") => &mut target,
            Long("checkout") => &mut root,
            other => return Err(other.unexpected().into()),
        };
        *place = Some(parser.value()?.into());
    }
    let (Some(cache), Some(target), Some(root)) = (cache, target, root) else {
        bail!("assemble-image needs --cache, --target and --checkout");
    };
    image::assemble(&Places {
        root,
        cache,
        target,
    })?;
    Ok(ExitCode::SUCCESS)
}
