//! `seed`: one instance on this machine, from start to removal. Exit status: 0 done, 1 failed, 2 not
//! understood; `seed exec` passes on the command's own. An error is text on standard error, with `--json` an object.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod error;
mod output;
mod rootless;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use tracing_subscriber::{
    filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{cli::Invocation, error::CliError};

fn main() -> ExitCode {
    start_logging();
    let words: Vec<OsString> = std::env::args_os().collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            let text = if cli::wants_json(&words) {
                error.json()
            } else {
                error.to_string()
            };
            // Nowhere is left to say that this failed.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::from(error.code())
        }
    }
}

fn run(words: &[OsString]) -> Result<ExitCode, CliError> {
    match cli::parse(words.iter().cloned())? {
        Invocation::Text(text) => {
            output::print(&text)?;
            Ok(ExitCode::SUCCESS)
        }
        Invocation::Command { global, command } => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| CliError::failure("this program cannot run", &source))?;
            let result = runtime.block_on(commands::run(&global, command));
            // A thread may still wait on a FIFO that nobody will open.
            runtime.shutdown_background();
            result
        }
    }
}

/// Off, unless `SEED_LOG` says otherwise (`debug`, `seed_shim=trace`...).
fn start_logging() {
    let wanted = std::env::var("SEED_LOG").ok();
    if let Some(filter) = wanted.and_then(|text| text.parse::<Targets>().ok()) {
        tracing_subscriber::registry()
            .with(filter)
            .with(fmt::layer().with_writer(io::stderr))
            .init();
    }
}
