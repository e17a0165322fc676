//! `seed-agent`: flags, logging, one runtime on this thread, and the exit status. Everything else is the
//! library.
//!
//! Exit status: 0 ended when asked to; 1 could not run; 2 the command line is wrong; 3 the configuration
//! is wrong (`--check-config` ends with it too).
//!
//! `--tls-key` is for the unit that fetches the instance's certificate: the key is made with the same care as the
//! identity's (see `age_tpm::tpm::create_signing_key`), and the unit needs no other TPM tools.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use age_tpm::tpm::{Tcti, Tpm, create_signing_key};
use lexopt::{Arg, ValueExt};
use seed_agent::{
    agent,
    config::{Config, Flags, Instance, Listen},
    logging,
    sys::privileges,
};
use seed_protocol::version;

const USAGE: &str = "\
Usage: seed-agent [--listen vsock:PORT|unix:PATH] [--instance FILE]
       seed-agent --check-config FILE
       seed-agent --tls-key

The agent inside a Seed guest. systemd starts it; the host drives it.

  --listen ADDRESS     listen there instead of on vsock port 1024
  --instance FILE      read FILE instead of /etc/seed/instance.json
  --check-config FILE  check an instance file and end
  --tls-key            make a key in the TPM that signs, print its file and end
  --version, --help
";

/// How long journald may take at the end for what the agent still had to say.
const LAST_WORDS: Duration = Duration::from_secs(2);

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
const BAD_CONFIG: u8 = 3;

enum Command {
    Run(Flags),
    Check(PathBuf),
    TlsKey,
    Say(String),
}

fn main() -> ExitCode {
    match parse() {
        Ok(Command::Say(text)) => finish(io::stdout(), &text, ExitCode::SUCCESS),
        Ok(Command::Check(path)) => match Instance::read(&path) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => fail(&error, BAD_CONFIG),
        },
        Ok(Command::TlsKey) => match tls_key() {
            Ok(file) => finish(io::stdout(), &file, ExitCode::SUCCESS),
            Err(text) => finish(
                io::stderr(),
                &format!("seed-agent: {text}\n"),
                ExitCode::from(FAILED),
            ),
        },
        Ok(Command::Run(flags)) => run(flags),
        Err(error) => fail(error.as_ref(), BAD_USAGE),
    }
}

fn run(flags: Flags) -> ExitCode {
    let config = match Config::load(flags) {
        Ok(config) => config,
        Err(error) => return fail(&error, BAD_CONFIG),
    };
    let log = match logging::start(config.debug) {
        Ok(log) => log,
        Err(error) => return fail(&error, FAILED),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Of the threads for work that blocks; this one drops what it has when the instance is provisioned.
        .on_thread_start(privileges::at_start_of_thread)
        .build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(agent::run(config));
            // Requests that wait for ever must not hold up the end.
            runtime.shutdown_background();
            log.finish(LAST_WORDS);
            outcome
        }
        Err(error) => return fail(&error, FAILED),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, FAILED),
    }
}

/// The file of a new key, or why there is none and what to do.
fn tls_key() -> Result<String, String> {
    let tcti = Tcti::from_env().map_err(|error| error.to_string())?;
    let made = Tpm::open(&tcti).and_then(|mut tpm| create_signing_key(&mut tpm));
    made.map_err(|error| error.explain())
}

fn parse() -> Result<Command, Box<dyn std::error::Error>> {
    let mut parser = lexopt::Parser::from_env();
    let mut flags = Flags::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("listen") => {
                flags.listen = Some(Listen::parse(&parser.value()?.string()?)?);
            }
            Arg::Long("instance") => flags.instance = Some(parser.value()?.into()),
            Arg::Long("check-config") => return Ok(Command::Check(parser.value()?.into())),
            Arg::Long("tls-key") => return Ok(Command::TlsKey),
            Arg::Long("version") => {
                return Ok(Command::Say(version::line("seed-agent")));
            }
            Arg::Long("help") | Arg::Short('h') => return Ok(Command::Say(USAGE.to_owned())),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Command::Run(flags))
}

fn fail(error: &dyn std::error::Error, status: u8) -> ExitCode {
    let text = format!("seed-agent: {}\n", agent::sentence(error));
    finish(io::stderr(), &text, ExitCode::from(status))
}

fn finish(mut stream: impl Write, text: &str, status: ExitCode) -> ExitCode {
    // Nobody is left to be told of a closed stream.
    let _ = stream.write_all(text.as_bytes());
    status
}
