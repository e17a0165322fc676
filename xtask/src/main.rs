//! Developer commands: `cargo xtask setup | build | image | env | demo | test | bench | fuzz | chaos | release | documents`.
//!
//! Only parses the command line; each command is a module of its own.

#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod containerd;
mod cpu;
mod demo;
mod documents;
mod fuzz;
mod image;
mod lab;
mod left;
mod nix;
mod programs;
mod report;
mod setup;
mod supply;
mod table;
mod test;
mod util;

use std::process::ExitCode;

use anyhow::{Result, bail};
use lexopt::prelude::*;

use setup::Need;
use util::Places;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask COMMAND

  setup              install what is missing on this machine (apt, and cargo into the cache)
  build              build our programs into target/lab
  image              build the guest root and print where it is
  env                lines by which a shell finds programs, tools and the guest root, for its `eval`
  demo               boot one instance and show each point of it
                       --json   the same as data        --keep   leave it running
                       --accel  auto, kvm or tcg
  test               everything that CI runs, VM cases included
  test vm [FILTER]   only the VM cases whose name contains FILTER
  bench boot         the stages of a boot, with the agent in the guest and without
                       --runs N  medians of so many     --json   the same as data
  bench agent        the guest agent's size, memory, calls, provisioning, and what it costs a boot
                       --runs N  boots                  --json   the same as data
  bench age          age-plugin-tpm beside the Go plugin of that name
  bench journal      the journal's way from the guest's files to text on the host, beside journalctl
                       --entries N  the corpus's size   --json   the same as data
  bench shim         the shim's memory, start and execs beside runc's shim; several instances at once
                       --vms N  so many of them         --json   the same as data
  bench shell        the seed shell's commands beside OpenSSH's server, 200 followers of a log, the dashboard's redraw
                       --runs N  medians of so many     --json   the same as data
  bench growth       time and memory as instances, execs, volumes and entries of a journal become more
                       --only PART  that one alone      --full   a journal of ten millions too
  bench all          all of these, to docs/benchmarks.md
                       --runs N  of each (medians)      --only NAME   that one anew, the others as kept
                       --full    what takes very long anew, too
  fuzz [TARGET...]   the fuzz targets, or those whose name contains a word
                       --minutes N  each for so long (0: only the counts of all runs)   --jobs N  so many at once
                       --page   the counts to docs/fuzzing.md   --json   the same as data
  chaos              instances at work while things go wrong, and what must be true after each
                       --minutes N  so long (10)   --seed S   that run again   --plan   only what would happen
                       --events N   and until so many things have gone wrong (1)
  release            the programs as they ship, their checksums, and what they are made of
                       --twice  build them again elsewhere, and compare
  documents          every command that the documents tell, checked and run

Each command does what it needs of the ones above it.
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
    let mut places = None;
    let command = loop {
        match parser.next()? {
            Some(Value(command)) => break command.string()?,
            Some(Short('h') | Long("help")) => {
                util::print(USAGE.trim_end())?;
                return Ok(ExitCode::SUCCESS);
            }
            // Internal: a part that runs as root is told where things are, since sudo changes HOME.
            Some(Long("places")) => {
                let mut place = || parser.value().map(Into::into);
                places = Some(Places {
                    root: place()?,
                    cache: place()?,
                    target: place()?,
                });
            }
            Some(other) => return Err(other.unexpected().into()),
            None => bail!("say what to do\n\n{USAGE}"),
        }
    };
    let places = places.map_or_else(Places::find, Ok)?;
    match command.as_str() {
        // Internal: the part of `image` that needs root.
        "assemble-image" => image::assemble(&places)?,
        "setup" => {
            no_more(&mut parser)?;
            setup::run(&places, Need::Test)?;
        }
        "build" => {
            no_more(&mut parser)?;
            programs::build(&places)?;
        }
        "image" => {
            no_more(&mut parser)?;
            setup::run(&places, Need::Run)?;
            programs::build(&places)?;
            image::run(&places)?;
        }
        "env" => {
            no_more(&mut parser)?;
            setup::run(&places, Need::Run)?;
            programs::build(&places)?;
            util::print(&programs::exports(&places, &image::build(&places)?))?;
        }
        "demo" => return demo::run(&places, &demo::Options::parse(&mut parser)?),
        // Internal: the part of `demo` that needs root.
        "demo-of" => {
            let guest = parser.value()?.into();
            return demo::show(&places, guest, &demo::Options::parse(&mut parser)?);
        }
        "bench" => return bench::run(&places, &bench::Options::parse(&mut parser)?),
        // Internal: the part of `bench` that needs root.
        "bench-of" => {
            let guest = parser.value()?.into();
            return bench::measure(&places, guest, &bench::Options::parse(&mut parser)?);
        }
        "fuzz" => return fuzz::run(&places, &fuzz::Options::parse(&mut parser)?),
        "chaos" => return chaos::run(&places, &chaos::Options::parse(&mut parser)?),
        // Internal: the part of `chaos` that needs root.
        "chaos-of" => {
            let guest = parser.value()?.into();
            return chaos::torment(&places, guest, &chaos::Options::parse(&mut parser)?);
        }
        "documents" => {
            no_more(&mut parser)?;
            return documents::all_of_them(&places);
        }
        // Internal: the part of it that needs root.
        "documents-of" => return documents::run(&places, parser.value()?.into()),
        "release" => return supply::release::run(&places, &mut parser),
        "test" => return test::run(&places, what_to_test(&mut parser)?),
        other => bail!("there is no command {other:?}\n\n{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// `[vm [FILTER]]`
fn what_to_test(parser: &mut lexopt::Parser) -> Result<test::What> {
    let what = match parser.next()? {
        None => return Ok(test::What::Everything),
        Some(Value(word)) if word == "vm" => match parser.next()? {
            None => return Ok(test::What::Vm(String::new())),
            Some(Value(filter)) => test::What::Vm(filter.string()?),
            Some(other) => return Err(other.unexpected().into()),
        },
        Some(other) => return Err(other.unexpected().into()),
    };
    no_more(parser)?;
    Ok(what)
}

fn no_more(parser: &mut lexopt::Parser) -> Result<()> {
    match parser.next()? {
        Some(other) => Err(other.unexpected().into()),
        None => Ok(()),
    }
}
