//! `age-plugin-tpm`: decrypts age files with a key that never leaves the TPM.
//!
//! Owns the process: exit code and where text goes. The work is in the library, in `cli` and in `commands`.
//! Exit codes: 0 = done, 1 = failed, 2 = the command line makes no sense.
#![forbid(unsafe_code)]

mod cli;
mod commands;
mod error;
mod pin;

use std::io::{self, Write};
use std::process::ExitCode;

use self::error::CliError;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()).and_then(commands::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Nowhere is left to complain if stderr is closed.
            let _ = write!(io::stderr(), "{e}");
            match e {
                CliError::Usage { .. } => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
