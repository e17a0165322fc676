//! `containerd-shim-seed-v2`: what containerd starts for each instance. See [`seed_shim::shim`].
//!
//! Exit codes: 0 done; 1 it failed, and standard error says why; 2 the command line is wrong.

#![forbid(unsafe_code)]

use std::{
    env,
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use rustix::fs::Mode;
use seed_shim::{
    config::Config,
    shim::{
        cli::{self, Command},
        delete, info, serve, start,
    },
    text::chain,
    vsock,
};

fn main() -> ExitCode {
    let command = match cli::parse(env::args_os().skip(1)) {
        Ok(command) => command,
        Err(error) => return fail(2, &error),
    };
    // What the shim and its children make is theirs alone: sockets, logs, lists of pids.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let result: Result<Vec<u8>, Box<dyn Error>> = match &command {
        Command::Version => Ok(info::version().into_bytes()),
        Command::Info => info::run().map_err(Into::into),
        Command::CheckConfig(file) => Config::read(file).map(|_| Vec::new()).map_err(Into::into),
        Command::Start(target) => start::run(target).map_err(Into::into),
        Command::Delete(target) => delete::run(target).map_err(Into::into),
        Command::Serve(target) => serve::run(target).map(|()| Vec::new()).map_err(Into::into),
        Command::Vsock => vsock::serve().map(|()| Vec::new()).map_err(Into::into),
    };
    let written = result.and_then(|answer| {
        let mut stdout = io::stdout();
        stdout.write_all(&answer)?;
        Ok(stdout.flush()?)
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, error.as_ref()),
    }
}

fn fail(code: u8, error: &dyn Error) -> ExitCode {
    let text = chain(error);
    let _ = writeln!(io::stderr(), "containerd-shim-seed-v2: {text}");
    ExitCode::from(code)
}
