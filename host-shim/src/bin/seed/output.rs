//! Printing: whole texts to stdout, progress to stderr.

use std::io::{self, IsTerminal, Write};

use seed_shim::data::json_line;

use crate::error::CliError;

/// Prints a text. A reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    print_bytes(text.as_bytes())
}

/// Prints bytes.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => quiet_end(),
        other => Ok(other?),
    }
}

#[allow(
    clippy::exit,
    reason = "the reader is gone: there is nobody to tell anything"
)]
fn quiet_end() -> ! {
    std::process::exit(0)
}

/// Prints a JSON document, one line.
pub(crate) fn print_json(value: &serde_json::Value) -> Result<(), CliError> {
    print(&json_line(value))
}

/// Tells the user on stderr what goes on, only on a terminal.
pub(crate) fn progress(text: &str) {
    let mut err = io::stderr();
    if err.is_terminal() {
        // Progress that cannot be shown is no failure.
        let _ = writeln!(err, "{text}");
    }
}

/// Whether stdout is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}
